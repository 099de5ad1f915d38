"""What a component's method must return: said beside the method, and checked whenever it is called.

What is returned wrongly would otherwise show far from its cause, or not at all.
"""

from __future__ import annotations

import functools
import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import FunctionType
from typing import Any, TypeVar

from dpotrain.core.errors import PluginError, short

F = TypeVar("F", bound=Callable[..., Any])

_DUE = "__dpotrain_due__"
_NAME = re.compile(r"[A-Za-z0-9_.-]+(/[A-Za-z0-9_.-]+)*")


class WrongReturnError(PluginError):
    """A method of a component returned what it must not."""

    def __init__(self, text: str, component: object = None) -> None:
        super().__init__(text)
        self.component = component
        """Whose method it is; the run names it with its plugin."""

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (str(self),)


@dataclass(frozen=True, slots=True)
class Due:
    """What a method must return."""

    what: str
    """In words, after "it must return"."""
    fits: Callable[[Any], bool]


def returns(what: str, fits: Callable[[Any], bool]) -> Callable[[F], F]:
    """Say what a method of a kind must return; the methods of its components are then checked."""

    def mark(method: F) -> F:
        setattr(method, _DUE, Due(what, fits))
        return method

    return mark


def check_returns(component: type) -> None:
    """Wrap the methods of a component class whose kind says what they must return."""
    due = {name: found for base in component.__mro__ for name, found in _marked(base)}
    for name, each in due.items():
        own = next((vars(base)[name] for base in component.__mro__ if name in vars(base)), None)
        method = _function(own)
        if not isinstance(method, FunctionType) or hasattr(method, _DUE):
            continue
        checked = _checked(name, method, each)
        if isinstance(own, property):
            setattr(component, name, own.getter(checked))
        elif isinstance(own, functools.cached_property):
            kept: functools.cached_property[Any] = functools.cached_property(checked)
            setattr(component, name, kept)
            kept.__set_name__(component, name)
        else:
            setattr(component, name, checked)


def due_of(kind: type, name: str) -> Due | None:
    """Return what a method or property of a kind must return, where the kind says so."""
    found = (getattr(_function(vars(base).get(name)), _DUE, None) for base in kind.__mro__)
    return next((due for due in found if due is not None), None)


def _marked(base: type) -> list[tuple[str, Due]]:
    found = ((name, getattr(_function(item), _DUE, None)) for name, item in vars(base).items())
    return [(name, due) for name, due in found if due is not None]


def _function(item: object) -> object:
    """Return the function of a property, and any other attribute as it is."""
    if isinstance(item, property):
        return item.fget
    return item.func if isinstance(item, functools.cached_property) else item


def _checked(name: str, method: FunctionType, due: Due) -> Callable[..., Any]:
    @functools.wraps(method)
    def call(*arguments: Any, **named: Any) -> Any:
        value = method(*arguments, **named)
        if not due.fits(value):
            text = f"{name} returned {described(value)}; it must return {due.what}"
            raise WrongReturnError(text, arguments[0])
        return value

    setattr(call, _DUE, due)
    return call


def described(value: object) -> str:
    """Return what came instead, in a few words: ``None``, ``an int, 3``, ``a Tensor of shape (2,)``."""
    if value is None:
        return "None"
    if hasattr(value, "shape") and hasattr(value, "dtype"):
        return f"a {type(value).__name__} of shape {tuple(value.shape)}, {value.dtype}"
    article = "an" if type(value).__name__[0].lower() in "aeiou" else "a"
    plain = isinstance(value, str | int | float | bool | list | tuple | dict)
    return f"{article} {type(value).__name__}" + (f", {short(repr(value), 60)}" if plain else "")


def is_a(module: str, name: str) -> Callable[[Any], bool]:
    """Return whether a value is of a class of a heavy package, which is not imported for it."""

    def fits(value: Any) -> bool:
        found = getattr(sys.modules.get(module), name, None)
        return found is not None and isinstance(value, found)

    return fits


def is_model(value: Any) -> bool:
    """Whether it is a causal language model of transformers, or wraps one."""
    return is_a("torch.nn", "Module")(value) and all(
        hasattr(value, name) for name in ("config", "get_input_embeddings", "get_output_embeddings")
    )


def is_bool(value: Any) -> bool:
    """Whether it is True or False."""
    return isinstance(value, bool)


def is_text(value: Any) -> bool:
    """Whether it is a text that says something."""
    return isinstance(value, str) and bool(value.strip())


def is_texts(value: Any) -> bool:
    """Whether it is a list of texts."""
    return isinstance(value, list | tuple) and all(isinstance(each, str) for each in value)


def are_names(value: Any) -> bool:
    """Whether it is a tuple of names as records have them."""
    return isinstance(value, tuple) and all(isinstance(each, str) and _NAME.fullmatch(each) for each in value)


def by_name(fits: Callable[[Any], bool]) -> Callable[[Any], bool]:
    """Return whether a value is a mapping from texts to what fits."""

    def check(value: Any) -> bool:
        return isinstance(value, Mapping) and all(isinstance(k, str) and fits(v) for k, v in value.items())

    return check


def is_number(value: Any) -> bool:
    """Whether it is a finite number."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < float("inf")


def optional(fits: Callable[[Any], bool]) -> Callable[[Any], bool]:
    """Return whether a value is None or fits."""
    return lambda value: value is None or fits(value)
