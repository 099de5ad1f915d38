"""The choices of a first recipe: those that a person makes, and what follows where they make none."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from dpotrain.scaffold.first_recipe.looking import Data, Machine, Model

#: Share of the memory that weights, gradients and moments may take; activations need the rest.
_SHARE = 0.7
#: Bytes for each parameter: all weights trained (weight, gradient, two moments in float32), frozen weights in 16 bits
#: with an adapter, and in 4 bits.
_FULL, _LORA, _FOUR_BIT = 16, 2.2, 0.75
_LARGE = 10**9  # parameters from which a model counts as large


@dataclass(frozen=True, slots=True)
class Answers:
    """What a recipe is written from; None leaves a choice to :class:`Choices`."""

    model: Model
    data: Data
    machine: Machine
    output_dir: Path | None = None
    lora: bool | None = None
    four_bit: bool | None = None
    loss: str = "dpo"
    beta: float | None = 0.1
    """None for a loss that has none."""
    rank: int | None = None
    alpha: float | None = None
    lr: float | None = None
    epochs: int = 1
    pairs_per_step: int | None = None
    max_length: int = 1024
    max_prompt_length: int | None = None
    log_every: int | None = None
    save_every: int | None = None
    loggers: Sequence[str] = ()


def wants_lora(model: Model, machine: Machine) -> bool:
    """Whether an adapter is the better start: where training all weights would not leave half of the memory free."""
    return model.parameters is None or model.parameters * _FULL > machine.memory / 2


def wants_four_bit(model: Model, machine: Machine) -> bool:
    """Whether the weights are better held in 4 bits: where in 16 they leave too little memory."""
    return model.parameters is not None and model.parameters * _LORA > machine.memory * _SHARE


@dataclass(frozen=True, slots=True)
class Choices:
    """Every choice of a recipe, made."""

    lora: bool
    four_bit: bool
    rank: int
    alpha: float | int
    lr: float
    pairs_per_step: int
    eval_split: str | None
    eval_fraction: float | None
    log_every: int
    save_every: int
    output_dir: Path
    large: bool
    fits: bool
    """Whether weights, gradients and moments leave memory for activations, as far as the model's size is known."""


def choose(answers: Answers) -> Choices:
    """Return the choices that follow from the answers."""
    model, data, machine = answers.model, answers.data, answers.machine
    lora = wants_lora(model, machine) if answers.lora is None else answers.lora
    four_bit = lora and wants_four_bit(model, machine) if answers.four_bit is None else answers.four_bit
    large = model.parameters is None or model.parameters >= _LARGE
    rate = answers.lr or ((5e-6 if large else 2e-5) if lora else (5e-7 if large else 2e-6))
    rank = answers.rank or (64 if large else 16)
    each = (_FOUR_BIT if four_bit else _LORA) if lora else (10 if large else _FULL)
    split, fraction = _held_out(data)
    pairs = answers.pairs_per_step or _pairs(data)
    steps = None
    if data.rows is not None:
        steps = max(1, round(data.rows * (1 - (fraction or 0))) * answers.epochs // pairs)
    return Choices(
        lora=lora,
        four_bit=four_bit,
        rank=rank,
        alpha=_plain(answers.alpha) if answers.alpha else (16 if large else 2 * rank),
        lr=rate,
        pairs_per_step=pairs,
        eval_split=split,
        eval_fraction=fraction,
        log_every=answers.log_every or (10 if steps is None else max(1, min(10, steps // 20))),
        save_every=answers.save_every or (200 if steps is None else max(1, min(200, steps // 4))),
        output_dir=answers.output_dir or _free_folder(answers, lora),
        large=large,
        fits=model.parameters is None or model.parameters * each <= machine.memory * _SHARE,
    )


def _plain(value: float) -> float | int:
    """Return a whole number as one."""
    return int(value) if value == int(value) else value


def _held_out(data: Data) -> tuple[str | None, float | None]:
    """Return the split or the share to evaluate on: some hundred pairs, where there are enough."""
    if data.eval_split is not None:
        return data.eval_split, None
    if data.rows is None:
        return None, 0.02
    if data.rows < 20:
        return None, None
    return None, 0.1 if data.rows < 5000 else 0.05 if data.rows < 20_000 else 0.02


def _pairs(data: Data) -> int:
    """Return the pairs of a step: 64, or fewer where that would be less than 20 steps."""
    if data.rows is None:
        return 64
    pairs = 64
    while pairs > 4 and data.rows // pairs < 20:
        pairs //= 2
    return pairs


def _free_folder(answers: Answers, lora: bool) -> Path:
    short = answers.model.name.rstrip("/").rpartition("/")[2].lower() or "model"
    base = f"{short}-{answers.loss}{'-lora' if lora else ''}"
    folder, number = Path("runs") / base, 1
    while folder.exists():
        number += 1
        folder = Path("runs") / f"{base}-{number}"
    return folder
