"""Everything that a run needs, built from a checked recipe: data, policy, reference, plan, trainer, loop."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING, TypeAlias

from dpotrain.core.errors import RunError
from dpotrain.core.masking import mask_data
from dpotrain.core.paths import cache_folder
from dpotrain.core.random_state import seed_all
from dpotrain.core.records import Run
from dpotrain.core.reporter import Reporter, showing_warnings
from dpotrain.data.batches.plan import Costs
from dpotrain.data.prepare import PreparedData
from dpotrain.engine.generation import inference
from dpotrain.engine.layers.compiling import check_compiler
from dpotrain.engine.memory.device_memory import release_memory
from dpotrain.engine.parallel.protocol import Parallel
from dpotrain.engine.reference.plan import ReferencePlan
from dpotrain.engine.scoring.dropout import drops_out
from dpotrain.engine.scoring.objective import applied_columns
from dpotrain.engine.scoring.precision import UpcastWeights
from dpotrain.engine.scoring.scorer import Scorer
from dpotrain.engine.threads import choose_threads
from dpotrain.engine.training.first_loss import FirstLoss
from dpotrain.engine.training.optimizer import build_optimizer
from dpotrain.engine.training.recipe_metrics import RecipeMetrics
from dpotrain.engine.training.trainer import Trainer
from dpotrain.evaluation.evaluation_set import EvaluationSet
from dpotrain.plugin.api import Adapter
from dpotrain.plugin.runtime.events import RunEvents
from dpotrain.plugin.runtime.metric_names import logged_names
from dpotrain.recipe.recipe import Recipe
from dpotrain.recipe.sections.reference import INITIAL_POLICY
from dpotrain.run.building.data import read_data
from dpotrain.run.building.engine_builder import EngineBuilder, batch_plan
from dpotrain.run.building.environment import describe
from dpotrain.run.building.measuring import Clocks, measuring_of
from dpotrain.run.building.references import ReferenceBuilder
from dpotrain.run.building.rehearsal import rehearse_saving
from dpotrain.run.building.run_info import moving_reference, remote_code, run_info
from dpotrain.run.building.sampling import build_sampler
from dpotrain.run.checkpoint.resuming import Found
from dpotrain.run.checkpoint.room import check_room
from dpotrain.run.checkpoint.saving import CheckpointSaver
from dpotrain.run.context import RunContext
from dpotrain.run.evaluating import Evaluator
from dpotrain.run.folder.evaluation_files import EvaluationFiles
from dpotrain.run.folder.metrics_file import MetricsFile
from dpotrain.run.folder.run_folder import RunFolder
from dpotrain.run.folder.text_files import SamplesFile, TextsFile
from dpotrain.run.loop import RunLoop
from dpotrain.run.measurements import Measuring
from dpotrain.run.microbatches import fit_to_memory, predicted_peak_mb
from dpotrain.run.nonfinite import NonFiniteSteps
from dpotrain.run.recipe_warnings import recipe_warnings
from dpotrain.run.state import RunState
from dpotrain.run.stopping import StopRequest

if TYPE_CHECKING:
    from transformers import PreTrainedModel

#: Shown where a run in bfloat16 is computed in float32.
NO_BFLOAT16 = (
    "this processor has no matrix products in bfloat16: the run computes in float32, which is more exact, and holds "
    "weights in 32 bits"
)
#: Why activations that are to go to the host stay where they are.
NO_OFFLOAD = {
    "cpu": "on a CPU activations are in the host's memory anyway",
    "layers": "the model's layers cannot be checkpointed one by one",
}

#: What decides how the processes of a run hold its weights, once its data is known.
Spread: TypeAlias = Callable[[Recipe, Parallel, PreparedData], tuple[Parallel, str]]


@dataclass(frozen=True, slots=True)
class BuiltRun:
    """A run that is ready to begin or to be resumed."""

    context: RunContext
    loop: RunLoop
    adapter: Adapter
    upcast_weights: UpcastWeights
    """Weights that are saved in fewer bits than they are trained in."""
    predicted_peak_mb: float
    measuring: Measuring | None


def build(
    recipe: Recipe,
    folder: RunFolder,
    parallel: Parallel,
    reporter: Reporter,
    stop: StopRequest,
    events: RunEvents,
    found: Found | None,
    spread: Spread,
) -> BuiltRun:
    """Load and build what a run needs, in the order that needs the least memory, and show the run info.

    Environment and data report are written into ``folder``. ``found`` is the checkpoint that the run is resumed from;
    None for a fresh run. ``spread`` returns the processes as they share the weights, and why so.
    """
    if recipe.training.compile:
        check_compiler(parallel.device.type)
    seed_all(recipe.seed)
    clocks = Clocks()
    with showing_warnings(reporter), reporter.phase("loading the tokenizer", None):
        tokenizer = recipe.model.load_tokenizer()
    cache = cache_folder(recipe.run.cache_dir)
    now = parallel.broadcast_object(datetime.now().isoformat())
    clock = now if found is None or found.clock is None else found.clock
    with showing_warnings(reporter), clocks.apart():
        read = read_data(recipe, tokenizer, reporter, cache=cache, clock=clock)
    data = read.pairs
    for line in data.report.changes():
        reporter.note(line)
    if parallel.is_main:
        folder.write(folder.environment, describe(recipe, parallel.world_size))
        folder.write(folder.data_report, data.report.as_json())
    several = parallel.world_size > 1
    with reporter.phase("choosing how processes hold the weights", None) if several else nullcontext():
        parallel, layout = spread(recipe, parallel, data)

    before = None if found is None else found.microbatches
    engine = EngineBuilder(recipe, parallel, data, reporter)
    if engine.precision != recipe.training.precision:
        reporter.note(NO_BFLOAT16)
    reference_plan = ReferencePlan.of(recipe)
    reference_builder = ReferenceBuilder(
        engine=engine,
        plan=reference_plan,
        own_store=folder.reference,
        shared_store=recipe.reference.store or (None if cache is None else cache / "reference"),
        resuming=before is not None,
    )
    with clocks.apart():
        references = reference_builder.before_policy()
    adapter = engine.adapter
    loaded = engine.load_policy(adapter)
    policy, upcast_weights = loaded.model, loaded.upcast
    with reporter.phase("testing that the result can be saved", None):
        rehearse_saving(policy, tokenizer, adapter, engine.adapter_label)
    engine.shard(loaded)
    threads = choose_threads(policy, parallel.device)
    scorer = engine.scorer(policy, "the policy")
    router_loss = engine.router_loss(scorer)
    costs = Costs.of_data(data.train, padded=not scorer.packs)
    if recipe.training.compile:
        # Before memory is measured: compiled layers keep less.
        engine.compile(scorer)
    engine.divide_rows(scorer, "the policy")
    with reporter.phase("measuring memory", None):
        memory = fit_to_memory(recipe, parallel, scorer, data, costs, reference_plan, before)
    if recipe.training.activation_offload is True and not memory.fit.on_host:
        why = NO_OFFLOAD["cpu" if parallel.device.type == "cpu" else "layers"]
        reporter.note(f"training.activation_offload = true changes nothing: {why}")
    if parallel.is_main:
        try:
            check_room(memory.gathered)
        except RunError as error:  # there may be room by the time of the first one
            reporter.warn(str(error))
    plan = batch_plan(recipe, data.mixture, costs, memory.fit.tokens, parallel.data_size)
    if references is None:
        with clocks.apart():
            references = reference_builder.after_policy(scorer, adapter, memory.fit.tokens)

    release_memory()
    with reporter.phase("preparing the optimizer", None):
        optimizer = build_optimizer(recipe.optimizer, policy, reporter.note, parallel.optimized)
        wrapped, optimizer = parallel.place(scorer, optimizer)
    # From here on every process draws its own dropout.
    seed_all(recipe.seed + 1 + parallel.world_rank)
    # Dropout in an adapter that is not fresh moves the policy, and not the reference.
    applied = applied_columns(recipe)
    initial = recipe.reference.of == INITIAL_POLICY and reference_plan.model != "data"
    known = initial and not drops_out(policy) and not applied & {"weight", "margin"}
    known = known and recipe.loss.options.weighting is None
    expected = recipe.loss.first_loss() if known else None
    # A compiler makes other kernels for a pass without gradients.
    alike = references.train.of_microbatch and not recipe.training.compile
    state = RunState()
    trainer = Trainer(
        parallel=parallel,
        scorer=wrapped,
        optimizer=optimizer,
        loss=recipe.loss,
        loss_label=recipe.plugins.label(recipe.loss),
        plan=plan,
        data=data.train,
        reference=references.train,
        schedule=recipe.schedule,
        peak_learning_rate=recipe.optimizer.options.lr,
        max_grad_norm=recipe.training.max_grad_norm,
        first_loss=None if expected is None else FirstLoss(expected, engine.precision, alike),
        interrupted=lambda: parallel.agreed(bool(stop)),
        progress=reporter.microbatch,
        note=reporter.note,
        on_nonfinite=NonFiniteSteps(
            file=folder.nonfinite_pairs,
            data=data.train,
            sources=data.mixture.names,
            tokenizer=tokenizer,
            on_nonfinite=recipe.training.on_nonfinite,
            state=state,
            reporter=reporter,
            is_main=parallel.is_main,
        ),
        router_loss=router_loss,
        pair_columns=applied,
        extra=RecipeMetrics(
            {metric: logged_names(metric, recipe.plugins) for metric in recipe.metrics},
            recipe.loss.part_names,
        ),
        window=state.window,
    )
    run = Run(
        folder=folder.path,
        config=mask_data(recipe.document),
        policy=policy,
        tokenizer=tokenizer,
        device=parallel.device,
        seed=recipe.seed,
        total_steps=plan.total_steps,
        train_pairs=data.mixture.pairs,
        eval_pairs=0 if data.evaluation is None else len(data.evaluation),
        is_main_process=parallel.is_main,
        note=reporter.note,
        stop=state.finish,
        save=stop.controls.save,
        evaluate=stop.controls.evaluate,
        held_out=read.held_out,
        inference=partial(_inference, policy, scorer, parallel, events),
        plugins=recipe.plugins.provenance(recipe),
        components=recipe.components,
        metric_names=trainer.extra.names,
        logged=state.progress.logged,
    )
    if code := remote_code(recipe):
        run.report("remote code", {"allowed": code})
    if (update := recipe.reference.update) is not None:
        values = {
            "reference": moving_reference(update),
            "losses and rewards": "by the reference of their step",
        }
        run.report("moving reference", values)
    alone = parallel.world_size == 1 and not parallel.shards_weights
    for warning in recipe_warnings(recipe, data.mixture.pairs, alone=alone):
        reporter.warn(warning)
    measuring = measuring_of(recipe, engine, scorer, plan, memory, cache, clocks.loading())
    if measuring is not None and (learned := measuring.learned) is not None:
        memory = replace(memory, allocator=learned.allocator)
    peak_mb = predicted_peak_mb(memory, plan)
    info = run_info(
        recipe,
        data,
        scorer,
        plan,
        parallel,
        layout,
        memory,
        peak_mb,
        threads,
        router_loss,
        engine.kernels,
    )
    reporter.started(recipe.path.name if recipe.path is not None else "recipe", info, plan.total_steps)
    context = RunContext(
        recipe=recipe,
        run=run,
        trainer=trainer,
        state=state,
        metrics=MetricsFile(folder.metrics),
        samples=SamplesFile(folder.samples),
        texts=TextsFile(folder.texts),
        evaluations=EvaluationFiles(folder.evaluations),
        events=events,
        reporter=reporter,
    )
    run.log_text = context.log_text
    evaluation_set = None
    if data.evaluation is not None:
        held_out_costs = Costs.of_data(data.evaluation, padded=not scorer.packs)
        labels = data.mixture.names if data.mixture.is_of_several else ()
        evaluation_set = EvaluationSet(
            data.evaluation, references.evaluation, held_out_costs, applied, labels
        )
        if parallel.is_main and (moved := context.evaluations.begin(read.evaluated)):
            reporter.note(f"other pairs are evaluated now; earlier evaluations are in {moved}")
    sampler = build_sampler(recipe, read, tokenizer, scorer, parallel)
    evaluator = Evaluator(context, evaluation_set, engine.tokens_without_gradients, scorer, sampler)
    checkpoints = CheckpointSaver(context, folder.checkpoints, adapter, memory, clock)
    loop = RunLoop(context, evaluator, checkpoints, stop)
    return BuiltRun(context, loop, adapter, upcast_weights, peak_mb, measuring)


def _inference(
    policy: PreTrainedModel, scorer: Scorer, parallel: Parallel, events: RunEvents
) -> AbstractContextManager[None]:
    """Return what a plugin enters to compute with the policy.

    Raises:
        RunError: only the main process would, and the others hold parts of the weights.
    """
    if parallel.shards_weights and events.on_main_alone:
        raise RunError(
            "the policy's weights are sharded, so that it computes in all processes together, and this run event is "
            "called on the main process alone.\nUse a component whose events are called on every process (a callback), "
            'or set parallel.shard = "none".'
        )
    return inference(policy, bf16=scorer.bf16, gathered=parallel.gathered(policy))
