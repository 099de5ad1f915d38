"""The trained policy of a run folder, loaded again to answer: from ``final/`` or a checkpoint, as the run loaded it."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dpotrain.core.errors import RecipeError, RunError
from dpotrain.core.pair import Text
from dpotrain.core.records import BestBy
from dpotrain.core.reporter import Reporter, showing_warnings
from dpotrain.data.tokens.chat_template import TemplateInputs, check_arguments
from dpotrain.data.tokens.tokenize_prompts import PromptTokenizer, turn_end
from dpotrain.engine.generation import Decoding, answer, stop_tokens
from dpotrain.engine.parallel.one_process import OneProcess
from dpotrain.engine.scoring.precision import Precision, UpcastWeights, compute_precision
from dpotrain.engine.training.all_weights import AllWeights
from dpotrain.plugin.api import Adapter, LoadRequest, Selection
from dpotrain.plugin.runtime.failures import naming_components
from dpotrain.recipe.models import load_model_parts
from dpotrain.run.building.engine_builder import load_policy, policy_request
from dpotrain.run.checkpoint import files
from dpotrain.run.checkpoint.resuming import as_written, read_state
from dpotrain.run.folder.run_folder import RunFolder, no_run_folder
from dpotrain.run.state import Progress

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


@dataclass(frozen=True, slots=True, kw_only=True)
class Answerer:
    """A policy, and what it takes to answer a person."""

    policy: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    tokenize: PromptTokenizer
    bf16: bool
    stops: set[int]
    context: Callable[[], AbstractContextManager[Any]] = nullcontext
    """Makes the policy another one while it answers: the untrained one."""

    def answer(self, prompt: Text, decoding: Decoding, write: Callable[[str], None]) -> None:
        """Answer a prompt; ``write`` is called with the text piece by piece.

        Raises:
            DataError: the prompt cannot be tokenized.
            RunError: it fills the model's positions.
        """
        written = ""

        def write_new(ids: torch.Tensor) -> None:
            nonlocal written
            known = [token for token in ids.tolist() if token not in self.stops]
            text = str(self.tokenizer.decode(known, skip_special_tokens=True))
            # A character may take several tokens.
            if not text.endswith("\ufffd") and text.startswith(written):
                write(text[len(written) :])
                written = text

        ids = self.tokenize(prompt)
        try:
            with self.context():
                found = answer(self.policy, ids, decoding, self.stops, bf16=self.bf16, each_token=write_new)
        except ValueError as error:
            raise RunError(str(error)) from error
        whole = str(self.tokenizer.decode(found, skip_special_tokens=True))
        if whole.startswith(written):
            write(whole[len(written) :])


@dataclass(frozen=True, slots=True)
class Loaded:
    """The models that answer."""

    trained: Answerer
    untrained: Answerer | None
    what: str
    """Which policy it is that was trained: ``final/ (step 200)``."""
    conversational: bool
    """Whether prompts are conversations; else a text is continued as it stands."""


def load_answerers(
    run: Path,
    reporter: Reporter,
    *,
    checkpoint: str | None = None,
    compare: bool = False,
    overrides: Sequence[str] = (),
) -> Loaded:
    """Load the result of a run, or what a checkpoint holds, and with ``compare`` the policy before training.

    ``checkpoint`` is a step, "best" or "last"; None takes ``final/``. ``overrides`` are of the run's recipe.

    Raises:
        RecipeError: there is no run in ``run``, or no such checkpoint.
        RunError: the run has no result yet, or it cannot be loaded.
    """
    folder = RunFolder(run)
    if not folder.recipe.exists():
        raise no_run_folder(run, folder.recipe.name)
    parts = load_model_parts(folder.recipe, overrides)
    selection, training, arguments = parts.selection, parts.training, parts.template_arguments
    device = OneProcess().device
    precision = compute_precision(training.precision, device.type)
    loader = _Loader(selection, precision, device, reporter)
    with naming_components(selection, parts.plugins):
        found = None if checkpoint is None else _checkpoint(folder, checkpoint)
        with reporter.phase("loading the tokenizer", None):
            tokenizer = selection.model.load_tokenizer()
        check_arguments(tokenizer, arguments, "data.template_arguments")
        report = _data_report(folder)
        conversational = bool(tokenizer.chat_template) and report.conversational
        inputs = TemplateInputs(arguments, report.clock)
        ends = {tokenizer.eos_token_id, turn_end(tokenizer, arguments) if conversational else None}

        def answerer(
            policy: PreTrainedModel, context: Callable[[], AbstractContextManager[Any]] = nullcontext
        ) -> Answerer:
            return Answerer(
                policy=policy,
                tokenizer=tokenizer,
                tokenize=PromptTokenizer(tokenizer, inputs, conversational=conversational),
                bf16=precision == "bf16",
                stops=stop_tokens(policy, ends),
                context=context,
            )

        if found is None:
            policy, initial = loader.final(folder)
            step = folder.summary_of_finished()
            number = None if step is None else step.get("final_step") or step.get("steps")
            what = "final/" if number is None else f"final/ (step {number})"
        else:
            policy, initial = loader.checkpoint(found)
            what = f"the checkpoint of step {files.step_of(found)}"
        untrained = None
        if compare:
            untrained = answerer(loader.untrained()) if initial is None else answerer(policy, initial)
    return Loaded(answerer(policy), untrained, what, conversational)


@dataclass(frozen=True, slots=True)
class _DataReport:
    conversational: bool
    clock: datetime


def _data_report(folder: RunFolder) -> _DataReport:
    """Return what the run's report says of its pairs; conversations now, where there is none."""
    try:
        report = json.loads(folder.data_report.read_text(encoding="utf-8"))
        splits = report["splits"].values()
        conversational = any(split["pairs_kept"] > split.get("plain_text", 0) for split in splits)
        clock = report.get("clock")
        return _DataReport(conversational, datetime.now() if clock is None else datetime.fromisoformat(clock))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return _DataReport(True, datetime.now())


def _checkpoint(folder: RunFolder, wanted: str) -> Path:
    """Return the valid checkpoint that a person means."""
    there = {files.step_of(path): path for path in files.complete(folder.checkpoints)}
    newest, _ = files.newest(folder.checkpoints)
    if newest is None:
        raise RecipeError(f"{folder.checkpoints} has no valid checkpoint")
    step: int | None
    if wanted == "last":
        return newest
    if wanted == "best":
        with as_written(newest):
            state = read_state(newest)
            step = Progress(**state["progress"]).best_of(there, BestBy(**state["best_by"]))
        if step is None:
            raise RecipeError(f"no checkpoint in {folder.checkpoints} was evaluated; name a step")
    else:
        step = int(wanted) if wanted.isdecimal() else None
    if step not in there:
        steps = ", ".join(map(str, there))
        raise RecipeError(f'there is no checkpoint "{wanted}"; there are best, last, and steps {steps}')
    if fault := files.verify(there[step]):
        raise RunError(f"checkpoint {there[step]} is damaged: {fault}")
    return there[step]


@dataclass(frozen=True, slots=True)
class _Loader:
    """Loads policies as a run does."""

    selection: Selection
    precision: Precision
    device: torch.device
    reporter: Reporter

    @property
    def adapter(self) -> Adapter:
        return self.selection.adapter or AllWeights(AllWeights.Options())

    def untrained(self) -> PreTrainedModel:
        return self._loaded(self.adapter)

    def _loaded(self, adapter: Adapter) -> PreTrainedModel:
        alone = OneProcess(self.device)
        return load_policy(self.selection, adapter, self.precision, alone, self.reporter).model

    def final(
        self, folder: RunFolder
    ) -> tuple[PreTrainedModel, Callable[[], AbstractContextManager[Any]] | None]:
        """Return the policy in ``final/``, and what makes it the untrained one, where it can be."""
        if not folder.final.is_dir():
            raise RunError(
                f"{folder.path} has no final/: the run has not finished. Talk to its last checkpoint: --checkpoint last"
            )
        request = policy_request(self.selection, self.device)
        with showing_warnings(self.reporter), self.reporter.phase("loading the model", None):
            policy: Any = self.selection.model.load_model(
                LoadRequest(
                    source=str(folder.final),
                    quantization=request.quantization,
                    quantizer=request.quantizer,
                    keep_adapter=True,
                    device=request.device,
                )
            )
        UpcastWeights(policy, self.precision, self.device.type)
        return policy, policy.disable_adapter if self._starts_as_base(policy) else None

    def checkpoint(
        self, path: Path
    ) -> tuple[PreTrainedModel, Callable[[], AbstractContextManager[Any]] | None]:
        """Return the policy in a checkpoint, and what makes it the untrained one, where it can be."""
        from safetensors.torch import load_file

        adapter = self.adapter
        policy = self._loaded(adapter)
        import torch

        with torch.no_grad():
            adapter.load_state(policy, load_file(path / "trained.safetensors"))
        return policy, None if self.selection.trains_in_place else partial(adapter.reference, policy)

    def _starts_as_base(self, policy: Any) -> bool:
        """Whether the adapter in ``final/``, switched off, leaves the policy before training."""
        adapter = self.selection.adapter
        if adapter is None or not adapter.starts_as_base or not hasattr(policy, "disable_adapter"):
            return False
        source = self.selection.model.blueprint(policy_request(self.selection, "meta"))
        return source is not None and not hasattr(source, "peft_config")
