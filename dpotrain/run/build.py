"""Everything that a run needs, from a checked recipe: data, policy, reference, plan, trainer."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from accelerate.utils import set_seed

from dpotrain.core.paths import cache_folder
from dpotrain.core.records import Run
from dpotrain.data.batches.plan import BatchPlan
from dpotrain.data.prepare import prepare_data
from dpotrain.engine.layers.compiling import check_compiler, compile_layers
from dpotrain.engine.scoring.dropout import dropout_off, drops_out
from dpotrain.engine.training.optimizer import build_optimizer
from dpotrain.engine.training.recipe_metrics import RecipeMetrics
from dpotrain.engine.training.trainer import Trainer
from dpotrain.plugin.runtime.metric_names import logged_names
from dpotrain.run.engine_builder import INITIAL, Assembly, costs_of, free_memory_between_phases
from dpotrain.run.environment import describe
from dpotrain.run.loop import HeldOut, RunLoop
from dpotrain.run.run_info import facts, remote_code, title
from dpotrain.run.sizing import forecast, size_up

if TYPE_CHECKING:
    from accelerate import Accelerator

    from dpotrain.core.reporter import Reporter
    from dpotrain.engine.scoring.scorer import Scorer
    from dpotrain.plugin.runtime.events import RunEvents
    from dpotrain.recipe.recipe import Recipe
    from dpotrain.run.folder.run_folder import RunFolder
    from dpotrain.run.stopping import StopRequest

#: Said where a run in bfloat16 is computed in float32.
NO_BFLOAT16 = (
    "this processor has no matrix products in bfloat16: float32 takes their place, which is more exact, and holds "
    "weights in 32 bits"
)


def bring_up(
    recipe: Recipe,
    folder: RunFolder,
    accelerator: Accelerator,
    reporter: Reporter,
    stop: StopRequest,
    events: RunEvents,
    before: Mapping[str, Any] | None,
) -> RunLoop:
    """Load and build what a run needs, in the order that keeps the least in memory, and show its facts.

    Args:
        recipe: what is run.
        folder: the run's, in which environment and data report are written.
        accelerator: this process's.
        reporter: shows what is being done.
        stop: asks the run to stop.
        events: the recipe's listeners and loggers.
        before: how the checkpoint that is gone on from cut its steps; None without one.
    """
    if recipe.training.compile:
        check_compiler(accelerator.device.type)
    set_seed(recipe.seed)
    with reporter.phase("loading the tokenizer", None):
        tokenizer = recipe.model.load_tokenizer()
    cache = cache_folder(recipe.run.cache_dir)
    data = prepare_data(recipe, tokenizer, reporter, cache=cache)
    for line in data.report.changes():
        reporter.note(line)
    if accelerator.is_main_process:
        folder.write_environment(describe(recipe, accelerator.num_processes))
        folder.write_data_report(data.report)

    shared = recipe.reference.store or (None if cache is None else cache / "reference")
    assembly = Assembly(recipe, accelerator, data, reporter, folder.reference, shared, before is not None)
    if assembly.precision != recipe.training.precision:
        reporter.note(NO_BFLOAT16)
    references = assembly.other_reference()
    adapter = assembly.adapter
    policy = assembly.load_policy(adapter)
    scorer = assembly.scorer(policy, "the policy")
    costs = costs_of(data.train, padded=not scorer.packs)
    with reporter.phase("measuring memory", None):
        sizing = size_up(
            recipe, accelerator, scorer, data.train, costs, before, assembly.second_copy_to_come(references)
        )
    if recipe.training.compile:
        compile_layers(policy)
    plan = BatchPlan(
        costs=costs,
        seed=recipe.seed,
        pairs_per_step=recipe.training.pairs_per_step,
        tokens_per_microbatch=sizing.fit.tokens,
        epochs=recipe.training.epochs,
        max_steps=recipe.training.steps,
        ranks=accelerator.num_processes,
        shuffle=recipe.data.shuffle,
    )
    if references is None:
        references = assembly.initial_reference(scorer, adapter, sizing.fit.tokens)

    free_memory_between_phases()
    optimizer = build_optimizer(recipe.optimizer, policy)
    wrapped, prepared = accelerator.prepare(scorer, optimizer, device_placement=[False, False])
    # From here on every rank draws its own dropout.
    set_seed(recipe.seed + 1 + accelerator.process_index)
    # Dropout in an adapter that is not fresh moves the policy, and not the reference.
    known = recipe.reference.of == INITIAL and not drops_out(policy)
    first_loss = recipe.loss.first_loss() if known else None
    trainer = Trainer(
        accelerator=accelerator,
        scorer=wrapped,
        optimizer=prepared,
        loss=recipe.loss,
        plan=plan,
        data=data.train,
        reference=references.train,
        schedule=recipe.schedule,
        peak_learning_rate=recipe.optimizer.options.lr,
        max_grad_norm=recipe.training.max_grad_norm,
        precision=assembly.precision,
        first_loss=first_loss,
        note=reporter.note,
        extra=RecipeMetrics({metric: logged_names(metric, recipe.plugins) for metric in recipe.metrics}),
    )
    held_out = None
    if data.evaluation is not None:
        held_out = HeldOut(
            data.evaluation,
            references.evaluation,
            costs_of(data.evaluation, padded=not scorer.packs),
            assembly.budget_without_gradients,
        )
    run = Run(
        folder=folder.path,
        config=recipe.document,
        policy=policy,
        tokenizer=tokenizer,
        device=accelerator.device,
        seed=recipe.seed,
        total_steps=plan.total_steps,
        train_pairs=len(data.train),
        eval_pairs=0 if data.evaluation is None else len(data.evaluation),
        is_main_process=accelerator.is_main_process,
        note=reporter.note,
        inference=lambda: _inference(scorer),
        plugins=recipe.plugins.provenance(recipe),
    )
    code = remote_code(recipe)
    if code:
        run.report("remote code", {"allowed": code})
    foretold = forecast(sizing, recipe, plan, data.train, accelerator.device, references.live)
    reporter.started(
        title(recipe),
        facts(recipe, data, scorer, plan, sizing, foretold, accelerator, folder),
    )
    return RunLoop(
        recipe,
        folder,
        run,
        trainer,
        scorer,
        adapter,
        held_out,
        events,
        reporter,
        stop,
        sizing,
        foretold,
        assembly.widened,
    )


@contextmanager
def _inference(scorer: Scorer) -> Iterator[None]:
    device = next(scorer.parameters()).device.type
    with (
        torch.no_grad(),
        dropout_off(scorer),
        torch.autocast(device, torch.bfloat16, enabled=scorer.bf16),
    ):
        yield
