"""axolotl: YAML with ``rl: dpo`` or ``rl: ipo``. It trains with TRL's DPOTrainer."""

from __future__ import annotations

from typing import Any

from dpotrain.convert import trainer
from dpotrain.convert.axolotl_data import data
from dpotrain.convert.dialect import Dialect
from dpotrain.convert.objectives import trl_objective
from dpotrain.convert.translation import Given, Tool, Translation, as_names
from dpotrain.recipe.foreign import Foreign, Gap
from dpotrain.recipe.foreign_keys import FOREIGN_KEYS

_UNNEEDED = {
    "strict": "every key of a recipe must be known",
    "dataset_prepared_path": "tokenized data is cached in run.cache_dir",
    "dataset_processes": "data is tokenized by worker processes; their number follows from the machine",
    "shuffle_merged_datasets": "pairs are shuffled every epoch (data.shuffle)",
    "dataset_exact_deduplication": "dpotrain inspect shows duplicates; they are kept",
    "skip_prepare_dataset": "data is tokenized and cached by itself",
    "sdp_attention": FOREIGN_KEYS["attn_implementation"].note,
    "xformers_attention": FOREIGN_KEYS["attn_implementation"].note,
    "eager_attention": FOREIGN_KEYS["attn_implementation"].note,
    "flex_attention": FOREIGN_KEYS["attn_implementation"].note,
    "eval_sample_packing": "pairs are packed without padding wherever the model allows it",
    "wandb_watch": "gradients are not sent to the service; grad_norm is",
    "wandb_log_model": "the result stays in the run folder",
    "wandb_run_id": "a run's name is set in [[loggers]]",
    "gc_steps": "memory is not freed by steps",
    "loss_watchdog_threshold": "loss spikes are reported, and training.on_nonfinite stops",
    "loss_watchdog_patience": "loss spikes are reported, and training.on_nonfinite stops",
    "debug": "dpotrain run --debug",
    "ddp": "the launcher says how many processes there are",
    "low_cpu_mem_usage": "weights are read from safetensors one by one",
    "is_llama_derived_model": "the architecture is read from the model's config.json",
    "is_mistral_derived_model": "the architecture is read from the model's config.json",
    "save_safetensors": "weights are always saved as safetensors",
    "dpo_use_logits_to_keep": "only tokens that are scored pass through the model's head",
    "dpo_padding_free": "pairs are packed without padding wherever the model allows it",
    "peft_autocast_adapter_dtype": "adapters are trained in float32",
}
_GROUPS = Foreign(
    "[[optimizer.groups]]", 'match is a pattern of the names of weights, as in "*embed_tokens*"'
)
KEYS = {key: Foreign(note=note, gap=Gap.NOT_NEEDED) for key, note in _UNNEEDED.items()} | {
    "dataset_exact_deduplication": Foreign(
        note="duplicates are kept; dpotrain inspect shows them, so that they can be removed from the data",
        gap=Gap.NONE,
    ),
    "train_on_inputs": Foreign(note="only answers are scored", gap=Gap.NOT_NEEDED),
    "special_tokens": Foreign(
        note="the tokenizer's tokens stay as they are; change them in a copy of the model's folder",
        gap=Gap.NONE,
    ),
    "tokens": Foreign(
        note="tokens are not added; add them in a copy of the model's folder", gap=Gap.NOT_SUPPORTED
    ),
    "lora_fan_in_fan_out": Foreign(note="peft sets it by the layer", gap=Gap.NOT_NEEDED),
    "peft_init_lora_weights": Foreign(
        note="adapters begin at zero, so that the reference is the model", gap=Gap.NONE
    ),
    "lr_groups": _GROUPS,
    "embedding_lr": _GROUPS,
    "embedding_lr_scale": _GROUPS,
    "eval_max_new_tokens": Foreign(note="answers are not sampled by this key", gap=Gap.SAME_TRAINING),
    "eval_table_size": Foreign(note="answers are not sampled by this key", gap=Gap.SAME_TRAINING),
    "plugins": Foreign(note="axolotl's plugins are not loaded", gap=Gap.NONE),
    "unfrozen_parameters": Foreign(
        note="weights are trained by an adapter, or all of them", gap=Gap.NOT_SUPPORTED
    ),
}


def translate(t: Translation) -> None:
    """Translate the keys that are not one key of the recipe each."""
    _objective(t)
    data(t)
    t.move("model.name", "base_model")
    t.draft.set("model.use", "transformers")
    _adapter(t)
    trainer.step_size(t, "micro_batch_size")
    trainer.length(t, "num_epochs")
    trainer.precision(t, bf16=("bf16", "bfloat16"), fp16=("fp16", "float16"))
    trainer.optimizer(t, "optimizer")
    trainer.lora_plus(t, "loraplus_lr_ratio")
    _schedule(t)
    _intervals(t)
    trainer.saving(t)
    trainer.early_stopping(t)
    _services(t)
    if (given := t.take("hub_model_id")) is not None:
        t.draft.set("exporters.0.use", "hub", given.key)
        t.put("exporters.0.repo", given.value, given)
    trainer.lengths(t, "sequence_len", "max_prompt_len")
    t.move("data.truncation", "excess_length_strategy", values=FOREIGN_KEYS["excess_length_strategy"].values)
    t.move("run.output_dir", "output_dir")


def _objective(t: Translation) -> None:
    method = t.take("rl")
    if method is None or method.value not in ("dpo", "ipo"):
        shown = method or Given("rl", "")
        raise t.refuse(shown, "only dpo and ipo can be translated")
    given, normalized = t.take("dpo_loss_type"), t.take("dpo_norm_loss")
    if method.value == "ipo":
        smoothing, weights = t.take("dpo_label_smoothing"), t.take("dpo_loss_weights")
        for other in filter(None, (given, normalized, smoothing, weights)):
            t.leave(other, Gap.NOT_NEEDED, "axolotl passes it on for rl: dpo only")
        given = Given(method.key, "ipo")
    elif given is None:
        given = Given(method.key, "sigmoid")
        if normalized is not None and normalized.value:
            given = Given(normalized.key, "sigmoid_norm")
    for key in filter(None, (method, normalized)):
        t.translated[key.key] = "loss.use"
    trl_objective(
        t,
        given,
        trainer.batch(t, "micro_batch_size"),
        Dialect(),
        weights="dpo_loss_weights",
        beta=_beta(t),
        smoothing="dpo_label_smoothing",
        weighting="dpo_use_weighting",
    )
    if "dpo_label_smoothing" in t.translated and "sigmoid" in as_names(given.value):
        t.notes.append(
            "dpo_label_smoothing is TRL's label_smoothing, which TRL 1.16 ignores in its sigmoid loss; dpotrain "
            "smooths"
        )


def _beta(t: Translation) -> Given | None:
    """Return the loss's beta, which ``trl.beta`` sets before ``rl_beta``."""
    nested, given = t.take("trl"), t.take("rl_beta")
    inside: dict[str, Any] = nested.value if nested is not None and isinstance(nested.value, dict) else {}
    for key, value in inside.items():
        if key != "beta":
            t.leave(Given(f"trl.{key}", value), Gap.NONE, "dpotrain does not know this key")
    if nested is None or "beta" not in inside:
        return given
    t.translated[nested.key] = "loss.beta"
    if given is not None:
        t.leave(given, Gap.NOT_NEEDED, "trl.beta overrides it")
    return Given("trl.beta", inside["beta"])


def _adapter(t: Translation) -> None:
    kind = t.take("adapter")
    four, eight = t.take("load_in_4bit"), t.take("load_in_8bit")
    if kind is None:
        for given in filter(None, (four, eight)):
            if given.value:
                raise t.refuse(
                    given, "quantized weights cannot be trained themselves, and adapter is not set"
                )
        t.draft.set("model.dtype", _dtype(t), "axolotl holds trained weights in it, too")
        if _dtype(t) == "bfloat16":
            t.notes.append(
                "axolotl trains weights that are held in bfloat16, where small updates get lost; "
                'model.dtype = "float32" keeps them'
            )
        return
    if kind.value not in ("lora", "qlora"):
        raise t.refuse(kind, "dpotrain has LoRA adapters only")
    t.draft.set("model.dtype", _dtype(t), "of the frozen weights")
    t.put("adapter.use", "lora", kind)
    t.move("adapter.rank", "lora_r")
    t.move("adapter.alpha", "lora_alpha")
    dropout = t.take("lora_dropout")
    if dropout is not None and dropout.value:
        t.put("adapter.dropout", 0.0, dropout, "lora_dropout, which TRL's DPOTrainer sets to 0")
        t.notes.append(
            "lora_dropout: TRL's DPOTrainer sets all dropout to 0, the adapter's too; so adapter.dropout is 0"
        )
    linear, modules = t.take("lora_target_linear"), t.take("lora_target_modules")
    if linear is not None and linear.value:
        t.put("adapter.target_modules", "all-linear", linear)
        if modules is not None:
            t.leave(modules, Gap.NOT_NEEDED, "all linear layers are among them (lora_target_linear)")
    elif modules is not None:
        t.put("adapter.target_modules", as_names(modules.value), modules)
    t.move("adapter.modules_to_save", "lora_modules_to_save")
    if four is not None and four.value:
        t.put("quantizer.use", "bnb-4bit", four)
    elif eight is not None and eight.value:
        t.put("quantizer.use", "bnb-8bit", eight)
    if (start := t.take("lora_model_dir")) is not None and start.value:
        t.leave(start, Gap.NONE, "set model.name to the adapter's folder: training goes on from it")


def _dtype(t: Translation) -> str:
    """Return what axolotl holds weights in, which follows from its switches for mixed precision."""
    values = t.configuration.values
    return "bfloat16" if values.get("bf16", "auto") or values.get("bfloat16") else "float32"


def _schedule(t: Translation) -> None:
    if not any(t.configuration.values.get(key) for key in ("warmup_steps", "warmup_ratio")):
        t.draft.set("schedule.warmup_fraction", 0.03, "axolotl's default: 3 % of the steps, at most 100")
    trainer.schedule(t, "lr_scheduler")
    t.move("schedule.min_lr_fraction", "cosine_min_lr_ratio")


def _intervals(t: Translation) -> None:
    for key, here in (("evals_per_epoch", "evaluation.every"), ("saves_per_epoch", "checkpoints.every")):
        if (given := t.take(key)) is not None and given.value:
            t.leave(
                given,
                Gap.SAME_TRAINING,
                f"{here} is a number of steps: dpotrain plan says how many an epoch has",
            )
    if (given := t.take("eval_steps")) is not None:
        if isinstance(given.value, float) and given.value < 1:
            t.leave(given, Gap.SAME_TRAINING, "evaluation.every is a number of steps, not a share of them")
        elif t.configuration.values.get("val_set_size") or t.configuration.values.get("test_datasets"):
            t.put("evaluation.every", given.value, given)
        else:
            t.leave(given, Gap.NOT_NEEDED, "there are no held-out pairs")
    if (given := t.take("eval_strategy", "evaluation_strategy")) is not None:
        t.leave(given, Gap.NOT_NEEDED, "see evaluation.every")


def _services(t: Translation) -> None:
    """Write ``[[loggers]]``: axolotl logs to W&B where ``wandb_project`` is set."""
    project, entity, name = (
        t.take("wandb_project"),
        t.take("wandb_entity"),
        t.take("wandb_name", "wandb_run_name"),
    )
    t.take("use_wandb")
    index = 0
    if project is not None:
        t.draft.set("loggers.0.use", "wandb", project.key)
        t.put("loggers.0.project", project.value, project)
        for key, own in (("entity", entity), ("name", name)):
            if own is not None:
                t.put(f"loggers.0.{key}", own.value, own)
        index = 1
    else:
        for own in filter(None, (entity, name)):
            t.leave(own, Gap.NOT_NEEDED, "without wandb_project nothing is logged to W&B")
    for service in ("tensorboard", "mlflow"):
        chosen = t.take(f"use_{service}")
        if chosen is not None and chosen.value:
            t.put(f"loggers.{index}.use", service, chosen)
            index += 1


AXOLOTL = Tool(
    name="axolotl",
    option="axolotl",
    programs=frozenset({"axolotl", "axolotl.cli.train"}),
    marks=frozenset(
        {"base_model", "rl", "micro_batch_size", "num_epochs", "sequence_len", "val_set_size", "sample_packing",
         "lora_target_linear", "flash_attention", "rl_beta", "saves_per_epoch", "evals_per_epoch"}
    ),
    keys=KEYS,
    defaults={
        "micro_batch_size": 1,
        "gradient_accumulation_steps": 1,
        "num_epochs": 1.0,
        "sequence_len": 512,
        "excess_length_strategy": "drop",
        "lr_scheduler": "cosine",
        "rl_beta": 0.1,
        "save_total_limit": 4,
        "output_dir": "./model-out",
        "bf16": "auto",
    },
    translate=translate,
)  # fmt: skip
