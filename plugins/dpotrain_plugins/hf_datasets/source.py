"""Rows from the hub, from saved data sets, and from files."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property, partial

from pydantic import Field

from dpotrain.plugin.api import Component, DataError, DatasetSource, RecipeError, Rows, did_you_mean, short
from dpotrain_plugins.hf_datasets.compressed import plain_name
from dpotrain_plugins.hf_datasets.files import FileRows
from dpotrain_plugins.hf_datasets.places import JSON, Builder, Files, Name, Place, Saved, find
from dpotrain_plugins.hf_datasets.rows import ArrowRows, no_progress_bars
from dpotrain_plugins.hub_access import ask_hub, cache_where_unreachable, remedies, why_offline


class HFDatasetsSource(DatasetSource):
    """A data set of the Hugging Face hub, a folder, or files; never runs code that comes with the data."""

    name = "hf-datasets"

    class Options(Component.Options):
        name: Name = Field(
            description="A hub name; a folder (of files, or made by save_to_disk); a json, jsonl, csv, "
            "tsv or parquet file, the first four also as .gz or .zst; a glob; a list of files; or a table of these by "
            "split: "
            '`{ train = "a.jsonl", test = "b.jsonl" }`. Files given without a split are the split "train".',
        )
        config: str | None = Field(None, description="Which of a hub data set's configurations (subsets).")
        revision: str | None = Field(None, description="Branch, tag or commit of a hub data set.")
        field: str | None = Field(
            None,
            min_length=1,
            description="Where in a JSON document the list of rows is, as a dotted path: `data.train` in "
            '`{"version": 1, "data": {"train": [ … ]}}`.',
        )

    options: Options

    def check(self) -> None:
        """Look whether files and folders are there; a hub name is only judged by its form."""
        place = find(self.options.name, self.options.config)
        if self.options.field is not None:
            self._check_field(place)
        if isinstance(place, Builder) and not place.local:
            return
        if self.options.revision is not None:
            raise RecipeError(
                f'data.revision = "{self.options.revision}" has a meaning for hub names only, but data.name '
                "is on this machine.\nRemove data.revision."
            )
        if self.options.config is not None and not isinstance(place, Builder):
            raise RecipeError(
                f'data.config = "{self.options.config}" has a meaning for hub names and folders that declare '
                "configurations only.\nRemove data.config."
            )

    def _check_field(self, place: Place) -> None:
        files = (
            [file for files in place.splits.values() for file in files] if isinstance(place, Files) else []
        )
        other = [file for file in files if not plain_name(file).endswith(JSON)]
        if other or not files:
            what = f"{other[0]} is none" if other else f"{self._shown} is none of these"
            raise RecipeError(
                f'data.field = "{self.options.field}" has a meaning for JSON files only, and {what}.\n'
                "Remove data.field."
            )

    def splits(self) -> list[str]:
        return list(self._splits)

    def load(self, split: str) -> Rows:
        if split not in self._splits:
            there = list(self._splits)
            raise DataError(
                f'{self._shown} has no split "{split}"{did_you_mean(split, there, cutoff=0.5)}\n'
                f"its splits are {', '.join(there)}; name one with data.train_split or data.eval_split"
            )
        return self._splits[split]()

    @property
    def _shown(self) -> str:
        """The data set's name for messages."""
        name = self.options.name
        return name if isinstance(name, str) else "data.name"

    @cached_property
    def _splits(self) -> dict[str, Callable[[], Rows]]:
        """What loads each split, by name."""
        self.check()
        place: Place = find(self.options.name, self.options.config)
        if isinstance(place, Files):
            field = self.options.field
            return {split: partial(FileRows, paths, field) for split, paths in place.splits.items()}
        import datasets

        try:
            with no_progress_bars(), cache_where_unreachable():
                if isinstance(place, Builder) and not place.local:
                    ask_hub()
                if isinstance(place, Saved):
                    found = datasets.load_from_disk(str(place.folder))
                else:
                    options = self.options
                    found = datasets.load_dataset(place.name, options.config, revision=options.revision)
        except Exception as error:
            raise DataError(_explained(self._shown, error)) from error
        # What ``save_to_disk`` wrote may be a single data set.
        splits = found if isinstance(found, dict) else {"train": found}
        return {split: partial(ArrowRows, data) for split, data in splits.items()}


def _explained(name: str, error: Exception) -> str:
    from datasets.exceptions import DatasetNotFoundError

    text = str(error).strip().splitlines()
    first = text[0] if text else type(error).__name__
    if isinstance(error, DatasetNotFoundError):
        remedy = (
            "There is no such file or folder either. Check data.name and data.revision; "
            "for a private or gated data set, log in with `hf auth login`."
        )
    elif isinstance(error, ConnectionError):
        first = f"{why_offline()}, and the data set is not in its cache."
        remedy = remedies(name, "data.name", "dataset").replace("a folder.", "a folder or a file.")
    elif "onfig" in first:
        remedy = "Choose one with data.config."
        first = " ".join(line.strip() for line in text)
    elif "script" in first:
        remedy = "dpotrain runs no code that comes with data. Convert it to parquet or jsonl files."
    else:
        remedy = "Check data.name, data.config and data.revision."
    return f'data.name = "{name}" could not be loaded: {short(first, 400)}\n{remedy}'
