"""LLaMA-Factory: YAML with ``stage: dpo``, or ``llamafactory-cli train``."""

from __future__ import annotations

import itertools

from dpotrain.convert import trainer
from dpotrain.convert.llama_factory_data import data
from dpotrain.convert.llama_factory_loss import loss
from dpotrain.convert.trained_weights import freeze_tuning
from dpotrain.convert.translation import Given, Tool, Translation, as_names
from dpotrain.recipe.foreign import Foreign, Gap
from dpotrain.recipe.foreign_keys import FOREIGN_KEYS

_UNNEEDED = {
    "do_train": "dpotrain run trains",
    "do_predict": "samples are drawn by other commands",
    "overwrite_cache": "the cache is found by the content of data, template and tokenizer",
    "plot_loss": "metrics.jsonl has the curves",
    "ddp_timeout": "processes wait for each other without a limit that matters here",
    "packing": "pairs are packed without padding wherever the model allows it",
    "upcast_layernorm": "norms compute in float32",
    "use_fast_tokenizer": "tokenizers are the fast ones",
    "include_num_input_tokens_seen": "tokens_per_second is a metric of every record",
    "include_tokens_per_second": "tokens_per_second is a metric of every record",
    "use_unsloth_gc": "see training.activation_checkpointing",
    "use_reentrant_gc": "see training.activation_checkpointing",
    "disable_gradient_checkpointing": "see training.activation_checkpointing",
    "tokenized_path": "tokenized data is cached in run.cache_dir",
    "quantization_method": "4 and 8 bits are bitsandbytes'",
    "flash_attn": FOREIGN_KEYS["flash_attn"].note,
    "media_dir": "data is text only",
    "eval_on_each_dataset": "evaluations have metrics of each source beside those of all",
}
KEYS = {key: Foreign(note=note, gap=Gap.NOT_NEEDED) for key, note in _UNNEEDED.items()} | {
    "lora_rank": Foreign("adapter.rank"),
    "use_llama_pro": Foreign(note="LLaMA Pro's blocks are not supported", gap=Gap.NOT_SUPPORTED),
    "use_galore": Foreign(note="GaLore is not supported", gap=Gap.NOT_SUPPORTED),
    "use_badam": Foreign(note="BAdam is not supported", gap=Gap.NOT_SUPPORTED),
    "use_apollo": Foreign(note="APOLLO is not supported", gap=Gap.NOT_SUPPORTED),
    "use_muon": Foreign("optimizer.use", values={True: "muon", False: None}),
    "pissa_init": Foreign(
        note="adapters begin at zero, so that the reference is the model", gap=Gap.NOT_SUPPORTED
    ),
    "streaming": Foreign(
        note="data is read from files that are mapped, in little memory", gap=Gap.NOT_NEEDED
    ),
    "shift_attn": Foreign(note="shifted attention is not supported", gap=Gap.NOT_SUPPORTED),
    "rope_scaling": Foreign(note="set it in the model's config.json", gap=Gap.NONE),
    "mask_history": Foreign(note="only the last answer is scored", gap=Gap.NOT_NEEDED),
    "train_on_prompt": Foreign(note="prompts are never scored", gap=Gap.NONE),
    "ref_model_quantization_bit": Foreign(
        note="another reference model is loaded without quantizer", gap=Gap.NONE
    ),
    "ref_model_adapters": Foreign(note="set reference.of to the adapter's folder", gap=Gap.NONE),
    "pure_bf16": Foreign(note='model.dtype = "bfloat16" holds trained weights in bfloat16', gap=Gap.NONE),
}


_LORA = ("lora_rank", "lora_alpha", "lora_dropout", "lora_target")
_FREEZE = ("freeze_trainable_layers", "freeze_trainable_modules", "freeze_extra_modules")


def translate(t: Translation) -> None:
    """Translate the keys that are not one key of the recipe each."""
    stage = t.take("stage")
    if stage is None or stage.value != "dpo":
        raise t.refuse(stage or Given("stage", "sft"), "only the stage dpo can be translated")
    t.translated[stage.key] = "loss.use"
    data(t)
    t.move("model.name", "model_name_or_path")
    t.draft.set("model.use", "transformers")
    _adapter(t)
    loss(t)
    trainer.step_size(t)
    trainer.length(t)
    trainer.precision(t)
    trainer.optimizer(t)
    trainer.lora_plus(t, "loraplus_lr_ratio")
    trainer.schedule(t)
    evaluates = trainer.evaluation(t)
    _held_out(t, evaluates)
    trainer.saving(t)
    trainer.early_stopping(t)
    trainer.loggers(t)
    trainer.pushing(t)
    t.move("run.output_dir", "output_dir")
    if (given := t.take("disable_shuffling")) is not None:
        t.put("data.shuffle", not given.value, given)
    t.notes.append(
        "LLaMA-Factory cuts the end of a prompt that takes too much of cutoff_len; dpotrain cuts answers, and drops a "
        "pair whose prompt fills data.max_length; data.max_prompt_length would cut prompts at their start"
    )


def _held_out(t: Translation, evaluates: bool) -> None:
    size = t.take_number("val_size")
    if size is None or not size.value:
        return
    if size.value >= 1:
        t.leave(size, Gap.NONE, "data.eval_fraction is a share of the prompts, not a number")
    elif evaluates:
        t.put("data.eval_fraction", size.value, size)
    else:
        t.put("data.eval_fraction", size.value, size, "val_size; evaluated before and after training")


def _adapter(t: Translation) -> None:
    kind, bits = t.take("finetuning_type"), t.take("quantization_bit")
    assert kind is not None
    if kind.value == "full":
        if bits is not None:
            raise t.refuse(bits, "quantized weights cannot be trained themselves")
        t.draft.set("model.dtype", "float32", "LLaMA-Factory holds trained weights in float32, too")
        t.translated[kind.key] = "[adapter]"
        _without_effect(t, kind, _LORA, _FREEZE)
        return
    if kind.value == "freeze":
        if bits is not None:
            raise t.refuse(bits, "quantized weights cannot be trained themselves")
        t.draft.set("model.dtype", "bfloat16", "of the frozen weights; those that are trained become float32")
        freeze_tuning(t, kind)
        _without_effect(t, kind, _LORA)
        return
    if kind.value != "lora":
        raise t.refuse(kind, "dpotrain trains LoRA adapters, some weights of the model (freeze), or all")
    _without_effect(t, kind, _FREEZE)
    t.draft.set("model.dtype", "bfloat16", "of the frozen weights")
    t.put("adapter.use", "lora", kind)
    rank = t.take_number("lora_rank")
    assert rank is not None  # it has a default
    t.put("adapter.rank", rank.value, rank)
    alpha = t.take("lora_alpha")
    if alpha is not None:
        t.put("adapter.alpha", alpha.value, alpha)
    elif rank is not None:
        t.draft.set(
            "adapter.alpha", 2 * int(rank.value), "lora_alpha, LLaMA-Factory's default: twice the rank"
        )
    dropout = t.take("lora_dropout")
    if dropout is not None and dropout.value:
        t.put("adapter.dropout", 0.0, dropout, "lora_dropout, which the DPO trainer sets to 0")
        t.notes.append(
            "lora_dropout: LLaMA-Factory's DPO trainer sets all dropout to 0, the adapter's too; so adapter.dropout is "
            "0"
        )
    target = t.take("lora_target")
    if target is not None:
        names = as_names(target.value)
        t.put("adapter.target_modules", "all-linear" if names == ["all"] else names, target)
    saved = t.take("additional_target")
    if saved is not None:
        t.put("adapter.modules_to_save", as_names(saved.value), saved)
    if bits is not None:
        if bits.value not in (4, 8):
            raise t.refuse(bits, "dpotrain has 4 and 8 bits")
        t.put("quantizer.use", f"bnb-{bits.value}bit", bits)
    start = t.take("adapter_name_or_path")
    if start is not None:
        t.leave(start, Gap.NONE, "set model.name to the adapter's folder: training goes on from it")


def _without_effect(t: Translation, kind: Given, *keys: tuple[str, ...]) -> None:
    for key in itertools.chain(*keys):
        if t.has(key) and (given := t.take(key)):
            t.leave(given, Gap.NOT_NEEDED, f"{kind.key} is {kind.value}")


LLAMA_FACTORY = Tool(
    name="LLaMA-Factory",
    option="llama-factory",
    programs=frozenset({"llamafactory-cli", "lmf"}),
    marks=frozenset(
        {"stage", "pref_beta", "pref_loss", "pref_ftx", "cutoff_len", "finetuning_type", "lora_target", "template",
         "do_train", "quantization_bit", "overwrite_cache", "preprocessing_num_workers"}
    ),
    keys=KEYS,
    defaults={
        "learning_rate": 5e-5,
        "num_train_epochs": 3.0,
        "per_device_train_batch_size": 8,
        "gradient_accumulation_steps": 1,
        "lr_scheduler_type": "linear",
        "finetuning_type": "lora",
        "lora_rank": 8,
        "lora_target": "all",
        "pref_loss": "sigmoid",
        "pref_beta": 0.1,
        "simpo_gamma": 0.5,
        "cutoff_len": 2048,
        "dataset_dir": "data",
        "bf16": False,
        "save_steps": 500,
        "output_dir": "trainer_output",
    },
    translate=translate,
)  # fmt: skip
