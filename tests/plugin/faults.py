"""What a method may return or raise that it must not, and what comes of it: one list for tests and documents.

Every case is a component that works but for one method, in a distribution ``dpotrain-odd``, and a command that
calls it.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dpotrain import hookimpl
from dpotrain.plugin.api import Component, Logger
from dpotrain.plugin.api.hookspecs import EVENTS
from dpotrain.plugin.api.kinds import KINDS, Kind, kind_of
from dpotrain.plugin.api.returns import due_of
from dpotrain_plugins.demo.loader import DemoLoader
from dpotrain_plugins.demo.source import DemoSource
from dpotrain_plugins.formatters.conversational import ConversationalFormatter
from dpotrain_plugins.lora import Lora
from dpotrain_plugins.losses.dpo import Dpo
from dpotrain_plugins.metrics.length import Length
from dpotrain_plugins.optimizers import AdamW
from dpotrain_plugins.schedules import Linear
from tests.docs.markdown import table
from tests.plugin.fakes import FakeCallback, FakeExporter, FakeLogger, FakeQuantizer

#: What a method does wrong, in the order of the table's columns.
NONE, TYPE, SHAPE, NAN, RAISES = FAULTS = ("None", "wrong type", "wrong shape", "NaN", "raises")

#: What comes of it. Any other text says why the command goes on, or why it ends with another message.
REFUSED, DROPPED, UNUSED = "refused", "dropped", "not used"

#: Makes the wrong result of the right one, which is computed when it is asked for.
Wrong = Callable[[Callable[[], Any]], Any]


@dataclass(frozen=True)
class Case:
    """One method with one fault."""

    method: Method
    fault: str
    wrong: Wrong
    outcome: str = REFUSED
    exit_code: int = 1

    @property
    def id(self) -> str:
        return f"{self.method.base.kind}-{self.method.name}-{self.fault}".replace(" ", "_")

    @property
    def quick(self) -> bool:
        return self.fault in self.method.quick


@dataclass(frozen=True)
class Method:
    """A method of a kind, and what is wrong with what it returns."""

    base: type[Component]
    """A component that works."""
    name: str
    wrong: Mapping[str, Wrong | tuple[Wrong, str] | tuple[Wrong, str, int]]
    """By the fault; with what comes of it and the exit code, where it is not REFUSED."""
    settings: Sequence[str] = ()
    """What a recipe needs, beside the component itself, for the method to be called."""
    command: str = "run"
    """``run``, ``resume``, ``check``, ``plan``; or ``call`` for what only ``init`` or a loader calls."""
    quick: Sequence[str] = ()
    """The faults that are tried in the quick tests."""
    returns: str = "nothing"
    """What it must return, where its kind does not say it with ``@returns``."""

    @property
    def kind(self) -> Kind:
        return kind_of(self.base)

    @property
    def of_every_kind(self) -> bool:
        return self.name in EVENTS or self.name in vars(Component)

    def cases(self) -> Iterator[Case]:
        """Yield a case for every fault that the method can have."""
        for fault, given in self.wrong.items():
            make, outcome, *code = given if isinstance(given, tuple) else (given, REFUSED, 1)
            yield Case(self, fault, make, outcome, *code or [0])
        yield Case(self, RAISES, _raise, *((DROPPED, 0) if issubclass(self.base, Logger) else (REFUSED, 1)))


class OddError(Exception):
    """What a method raises that raises."""


def _raise(right: Callable[[], Any]) -> Any:
    raise OddError("no way\nand more")


def a(value: object) -> Wrong:
    """Return the maker of a value that has nothing to do with the right one."""
    return lambda right: value


def of(change: Callable[[Any], Any]) -> Wrong:
    """Return the maker of the right value, changed."""
    return lambda right: change(right())


def each(change: Callable[[Any], Any]) -> Wrong:
    """Return the maker of the right mapping, each of its values changed."""
    return of(lambda found: {name: change(value) for name, value in found.items()})


def _nan_weights(model: Any) -> Any:
    for weight in model.parameters():
        weight.data[weight.requires_grad :] = math.nan if weight.requires_grad else weight.data
    return model


def _linear(right: Callable[[], Any]) -> Any:
    import torch

    return torch.nn.Linear(1, 1)


def _without_most(optimizer: Any) -> Any:
    del optimizer.param_groups[1:]
    return optimizer


def _rows_of(value: object) -> Wrong:
    def make(right: Callable[[], Any]) -> Any:
        rows = right()
        rows[:] = [value] * len(rows)
        return rows

    return make


def _number(measured: Any) -> Any:
    """Return a measure's values, without their weights."""
    return measured[0] if isinstance(measured, tuple) else measured


class Exporting(FakeExporter):
    """An exporter that works."""

    def export(self, run):
        return str(run.final)


class Parted(Dpo):
    """A loss that names a part of it."""

    part_names = ("half",)

    def parts(self, scores):
        return {"half": self(scores) / 2}


EVERY_OTHER = (
    *(DemoLoader, FakeQuantizer, Lora, DemoSource, ConversationalFormatter),
    *(Dpo, AdamW, Linear, Length, FakeLogger, Exporting),
)
NOTHING = {TYPE: (a("text"), UNUSED)}
USES_LORA = ('adapter.use="lora"',)
SAVES = ("checkpoints.every=1",)
SAVED = "saved as it is"
METHODS = [
    Method(Dpo, "check", NOTHING, command="check", quick=FAULTS),
    Method(
        Dpo,
        "state_dict",
        {NONE: a(None), TYPE: a({"one": object()}), SHAPE: a({1: "one"}), NAN: (a({"one": math.nan}), SAVED)},
        SAVES,
        returns="a mapping of tensors and plain data",
    ),
    Method(Dpo, "load_state_dict", NOTHING, SAVES, "resume"),
    Method(DemoLoader, "load_tokenizer", {NONE: a(None), TYPE: a("gpt2")}, quick=FAULTS),
    Method(
        DemoLoader,
        "load_model",
        {NONE: a(None), TYPE: a({}), SHAPE: _linear, NAN: of(_nan_weights)},
        quick=(SHAPE, NAN),
    ),
    Method(
        DemoLoader,
        "blueprint",
        {NONE: (a(None), "no plan", 1), TYPE: a("meta"), SHAPE: _linear},
        command="plan",
        quick=FAULTS,
    ),
    Method(
        DemoLoader,
        "open_model",
        {TYPE: a("files"), SHAPE: a(({}, {}))},
        command="call",
        quick=FAULTS,
    ),
    Method(
        DemoLoader,
        "fingerprint",
        {NONE: a(None), TYPE: a(b"sha"), SHAPE: a("")},
        ['reference.when="precomputed"'],
    ),
    Method(
        FakeQuantizer,
        "loading_config",
        {NONE: (a(None), "up to the loader"), TYPE: (a("4bit"), "up to the loader", 1)},
        USES_LORA,
        returns="what the model loader takes",
    ),
    Method(FakeQuantizer, "prepare", NOTHING, USES_LORA, quick=(RAISES,)),
    Method(
        FakeQuantizer,
        "bits",
        {
            NONE: (a(None), "no plan", 1),
            TYPE: a(4),
            SHAPE: a({"nope": 4.0}),
            NAN: a({"lm_head.weight": math.nan}),
        },
        USES_LORA,
        "plan",
        quick=FAULTS,
    ),
    Method(
        FakeQuantizer,
        "contradictions",
        {NONE: a(None), TYPE: a(4), SHAPE: a("bits differ")},
        command="call",
        quick=FAULTS,
    ),
    Method(Lora, "saves_whole_model", {NONE: a(None), TYPE: a("yes")}, command="plan"),
    Method(Lora, "starts_as_base", {NONE: a(None), TYPE: a("yes")}, ['reference.when="precomputed"']),
    Method(
        Lora,
        "attach",
        {NONE: a(None), TYPE: a({}), SHAPE: _linear, NAN: of(_nan_weights)},
        quick=(SHAPE, NAN),
    ),
    Method(Lora, "reference", {NONE: a(None), TYPE: a("base")}),
    Method(
        Lora,
        "state",
        {NONE: a(None), TYPE: a([1.0]), SHAPE: a({}), NAN: (each(lambda tensor: tensor * math.nan), SAVED)},
        SAVES,
        quick=(SHAPE,),
    ),
    Method(Lora, "load_state", NOTHING, SAVES, "resume"),
    Method(
        Lora,
        "save",
        {TYPE: (of(lambda nothing: "text"), UNUSED), SHAPE: a(None)},
        quick=(SHAPE,),
        returns="nothing; it writes files (wrong shape: none)",
    ),
    Method(Lora, "rehearse_saving", NOTHING, quick=(RAISES,)),
    Method(
        Lora, "how_to_load", {NONE: a(None), TYPE: a(3), SHAPE: (a("this is not Python"), "shown as it is")}
    ),
    Method(
        DemoSource,
        "splits",
        {NONE: a(None), TYPE: a("train"), SHAPE: a([1])},
        command="call",
        quick=FAULTS,
    ),
    Method(DemoSource, "load", {NONE: a(None), TYPE: a([{}]), SHAPE: _rows_of(None)}, quick=FAULTS),
    Method(
        ConversationalFormatter,
        "recognises",
        {NONE: a(None), TYPE: a("certain"), SHAPE: a(7), NAN: a(math.nan)},
        ['data.format="auto"'],
        quick=FAULTS,
    ),
    Method(
        ConversationalFormatter,
        "format",
        {NONE: a(None), TYPE: a(("a", "b", "c")), SHAPE: of(lambda pair: [pair, None])},
        quick=FAULTS,
    ),
    Method(
        Dpo,
        "__call__",
        {
            NONE: a(None),
            TYPE: of(lambda losses: losses.tolist()),
            SHAPE: of(lambda losses: losses.mean()),
            NAN: of(lambda losses: losses * math.nan),
        },
        quick=(SHAPE, NAN),
        returns="a tensor of shape (pairs,)",
    ),
    Method(
        Dpo,
        "rewards",
        {
            NONE: a(None),
            TYPE: of(lambda rewards: rewards[0]),
            SHAPE: of(lambda rewards: tuple(each.mean() for each in rewards)),
            NAN: of(lambda rewards: (rewards[0] * math.nan, rewards[1])),
        },
        quick=(NAN,),
        returns="two tensors of shape (pairs,)",
    ),
    Method(
        Parted,
        "parts",
        {
            NONE: a(None),
            TYPE: each(lambda part: 1.0),
            SHAPE: each(lambda part: part.mean()),
            NAN: (each(lambda part: part * math.nan), "recorded as nan"),
        },
        quick=(NONE,),
        returns="tensors of shape (pairs,) by name",
    ),
    Method(Parted, "part_names", {NONE: a(None), TYPE: a("half"), SHAPE: a(("a half",))}),
    Method(
        Dpo,
        "first_loss",
        {NONE: (a(None), "not checked"), TYPE: a("0.7"), SHAPE: a((0.7,)), NAN: a(math.nan)},
    ),
    Method(
        AdamW,
        "build",
        {NONE: a(None), TYPE: a("adamw"), SHAPE: of(_without_most)},
        quick=(SHAPE,),
    ),
    Method(AdamW, "state_bytes", {NONE: a(None), TYPE: a(2.5), SHAPE: a(-1), NAN: a(math.nan)}),
    Method(AdamW, "paged_bytes", {NONE: a(None), TYPE: a(2.5), SHAPE: a(-1), NAN: a(math.nan)}),
    Method(
        AdamW,
        "usual_lr",
        {NONE: (a(None), "no warning"), TYPE: a(1e-6), SHAPE: a((1e-3, 1e-6)), NAN: a((math.nan, 1.0))},
    ),
    Method(Linear, "factor", {NONE: a(None), TYPE: a("1"), SHAPE: a([1.0]), NAN: a(math.nan)}, quick=(NAN,)),
    Method(
        Length,
        "measures",
        {NONE: a(None), TYPE: a("one"), SHAPE: a(())},
        command="check",
        quick=FAULTS,
    ),
    Method(
        Length,
        "__call__",
        {
            NONE: a(None),
            TYPE: each(lambda measured: 1.0),
            SHAPE: each(lambda measured: _number(measured)[None]),
            NAN: (each(lambda measured: _number(measured) * math.nan), "recorded as nan"),
        },
        quick=(SHAPE,),
        returns="tensors of shape (pairs,) by measure",
    ),
    *(
        Method(FakeCallback, event, NOTHING, SAVES, quick=(RAISES,) * (event == "dpotrain_step_ended"))
        for event in EVENTS
    ),
    *(Method(FakeLogger, name, NOTHING) for name in ("start", "log", "finish")),
    Method(FakeLogger, "log_text", NOTHING, ["samples={prompts=['Hello']}"], quick=(RAISES,)),
    Method(
        FakeLogger,
        "state_dict",
        {
            NONE: (a(None), DROPPED),
            TYPE: (a({"one": object()}), DROPPED),
            SHAPE: (a({1: "one"}), DROPPED),
            NAN: (a({"one": math.nan}), SAVED),
        },
        SAVES,
        returns="a mapping of tensors and plain data",
    ),
    Method(FakeLogger, "load_state_dict", NOTHING, SAVES, "resume"),
    Method(Exporting, "export", {NONE: a(None), TYPE: a(3), SHAPE: a("")}, quick=(RAISES,)),
    *(
        Method(base, "dpotrain_step_ended", NOTHING, USES_LORA if base is FakeQuantizer else ())
        for base in EVERY_OTHER
    ),
]

CASES = [case for method in METHODS for case in method.cases()]

#: Names of the methods that were called wrongly.
CALLED: list[str] = []


def odd(case: Case) -> type[Component]:
    """Return the component that does it."""
    base, name = case.method.base, case.method.name
    plain = inspect.getattr_static(base, name, None)
    attribute = not inspect.isfunction(plain) and name not in EVENTS

    def result(self: Any, *arguments: Any, **named: Any) -> Any:
        CALLED.append(name)

        def right() -> Any:
            found = getattr(super(made, self), name, None)  # type: ignore[arg-type]
            return found if attribute or found is None else found(*arguments, **named)

        return case.wrong(right)

    member: Any = property(result) if attribute else result
    if name in EVENTS:

        def event(self: Any, run: Any) -> Any:
            return result(self, run)

        member = hookimpl(event)
        member.__qualname__ = f"Odd.{name}"  # as a function that stands in a class
    result.__code__ = result.__code__.replace(co_name=name)
    made: type[Component] = type("Odd", (base,), {"name": "odd", name: member})
    return made


def fault_tables() -> str:
    """Return a table of what every kind has, and one for each kind; a logger's are its own."""
    common = [each for each in METHODS if each.of_every_kind and each.base in (Dpo, FakeCallback)]
    common = [each for each in common if (each.name in EVENTS) == (each.base is FakeCallback)]
    sections = {"Every kind but loggers": common}
    for kind in KINDS:
        own = [
            each
            for each in METHODS
            if each.kind is kind and (not each.of_every_kind or each.base is FakeLogger)
        ]
        if own:
            sections[kind.component.kind.capitalize()] = own
    head = ["method", "must return", *FAULTS]
    return "\n\n".join(
        f"## {name}\n\n{table(head, map(_row, methods))}" for name, methods in sections.items()
    )


def _row(method: Method) -> list[str]:
    outcomes = {case.fault: case.outcome for case in method.cases()}
    due = due_of(method.kind.component, method.name)
    if NONE not in outcomes:
        outcomes[NONE] = "is due"
    return [
        f"`{method.name}`",
        method.returns if due is None else due.what,
        *(outcomes.get(fault, "") for fault in FAULTS),
    ]
