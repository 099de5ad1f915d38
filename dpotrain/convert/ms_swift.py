"""ms-swift: ``swift rlhf --rlhf_type dpo …``, or its YAML."""

from __future__ import annotations

import math

from dpotrain.convert import trainer
from dpotrain.convert.dialect import Dialect
from dpotrain.convert.ms_swift_data import data
from dpotrain.convert.objectives import trl_objective
from dpotrain.convert.trained_weights import frozen
from dpotrain.convert.translation import (
    Given,
    Tool,
    Translation,
    as_names,
    processes_text,
)
from dpotrain.recipe.foreign import Foreign, Gap
from dpotrain.recipe.foreign_keys import FOREIGN_KEYS

_UNNEEDED = {
    "load_from_cache_file": "tokenized data is cached in run.cache_dir",
    "lazy_tokenize": "data is tokenized once by worker processes and cached",
    "dataset_shuffle": "pairs are shuffled every epoch (data.shuffle)",
    "add_version": "a run folder is never overwritten",
    "use_logits_to_keep": "only tokens that are scored pass through the model's head",
    "attn_impl": FOREIGN_KEYS["attn_impl"].note,
    "attention_backend": FOREIGN_KEYS["attn_impl"].note,
    "task_type": "models are causal language models",
    "data_seed": "seed decides the order of the pairs",
    "logging_first_step": "the first record averages over logging.every steps",
    "check_model": "files are checked against what is loaded from them",
    "tuner_backend": "adapters are peft's",
    "freeze_vit": "adapters leave out what only images pass",
    "freeze_aligner": "adapters leave out what only images pass",
    "use_hf": "names are those of the Hugging Face hub",
    "strict": "rows that cannot be read are dropped and counted",
    "deepspeed_autotp_size": 'parallel.shard = "all" shards weights that one GPU does not hold',
}
KEYS = {key: Foreign(note=note, gap=Gap.NOT_NEEDED) for key, note in _UNNEEDED.items()} | {
    "lora_rank": Foreign("adapter.rank"),
    "model_type": Foreign(note="the architecture is read from the model's config.json", gap=Gap.NOT_NEEDED),
    "system": Foreign(note="system texts come from the rows", gap=Gap.NONE),
    "template": Foreign(
        note="the tokenizer's own chat template writes the turns; compare with dpotrain check", gap=Gap.NONE
    ),
    "loss_scale": Foreign(note="every token of an answer has the same weight", gap=Gap.NONE),
    "use_ray": Foreign(note="dpotrain run --processes starts several processes", gap=Gap.SAME_TRAINING),
    "device_groups": Foreign(note="the reference needs no devices of its own", gap=Gap.SAME_TRAINING),
    "init_weights": Foreign(note="adapters begin at zero, so that the reference is the model", gap=Gap.NONE),
    "external_plugins": Foreign(note="ms-swift's plugins are not loaded", gap=Gap.NONE),
}


#: Its DPO trainer has losses of its own, which are those of older versions of TRL.
_DIALECT = Dialect(
    diverged=("dpo", "hinge", "ipo", "exo", "robust"),
    refuses_divergence=False,
    own_alpha=True,
    running_mean=True,
    weighs=False,
    discounts_reference=False,
    divergences=("js_divergence", "alpha_divergence"),
)


def translate(t: Translation) -> None:
    """Translate the keys that are not one key of the recipe each."""
    method = t.take("rlhf_type")
    assert method is not None
    if method.value != "dpo":
        raise t.refuse(method, "only dpo can be translated")
    t.translated[method.key] = "loss.use"
    data(t)
    t.move("model.name", "model", "model_id_or_path")
    t.draft.set("model.use", "transformers")
    t.move("model.dtype", "torch_dtype")
    _adapter(t)
    _loss(t)
    _step_size(t)
    trainer.length(t)
    trainer.precision(t)
    trainer.optimizer(t)
    trainer.schedule(t)
    trainer.saving(t)
    trainer.loggers(t)
    trainer.pushing(t)
    t.move("data.max_length", "max_length")
    given = t.move(
        "data.truncation", "truncation_strategy", values=FOREIGN_KEYS["truncation_strategy"].values
    )
    if given is not None and given.value == "left":
        t.notes.append(f"truncation_strategy left: {trainer.CUTS_EACH}")
    t.move("run.output_dir", "output_dir")
    hub = t.configuration.values.get("use_hf")
    if not hub:
        t.notes.append(
            "without use_hf, ms-swift takes names of models and data from ModelScope; dpotrain takes them from the "
            "Hugging Face hub, where they may be missing: use folders then"
        )


def _adapter(t: Translation) -> None:
    kind = t.take("tuner_type", "train_type", "sft_type") or Given("tuner_type", "lora", "ms-swift")
    bits = t.take("quant_bits")
    t.take("quant_method")
    own = (
        "lora_rank",
        "lora_alpha",
        "lora_dropout",
        "target_modules",
        "modules_to_save",
        "use_rslora",
        "use_dora",
    )
    if kind.value == "full":
        if not frozen(t):
            t.translated[kind.key] = "[adapter]"
        for key in own:
            if t.has(key) and (given := t.take(key)):
                t.leave(given, Gap.NOT_NEEDED, f"ms-swift ignores it with {kind.key} full")
        _rate(t, 1e-5)
        _reference(t)
        return
    if kind.value != "lora":
        raise t.refuse(kind, "dpotrain trains LoRA adapters, or weights of the model (full)")
    _rate(t, 1e-4)
    trainer.lora_plus(t, "lorap_lr_ratio", 1e-4)
    t.put("adapter.use", "lora", kind)
    t.move("adapter.rank", "lora_rank")
    t.move("adapter.alpha", "lora_alpha")
    dropout = t.take("lora_dropout")
    if dropout is not None and dropout.value:
        t.put("adapter.dropout", 0.0, dropout, "lora_dropout, which the DPO trainer sets to 0")
        t.notes.append(
            "lora_dropout (0.05 unless set): ms-swift's DPO trainer sets all dropout to 0, the adapter's too "
            "(disable_dropout); so adapter.dropout is 0"
        )
    modules = t.take("target_modules")
    if modules is not None:
        names = as_names(modules.value)
        t.put(
            "adapter.target_modules", "all-linear" if names in (["all-linear"], ["ALL"]) else names, modules
        )
    if bits is not None and bits.value:
        if bits.value not in (4, 8):
            raise t.refuse(bits, "dpotrain has 4 and 8 bits")
        t.put("quantizer.use", f"bnb-{bits.value}bit", bits)
    for key in ("adapters", "ref_adapters"):
        if (given := t.take(key)) is not None:
            t.leave(given, Gap.NONE, "set model.name to the adapter's folder: training goes on from it")
    _reference(t)


def _rate(t: Translation, default: float) -> None:
    """Write the learning rate, whose default depends on what is trained."""
    given = t.take("learning_rate") or Given("learning_rate", default, "ms-swift")
    t.put("optimizer.lr", given.value, given)


def _reference(t: Translation) -> None:
    trainer.moving_reference(t)
    given = t.take("ref_model")
    if given is None:
        return
    if given.value == t.configuration.values.get("model"):
        t.put("reference.of", "initial-policy", given, "ref_model, which is the model itself")
    else:
        t.put("reference.of", given.value, given)


def _step_size(t: Translation) -> None:
    """Write pairs_per_step; without a number of accumulated batches ms-swift takes what makes 16 pairs."""
    if not t.has("gradient_accumulation_steps"):
        times = _accumulated(t)
        given = t.take_number("per_device_train_batch_size")
        assert given is not None  # it has a default
        size = int(given.value)
        total = size * times * t.processes
        how = f"{given.key} {size} * {times} (ms-swift's default makes 16 pairs) * {processes_text(t.processes)}"
        t.put("training.pairs_per_step", total, given, how)
        t.explained.append(f"training.pairs_per_step = {total}: {how}")
        return
    trainer.step_size(t)


def _accumulated(t: Translation) -> int:
    """Return how many batches ms-swift accumulates where the configuration does not say."""
    size = t.configuration.values.get("per_device_train_batch_size")
    pairs = size if isinstance(size, int) and size > 0 else 1
    return max(1, math.ceil(16 / pairs / t.processes))


def _loss(t: Translation) -> None:
    given = t.take("loss_type")
    assert given is not None  # it has a default
    if isinstance(given.value, list) and len(given.value) > 1 and "ipo" in given.value:
        reason = "beside ipo, ms-swift divides the log-probs of the other losses by the answers' lengths, too"
        raise t.refuse(given, reason)
    accumulated = None if t.has("gradient_accumulation_steps") else _accumulated(t)
    trl_objective(t, given, trainer.batch(t, accumulated=accumulated), _DIALECT)


MS_SWIFT = Tool(
    name="ms-swift",
    option="ms-swift",
    programs=frozenset({"swift", "rlhf.py"}),
    marks=frozenset(
        {"rlhf_type", "train_type", "tuner_type", "sft_type", "split_dataset_ratio", "attn_impl", "target_modules",
         "model", "load_from_cache_file", "quant_bits"}
    ),
    keys=KEYS,
    defaults={
        "rlhf_type": "dpo",
        "num_train_epochs": 3.0,
        "per_device_train_batch_size": 1,
        "gradient_accumulation_steps": 1,
        "lr_scheduler_type": "cosine",
        "adam_beta2": 0.95,
        "weight_decay": 0.1,
        "loss_type": "sigmoid",
        "beta": 0.1,
        "truncation_strategy": "delete",
        "lora_rank": 8,
        "lora_alpha": 32,
        "lora_dropout": 0.05,
        "target_modules": "all-linear",
        "logging_steps": 5,
        "save_steps": 500,
        "report_to": "tensorboard",
        "output_dir": "output",
    },
    translate=translate,
)  # fmt: skip
