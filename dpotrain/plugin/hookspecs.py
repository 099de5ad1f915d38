"""The hooks of dpotrain. This page, in the order of a run's life, is the reference for plugin authors.

    recipe is read                     # components are looked up by name in the catalogues and constructed
        dpotrain_model_loaders, dpotrain_quantizers, dpotrain_adapters, dpotrain_dataset_sources,
        dpotrain_dataset_formatters, dpotrain_losses, dpotrain_optimizers, dpotrain_schedules,
        dpotrain_metrics, dpotrain_loggers, dpotrain_exporters
    component.check() of each selected one
    tokenizer, rows, pairs, tokens     # loader.load_tokenizer, source.load, formatter.format
    policy                             # quantizer.loading_config, loader.load_model, quantizer.prepare,
                                       # adapter.attach, optimizer.build
    dpotrain_run_started(run)
    evaluation of the untrained policy -> dpotrain_evaluated(run, evaluation)
    for every step:
        forward, loss, backward, metrics, update   # schedule.factor says how large
        dpotrain_step_ended(run, step)
        every evaluation.every steps   -> dpotrain_evaluated(run, evaluation)
        every checkpoints.every steps  -> dpotrain_checkpoint_saved(run, checkpoint)
    last evaluation                    -> dpotrain_evaluated(run, evaluation)
    final/ is written
    dpotrain_run_finished(run, outcome)
    exporter.export(run) of each       # the policy has left memory

Two kinds of hook, and no third. **Catalogues** offer component classes; they are called on every process while
the recipe is read (and by ``dpotrain plugins`` and ``dpotrain schema``), so the module that implements one must
not import torch, transformers or anything as heavy at its top. **Run events** are heard only by what the recipe
selected: the module of a plugin that offers a selected component (or that ``requires`` names), and the selected
component objects themselves. They are called by keyword; each listener is isolated, so that all the others still
hear the event when one raises. A plugin's module that is there for its loggers alone is dropped with them where it
raises; any other listener that raises ends the run with an error that names it, after the event.

Run events are called in the thread that trains, between two steps, and the next step waits until they return. The
methods of a logger are the exception: they are called in the logger's own thread, in order with ``start``, ``log`` and
``finish``, and ``run`` is a ``LoggedRun`` there, without the policy. No step waits for them, and a logger that raises
or hangs is dropped.

A hook implementation may take fewer arguments than its spec, and ``@hookimpl(tryfirst=True)`` or ``trylast=True``
move it within the order of listeners. Wrappers are refused, since they could not be isolated.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pluggy

if TYPE_CHECKING:
    from collections.abc import Iterable

    from dpotrain.plugin.components import (
        Adapter,
        DatasetFormatter,
        DatasetSource,
        Exporter,
        Logger,
        Loss,
        Metric,
        ModelLoader,
        Optimizer,
        Quantizer,
        Schedule,
    )
    from dpotrain.run.records import CheckpointRecord, Outcome, Record, Run, StepRecord

hookspec = pluggy.HookspecMarker("dpotrain")


# Catalogues, in the order of the recipe's tables --------------------------------------------------


@hookspec
def dpotrain_model_loaders() -> Iterable[type[ModelLoader]]:  # type: ignore[empty-body]
    """Offer model loaders, which bring the policy and its tokenizer.

    Called: while the recipe is read, and by ``dpotrain plugins`` and ``dpotrain schema``.

    Rank: every process.

    Must not import: torch, transformers or anything as heavy at the top of its module; a loader's methods
    import what they need.

    Result: classes. ``[model] use`` picks one by ``name``, and it is constructed with the rest of that table.

    Example:
        from pydantic import Field

        from dpotrain import hookimpl
        from dpotrain.plugin.components import ModelLoader


        class FolderLoader(ModelLoader):
            name = "folder"

            class Options(ModelLoader.Options):
                path: str = Field(description="Folder that holds the model and its tokenizer.")

            def load_tokenizer(self):
                from transformers import AutoTokenizer

                return AutoTokenizer.from_pretrained(self.options.path)

            def load_model(self, request):
                from transformers import AutoModelForCausalLM

                source = request.source or self.options.path
                model = AutoModelForCausalLM.from_pretrained(
                    source, quantization_config=request.quantization, attention_dropout=0.0
                )
                return model.to(request.device).train()

            def fingerprint(self, source=None):
                import hashlib
                from pathlib import Path

                weights = sorted(Path(source or self.options.path).glob("*.safetensors"))
                return hashlib.sha256(b"".join(file.read_bytes() for file in weights)).hexdigest()


        @hookimpl
        def dpotrain_model_loaders():
            return [FolderLoader]
    """


@hookspec
def dpotrain_quantizers() -> Iterable[type[Quantizer]]:  # type: ignore[empty-body]
    """Offer quantizers, which load the weights in fewer bits.

    Called: while the recipe is read, and by ``dpotrain plugins`` and ``dpotrain schema``.

    Rank: every process.

    Must not import: torch, transformers or the quantization library at the top of its module.

    Result: classes. ``[quantizer] use`` picks one by ``name``. A recipe without ``[adapter]`` is refused
    unless the quantizer says ``trains_all_weights = True``.

    Example:
        from typing import Literal

        from pydantic import Field

        from dpotrain import hookimpl
        from dpotrain.errors import RunError
        from dpotrain.plugin.components import Quantizer


        class Quanto(Quantizer):
            name = "quanto"

            class Options(Quantizer.Options):
                weights: Literal["int8", "int4"] = Field("int8", description="What weights become.")

            def loading_config(self):
                from transformers import QuantoConfig

                return QuantoConfig(weights=self.options.weights)

            def prepare(self, model):
                if not any("Q" in type(module).__name__ for module in model.modules()):
                    raise RunError("quanto quantized no layer of this model")
                model.requires_grad_(False)


        @hookimpl
        def dpotrain_quantizers():
            return [Quanto]
    """


@hookspec
def dpotrain_adapters() -> Iterable[type[Adapter]]:  # type: ignore[empty-body]
    """Offer adapters, which say what is trained, how the reference is reached, and what is saved.

    Called: while the recipe is read, and by ``dpotrain plugins`` and ``dpotrain schema``.

    Rank: every process.

    Must not import: torch, transformers or peft at the top of its module.

    Result: classes. ``[adapter] use`` picks one by ``name``; without ``[adapter]`` all weights are trained.

    Example:
        from contextlib import contextmanager

        from dpotrain import hookimpl
        from dpotrain.errors import RunError
        from dpotrain.plugin.components import Adapter


        class BitFit(Adapter):
            name = "bitfit"

            def attach(self, policy):
                for name, weight in policy.named_parameters():
                    weight.requires_grad_(name.endswith("bias"))
                    if weight.requires_grad:
                        weight.data = weight.data.float()
                self._initial = self._copies(policy)
                return policy

            @contextmanager
            def reference(self, policy):
                trained = self._copies(policy)
                self.load_state(policy, self._initial)
                try:
                    yield
                finally:
                    self.load_state(policy, trained)

            def state(self, policy):
                return {name: bias.data for name, bias in policy.named_parameters() if bias.requires_grad}

            def load_state(self, policy, state):
                biases = self.state(policy)
                if biases.keys() != state.keys():
                    raise RunError("the checkpoint holds other biases than this model has")
                for name, bias in biases.items():
                    bias.copy_(state[name])

            def save(self, policy, folder):
                policy.save_pretrained(folder)

            def how_to_load(self, folder):
                return f'AutoModelForCausalLM.from_pretrained("{folder}")'

            def _copies(self, policy):
                return {name: bias.clone() for name, bias in self.state(policy).items()}


        @hookimpl
        def dpotrain_adapters():
            return [BitFit]
    """


@hookspec
def dpotrain_dataset_sources() -> Iterable[type[DatasetSource]]:  # type: ignore[empty-body]
    """Offer dataset sources, which bring rows.

    Called: while the recipe is read, and by ``dpotrain plugins`` and ``dpotrain schema``.

    Rank: every process.

    Must not import: datasets, pyarrow or a database's client at the top of its module.

    Result: classes. ``[data] use`` picks one by ``name``; those keys of ``[data]`` that are not the core's
    are its options, so an option must not be called like one of the core's keys.

    Example:
        import hashlib
        import sqlite3

        from pydantic import Field

        from dpotrain import hookimpl
        from dpotrain.errors import DataError
        from dpotrain.plugin.components import DatasetSource


        class TableRows(list):
            columns = ["prompt", "chosen", "rejected"]
            fingerprint = ""


        class SqliteSource(DatasetSource):
            name = "sqlite"

            class Options(DatasetSource.Options):
                database: str = Field(description="The file; every table of it is a split.")

            def splits(self):
                with sqlite3.connect(self.options.database) as connection:
                    return [name for (name,) in connection.execute("SELECT name FROM sqlite_master")]

            def load(self, split):
                if split not in self.splits():
                    raise DataError(f"{self.options.database} has no table {split}: {self.splits()}")
                with sqlite3.connect(self.options.database) as connection:
                    found = connection.execute(f'SELECT prompt, chosen, rejected FROM "{split}"')
                    rows = TableRows(dict(zip(TableRows.columns, row, strict=True)) for row in found)
                rows.fingerprint = hashlib.sha256(repr(list(rows)).encode()).hexdigest()
                return rows


        @hookimpl
        def dpotrain_dataset_sources():
            return [SqliteSource]
    """


@hookspec
def dpotrain_dataset_formatters() -> Iterable[type[DatasetFormatter]]:  # type: ignore[empty-body]
    """Offer dataset formatters, which turn a row into a preference pair.

    Called: while the recipe is read, and by ``dpotrain plugins`` and ``dpotrain schema``.

    Rank: every process.

    Must not import: torch, transformers or datasets, neither at the top of its module nor for a row.

    Result: classes. ``data.format`` picks one by ``name``; ``"auto"`` constructs all of them with their
    default options and asks which recognises the rows.

    Example:
        from dpotrain import PreferencePair, hookimpl
        from dpotrain.data.pair import UnusableRow
        from dpotrain.plugin.components import DatasetFormatter, Recognition


        class RankedFormatter(DatasetFormatter):
            name = "ranked"
            columns = ("prompt", "ranked_answers")

            def recognises(self, row):
                return Recognition.CERTAIN if "ranked_answers" in row else Recognition.NO

            def format(self, row):
                answers = row.get("ranked_answers") or []
                if len(answers) < 2:
                    raise UnusableRow("fewer than two ranked answers")
                return PreferencePair(prompt=row["prompt"], chosen=answers[0], rejected=answers[-1])


        @hookimpl
        def dpotrain_dataset_formatters():
            return [RankedFormatter]
    """


@hookspec
def dpotrain_losses() -> Iterable[type[Loss]]:  # type: ignore[empty-body]
    """Offer losses, which turn the scores of pairs into a loss a pair.

    Called: while the recipe is read, and by ``dpotrain plugins`` and ``dpotrain schema``.

    Rank: every process.

    Must not import: torch or transformers at the top of its module.

    Result: classes. ``[loss] use`` picks one by ``name``. The engine divides the losses by the pairs of the
    whole step; a loss never takes a mean itself.

    Example:
        import math

        from pydantic import Field

        from dpotrain import hookimpl
        from dpotrain.plugin.components import Loss


        class MarginLoss(Loss):
            name = "margin-dpo"

            class Options(Loss.Options):
                margin: float = Field(0.0, ge=0, description="By how much the chosen reward is to be ahead.")

            def __call__(self, scores):
                from torch.nn.functional import softplus

                policy = scores.policy_chosen - scores.policy_rejected
                reference = scores.reference_chosen - scores.reference_rejected
                return softplus(self.options.margin - self.options.beta * (policy - reference))

            def first_loss(self):
                return math.log1p(math.exp(self.options.margin))


        @hookimpl
        def dpotrain_losses():
            return [MarginLoss]
    """


@hookspec
def dpotrain_optimizers() -> Iterable[type[Optimizer]]:  # type: ignore[empty-body]
    """Offer optimizers, which turn gradients into updates.

    Called: while the recipe is read, and by ``dpotrain plugins`` and ``dpotrain schema``.

    Rank: every process.

    Must not import: torch or the optimizer's library at the top of its module.

    Result: classes. ``[optimizer] use`` picks one by ``name``; a table that does not say means "adamw".

    Example:
        from pydantic import Field

        from dpotrain import hookimpl
        from dpotrain.plugin.components import Optimizer


        class LoraPlus(Optimizer):
            name = "lora-plus"

            class Options(Optimizer.Options):
                ratio: float = Field(16.0, gt=0, description="How much faster LoRA's second matrices learn.")

            def build(self, weights):
                import torch

                second = [weight for name, weight in weights.items() if "lora_B" in name]
                others = [weight for name, weight in weights.items() if "lora_B" not in name]
                groups = [
                    {"params": others, "lr": self.options.lr},
                    {"params": second, "lr": self.options.lr * self.options.ratio},
                ]
                return torch.optim.AdamW([group for group in groups if group["params"]])


        @hookimpl
        def dpotrain_optimizers():
            return [LoraPlus]
    """


@hookspec
def dpotrain_schedules() -> Iterable[type[Schedule]]:  # type: ignore[empty-body]
    """Offer schedules, which move the learning rate over the run.

    Called: while the recipe is read, and by ``dpotrain plugins`` and ``dpotrain schema``.

    Rank: every process.

    Must not import: torch or transformers at the top of its module.

    Result: classes. ``[schedule] use`` picks one by ``name``; a table that does not say means "cosine".

    Example:
        from pydantic import Field

        from dpotrain import hookimpl
        from dpotrain.plugin.components import Schedule


        class WarmupStableDecay(Schedule):
            name = "wsd"

            class Options(Schedule.Options):
                warmup_steps: int = Field(0, ge=0, description="Steps that rise to the peak.")
                decay_fraction: float = Field(0.2, gt=0, le=1, description="Share of the steps that fall to zero.")

            def factor(self, step, total_steps):
                rising = min(1.0, step / max(1, self.options.warmup_steps))
                falling = (total_steps + 1 - step) / (self.options.decay_fraction * total_steps)
                return min(rising, falling, 1.0)


        @hookimpl
        def dpotrain_schedules():
            return [WarmupStableDecay]
    """


@hookspec
def dpotrain_metrics() -> Iterable[type[Metric]]:  # type: ignore[empty-body]
    """Offer metrics, which add numbers to the records.

    Called: while the recipe is read, and by ``dpotrain plugins`` and ``dpotrain schema``.

    Rank: every process; the numbers are means over the pairs of all of them.

    Must not import: torch or transformers at the top of its module.

    Result: classes. Every ``[[metrics]]`` table picks one by ``use``. A metric returns numbers of single pairs and
    never takes a mean itself; records, loggers and ``summary.json`` have the means as ``PLUGIN/MEASURE``.

    Example:
        from pydantic import Field

        from dpotrain import hookimpl
        from dpotrain.plugin.components import Metric


        class Sure(Metric):
            name = "sure"
            measures = ("share", "chosen_drop")

            class Options(Metric.Options):
                nats: float = Field(3.0, gt=0, description="A pair is sure if its log-ratios are so far apart.")

            def __call__(self, scores):
                apart = scores.chosen_logratio - scores.rejected_logratio
                sure = apart > self.options.nats
                return {"share": sure, "chosen_drop": (-scores.chosen_logratio, sure)}


        @hookimpl
        def dpotrain_metrics():
            return [Sure]
    """


@hookspec
def dpotrain_loggers() -> Iterable[type[Logger]]:  # type: ignore[empty-body]
    """Offer loggers, which take the run's records somewhere.

    Called: while the recipe is read, and by ``dpotrain plugins`` and ``dpotrain schema``.

    Rank: every process; the methods of a logger run on the main process only, in a thread of its own.

    Must not import: the client of the service at the top of its module.

    Result: classes. Every ``[[loggers]]`` table picks one by ``use``. A logger that raises
    or hangs is dropped with a message and the run goes on.

    Example:
        from pathlib import Path

        from pydantic import Field

        from dpotrain import hookimpl
        from dpotrain.plugin.components import Logger


        class CsvLogger(Logger):
            name = "csv"

            class Options(Logger.Options):
                file: Path = Field(Path("loss.csv"), description="The file, inside the run folder.")

            def start(self, run):
                self._file = (run.folder / self.options.file).open("a")

            def log(self, record):
                print(record.kind, record.step, record.metrics["loss"], sep=",", file=self._file)

            def finish(self, outcome):
                self._file.close()


        @hookimpl
        def dpotrain_loggers():
            return [CsvLogger]
    """


@hookspec
def dpotrain_exporters() -> Iterable[type[Exporter]]:  # type: ignore[empty-body]
    """Offer exporters, which make something of a finished run's result.

    Called: while the recipe is read, and by ``dpotrain plugins`` and ``dpotrain schema``.

    Rank: every process; ``export`` runs on the main process only.

    Must not import: torch, transformers or the client of a service at the top of its module.

    Result: classes. Every ``[[exporters]]`` table picks one by ``use``; they run in the recipe's order, so one may take
    up what another made. One that raises ends ``dpotrain run`` with exit code 1, after all others; the run itself stays
    finished, and ``--resume`` runs the exporter again. ``exports.json`` keeps what the others returned.

    Example:
        import shutil

        from dpotrain import hookimpl
        from dpotrain.plugin.components import Exporter


        class Archive(Exporter):
            name = "archive"

            def export(self, run):
                return shutil.make_archive(str(run.folder / "final"), "zip", run.final)


        @hookimpl
        def dpotrain_exporters():
            return [Archive]
    """


# Run events, in the order of a run ---------------------------------------------------------------


@hookspec
def dpotrain_run_started(run: Run) -> None:
    """Hear that everything is loaded and the first step is next.

    Called: once a run, after the policy is loaded, before the evaluation of the untrained policy; also when a
    run is resumed (``run.resumed_from`` is then not 0).

    Rank: the main process.

    Must not import: anything is allowed, but what it spends is time in which no step is made.

    Result: none. ``run.report(section, values)`` puts plain values into ``summary.json``.

    Example:
        from dpotrain import hookimpl


        @hookimpl
        def dpotrain_run_started(run):
            run.note(f"training on {run.train_pairs} pairs in {run.total_steps} steps")
    """


@hookspec
def dpotrain_evaluated(run: Run, evaluation: Record) -> None:
    """Hear that the held-out pairs were scored.

    Called: after every evaluation, ``evaluation.step`` saying after which step; 0 is the untrained policy.

    Rank: the main process.

    Must not import: anything is allowed.

    Result: none.

    Example:
        from dpotrain import hookimpl


        @hookimpl
        def dpotrain_evaluated(run, evaluation):
            if evaluation.step and evaluation.metrics["rewards/accuracies"] < 0.5:
                run.note(f"step {evaluation.step}: the reward still prefers the rejected answers")
    """


@hookspec
def dpotrain_step_ended(run: Run, step: StepRecord) -> None:
    """Hear that the optimizer made a step.

    Called: after every update, before the evaluation and the checkpoint that may be due.

    Rank: the main process.

    Must not import: anything heavy inside the function; it runs in every step, so it must be quick, and
    must not change the policy.

    Result: none.

    Example:
        from dpotrain import hookimpl


        @hookimpl
        def dpotrain_step_ended(run, step):
            if step.metrics["grad_norm"] > 100:
                run.note(f"step {step.step}: the gradient norm is {step.metrics['grad_norm']:.0f}")
    """


@hookspec
def dpotrain_checkpoint_saved(run: Run, checkpoint: CheckpointRecord) -> None:
    """Hear that a checkpoint is complete on disk.

    Called: after the checkpoint was renamed into place. Checkpoints are written while training goes on, so that is
    after its own step or a later one; older ones may be gone by then.

    Rank: the main process.

    Must not import: anything is allowed.

    Result: none. What is to outlast the run's own clean-up must be copied.

    Example:
        from dpotrain import hookimpl


        @hookimpl
        def dpotrain_checkpoint_saved(run, checkpoint):
            size = sum(file.stat().st_size for file in checkpoint.path.rglob("*") if file.is_file())
            run.note(f"{checkpoint.path.name} takes {size / 1e6:.1f} MB")
    """


@hookspec
def dpotrain_run_finished(run: Run, outcome: Outcome) -> None:
    """Hear how the run ended, while the policy is still in memory.

    Called: once a run that was started, also when it was stopped or failed (``outcome.status``), after
    ``final/`` is written and before ``summary.json`` is, so that what is reported is in it.

    Rank: the main process.

    Must not import: anything is allowed.

    Result: none. ``run.report(section, values)`` puts plain values into ``summary.json``; a value called
    ``"table"`` is shown in the closing summary.

    Example:
        from dpotrain import hookimpl


        @hookimpl
        def dpotrain_run_finished(run, outcome):
            if outcome.status == "finished":
                run.report("timing", {"minutes": round(outcome.seconds / 60, 1)})
    """
