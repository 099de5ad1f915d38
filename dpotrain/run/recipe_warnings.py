"""What is allowed in a recipe and hardly ever meant: said by ``dpotrain check`` and ``plan``, and as a run starts."""

from __future__ import annotations

from collections.abc import Iterator

from dpotrain.core.formats import count
from dpotrain.data.batches.plan import steps_of_run
from dpotrain.recipe.recipe import Recipe

#: How far beyond what is usual a learning rate is taken for a slip.
_BEYOND = 10
#: Steps that a schedule is asked about: its shape shows in so many.
_ASKED = 1000


def recipe_warnings(recipe: Recipe, pairs: int, *, about: bool = False, alone: bool = False) -> list[str]:
    """Return what a person should look at again, for so many training pairs; ``about`` where they are estimated.

    ``alone`` is whether one process has all weights.
    """
    steps = steps_of_run(pairs, recipe.training.pairs_per_step, recipe.training.epochs, recipe.training.steps)
    found = [*_learning_rate(recipe), *_steps(recipe, pairs, steps, "~" * about)]
    return [*_sharding(recipe), *found] if alone else found


def _sharding(recipe: Recipe) -> Iterator[str]:
    parallel = recipe.parallel
    values = {
        'shard = "all"': parallel.shard == "all",
        f"group = {parallel.group}": parallel.group is not None,
    }
    values[f'offload = "{parallel.offload}"'] = parallel.offload is not None
    if asked := [f"parallel.{text}" for text, given in values.items() if given]:
        yield (
            f"{', '.join(asked)}: 1 process shards nothing, and the run holds all weights on its device; start it with "
            "--processes N, or all"
        )


def _learning_rate(recipe: Recipe) -> Iterator[str]:
    usual = recipe.optimizer.usual_lr(adapter=not recipe.trains_in_place)
    options = recipe.optimizer.options
    rates = {"optimizer.lr": options.lr}
    rates |= {
        f"optimizer.groups.{index}.lr": group.lr for index, group in enumerate(options.groups) if group.lr
    }
    for key, lr in rates.items():
        if usual is not None and not usual[0] / _BEYOND <= lr <= usual[1] * _BEYOND:
            if recipe.adapter is None:
                trained = "all weights are trained"
            elif recipe.trains_in_place:
                trained = "weights of the model are trained"
            else:
                trained = f"{recipe.adapter.name} is trained"
            yield (
                f"{key} = {lr:g} is far {'above' if lr > usual[1] else 'below'} what is usual for "
                f"{recipe.optimizer.name} where {trained}: {usual[0]:g} to {usual[1]:g}"
            )


def _steps(recipe: Recipe, pairs: int, steps: int, about: str) -> Iterator[str]:
    training = recipe.training
    full = steps_of_run(pairs, training.pairs_per_step, training.epochs)
    if training.pairs_per_step > pairs:
        yield (
            f"training.pairs_per_step = {count(training.pairs_per_step)} is more than the {about}{count(pairs)} "
            f"training pairs: each step takes all of them, and the run has {_number(steps, 'step')}"
        )
    elif full == 1:
        yield "the run has one step: raise training.epochs, or lower training.pairs_per_step"
    if training.steps is not None and training.steps > full:
        yield (
            f"training.steps = {count(training.steps)} is more than {_number(training.epochs, 'epoch')} of the "
            f"data: the run ends after {about}{_number(full, 'step')}; raise training.epochs for more"
        )
    every = recipe.evaluation.every
    if every is not None and every > steps:
        yield (
            f"evaluation.every = {count(every)} is more than the run's {about}{_number(steps, 'step')}: it evaluates "
            "before and after training only"
        )
    update = recipe.reference.update
    if update is not None and update.every >= steps:
        yield (
            f"reference.update.every = {count(update.every)}, and the run has {about}{_number(steps, 'step')}: no step "
            "is trained with a reference that has moved"
        )
    best = recipe.checkpoints.best
    if update is not None and recipe.evaluation.best and (best == "loss" or best.startswith("rewards/")):
        yield (
            f"evaluation.best compares evaluations by {best}, and each has it by the reference of its own step: one "
            "before an update of the reference and one after it do not compare"
        )
    if steps > 1 and _still_rising(recipe, steps):
        yield (
            f"the {recipe.schedule.name} schedule reaches its highest learning rate in the last of the run's {about}"
            f"{_number(steps, 'step')}: shorten its warm-up"
        )


def _still_rising(recipe: Recipe, steps: int) -> bool:
    """Whether the learning rate is highest in the last step, and only there."""
    asked = sorted({*range(1, steps + 1, -(-steps // _ASKED)), steps - 1})
    factors = [recipe.schedule.factor(step, steps) for step in asked if step < steps]
    return recipe.schedule.factor(steps, steps) > max(factors)


def _number(value: int, what: str) -> str:
    return f"{count(value)} {what}{'s' * (value != 1)}"
