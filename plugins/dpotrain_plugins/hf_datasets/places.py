"""What ``data.name`` means: files on this machine, a saved data set, or a name on the hub."""

from __future__ import annotations

import glob
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TypeAlias

from dpotrain.plugin.api import DataError, did_you_mean, is_file, is_folder, short, user_path
from dpotrain_plugins.hf_datasets.compressed import FORMATS, plain_name

Name: TypeAlias = str | list[str] | dict[str, str | list[str]]

#: File names that are read, by their end.
JSON, _TABLES = (".jsonl", ".ndjson", ".json"), (".csv", ".tsv")
_COMPRESSED = tuple(one + form for one in (*JSON, *_TABLES) for form in FORMATS)
ENDINGS = (*JSON, *_TABLES, ".parquet", *_COMPRESSED)

#: JSON files that describe a data set and hold no rows.
_NOT_ROWS = {"dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json"}

#: Words in file and folder names that tell the split, as the datasets library has them.
_SPLIT_WORDS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("validation", "valid", "val", "dev"), "validation"),
    **dict.fromkeys(("test", "testing", "eval", "evaluation"), "test"),
}

#: Files and folders that a folder of data may hold: a whole disk is no data set, and takes hours to look through.
_MOST_INSIDE = 20_000

_SHARD = re.compile(r"(?P<split>\w[\w.]*)-\d{5}-of-\d{5}")
_HUB_NAME = re.compile(r"\w[\w.-]*(/\w[\w.-]*)?")


@dataclass(frozen=True, slots=True)
class Files:
    """Data files by split."""

    splits: dict[str, list[Path]]


@dataclass(frozen=True, slots=True)
class Saved:
    """A folder that ``save_to_disk`` wrote."""

    folder: Path


@dataclass(frozen=True, slots=True)
class Builder:
    """A hub name, or (``local``) a folder laid out like a hub data set with configurations."""

    name: str
    local: bool


Place: TypeAlias = Files | Saved | Builder


def find(name: Name, config: str | None) -> Place:
    """Return where the data is. Looks at the file system only; raises DataError for what is not there."""
    if isinstance(name, dict):
        _refuse_empty(name)
        return Files({split: _files([one] if isinstance(one, str) else one) for split, one in name.items()})
    if isinstance(name, list):
        return Files({"train": _files(name)})
    if not name.strip():
        # As a path it would be the working directory.
        raise DataError("data.name is empty; it names a file, a folder or a hub data set.")
    path = user_path(name)
    if is_folder(path):
        return _folder(path, config)
    if is_file(path) or _is_glob(name) or _looks_like_path(name):
        return Files({"train": _files([name])})
    if not _HUB_NAME.fullmatch(name):
        raise DataError(
            f'data.name = "{short(name)}" is neither a file or folder here nor a hub name (owner/name)'
            + _near(path)
        )
    return Builder(name, local=False)


def _folder(folder: Path, config: str | None) -> Place:
    if (folder / "dataset_dict.json").is_file() or (folder / "state.json").is_file():
        return Saved(folder)
    if config is not None or _declares_configurations(folder / "README.md"):
        return Builder(str(folder), local=True)
    inside = list(islice(folder.rglob("*"), _MOST_INSIDE + 1))
    if len(inside) > _MOST_INSIDE:
        raise DataError(
            f'data.name = "{short(str(folder))}": the folder holds more than {_MOST_INSIDE} files and folders.\n'
            "That is not a data set; name the folder that the data files are in."
        )
    files = sorted(
        path
        for path in inside
        if path.is_file()
        and path.name.lower().endswith(ENDINGS)
        and path.name not in _NOT_ROWS
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    )
    if not files:
        raise DataError(
            f'data.name = "{short(str(folder))}": the folder holds no data files.\n'
            f"Files that end in {', '.join(ENDINGS)} are read, and folders made by save_to_disk."
        )
    _refuse_twice(files)
    splits: dict[str, list[Path]] = {}
    others: list[Path] = []
    for path in files:
        split = _split_of(path.relative_to(folder))
        (others if split is None else splits.setdefault(split, [])).append(path)
    if others and "train" not in splits:
        splits = {"train": others, **splits}
    return Files(splits)


def _refuse_twice(files: Sequence[Path]) -> None:
    """Refuse a file beside its compressed copy: both would be read."""
    seen: dict[Path, Path] = {}
    for path in files:
        other = seen.setdefault(path.with_name(plain_name(path)), path)
        if other != path:
            raise DataError(
                f'data.name: the folder "{short(str(path.parent))}" holds {other.name} and {path.name}, and both would '
                "be read.\nRemove one, or name the files in data.name."
            )


def _split_of(path: Path) -> str | None:
    """Return the split that a file's name, or else the folder it is in, tells."""
    shard = _SHARD.match(path.name)
    if shard:
        return shard["split"]
    for part in reversed(path.parts):
        for word in re.split(r"[^a-z0-9]+", part.lower()):
            if word in _SPLIT_WORDS:
                return _SPLIT_WORDS[word]
    return None


def _declares_configurations(readme: Path) -> bool:
    """Whether a data card's front matter says which files make up which configuration."""
    if not readme.is_file():
        return False
    text = readme.read_text(encoding="utf-8", errors="replace")
    front = text.split("\n---", 1)[0] if text.startswith("---") else ""
    return re.search(r"^configs:", front, re.MULTILINE) is not None


def _files(names: Sequence[str]) -> list[Path]:
    """Return the files that paths and globs name, in order."""
    _refuse_empty(names)
    return [path for name in names for path in _matches(name)]


def _matches(name: str) -> Iterator[Path]:
    path = user_path(name)
    if is_file(path):
        yield _with_ending(path)
    elif is_folder(path):
        raise DataError(
            f'data.name: "{short(name)}" is a folder.\nA list or a table of splits takes files and globs.'
        )
    elif _is_glob(name):
        pattern = str(path)
        matching = glob.iglob(pattern, recursive=True)  # noqa: PTH207 (Path.glob takes no absolute pattern)
        matches = [Path(one) for one in islice(matching, _MOST_INSIDE + 1)]
        if len(matches) > _MOST_INSIDE:
            raise DataError(f'data.name: more than {_MOST_INSIDE} files and folders match "{short(name)}".')
        found = sorted(path for path in matches if path.is_file())
        if not found:
            raise DataError(
                f'data.name: no file matches "{short(name)}".\nRelative paths start at {Path.cwd()}.'
            )
        _refuse_twice(found)
        yield from map(_with_ending, found)
    else:
        raise DataError(f'data.name: there is no file "{short(name)}"' + _near(path))


def _with_ending(path: Path) -> Path:
    if not path.name.lower().endswith(ENDINGS):
        raise DataError(
            f'data.name: "{short(str(path))}" is of no known kind.\nFiles that end in {", ".join(ENDINGS)} are read.'
        )
    return path


def _is_glob(name: str) -> bool:
    return any(character in name for character in "*?[")


def _looks_like_path(name: str) -> bool:
    """Whether a name that does not exist was surely meant as a path and not as a hub name."""
    begins = name.startswith(("/", "./", "../", "~", "\\"))
    return begins or name.lower().endswith((*ENDINGS, "/")) or name.count("/") > 1


def _near(path: Path) -> str:
    """Name files like the missing one, or the folder that is missing already."""
    folder = path.parent
    if not is_folder(folder):
        return f'\nThe folder "{short(str(folder))}" does not exist. Relative paths start at {Path.cwd()}.'
    names = sorted(one.name for one in folder.iterdir() if one.name.endswith(ENDINGS) or one.is_dir())
    return did_you_mean(path.name, names) or f"\nRelative paths start at {Path.cwd()}."


def _refuse_empty(names: Sequence[str] | dict[str, str | list[str]]) -> None:
    if not names:
        raise DataError("data.name is empty.\nGive a hub name, a folder, or at least one file.")
