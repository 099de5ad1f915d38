"""What a key or a table of another trainer is in a recipe, or why there is none."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any


class Gap(Enum):
    """Why a key has no counterpart."""

    NOT_NEEDED = "not needed"
    """Results are the same without it."""
    SAME_TRAINING = "the training is the same"
    """It is about evaluations, files or memory."""
    NONE = "no counterpart"
    """dpotrain does it in one way, which may be another."""
    NOT_SUPPORTED = "not supported"


@dataclass(frozen=True, slots=True)
class Foreign:
    """What another tool's key is here."""

    here: str = ""
    """Dotted recipe key; empty where there is none."""
    note: str = ""
    """How the two differ, or why there is none."""
    gap: Gap | None = None
    """Why there is none; None where there is one."""
    values: Mapping[Any, Any] = field(default_factory=dict)
    """The recipe's value for each of the tool's values, where they differ; None leaves the key out."""

    def hint(self) -> str:
        """Return what to write instead, for messages."""
        if not self.here:
            return self.note
        return f"use {self.here}: {self.note}" if self.note else f"it is called {self.here} here"


#: Tables that other tools or habit suggest.
FOREIGN_TABLES: dict[str, str] = {
    "lora": 'LoRA is [adapter] with use = "lora"',
    "peft": 'adapters are [adapter] with use = "lora"',
    "lora_config": 'LoRA is [adapter] with use = "lora"',
    "peft_config": 'LoRA is [adapter] with use = "lora"',
    "quantization": 'it is called [quantizer], as in use = "bnb-4bit"',
    "quantization_config": 'it is called [quantizer], as in use = "bnb-4bit"',
    "bnb": 'it is called [quantizer], as in use = "bnb-4bit"',
    "dpo": 'the objective is [loss] with use = "dpo"',
    "training_args": "there is [training] for steps and epochs, [optimizer] for lr, [run] for output_dir",
    "trainer": "it is called [training]",
    "wandb": '[[loggers]] with use = "wandb"',
    "tensorboard": '[[loggers]] with use = "tensorboard"',
    "datasets": "it is called [data]; several are [[data.sources]]",
}
