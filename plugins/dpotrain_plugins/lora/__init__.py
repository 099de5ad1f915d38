"""The ``lora`` adapter (Hu et al. 2021, arXiv 2106.09685), with rsLoRA, DoRA and modules trained in full."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field, model_validator

from dpotrain import hookimpl
from dpotrain.plugin.api import Adapter, RecipeError, RunError, import_apart, save_model

if TYPE_CHECKING:
    from transformers import PreTrainedModel

dpotrain_interface = 2

#: The trained adapter's name in peft, and that of the frozen copy of the one that training started from.
TRAINED, INITIAL = "default", "initial"


class Lora(Adapter):
    """Trains low-rank updates of the policy's linear layers; the reference is the policy without them.

    Where the policy arrives with a LoRA adapter, training goes on from that one, and the reference is a frozen
    copy of it: switching it off would give the model before its fine-tuning, not the initial policy.

    There is no option to train biases: they are changed in place, and the reference would move with them.
    """

    name: ClassVar[str] = "lora"

    class Options(Adapter.Options):
        rank: int = Field(16, ge=1, description="Rank of the updates.")
        alpha: float | None = Field(
            None, gt=0, description="Updates are scaled by alpha / rank; twice the rank unless set."
        )
        dropout: float = Field(
            0.0, ge=0, lt=1, description="Dropout on the updates' input, in the policy's training pass only."
        )
        target_modules: str | list[str] = Field(
            "all-linear",
            min_length=1,
            description='"all-linear" (every linear layer that text passes, but the head), a list of the ends of '
            "module names, or a regular expression for whole names.",
        )
        rslora: bool = Field(
            False, description="Scale by alpha / sqrt(rank) instead (rsLoRA, arXiv 2312.03732)."
        )
        dora: bool = Field(False, description="Train the weights' magnitudes apart (DoRA, arXiv 2402.09353).")
        modules_to_save: list[str] = Field(
            default_factory=list,
            description='Ends of the names of modules trained and saved in full, such as "lm_head".',
        )
        merge: bool = Field(
            False, description="final/ holds the whole model with the updates merged in, not an adapter."
        )

        @model_validator(mode="after")
        def _trained_one_way(self) -> Lora.Options:
            both = set(self.modules_to_save) & set(
                self.target_modules if isinstance(self.target_modules, list) else ()
            )
            if both:
                raise ValueError(f"{sorted(both)} in both target_modules and modules_to_save; keep one")
            return self

    options: Options

    @property
    def starts_as_base(self) -> bool:
        """LoRA's second matrix starts at zero; DoRA rounds on the way."""
        return not self.options.dora

    @property
    def saves_whole_model(self) -> bool:
        return self.options.merge

    def check(self) -> None:
        targets = self.options.target_modules
        if isinstance(targets, str):
            try:
                re.compile(targets)
            except re.error as error:
                raise RecipeError(
                    f"adapter.target_modules = {targets!r} is not a regular expression: {error}; "
                    'a list of names is written ["q_proj", "v_proj"]'
                ) from error

    def attach(self, policy: PreTrainedModel) -> PreTrainedModel:
        """Put a new adapter on the policy, or make ready the one it arrives with.

        Raises:
            RunError: a module named in the options is not there, nothing would be trained, the options
                contradict the adapter that the policy arrives with, or its result could not be merged.
        """
        import_apart("peft")
        from peft import PeftModel

        from .fit import warn_of_dropout, warn_of_idle

        if self.options.merge and getattr(policy, "quantization_method", None) is not None:
            raise RunError(
                "adapter.merge = true would write the updates into quantized weights and round most of them "
                "away. Leave it out (the adapter loads on the quantized model), or leave out [quantizer]"
            )
        if isinstance(policy, PeftModel):
            from .continuing import go_on

            go_on(policy, self.options)
            wrapped: Any = policy
        else:
            wrapped = self._wrap(policy)
        trained = [weight for weight in wrapped.parameters() if weight.requires_grad]
        if not trained:
            raise RunError("the adapter has no parameter that is trained; check adapter.target_modules")
        warn_of_idle(wrapped)
        warn_of_dropout(wrapped, self.options.dropout)
        for weight in trained:
            # Adapters in 16 bits lose small updates; peft casts the low-rank ones, but no modules_to_save.
            weight.data = weight.data.float()
        if isinstance(policy, PeftModel) or self.options.dora:
            # Even before training, DoRA scales each weight by a ratio that is one only up to rounding: with 16-bit
            # weights the base model is not quite the initial policy.
            from .continuing import keep_initial

            keep_initial(wrapped)
        from .fused import fuse

        fuse(wrapped)
        if getattr(wrapped, "is_loaded_in_4bit", False):  # by bitsandbytes, as transformers and peft call it
            from .fused_4bit import fuse_4bit

            fuse_4bit(wrapped)
        return wrapped

    def _wrap(self, policy: PreTrainedModel) -> Any:
        from peft import LoraConfig, get_peft_model

        from .fit import naming_the_key, warn_of_experts
        from .targets import check_names, excluded

        check_names(policy, self.options)
        targets = self.options.target_modules
        config = LoraConfig(
            task_type="CAUSAL_LM",
            r=self.options.rank,
            lora_alpha=self.alpha,
            lora_dropout=self.options.dropout,
            target_modules=targets,
            exclude_modules=excluded(policy) if targets == "all-linear" else None,
            use_rslora=self.options.rslora,
            use_dora=self.options.dora,
            modules_to_save=self.options.modules_to_save or None,
            revision=getattr(policy.config, "_commit_hash", None),
        )
        with naming_the_key(self.options, policy):
            wrapped = get_peft_model(policy, config, adapter_name=TRAINED)
        if targets == "all-linear":
            warn_of_experts(wrapped)
        return wrapped

    @property
    def alpha(self) -> float:
        """What the updates are scaled by, times the rank."""
        return 2 * self.options.rank if self.options.alpha is None else self.options.alpha

    @contextmanager
    def reference(self, policy: PreTrainedModel) -> Iterator[None]:
        """Compute as right after :meth:`attach`; nothing else about the policy changes, and nothing stays."""
        tuner: Any = policy.base_model
        copied = INITIAL in policy.peft_config
        # peft sets requires_grad anew whenever it switches adapters.
        flags = [(weight, weight.requires_grad) for weight in policy.parameters()]
        try:
            if copied:
                tuner.set_adapter(INITIAL, inference_mode=True)
            else:
                tuner.disable_adapter_layers()
            yield
        finally:
            if copied:
                tuner.set_adapter(TRAINED)
            else:
                tuner.enable_adapter_layers()
            for weight, flag in flags:
                weight.requires_grad_(flag)

    def save(self, policy: PreTrainedModel, folder: Path) -> None:
        """Write an adapter folder that plain peft loads, or with ``merge`` a model that transformers loads."""
        if self.options.merge:
            save_model(self.merge(policy), folder)
            return
        # Embeddings are never resized here; "auto" would ask the hub whether they were.
        policy.save_pretrained(folder, selected_adapters=[TRAINED], save_embedding_layers=False)

    def rehearse_saving(self, policy: PreTrainedModel, folder: Path) -> None:
        model: Any = policy
        if self.options.merge:
            save_model(model.get_base_model(), folder, weights={})
        else:
            model.peft_config[TRAINED].save_pretrained(str(folder))

    def merge(self, policy: PreTrainedModel) -> PreTrainedModel:
        """Return a plain transformers model on the CPU with the updates in its weights; the policy stays."""
        from .merging import merged

        return merged(policy)

    def how_to_load(self, folder: Path) -> str:
        if self.options.merge:
            return f'model = AutoModelForCausalLM.from_pretrained("{folder}")'
        config = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
        revision = f', revision="{config["revision"]}"' if config.get("revision") else ""
        base = f'"{config["base_model_name_or_path"]}"{revision}'
        return (
            "from peft import PeftModel\n"
            f"model = AutoModelForCausalLM.from_pretrained({base})\n"
            f'model = PeftModel.from_pretrained(model, "{folder}")'
        )


@hookimpl
def dpotrain_adapters() -> list[type[Adapter]]:
    return [Lora]
