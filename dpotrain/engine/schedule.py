"""Learning-rate schedules as pure functions of the step."""

from __future__ import annotations

import math

from dpotrain.recipe.sections import ScheduleSection


def warmup_steps(schedule: ScheduleSection, total_steps: int) -> int:
    """Return the steps of linear warm-up."""
    if schedule.warmup_steps is not None:
        return min(schedule.warmup_steps, total_steps)
    # 0.07 * 100 is a little more than 7.
    return math.ceil(round(schedule.warmup_fraction * total_steps, 9))


def learning_rate_factor(schedule: ScheduleSection, step: int, total_steps: int) -> float:
    """Return what the peak learning rate is multiplied by in step ``step`` (1 is the first update).

    Warm-up reaches the peak in its last step, so that no update has a learning rate of zero; linear and
    cosine (arXiv:1608.03983, equation 5, one cycle) then fall to ``min_lr_fraction``, which the step after
    the last would have.
    """
    warmup = warmup_steps(schedule, total_steps)
    if step <= warmup:
        return step / warmup
    if schedule.use == "constant":
        return 1.0
    done = (step - 1 - warmup) / max(1, total_steps - warmup)
    left = 1.0 - done if schedule.use == "linear" else 0.5 * (1.0 + math.cos(math.pi * done))
    return schedule.min_lr_fraction + (1.0 - schedule.min_lr_fraction) * left
