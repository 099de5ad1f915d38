"""Training that goes on from an adapter the policy arrives with."""

from __future__ import annotations

from copy import deepcopy
from typing import TYPE_CHECKING, Any

from dpotrain.plugin.api import RunError

from . import INITIAL, TRAINED
from .targets import chosen_modules, heads

if TYPE_CHECKING:
    from . import Lora


def go_on(policy: Any, options: Lora.Options) -> None:
    """Make the policy's own adapter the trained one, with the recipe's dropout.

    Raises:
        RunError: the adapter is none that can be trained on, or an option that the recipe sets contradicts it.
    """
    from peft.tuners.lora.layer import ParamWrapper
    from torch import nn

    config = policy.peft_config[TRAINED]
    if config.peft_type != "LORA":
        raise RunError(
            f'adapter "lora" cannot go on from an adapter of type {config.peft_type.value}; merge it into its '
            "base model first and name the result in model.name"
        )
    if config.bias != "none":
        raise RunError(
            f"the adapter that training would go on from has trained biases (bias = {config.bias!r}), which "
            "the reference could not be told apart from; merge it into its base model first"
        )
    if options.dropout and any(isinstance(layer, ParamWrapper) for layer in _lora_layers(policy).values()):
        raise RunError(
            f"adapter.dropout = {options.dropout!r}: the adapter that training would go on from is on experts that "
            "are held in one tensor a layer, which cannot have it. Leave adapter.dropout out"
        )
    _refuse_contradictions(policy, config, options)
    base = policy.get_base_model()
    config.base_model_name_or_path = base.name_or_path or config.base_model_name_or_path
    config.revision = getattr(base.config, "_commit_hash", None)
    policy.set_adapter(TRAINED)
    config.lora_dropout = options.dropout
    for layer in _lora_layers(policy).values():
        layer.lora_dropout[TRAINED] = nn.Dropout(options.dropout) if options.dropout else nn.Identity()


def keep_initial(policy: Any) -> None:
    """Add a frozen copy of the trained adapter as it is now, which the reference is computed with."""
    config = deepcopy(policy.peft_config[TRAINED])
    config.lora_dropout = 0.0
    # Some initialisations (PiSSA, OLoRA) rewrite the base weights.
    config.init_lora_weights = True
    policy.add_adapter(INITIAL, config)
    policy.set_adapter(TRAINED)
    weights = dict(policy.named_parameters(remove_duplicate=False))
    for name, weight in weights.items():
        head, found, tail = name.rpartition(f".{INITIAL}")
        if found and tail[:1] in ("", "."):
            weight.data = weights[f"{head}.{TRAINED}{tail}"].data.clone()
            weight.requires_grad_(False)


def _refuse_contradictions(policy: Any, config: Any, options: Lora.Options) -> None:
    own: dict[str, Any] = {
        "rank": config.r,
        "alpha": config.lora_alpha,
        "rslora": config.use_rslora,
        "dora": config.use_dora,
        "modules_to_save": sorted(config.modules_to_save or []),
    }
    asked = {name: getattr(options, name) for name in own}
    asked["modules_to_save"] = sorted(options.modules_to_save)
    wrong = [
        f"adapter.{name} = {asked[name]!r}, but the adapter that training goes on from has {own[name]!r}"
        for name in own
        if name in options.model_fields_set and asked[name] != own[name]
    ]
    if "target_modules" in options.model_fields_set:
        adapted = set(_lora_layers(policy))
        if _plain_names(policy, options.target_modules) != adapted:
            has = sorted({name.rpartition(".")[2] for name in adapted})
            wrong.append(
                f"adapter.target_modules = {options.target_modules!r}, but the adapter that training goes on from "
                f"is on {', '.join(has)}"
            )
    if wrong:
        raise RunError("\n".join([*wrong, "Leave these keys out, or merge that adapter and train a new one"]))


def _lora_layers(policy: Any) -> dict[str, Any]:
    """Return the layers that peft put in the place of the adapted modules, by the modules' names."""
    from peft.tuners.lora import LoraLayer

    base = policy.get_base_model()
    return {name: module for name, module in base.named_modules() if isinstance(module, LoraLayer)}


def _plain_names(policy: Any, targets: str | list[str]) -> set[str]:
    """Return what ``target_modules`` means, as if the adapter were not there."""
    base = policy.get_base_model()
    inside = (".base_layer", ".lora_", ".original_module", ".modules_to_save")
    layers = _lora_layers(policy)
    found = chosen_modules(base, targets)
    if targets == "all-linear":
        # The layers themselves are no linear modules any more, but what they hold is.
        found = {name.removesuffix(".base_layer") for name in found}
        own_heads = heads(base)
        found -= {name for name, layer in layers.items() if layer in own_heads}
    return {name for name in found if not any(part in name for part in inside)}
