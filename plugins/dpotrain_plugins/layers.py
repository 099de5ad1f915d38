"""The ``layers`` adapter: some of the model's own weights are trained, and all others stay as they are."""

from __future__ import annotations

import re
import warnings
from fnmatch import translate
from typing import TYPE_CHECKING

from pydantic import Field, field_validator, model_validator

from dpotrain import hookimpl
from dpotrain.plugin.api import Adapter, InPlaceAdapter, RunError, RunWarning, did_you_mean

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import nn
    from transformers import PreTrainedModel

dpotrain_interface = 2

#: How a pattern begins that is a regular expression.
_REGEX = "re:"
#: Names that an error shows at most.
_SHOWN = 16


class Layers(InPlaceAdapter):
    """Trains the last decoder layers, or weights by name, and leaves all others as they are, to the bit.

    Where both keys are set, the weights of either are trained. No gradient goes below the first trained layer, so the
    layers before it keep no activations. Trained weights are float32 during the run. `final/` holds a whole model, each
    weight in the dtype in which it was loaded. peft is not used.
    """

    name = "layers"

    class Options(InPlaceAdapter.Options):
        last: int | None = Field(
            None,
            ge=1,
            description="Number of decoder layers to train, counted from the last. The final norm, the head and the "
            "embedding are in none of them: name these in `match`.",
        )
        match: list[str] = Field(
            default_factory=list,
            description="Names of weights to train, in which `*` stands for any text: `model.layers.*.self_attn.*`, "
            "`lm_head.*`. One that begins with `re:` is a regular expression for whole names.",
        )

        @field_validator("match")
        @classmethod
        def _readable(cls, patterns: list[str]) -> list[str]:
            for pattern in patterns:
                try:
                    _compiled(pattern)
                except re.error as error:
                    raise ValueError(f'"{pattern}" is not a regular expression: {error}') from error
            return patterns

        @model_validator(mode="after")
        def _trains_something(self) -> Layers.Options:
            if self.last is None and not self.match:
                raise ValueError("nothing would be trained: set last, match or both")
            return self

    options: Options

    def attach(self, policy: PreTrainedModel) -> PreTrainedModel:
        """Freeze all of the policy but the chosen weights, which become float32.

        Raises:
            RunError: the model has fewer layers, a pattern matches no weight, or a chosen weight is quantized.
        """
        weights = dict(policy.named_parameters(remove_duplicate=False))
        chosen = self._chosen(policy, weights)
        if quantized := [name for name in chosen if not weights[name].is_floating_point()]:
            more = f" and {len(quantized) - 1} more" if len(quantized) > 1 else ""
            raise RunError(
                f"[adapter] would train {quantized[0]}{more}, and quantized weights cannot be trained.\n"
                'Name a model that is not quantized in model.name, or use an adapter that trains beside them, "lora"'
            )
        _warn_of_tied(chosen, weights)
        policy.requires_grad_(False)
        for name in chosen:
            weights[name].requires_grad_(True)
            weights[name].data = weights[name].data.float()
        return policy

    def _chosen(self, policy: PreTrainedModel, weights: Mapping[str, nn.Parameter]) -> list[str]:
        """Return the names of the weights to train, in the model's order."""
        chosen: set[str] = set()
        if self.options.last is not None:
            inside = tuple(f"{layer}." for layer in _last_layers(policy, self.options.last))
            chosen.update(name for name in weights if name.startswith(inside))
        for pattern in self.options.match:
            fits = _compiled(pattern).fullmatch
            found = [name for name in weights if fits(name)]
            if not found:
                raise RunError(
                    f'adapter.match: "{pattern}" matches no weight of {type(policy).__name__}'
                    f"{_nearest(pattern, weights)}"
                )
            chosen.update(found)
        return [name for name in weights if name in chosen]


def _compiled(pattern: str) -> re.Pattern[str]:
    """Return the regular expression for whole names that an item of ``match`` stands for."""
    return re.compile(pattern.removeprefix(_REGEX) if pattern.startswith(_REGEX) else translate(pattern))


def _last_layers(policy: PreTrainedModel, count: int) -> list[str]:
    """Return the names of the last ``count`` decoder layers.

    These are the items of the outermost list of as many modules as the configuration says, in the part of the model
    that text passes.
    """
    from torch import nn

    config, kind = policy.config.get_text_config(), type(policy).__name__
    total = config.num_hidden_layers
    if count > total:
        raise RunError(
            f"adapter.last = {count}, but {kind} has {total} decoder layers.\n"
            f"Set a number up to {total}, or leave out [adapter] to train all weights"
        )
    # A model for text and images has a decoder of its own for text.
    decoder = policy if config is policy.config else policy.get_decoder()
    inside = set(decoder.modules())
    for name, module in policy.named_modules():
        if isinstance(module, nn.ModuleList) and len(module) == total and module in inside:
            return [f"{name}.{number}" for number in range(total - count, total)]
    raise RunError(
        f"adapter.last: {kind} has no list of its {total} decoder layers.\nName its weights in adapter.match instead"
    )


def _nearest(pattern: str, weights: Mapping[str, nn.Parameter]) -> str:
    """Return what follows a pattern that matches nothing: the nearest name, and what names there are."""
    names = list(dict.fromkeys(re.sub(r"(?<=\.)\d+(?=\.)", "*", name) for name in weights))
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return f"{did_you_mean(pattern, names)}\nits weights are {', '.join(names[:_SHOWN])}{more}"


def _warn_of_tied(chosen: list[str], weights: Mapping[str, nn.Parameter]) -> None:
    """Warn of chosen weights that have another name, too, which was not chosen."""
    own = {id(weights[name]): name for name in chosen}
    for name, weight in weights.items():
        if id(weight) in own and name not in chosen:
            warnings.warn(
                f"training {own[id(weight)]} trains {name}, too: in this model both are one tensor "
                "(tie_word_embeddings)",
                RunWarning,
                stacklevel=2,
            )


@hookimpl
def dpotrain_adapters() -> list[type[Adapter]]:
    return [Layers]
