"""The base of all components: a name, options, and optional state and run events.

A component is a class with a ``name``, an ``Options`` model that owns its recipe table, and the methods of its kind.
It is constructed with its validated options while the recipe is read, before anything heavy is loaded, so a component
imports torch, transformers and the like inside its methods, never at the top of its module.

    class Simpo(Loss):
        name = "simpo"

        class Options(Loss.Options):
            gamma: float = Field(0.5, description="Target margin between the two rewards.")

        options: Options

        def __call__(self, scores): ...

A component may also have ``@hookimpl`` methods for run events, which are called where a recipe selects it.
"""

from __future__ import annotations

from abc import ABC
from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from typing import Any, ClassVar, Self

import pluggy
from pydantic import BaseModel, ConfigDict, GetCoreSchemaHandler, SecretBytes, SecretStr, model_validator
from pydantic.errors import PydanticUserError
from pydantic_core import CoreSchema

from dpotrain.core.errors import RecipeError
from dpotrain.core.masking import keep_secret
from dpotrain.plugin.api.returns import check_returns

#: Marks the specification of a hook.
hookspec = pluggy.HookspecMarker("dpotrain")
#: Marks a function of a plugin as the implementation of a hook.
hookimpl = pluggy.HookimplMarker("dpotrain")


class Options(BaseModel):
    """Base of every component's options: frozen, unknown keys forbidden, every field described."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", validate_default=True, allow_inf_nan=False, defer_build=True
    )

    @model_validator(mode="after")
    def _keep_secrets(self) -> Self:
        """Have secrets masked from now on in whatever is written, whoever made these options."""
        for secret in _secrets(dict(self)):
            keep_secret(secret)
        return self


def _secrets(value: Any) -> Iterator[str]:
    """Yield the secrets in an option's value, at any depth."""
    if isinstance(value, SecretStr):
        yield value.get_secret_value()
    elif isinstance(value, SecretBytes):
        yield value.get_secret_value().decode(errors="replace")
    elif isinstance(value, BaseModel):
        yield from _secrets(dict(value))
    elif isinstance(value, Mapping | list | tuple | set | frozenset):
        for item in value.values() if isinstance(value, Mapping) else value:
            yield from _secrets(item)


class Component(ABC):
    """Base of all kinds. Subclass one of the kinds below, not this class."""

    kind: ClassVar[str]
    """The kind in words, for messages: ``"loss"``, ``"model loader"``."""
    name: ClassVar[str]
    """What a recipe writes after ``use =``."""

    free_on_resume: ClassVar[frozenset[str]] = frozenset()
    """Options that a resumed run may change, because no step depends on them; loggers and exporters are free anyway."""

    class Options(Options):
        """The keys of the component's recipe table; none unless a subclass adds some."""

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        raise PydanticUserError(f"an option that holds a component is of type Use[{cls.__name__}]", code=None)

    def __init_subclass__(cls, **named: Any) -> None:
        super().__init_subclass__(**named)
        check_returns(cls)

    def __init__(self, options: Options) -> None:
        self.options = options

    def check(self) -> None:  # noqa: B027  # most components have nothing to check
        """Raise a DpotrainError for whatever will fail and can be checked without loading anything heavy.

        Called after the recipe is read and by ``dpotrain check``: a folder that is missing, a package that
        is not installed. It must not import torch or transformers, nor use the network.
        """

    def state_dict(self) -> Mapping[str, Any]:
        """Return the state that a resumed run restores, for a component that changes during the run.

        Tensors, numbers, texts, lists and mappings with text keys; empty (as here) for a component without state.
        Called on the main process for every checkpoint, before training goes on, so it must be quick; the tensors are
        copied. A logger's is called in its own thread, after the records so far.
        """
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:  # noqa: B027  # a component without state has none
        """Restore what :meth:`state_dict` returned, tensors on the CPU, on every process of a resumed run.

        Called after the policy is loaded and before a logger's :meth:`Logger.start`. A tuple comes back as a list.
        """


def require(part: Component, package: str, extra: str = "") -> None:
    """Raise a RecipeError that says how to install ``package``, alone or by an extra of dpotrain, if it is not there.

    For a component's ``check``: the package is looked for and not imported. Its module is called like the package.
    """
    if find_spec(package.replace("-", "_")) is None:
        wanted = f'"dpotrain[{extra}]"' if extra else package
        raise RecipeError(
            f'the "{part.name}" {part.kind} needs the package {package}, which is not installed\n'
            f"install it: pip install {wanted}"
        )
