"""TRL: ``trl dpo --config``, ``dpo.py --…``, and the alignment handbook, which is built on it.

What is said of TRL's behaviour was read in, and tried with, TRL 1.16.
"""

from __future__ import annotations

from dpotrain.convert import trainer
from dpotrain.convert.dialect import Dialect
from dpotrain.convert.objectives import trl_objective
from dpotrain.convert.translation import Tool, Translation, as_names
from dpotrain.convert.trl_data import data
from dpotrain.recipe.foreign import Foreign, Gap
from dpotrain.recipe.foreign_keys import FOREIGN_KEYS

#: Keys that older versions had. From a YAML file, TRL's script drops them without a word.
_GONE = ("torch_dtype", "max_prompt_length", "max_completion_length", "rpo_alpha", "reference_free")
_DROPPED = (
    "TRL 1.16 has no such key any more, and its script drops unknown keys of a YAML file without a word"
)

_STREAMING = Foreign(note="data is read from files that are mapped, in little memory", gap=Gap.NOT_NEEDED)
KEYS = {
    "dataset_streaming": _STREAMING,
    "streaming": _STREAMING,
    "log_level": Foreign(note="run.log has everything", gap=Gap.NOT_NEEDED),
    "logging_first_step": Foreign(
        note="the first record averages over logging.every steps", gap=Gap.NOT_NEEDED
    ),
    "precompute_ref_batch_size": Foreign(note="micro-batches follow from memory", gap=Gap.NOT_NEEDED),
    "ddp_timeout": Foreign(
        note="processes wait for each other without a limit that matters here", gap=Gap.NOT_NEEDED
    ),
    "lora_task_type": Foreign(note="adapters are for causal language models", gap=Gap.NOT_NEEDED),
    "warmup_ratio": FOREIGN_KEYS["warmup_ratio"],
}


def translate(t: Translation) -> None:
    """Translate the keys that are not one key of the recipe each."""
    _notes(t)
    data(t)
    t.move("model.name", "model_name_or_path")
    t.draft.set("model.use", "transformers")
    t.move("model.dtype", "dtype", "torch_dtype")
    _adapter(t)
    _loss(t)
    trainer.moving_reference(t)
    trainer.step_size(t)
    trainer.length(t)
    trainer.precision(t)
    trainer.optimizer(t)
    trainer.schedule(t)
    trainer.saving(t)
    trainer.early_stopping(t)
    trainer.loggers(t)
    trainer.pushing(t)
    trainer.lengths(t)
    t.move("run.output_dir", "output_dir")


def _notes(t: Translation) -> None:
    values = t.configuration.values
    smoothing, loss = values.get("label_smoothing"), values.get("loss_type", "sigmoid")
    if smoothing and "sigmoid" in (loss if isinstance(loss, list) else [loss]):
        t.notes.append(
            f"label_smoothing = {smoothing}: TRL 1.16 ignores it with loss_type sigmoid (older versions smoothed); "
            "the recipe has loss.label_smoothing, which smooths; set it to 0 for TRL's numbers"
        )
    if values.get("truncation_mode") == "keep_end":
        t.notes.append(f"truncation_mode keep_end: {trainer.CUTS_EACH}")
    if values.get("padding_free"):
        t.notes.append("padding_free: TRL 1.16 warns and pads all the same; dpotrain packs")
    if values.get("use_peft") and values.get("disable_dropout", True) and values.get("lora_dropout", 0.05):
        t.notes.append(
            "lora_dropout: TRL sets all dropout to 0, the adapter's too, unless disable_dropout is false; so "
            "adapter.dropout is 0"
        )
    if values.get("use_peft") and (values.get("load_in_4bit") or values.get("load_in_8bit")):
        t.notes.append("with quantized weights TRL trains the adapter in bfloat16; dpotrain in float32")
    if values.get("gradient_accumulation_steps") not in (None, 1):
        t.notes.append(
            "TRL averages each batch and then the accumulated batches, so that the pairs of a smaller last batch weigh "
            "more; dpotrain divides by the pairs of the step"
        )
    t.notes += [
        f"{key}: {_DROPPED}" for key in _GONE if values.get(key) is not None and not t.configuration.programs
    ]


def _adapter(t: Translation) -> None:
    use = t.take("use_peft")
    own = (
        "lora_r",
        "lora_alpha",
        "lora_dropout",
        "lora_target_modules",
        "lora_modules_to_save",
        "use_rslora",
        "use_dora",
    )
    four, eight = t.take("load_in_4bit"), t.take("load_in_8bit")
    kind, nested = t.take("bnb_4bit_quant_type"), t.take("use_bnb_nested_quant")
    if use is None or not use.value:
        for key in own:
            if t.has(key) and (given := t.take(key)):
                t.leave(given, Gap.NOT_NEEDED, "TRL ignores it without use_peft, which trains all weights")
        for given in filter(None, (four, eight)):
            if given.value:
                raise t.refuse(
                    given, "quantized weights cannot be trained themselves, and use_peft is not set"
                )
        return
    t.put("adapter.use", "lora", use)
    t.move("adapter.rank", "lora_r")
    t.move("adapter.alpha", "lora_alpha")
    dropout, off = t.take("lora_dropout"), t.value("disable_dropout")
    if dropout is not None:
        drawn = off is False
        comment = dropout.origin if drawn else "lora_dropout, which TRL's disable_dropout sets to 0"
        t.put("adapter.dropout", dropout.value if drawn else 0.0, dropout, comment)
    modules = t.take("lora_target_modules")
    if modules is not None:
        names = modules.value
        t.put("adapter.target_modules", names if names == "all-linear" else as_names(names), modules)
    else:
        t.draft.set(
            "adapter.target_modules", ["q_proj", "v_proj"],
            "peft's default for Llama, Mistral, Qwen and Gemma; for other architectures see peft",
        )  # fmt: skip
    for given in (four, eight):
        if given is not None and given.value:
            t.put("quantizer.use", "bnb-4bit" if given is four else "bnb-8bit", given)
    if four is not None and four.value:
        if kind is not None:
            t.put("quantizer.quant_type", kind.value, kind)
        doubled = nested.value if nested is not None else False
        t.draft.set(
            "quantizer.double_quant", doubled, "use_bnb_nested_quant" + ("" if nested else ", TRL's default")
        )
        if nested is not None:
            t.translated[nested.key] = "quantizer.double_quant"


def _loss(t: Translation) -> None:
    given = t.take("loss_type")
    assert given is not None  # it has a default
    trl_objective(t, given, trainer.batch(t), Dialect())


TRL = Tool(
    name="TRL",
    option="trl",
    programs=frozenset({"trl"}),
    marks=frozenset(
        {"use_peft", "loss_type", "lora_r", "dataset_name", "dataset_train_split", "dataset_test_split",
         "dataset_mixer", "dataset_mixture", "precompute_ref_log_probs", "max_prompt_length", "use_liger_kernel"}
    ),
    keys=KEYS,
    defaults={
        "learning_rate": 1e-6,
        "num_train_epochs": 3.0,
        "per_device_train_batch_size": 8,
        "gradient_accumulation_steps": 1,
        "lr_scheduler_type": "linear",
        "loss_type": "sigmoid",
        "beta": 0.1,
        "max_length": 1024,
        "dtype": "float32",
        "lora_r": 16,
        "lora_alpha": 32,
        "lora_dropout": 0.05,
        "dataset_test_split": "test",
        "output_dir": "trainer_output",
        "save_steps": 500,
    },
    translate=translate,
)  # fmt: skip
