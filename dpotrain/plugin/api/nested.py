"""Options that are components themselves: a table inside a component's table, in which ``use`` picks one.

    class Options(Loss.Options):
        inner: Use[Loss] = Field(description="The loss that is scaled.")
        others: list[Use[Metric]] = Field(default_factory=list, description="Metrics to average.")

A recipe writes ``[loss.inner]`` with ``use`` and the keys of what that picks, or ``inner = "dpo"`` for its defaults.
The option then holds the component, constructed and checked like any other: its run events are heard, its state is part
of checkpoints, and its errors have the address of its own table.

A :class:`Beside` is a component with keys of the option's own beside it:

    class Term(Beside):
        loss: Use[Loss] = Field(description="A loss.")
        weight: float = Field(1.0, description="What it counts.")

In a recipe both stand in one table, ``{ use = "dpo", beta = 0.1, weight = 0.5 }``, or apart, which a key that both have
makes necessary: ``{ loss = { use = "cpo", weight = 0.1 }, weight = 0.5 }``. ``"dpo"`` alone has the defaults of both.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic.errors import PydanticUserError
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

from dpotrain.plugin.api.component import Component

C = TypeVar("C", bound=Component)

#: In a JSON schema: the kind that a table picks a component of.
KIND = "x-dpotrain-kind"
#: In a JSON schema: the key of a table that holds the component whose keys may stand in the table itself.
BESIDE = "x-dpotrain-beside"
#: In the JSON that options are validated from: which of the constructed components stands here.
PLACE = "$component"

Path = tuple[str | int, ...]


@dataclass(frozen=True, slots=True)
class _Nested:
    """Pydantic's side of :data:`Use`."""

    kind: type[Component]

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.with_info_plain_validator_function(
            self._validate,
            serialization=core_schema.plain_serializer_function_ser_schema(dumped, info_arg=False),
        )

    def __get_pydantic_json_schema__(
        self, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        return {"type": "object", KIND: self.kind.kind}

    def _validate(self, value: Any, info: core_schema.ValidationInfo) -> Component:
        if isinstance(value, dict) and PLACE in value and info.context is not None:
            value = info.context[value[PLACE]]
        if not isinstance(value, self.kind):
            raise PydanticCustomError("component_type", f"it must be a {self.kind.kind}")
        return value


if TYPE_CHECKING:
    Use = Annotated[C, "component"]
else:

    class Use:
        """``Use[Loss]``: an option that holds a component of a kind, which a table inside the component's own picks."""

        def __class_getitem__(cls, kind: type[Component]) -> Any:
            return Annotated[kind, _Nested(kind)]


class Beside(BaseModel):
    """A component, in the one field of type ``Use[…]``, and keys of the option's own; see the module."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True, allow_inf_nan=False)

    @classmethod
    def __get_pydantic_json_schema__(
        cls, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        found = handler.resolve_ref_schema(handler(schema))
        keys = cls._component_keys()
        if len(keys) != 1:
            raise PydanticUserError(
                f"{cls.__qualname__} derives from Beside, so one field must be of type Use[…]; it has {len(keys)}",
                code=None,
            )
        return {**found, BESIDE: keys[0]}

    @classmethod
    def _component_keys(cls) -> list[str]:
        return [
            name
            for name, field in cls.model_fields.items()
            if any(isinstance(each, _Nested) for each in field.metadata)
        ]


def has_nested(model: type[BaseModel]) -> bool:
    """Whether a model has an option, at any depth, that is a component."""
    return any(_mentions(field.annotation, field.metadata, {model}) for field in model.model_fields.values())


def nested(options: Any) -> Iterator[tuple[Path, Component]]:
    """Yield the components in the values of options with their places, those inside of a component after it."""
    if isinstance(options, Component):
        yield (), options
        options = options.options
    for at, part in picked(options):
        for path, each in nested(part):
            yield (*at, *path), each


def picked(options: Any) -> Iterator[tuple[Path, Component]]:
    """Yield the components in the values of options with their places, without those inside of a component."""
    if isinstance(options, BaseModel):
        items: Any = dict(options).items()
    elif isinstance(options, Mapping):
        items = options.items()
    elif isinstance(options, list | tuple):
        items = enumerate(options)
    else:
        return
    # A component with keys beside it is named by the table that both stand in.
    together = options._component_keys() if isinstance(options, Beside) else ()
    for key, value in items:
        if isinstance(value, Component):
            yield () if key in together else (key,), value
        else:
            for path, part in picked(value):
                yield (key, *path), part


def _mentions(annotation: Any, metadata: Any, seen: set[Any]) -> bool:
    if any(isinstance(each, _Nested) for each in metadata):
        return True
    if isinstance(annotation, type) and issubclass(annotation, BaseModel) and annotation not in seen:
        seen.add(annotation)
        return any(
            _mentions(field.annotation, field.metadata, seen) for field in annotation.model_fields.values()
        )
    inside = [each for each in get_args(annotation) if each is not annotation]
    more = getattr(annotation, "__metadata__", ())
    return any(isinstance(each, _Nested) for each in more) or any(
        _mentions(each, (), seen) for each in inside
    )


def dumped(part: Component) -> dict[str, Any]:
    """Return the table that picks a component with its options, as plain data."""
    return {"use": part.name, **part.options.model_dump(mode="json")}
