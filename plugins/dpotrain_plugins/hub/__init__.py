"""The ``hub`` exporter: the result as a model repository, with a card that says where it comes from."""

from __future__ import annotations

import os
import shlex
import shutil
from pathlib import Path
from typing import Literal

from pydantic import Field

from dpotrain import hookimpl
from dpotrain.plugin.api import Exporter, Finished, RecipeError, RunError, folder_aside, model_card

dpotrain_interface = 2


class Hub(Exporter):
    """Pushes the result to the Hugging Face hub with a model card: recipe, data, metrics, versions.

    The repository's files lie in the run folder first. Where there is no key, or the hub cannot be reached, they stay
    there, and the run says how to upload them.
    """

    name = "hub"

    class Options(Exporter.Options):
        repo: str = Field(
            pattern=r"^[^/\s]+(/[^/\s]+)?$",
            description='The repository: "you/name", or "name" for one of yours.',
        )
        private: bool = Field(
            True, description="Make a new repository private; one that is there stays as it is."
        )
        of: Path = Field(
            Path("final"),
            description='What is pushed: a folder in the run folder, such as the "merged" of an exporter before.',
        )
        mode: Literal["auto", "online", "offline"] = Field(
            "auto",
            description='"auto" pushes where there is a key and the hub answers; "online" fails where not; "offline" '
            "stays off the network.",
        )

    options: Options

    def check(self) -> None:
        if self.options.mode == "online" and not _key_found():
            raise RecipeError(
                'the "hub" exporter has mode = "online", but there is no key for it\n'
                'run `hf auth login`, set HF_TOKEN, or use mode = "auto"'
            )

    def export(self, run: Finished) -> str:
        source = run.folder / self.options.of
        if not source.is_dir():
            raise RunError(f"{source} is not there to be pushed; exporters run in the recipe's order")
        folder = run.folder / "hub" / self.options.repo.replace("/", "--")
        with folder_aside(folder) as aside:
            shutil.copytree(source, aside, copy_function=_linked, dirs_exist_ok=True)
            # Not written through a link: the result has a README of its own.
            (aside / "README.md").unlink(missing_ok=True)
            (aside / "README.md").write_text(self._card(run, source), encoding="utf-8")
        by_hand = f"hf upload {self.options.repo} {shlex.quote(str(folder))}"
        if self.options.mode == "offline" or (self.options.mode == "auto" and not _key_found()):
            return f"{folder}; upload it with: {by_hand}"
        try:
            return _push(folder, self.options.repo, self.options.private)
        except Exception as error:
            first = (str(error).strip().splitlines() or [type(error).__name__])[0]
            if self.options.mode == "online":
                raise RunError(f"{folder} could not be pushed: {first}") from error
            run.note(f"the hub did not take {folder} ({first})")
            return f"{folder}; upload it with: {by_hand}"

    def _card(self, run: Finished, source: Path) -> str:
        """Return the card of the repository, in which the result goes by the repository's name."""
        repo = self.options.repo
        if source == run.outcome.final:
            how_to_load = run.outcome.how_to_load.replace(str(source), repo)
        else:
            how_to_load = (
                f'from transformers import pipeline\n\nprint(pipeline("text-generation", "{repo}")("Hello!"))'
            )
        return model_card(
            run.folder,
            run.recipe.document,
            run.outcome,
            name=repo.rpartition("/")[2],
            adapter=(source / "adapter_config.json").is_file(),
            how_to_load=how_to_load,
        )


def _push(folder: Path, repo: str, private: bool) -> str:
    from huggingface_hub import HfApi

    api = HfApi(library_name="dpotrain")
    name = api.create_repo(repo, private=private, exist_ok=True).repo_id
    commit = api.upload_folder(repo_id=name, folder_path=folder, commit_message="Trained with dpotrain")
    return str(commit.commit_url)


def _linked(source: str, target: str) -> None:
    """Link a file where the disk can, since weights are large and never changed in place."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


def _key_found() -> bool:
    from huggingface_hub import get_token

    return get_token() is not None


@hookimpl
def dpotrain_exporters() -> list[type[Exporter]]:
    return [Hub]
