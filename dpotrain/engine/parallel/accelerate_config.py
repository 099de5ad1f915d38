"""What an accelerate configuration asks of sharding, in the terms of a recipe's ``[parallel]``.

``accelerate launch`` hands its configuration on in variables of the environment. One for FSDP says how weights are
sharded; one for DeepSpeed or Megatron-LM names an engine that is not used here.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from dpotrain.core.errors import RecipeError

if TYPE_CHECKING:
    from dpotrain.recipe.sections.parallel import ParallelSection

#: FSDP's strategies in the order of their numbers, from 1, which a configuration may have in place of the names.
_STRATEGIES = ("FULL_SHARD", "SHARD_GRAD_OP", "NO_SHARD", "HYBRID_SHARD", "HYBRID_SHARD_ZERO2")
#: Variables without a meaning here, by the reason, with the keys of a configuration that they come from.
_WITHOUT_MEANING = {
    "every decoder layer is gathered by itself": {
        "FSDP_AUTO_WRAP_POLICY": "fsdp_auto_wrap_policy",
        "FSDP_TRANSFORMER_CLS_TO_WRAP": "fsdp_transformer_layer_cls_to_wrap",
    },
    "every matrix of the base model is sharded": {"FSDP_IGNORED_MODULES": "fsdp_ignored_modules"},
    "the next layer is always gathered ahead": {
        "FSDP_BACKWARD_PREFETCH": "fsdp_backward_prefetch",
        "FSDP_FORWARD_PREFETCH": "fsdp_forward_prefetch",
    },
    "checkpoints do not depend on the number of processes": {"FSDP_STATE_DICT_TYPE": "fsdp_state_dict_type"},
}
#: Values of these that ask for nothing.
_UNSET = ("", "None", "false", "NO_WRAP", "NO_PREFETCH")


@dataclass(frozen=True, slots=True)
class FsdpConfig:
    """What a configuration for FSDP asks for."""

    shard: str
    """"none" or "all"."""
    group: int | None
    """Ranks that share one copy; None for all."""
    offload: bool
    """Whether weights and optimizer state are kept in the host's memory."""
    source: str
    """The key that decides ``shard``, with its value, as people write it."""
    checkpointing: bool
    """Whether activations are to be computed again: ``training.activation_checkpointing``."""
    offload_activations: bool
    """Whether activations are to wait in the host's memory: ``training.activation_offload``."""
    notes: tuple[str, ...]
    """What is done in another way here, and what has no meaning."""

    def with_recipe(self, recipe: ParallelSection, checkpointing: int | str) -> list[str]:
        """Return overrides of a recipe with these values; its "auto" and defaults leave them to this.

        ``recipe`` is its ``[parallel]``, ``checkpointing`` its ``training.activation_checkpointing``: a number of
        layers, a truth value or "auto".

        Raises:
            RecipeError: they contradict each other.
        """
        if recipe.shard not in ("auto", self.shard):
            raise contradiction(f'parallel.shard = "{recipe.shard}"', self.source)
        if recipe.group is not None and recipe.group != self.group:
            raise contradiction(f"parallel.group = {recipe.group}", self.source)
        if self.checkpointing and checkpointing == 0:
            raise contradiction(
                "training.activation_checkpointing = false", "fsdp_activation_checkpointing: true"
            )
        overrides = {
            f'parallel.shard="{self.shard}"': True,
            f"parallel.group={self.group}": self.group is not None,
            'parallel.offload="cpu"': self.offload,
            "training.activation_checkpointing=true": self.checkpointing and checkpointing == "auto",
            "training.activation_offload=true": self.offload_activations,
        }
        return [override for override, wanted in overrides.items() if wanted]


def fsdp_config(environment: Mapping[str, str], local_size: int) -> FsdpConfig | None:
    """Return what ``accelerate launch`` was asked for with FSDP; None where it was not.

    Args:
        environment: the variables of this process.
        local_size: processes on this machine, which share a copy in hybrid sharding.

    Raises:
        RecipeError: a value is none of FSDP's.
    """
    if environment.get("ACCELERATE_USE_FSDP", "").lower() != "true":
        return None
    notes = []
    if environment.get("FSDP_VERSION", "1") == "2":
        value = environment.get("FSDP_RESHARD_AFTER_FORWARD", "true").lower()
        source = f"fsdp_reshard_after_forward: {value}"
        strategy = {"true": "FULL_SHARD", "false": "SHARD_GRAD_OP"}.get(value)
    else:
        value = environment.get("FSDP_SHARDING_STRATEGY", "FULL_SHARD").upper()
        source = f"fsdp_sharding_strategy: {value}"
        numbers = {str(number): name for number, name in enumerate(_STRATEGIES, 1)}
        strategy = numbers.get(value, value if value in _STRATEGIES else None)
    if strategy is None:
        raise RecipeError(f"the accelerate configuration has {source}, which FSDP does not know.")
    if strategy in ("SHARD_GRAD_OP", "HYBRID_SHARD_ZERO2"):
        notes.append(
            f"{source}: here layers are gathered again in the backward pass, which takes less memory and the same "
            "results"
        )
    notes += _without_meaning(environment)
    hybrid = strategy.startswith("HYBRID")
    return FsdpConfig(
        shard="none" if strategy == "NO_SHARD" or (hybrid and local_size == 1) else "all",
        group=local_size if hybrid and local_size > 1 else None,
        offload=_is_set(environment, "FSDP_OFFLOAD_PARAMS"),
        source=source,
        checkpointing=_is_set(environment, "FSDP_ACTIVATION_CHECKPOINTING"),
        offload_activations=_is_set(environment, "FSDP_ACTIVATION_CHECKPOINTING_OFFLOAD"),
        notes=tuple(notes),
    )


def take_fsdp_config(environment: MutableMapping[str, str]) -> FsdpConfig | None:
    """Return what :func:`fsdp_config` does, and take the request out of ``environment``.

    Libraries that find it there would shard, or load weights on one process alone, by themselves.
    """
    found = fsdp_config(environment, int(environment.get("LOCAL_WORLD_SIZE", "1")))
    environment.pop("ACCELERATE_USE_FSDP", None)
    return found


def refuse_engines(environment: Mapping[str, str]) -> None:
    """Raise a RecipeError where ``accelerate launch`` was asked for another engine, with what to do instead."""
    if environment.get("ACCELERATE_USE_FSDP", "").lower() == "true":
        raise RecipeError(
            "the accelerate configuration asks for FSDP, which only dpotrain run reads.\n"
            "Remove it (distributed_type: MULTI_GPU), and write in the recipe:\n"
            '[parallel]\nshard = "all"'
        )
    if environment.get("ACCELERATE_USE_PARALLELISM_CONFIG", "").lower() == "true":
        raise RecipeError(
            "the accelerate configuration has use_parallelism_config, which only dpotrain run reads.\n"
            "Remove it, and set in the recipe's [parallel] shard, group and context."
        )
    if environment.get("ACCELERATE_USE_DEEPSPEED", "").lower() == "true":
        stage, offloads = _deepspeed(environment)
        lines = [
            "[parallel]",
            f'shard = "{"none" if stage == 0 else "all"}"',
            *(['offload = "cpu"'] * offloads),
        ]
        raise RecipeError(
            f"the accelerate configuration asks for DeepSpeed (ZeRO stage {stage}"
            f"{', with offloading' if offloads else ''}), and dpotrain shards with PyTorch itself.\n"
            "Remove it (distributed_type: MULTI_GPU, or dpotrain run --processes all), and write in the recipe:\n"
            + "\n".join(lines)
        )
    if environment.get("ACCELERATE_USE_MEGATRON_LM", "").lower() == "true":
        raise RecipeError(
            "the accelerate configuration asks for Megatron-LM, and dpotrain shards with PyTorch itself.\n"
            "Remove it (distributed_type: MULTI_GPU, or dpotrain run --processes all), and write in the recipe, with "
            "context = N for pairs too long for one device:\n"
            '[parallel]\nshard = "all"'
        )


def _without_meaning(environment: Mapping[str, str]) -> list[str]:
    """Return a line for each reason for which keys of a configuration change nothing."""
    found = {
        reason: [key for name, key in keys.items() if environment.get(name, "") not in _UNSET]
        for reason, keys in _WITHOUT_MEANING.items()
    }
    if environment.get("FSDP_CPU_RAM_EFFICIENT_LOADING") == "false":
        found["every process always reads its own part of the weights"] = ["fsdp_cpu_ram_efficient_loading"]
    return [
        f"{', '.join(keys)} of the accelerate configuration: {reason}"
        for reason, keys in found.items()
        if keys
    ]


def _deepspeed(environment: Mapping[str, str]) -> tuple[int, bool]:
    """Return the ZeRO stage that is asked for, and whether anything is offloaded."""
    stage: object = environment.get("ACCELERATE_DEEPSPEED_ZERO_STAGE", "2")
    kinds = ("OPTIMIZER", "PARAM")
    devices = [environment.get(f"ACCELERATE_DEEPSPEED_OFFLOAD_{kind}_DEVICE", "none") for kind in kinds]
    file = environment.get("ACCELERATE_DEEPSPEED_CONFIG_FILE", "none")
    if file != "none":
        try:
            zero = json.loads(Path(file).read_text(encoding="utf-8"))["zero_optimization"]
            stage = zero.get("stage", stage)
            devices = [zero.get(f"offload_{kind.lower()}", {}).get("device", "none") for kind in kinds]
        except (OSError, ValueError, LookupError, AttributeError, TypeError):
            pass  # DeepSpeed's own business; the message holds for what is usual
    number = int(str(stage)) if str(stage).isdecimal() else 2
    return number, any(device not in ("none", "None", None) for device in devices)


def contradiction(recipe: str, configuration: str) -> RecipeError:
    """Return the error of a recipe and a configuration that say different things, both as people write them."""
    return RecipeError(
        f"the recipe has {recipe}, and the accelerate configuration {configuration}.\n"
        "Remove one of the two, or let them say the same."
    )


def _is_set(environment: Mapping[str, str], name: str) -> bool:
    return environment.get(name, "").lower() in ("true", "1")
