"""Where a model comes from: a folder or a hub name, a whole model or an adapter on a base model; without torch."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from dpotrain.plugin.api import RecipeError, RunError, hash_file, is_folder, user_path
from dpotrain_plugins.hub_access import ask_hub, remedies, why_offline

_MODEL_FILES = ("config.json", "adapter_config.json")
_INDEX = "model.safetensors.index.json"
_PICKLES = (".bin", ".pt", ".pth", ".ckpt")
_ADAPTER_FILES = [
    "adapter_config.json",
    "adapter_model.safetensors",
    "*token*",
    "*.jinja",
    "vocab*",
    "merges*",
]


@dataclass(frozen=True, slots=True)
class Source:
    """What a name turned out to be."""

    path: str
    """An absolute folder, or a hub name: what ``from_pretrained`` takes."""
    commit: str | None
    """The commit of a hub name, so that tokenizer, weights and fingerprint are of one revision."""
    base: Source | None = None
    """The model that an adapter sits on; None where the source is a whole model."""

    @property
    def model(self) -> Source:
        """The whole model: the source itself, or the adapter's base."""
        return self.base or self


def looks_like_a_path(name: str) -> bool:
    """Whether a name can only be meant as a folder: hub names are ``name`` or ``owner/name``."""
    return name.startswith((".", "~", "/")) or name.endswith("/") or "\\" in name or name.count("/") > 1


def resolve(name: str, revision: str | None = None) -> Source:
    """Find out what a name is; the hub is asked for its config files at most, and for a whole adapter.

    Raises:
        RecipeError: a folder is missing or holds no model.
        RunError: the hub does not have it, does not give it out, or cannot be reached.
    """
    folder = user_path(name)
    if is_folder(folder):
        check_folder(folder)
        path = str(folder.absolute())
        return Source(path, None, _base_of(folder) if (folder / "adapter_config.json").is_file() else None)
    if looks_like_a_path(name):
        raise RecipeError(f"there is no folder {folder.absolute()}")
    adapter = _from_hub(name, "adapter_config.json", revision, missing_ok=True)
    if adapter is None:
        config = _from_hub(name, "config.json", revision)
        assert config is not None
        return Source(name, config.parent.name)
    with _hub_errors(name, revision):
        from huggingface_hub import snapshot_download

        commit = adapter.parent.name  # in the hub's cache: …/snapshots/<commit>/<file>
        snapshot = Path(snapshot_download(name, revision=commit, allow_patterns=_ADAPTER_FILES))
    check_folder(snapshot)
    return Source(str(snapshot), commit, _base_of(snapshot))


def check_folder(folder: Path) -> None:
    """Raise a RecipeError unless the folder holds a model or an adapter in safetensors."""
    if (folder / "adapter_config.json").is_file():
        base = read_json(folder / "adapter_config.json").get("base_model_name_or_path")
        if not base or not isinstance(base, str) or "\0" in base:
            raise RecipeError(
                f"{folder / 'adapter_config.json'} names no base_model_name_or_path; "
                "write there which model the adapter belongs to"
            )
        if not (folder / "adapter_model.safetensors").is_file():
            raise RecipeError(_no_safetensors(folder, "adapter_model.safetensors"))
        if (folder / "config.json").is_file() and any(folder.glob("model*.safetensors")):
            raise RecipeError(
                f"{folder} holds both an adapter and a whole model, and which one is meant is not clear; move one of "
                "them to a folder of its own"
            )
        base_folder = _base_folder(folder, base)
        if base_folder == folder.resolve():
            raise RecipeError(
                f"{folder / 'adapter_config.json'} names its own folder as base_model_name_or_path; "
                "write there which model the adapter belongs to"
            )
        if base_folder is not None:
            check_folder(base_folder)
        elif looks_like_a_path(base):
            raise RecipeError(
                f"the adapter in {folder} belongs to the model in {base}, and there is no such folder; "
                "correct base_model_name_or_path in its adapter_config.json"
            )
        return
    if not (folder / "config.json").is_file():
        raise RecipeError(_no_model(folder))
    read_json(folder / "config.json")
    index = folder / _INDEX
    if index.is_file():
        shards = shards_of(index)
        missing = sorted(shard for shard in shards if not (folder / shard).is_file())
        if missing:
            raise RecipeError(
                f"{folder} is incomplete: {len(missing)} of {len(shards)} weight files are missing "
                f"({', '.join(missing[:3])}); fetch or copy it again"
            )
    elif not (folder / "model.safetensors").is_file():
        raise RecipeError(_no_safetensors(folder, "model.safetensors"))


def shards_of(index: Path) -> set[str]:
    """Return the weight files that an index names.

    Raises a RecipeError for a file that is no safetensors file: transformers would unpickle it.
    """
    named = read_json(index).get("weight_map")
    if not isinstance(named, dict) or not all(isinstance(shard, str) for shard in named.values()):
        raise RecipeError(f"{index} does not say which weights are in which file; fetch or copy it again")
    shards = set(named.values())
    for shard in sorted(shards):
        if not shard.endswith(".safetensors") or Path(shard).name != shard:
            raise RecipeError(
                f"{index} names {shard!r} as a file of weights. Only safetensors files beside it are read, since "
                "others are pickles, which can run code while they are read"
            )
    return shards


def files_by_tensor(source: Source) -> dict[str, Path]:
    """Return which file holds each tensor of a whole model, by its name there; files of the hub are fetched."""
    from safetensors import safe_open

    index = _file_of(source, _INDEX, missing_ok=True)
    names = sorted(shards_of(index)) if index is not None else ["model.safetensors"]
    tensors: dict[str, Path] = {}
    for name in names:
        file = _file_of(source, name)
        assert file is not None
        with safe_open(file, framework="np") as opened:
            tensors.update(dict.fromkeys(opened.keys(), file))
    return tensors


def _file_of(source: Source, name: str, missing_ok: bool = False) -> Path | None:
    if source.commit is not None:
        return _from_hub(source.path, name, source.commit, missing_ok=missing_ok)
    file = Path(source.path) / name
    return file if file.is_file() or not missing_ok else None


def fingerprint(name: str, revision: str | None = None) -> str:
    """Return a text that changes with the weights: hashes of a folder's files, the commit of a hub name."""
    source = resolve(name, revision)
    base = f" on {fingerprint_of(source.base)}" if source.base else ""
    return fingerprint_of(source) + base


def fingerprint_of(source: Source) -> str:
    """Return the fingerprint of one source, without the base that an adapter has."""
    if source.commit is not None:
        path = Path(source.path)
        return f"hub:{path.parent.parent.name if path.is_absolute() else source.path}@{source.commit}"
    folder = Path(source.path)
    files = [
        file
        for file in sorted(folder.iterdir())
        if file.suffix == ".safetensors" or file.name in _MODEL_FILES
    ]
    total = hashlib.blake2b(digest_size=16)
    # Hashing releases the interpreter, so shards are read side by side.
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        for file, digest in zip(files, pool.map(partial(hash_file, size=16), files), strict=True):
            total.update(f"{file.name}\0{file.stat().st_size}\0{digest}\0".encode())
    return f"files:{total.hexdigest()}"


def _base_of(adapter: Path) -> Source:
    config = read_json(adapter / "adapter_config.json")
    base = config["base_model_name_or_path"]
    folder = _base_folder(adapter, base)
    resolved = resolve(str(folder) if folder else base, None if folder else config.get("revision"))
    if resolved.base is not None:
        raise RecipeError(
            f"the base model of the adapter in {adapter} is itself an adapter ({base}); "
            "merge that one into its own base first (peft's merge_and_unload) and name the result there"
        )
    return resolved


def _base_folder(adapter: Path, base: str) -> Path | None:
    """Return the base model's folder, where it is one: as written, or relative to the adapter's."""
    path = user_path(base)
    folders = [place.resolve() for place in (path, adapter / path, adapter.parent / path) if is_folder(place)]
    # A folder that merely has the name may stand in the current one.
    models = [folder for folder in folders if any((folder / file).is_file() for file in _MODEL_FILES)]
    return next(iter(models or folders), None)


def read_json(file: Path) -> dict[str, Any]:
    """Return the object that a JSON file holds; a RecipeError names the file where it holds none."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, OSError, RecursionError) as error:
        raise RecipeError(f"{file} cannot be read as JSON: {error}") from error
    if not isinstance(content, dict):
        raise RecipeError(f"{file} holds no JSON object")
    return content


def _no_model(folder: Path) -> str:
    inside = sorted({file.parent for file in folder.glob("*/*config.json") if file.name in _MODEL_FILES})
    hint = f"; did you mean {inside[-1]}?" if inside else ""
    return f"{folder} holds no model: neither config.json nor adapter_config.json is there{hint}"


def _no_safetensors(folder: Path, wanted: str) -> str:
    pickles = sorted(file.name for file in folder.iterdir() if file.suffix in _PICKLES)
    if not pickles:
        return f"{folder} holds no weights: {wanted} is not there"
    if wanted.startswith("adapter"):
        convert = (
            "import torch; from safetensors.torch import save_file; "
            f"save_file(torch.load('{folder / pickles[0]}', weights_only=True), '{folder / wanted}')"
        )
    else:
        convert = (
            "from transformers import AutoModelForCausalLM as M, AutoTokenizer as T; "
            f"[C.from_pretrained('{folder}').save_pretrained('{folder}-safetensors') for C in (M, T)]"
        )
    return (
        f"{folder} holds its weights only as pickles ({', '.join(pickles[:3])}), which can run code "
        "while they are read, so they are not read here. If you trust them, convert them once:\n"
        f'  python -c "{convert}"'
    )


def check_shards_on_hub(source: Source) -> None:
    """Raise a RecipeError where a hub model's index names other weight files than safetensors."""
    index = _from_hub(source.path, _INDEX, source.commit, missing_ok=True)
    if index is not None:
        shards_of(index)


def _from_hub(name: str, file: str, revision: str | None, missing_ok: bool = False) -> Path | None:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError

    ask_hub()
    with _hub_errors(name, revision):
        try:
            return Path(hf_hub_download(name, file, revision=revision))
        except EntryNotFoundError:  # also: not in the cache, and the hub is out of reach
            if missing_ok:
                return None
            raise


@contextmanager
def _hub_errors(name: str, revision: str | None) -> Iterator[None]:
    """Turn what the hub's client raises into what a person can do about it."""
    from huggingface_hub import errors

    try:
        yield
    except (OSError, errors.EntryNotFoundError, errors.HFValidationError) as error:
        at = f"{name} at revision {revision!r}" if revision else name
        nowhere = f"{at} is neither a folder in {Path.cwd()} nor in the hub's cache, and"
        # A subclass stands before its base.
        messages = {
            errors.GatedRepoError: f"the hub does not give out {name} to everyone: accept its terms on its page, then "
            "log in with `hf auth login` (or set HF_TOKEN)",
            errors.RepositoryNotFoundError: f"the hub knows no model {name!r}, and there is no folder of that name in "
            f"{Path.cwd()}. Check the spelling; if the model is private, log in with `hf auth login` (or set HF_TOKEN)",
            errors.RevisionNotFoundError: f"the hub's {name} has no revision {revision!r}; see its page for those "
            "there are",
            errors.HFValidationError: f"{name!r} is neither a folder here nor a possible hub name (owner/name)",
            errors.LocalEntryNotFoundError: f"{nowhere} {why_offline()}.\n{remedies(name, 'model.name')}",
            errors.EntryNotFoundError: f"the hub's {at} holds no config.json, so it is not a transformers model",
            OSError: f"{at} could not be fetched from the hub: {str(error).strip().partition(chr(10))[0]}",
        }
        raise RunError(next(text for kind, text in messages.items() if isinstance(error, kind))) from error
