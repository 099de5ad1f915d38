"""Keys of each tool, one at a time: what they become, and what is said of those that become nothing."""

from pathlib import Path
from typing import Any

import pytest

from dpotrain.core.errors import RecipeError
from dpotrain.recipe.foreign import Gap
from dpotrain.recipe.load import load_recipe
from tests.convert.converting import made


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def value(tool: str, keys: dict[str, Any], place: str) -> Any:
    """Return what stands at a place of the recipe, None where nothing does."""
    converted = made(tool, keys)
    assert converted.fault == ""
    Path("r.toml").write_text(converted.text)
    found: Any = load_recipe("r.toml").document
    for part in place.split("."):
        found = found[int(part)] if isinstance(found, list) else found.get(part)
        if found is None:
            return None
    return found


AX, LF, SW = "axolotl", "llama-factory", "ms-swift"
LORA = {"adapter": "lora", "lora_r": 8}
FREEZE, FULL = {"finetuning_type": "freeze"}, {"train_type": "full"}
WSD = {
    "lr_scheduler_type": "warmup_stable_decay",
    "lr_scheduler_kwargs": {"num_decay_steps": 20.0, "min_lr_ratio": 0.1, "warmup_type": "linear"},
}


@pytest.mark.parametrize(
    ("tool", "keys", "place", "expected"),
    [
        ("trl", {"use_peft": True, "lora_target_modules": "all-linear"}, "adapter.target_modules", "all-linear"),
        ("trl", {"use_peft": True, "load_in_8bit": True}, "quantizer.use", "bnb-8bit"),
        ("trl", {"use_peft": True, "load_in_4bit": True, "use_bnb_nested_quant": True}, "quantizer.double_quant", True),
        ("trl", {"use_peft": True, "load_in_4bit": True, "bnb_4bit_quant_type": "fp4"}, "quantizer.quant_type", "fp4"),
        ("trl", {"label_smoothing": 0.1}, "loss.label_smoothing", 0.1),
        ("trl", {"router_aux_loss_coef": 0.02}, "training.router_loss_weight", 0.02),
        (LF, {"moe_aux_loss_coef": 0.01}, "training.router_loss_weight", 0.01),
        (SW, {"router_aux_loss_coef": 0}, "training.router_loss_weight", 0),
        ("trl", {"loss_type": ["sigmoid"], "loss_weights": [1.0]}, "loss.use", "dpo"),
        ("trl", {"lr_scheduler_type": "cosine", "lr_scheduler_kwargs": {"min_lr_rate": 0.1}},
         "schedule.min_lr_fraction", 0.1),
        ("trl", {"optim": "adafactor", "adam_beta2": 0.95}, "optimizer.use", "adafactor"),
        ("trl", {"optim": "lion_8bit"}, "optimizer.betas", [0.9, 0.999]),
        ("trl", {"optim": "paged_lion_32bit", "adam_beta2": 0.99}, "optimizer.betas", [0.9, 0.99]),
        ("trl", {"optim": "paged_adamw_8bit", "adam_epsilon": 1e-6}, "optimizer.use", "adamw-8bit-paged"),
        (AX, {"optimizer": "muon", "adam_beta2": 0.95}, "optimizer.use", "muon"),
        (LF, {"use_muon": True}, "optimizer.use", "muon"),
        (LF, {"use_muon": False}, "optimizer.use", "adamw"),
        (SW, {"optim": "adafactor"}, "optimizer.use", "adafactor"),
        ("trl", {"lr_scheduler_type": "inverse_sqrt", "lr_scheduler_kwargs": {"timescale": 50}},
         "schedule.timescale", 50),
        ("trl", {"lr_scheduler_type": "inverse_sqrt"}, "schedule.use", "inverse-sqrt"),
        ("trl", WSD, "schedule.decay_steps", 20),
        ("trl", WSD, "schedule.shape", "cosine"),
        ("trl", WSD, "schedule.min_lr_fraction", 0.1),
        ("trl", {"lr_scheduler_type": "warmup_stable_decay", "lr_scheduler_kwargs": {"decay_type": "1-sqrt"}},
         "schedule.shape", "1-sqrt"),
        (AX, {**LORA, "loraplus_lr_ratio": 16}, "optimizer.groups.0.lr", 16e-5),
        (LF, {"loraplus_lr_ratio": 4.0}, "optimizer.groups", [{"match": "*lora_B*", "lr": 2e-4}]),
        (SW, {"lorap_lr_ratio": 2.0}, "optimizer.groups.0.lr", 2e-4),
        ("trl", {"push_to_hub": True, "hub_model_id": "me/x", "hub_private_repo": False}, "exporters.0.private", False),
        ("trl", {"report_to": "wandb", "run_name": "mine"}, "loggers.0.name", "mine"),
        ("trl", {"datasets": [{"path": "a", "name": "c", "split": "s"}]}, "data.config", "c"),
        ("trl", {"datasets": [{"path": "a"}], "test_split_size": 0.1, "eval_strategy": "steps"},
         "data.eval_fraction", 0.1),
        ("trl", {"model_revision": "v1"}, "model.revision", "v1"),
        ("trl", {"max_prompt_length": 512}, "data.max_prompt_length", 512),
        ("trl", {"truncation_mode": "keep_end"}, "data.truncation", "start"),
        ("trl", {"truncation_mode": "keep_start"}, "data.truncation", "end"),
        ("trl", {}, "data.truncation", "end"),
        (AX, {}, "data.truncation", "drop"),
        (AX, {"excess_length_strategy": "truncate"}, "data.truncation", "end"),
        (AX, {"max_prompt_len": 128.0}, "data.max_prompt_length", 128),
        (AX, {"chat_template_kwargs": {"thinking": True}}, "data.template_arguments", {"thinking": True}),
        (LF, {"enable_thinking": False}, "data.template_arguments", {"enable_thinking": False}),
        (SW, {"enable_thinking": True}, "data.template_arguments", {"enable_thinking": True}),
        (SW, {}, "data.truncation", "drop"),
        (SW, {"truncation_strategy": "left"}, "data.truncation", "start"),
        (SW, {"truncation_strategy": "right"}, "data.truncation", "end"),
        (AX, {"rl": "ipo"}, "loss.use", "ipo"),
        (AX, {"dpo_norm_loss": True}, "loss.use", "dpo-norm"),
        (AX, {"rl_beta": 0.2}, "loss.beta", 0.2),
        (AX, {"rl_beta": 0.2, "trl": {"beta": 0.3}}, "loss.beta", 0.3),
        (AX, {"dpo_label_smoothing": 0.1}, "loss.label_smoothing", 0.1),
        (AX, {"hub_model_id": "me/x"}, "exporters.0.repo", "me/x"),
        (AX, {"test_datasets": [{"path": "d", "split": "test"}]}, "data.eval_split", "test"),
        (AX, {"chat_template": "jinja", "chat_template_jinja": "{{ x }}"}, "model.chat_template", "{{ x }}"),
        (AX, {"chat_template_jinja": "{{ x }}"}, "model.chat_template", "{{ x }}"),
        (AX, {"datasets": [{"path": "d", "name": "c", "revision": "v1"}]}, "data.revision", "v1"),
        (AX, {"datasets": [{"path": "json", "data_files": "org/x", "ds_type": "json"}]}, "data.name", "org/x"),
        (AX, {"datasets": [{"path": "d", "type": "chatml.icr"}]}, "data.format", "question"),
        (AX, {"datasets": [{"path": "d", "type": "chatml.intel"}]}, "model.chat_template", "chatml"),
        (AX, {"datasets": [{"path": "d", "type": "llama3.argilla"}]}, "model.chat_template", None),
        (AX, {**LORA, "lora_target_modules": ["q_proj"]}, "adapter.target_modules", ["q_proj"]),
        (AX, {**LORA, "bf16": False}, "model.dtype", "float32"),
        (AX, {"bf16": True}, "model.dtype", "bfloat16"),
        (AX, {"cosine_min_lr_ratio": 0.1}, "schedule.min_lr_fraction", 0.1),
        (AX, {}, "schedule.warmup_fraction", 0.03),
        (AX, {"warmup_steps": 5}, "schedule.warmup_fraction", 0.0),
        (AX, {"val_set_size": 0.1, "eval_steps": 50}, "evaluation.every", 50),
        (AX, {"wandb_project": "p", "wandb_entity": "e", "use_tensorboard": True}, "loggers.0.entity", "e"),
        (AX, {"wandb_project": "p", "use_tensorboard": True}, "loggers.1.use", "tensorboard"),
        (LF, {"disable_shuffling": True}, "data.shuffle", False),
        (LF, {"lora_rank": 4}, "adapter.alpha", 8),
        (LF, {"lora_alpha": 4}, "adapter.alpha", 4),
        (LF, {"additional_target": "embed_tokens,lm_head"}, "adapter.modules_to_save", ["embed_tokens", "lm_head"]),
        (LF, {"quantization_bit": 8}, "quantizer.use", "bnb-8bit"),
        (LF, {"finetuning_type": "full"}, "model.dtype", "float32"),
        (LF, {"finetuning_type": "full"}, "adapter", None),
        (LF, FREEZE, "adapter.use", "layers"),
        (LF, FREEZE, "adapter.last", 2),
        (LF, FREEZE, "adapter.match", []),
        (LF, {**FREEZE, "freeze_trainable_layers": 3, "freeze_extra_modules": "embed_tokens,norm"}, "adapter.match",
         ["*embed_tokens*", "*norm*"]),
        (LF, {**FREEZE, "freeze_trainable_layers": -2, "freeze_trainable_modules": "mlp"}, "adapter.match",
         ["*.0.mlp*", "*.1.mlp*"]),
        (AX, {"unfrozen_parameters": ["^lm_head.weight$", "model.norm", "model.layers.2[0-9]+.mlp", ".+.bias$"]},
         "adapter.match", ["lm_head.weight", "model.norm*", r"re:model\.layers\.2[0-9]+\.mlp.*", r"re:.+\.bias$"]),
        (SW, {**FULL, "freeze_parameters_ratio": 1, "trainable_parameters": ["lm_head", "model.norm"]},
         "adapter.match", ["lm_head*", "model.norm*"]),
        (SW, {**FULL, "freeze_parameters_ratio": 1, "trainable_parameters_regex": "mlp"}, "adapter.match",
         ["re:.*(?:mlp).*"]),
        (SW, {**FULL, "freeze_parameters": ["model.embed", "model.layers.0."], "freeze_parameters_regex": "bias$"},
         "adapter.match", [r"re:(?!model\.embed|model\.layers\.0\.|.*(?:bias$)).*"]),
        (SW, {**FULL, "trainable_parameters": ["lm_head"]}, "adapter", None),
        (LF, {"pref_loss": "ipo"}, "loss.use", "ipo"),
        (LF, {"dpo_label_smoothing": 0.1}, "loss.label_smoothing", 0.1),
        (LF, {"pref_loss": "simpo", "pref_beta": 2.0}, "loss.gamma", 0.5),
        (LF, {"pref_loss": "simpo", "simpo_gamma": 1.4}, "loss.gamma", 1.4),
        (LF, {"pref_loss": "orpo", "pref_beta": 0.2}, "loss.weight", 0.2),
        (LF, {"val_size": 0.1}, "data.eval_fraction", 0.1),
        (LF, {"fp16": True}, "training.precision", "bf16"),
        (LF, {}, "training.precision", "fp32"),
        (SW, {"dataset": "HF::org/d:sub#500"}, "data.name", "org/d"),
        (SW, {"dataset": "HF::org/d:sub#500"}, "data.config", "sub"),
        (SW, {"dataset": ["org/d#500"]}, "data.limit", 500),
        (SW, {"ref_model": "m", "train_type": "full"}, "reference.of", "initial-policy"),
        (SW, {"ref_model": "other", "train_type": "full"}, "reference.of", "other"),
        (SW, {"quant_bits": 4}, "quantizer.use", "bnb-4bit"),
        (SW, {"label_smoothing": 0.1}, "loss.label_smoothing", 0.1),
        (SW, {"target_modules": ["q_proj", "v_proj"]}, "adapter.target_modules", ["q_proj", "v_proj"]),
        (SW, {"per_device_train_batch_size": 4}, "training.pairs_per_step", 16),
    ],
)  # fmt: skip
def test_a_key_becomes_one_of_the_recipe(tool, keys, place, expected):
    assert value(tool, keys, place) == expected


SAME, NONE, NOT = Gap.SAME_TRAINING, Gap.NONE, Gap.NOT_SUPPORTED
UNNEEDED = Gap.NOT_NEEDED


@pytest.mark.parametrize(
    ("tool", "keys", "key", "gap"),
    [
        ("trl", {"save_strategy": "epoch"}, "save_strategy", SAME),
        ("trl", {"eval_strategy": "epoch"}, "eval_strategy", SAME),
        ("trl", {"save_only_model": True}, "save_only_model", SAME),
        ("trl", {"report_to": "comet_ml"}, "report_to", SAME),
        ("trl", {"push_to_hub": True}, "push_to_hub", SAME),
        ("trl", {"hub_model_id": "me/x"}, "hub_model_id", UNNEEDED),
        ("trl", {"run_name": "x"}, "run_name", UNNEEDED),
        ("trl", {"dataset_test_split": "test"}, "dataset_test_split", UNNEEDED),
        ("trl", {"warmup_steps": 5, "warmup_ratio": 0.1}, "warmup_ratio", UNNEEDED),
        ("trl", {"save_strategy": "no", "save_steps": 5}, "save_steps", UNNEEDED),
        ("trl", {"lr_scheduler_type": "cosine", "lr_scheduler_kwargs": {"min_lr": 1e-8}}, "lr_scheduler_kwargs", NONE),
        ("trl", {"lr_scheduler_type": "cosine", "lr_scheduler_kwargs": {"x": 1}}, "lr_scheduler_kwargs", NOT),
        ("trl", {"lr_scheduler_type": "constant", "lr_scheduler_kwargs": {"x": 1}}, "lr_scheduler_kwargs", NOT),
        ("trl", {"dataset_mixer": {"a": 0.5, "b": 0.5}}, "dataset_mixer: a", NONE),
        ("trl", {"dataset_mixer": {"a": 1, "b": 0}}, "dataset_mixer: b", UNNEEDED),
        ("trl", {"dataset_mixer": "x"}, "dataset_mixer", NONE),
        ("trl", {"datasets": [{"path": "a"}]}, "dataset_name", UNNEEDED),
        ("trl", {"datasets": [{"path": "a", "fraction": 0.5}]}, "datasets[0]: weight", NONE),
        ("trl", {"datasets": [{"path": "a", "weight": 1.5}]}, "datasets[0]: weight", NONE),
        ("trl", {"datasets": [{"path": "org/a", "data_files": "x.json"}]}, "datasets[0]: data_files", NONE),
        ("trl", {"datasets": [{"path": "a", "split": "train[10%:]"}]}, "datasets[0]: split", NONE),
        ("trl", {"datasets": [{"path": "a", "never": 1}]}, "datasets[0]: never", NONE),
        ("trl", {"optim": "adafactor", "adam_beta2": 0.95}, "adam_beta2", UNNEEDED),
        ("trl", {"optim": "adafactor", "adam_epsilon": 1e-6}, "adam_epsilon", UNNEEDED),
        ("trl", {"optim": "lion_32bit", "adam_epsilon": 1e-6}, "adam_epsilon", UNNEEDED),
        ("trl", {"lr_scheduler_type": "warmup_stable_decay"}, "lr_scheduler_type", NONE),
        ("trl", {"lr_scheduler_type": "inverse_sqrt", "lr_scheduler_kwargs": {"x": 1}}, "lr_scheduler_kwargs", NOT),
        ("trl", {**WSD, "lr_scheduler_kwargs": {"num_decay_steps": 9, "warmup_type": "cosine"}},
         "lr_scheduler_kwargs", NOT),
        ("trl", {**WSD, "lr_scheduler_kwargs": {"num_decay_steps": 9, "num_stable_steps": 9}},
         "lr_scheduler_kwargs", NONE),
        (LF, {"loraplus_lr_ratio": "many"}, "loraplus_lr_ratio", NONE),
        ("trl", {"datasets": "x"}, "datasets", NONE),
        ("trl", {"never_heard_of": 3}, "never_heard_of", NONE),
        ("trl", {"never_heard_of": False}, "never_heard_of", UNNEEDED),
        ("trl", {"max_length": 512, "max_prompt_length": 512}, "max_prompt_length", NONE),
        ("trl", {"max_prompt_length": "long"}, "max_prompt_length", NONE),
        ("trl", {"max_completion_length": 128}, "max_completion_length", NONE),
        (AX, {"excess_length_strategy": "raise"}, "excess_length_strategy", NOT),
        (SW, {"truncation_strategy": "split"}, "truncation_strategy", NOT),
        (AX, {"embedding_lr": 1e-6}, "embedding_lr", NONE),
        (AX, {"rl_beta": 0.2, "trl": {"beta": 0.3}}, "rl_beta", UNNEEDED),
        (AX, {"trl": {"use_vllm": True}}, "trl.use_vllm", NONE),
        (AX, {"rl": "ipo", "dpo_label_smoothing": 0.1}, "dpo_label_smoothing", UNNEEDED),
        (AX, {"dpo_norm_loss": True, "dpo_label_smoothing": 0.1}, "dpo_label_smoothing", UNNEEDED),
        (AX, {"rl": "ipo", "dpo_norm_loss": True}, "dpo_norm_loss", UNNEEDED),
        (LF, {"pref_loss": "ipo", "simpo_gamma": 1.0}, "simpo_gamma", UNNEEDED),
        (AX, {"test_datasets": [{"path": "e"}]}, "test_datasets", NOT),
        (AX, {"val_set_size": 100}, "val_set_size", NONE),
        (AX, {"chat_template": "tokenizer_default"}, "chat_template", UNNEEDED),
        (AX, {"chat_template": "gemma"}, "chat_template", NONE),
        (AX, {"datasets": [{"path": "d", "type": {"field_prompt": "x"}}]}, "datasets: type", NONE),
        (AX, {"datasets": [{"path": "d", "type": "user_defined.other"}]}, "datasets: type", NONE),
        (AX, {"datasets": [{"path": "d", "shards": 3}]}, "datasets: shards", UNNEEDED),
        (AX, {"test_datasets": [{"path": "d", "split": "test"}], "val_set_size": 0.1}, "val_set_size", UNNEEDED),
        (AX, {"datasets": [{"path": "d", "message_property_mappings": {"role": "r"}}]},
         "datasets: message_property_mappings", NONE),
        (AX, {**LORA, "lora_model_dir": "x"}, "lora_model_dir", NONE),
        (AX, {"eval_steps": 50}, "eval_steps", UNNEEDED),
        (AX, {"val_set_size": 0.1, "eval_steps": 0.5}, "eval_steps", SAME),
        (AX, {"eval_strategy": "steps"}, "eval_strategy", UNNEEDED),
        (AX, {"micro_batch_size": "auto"}, "micro_batch_size", NONE),
        (LF, {"eval_dataset": "e"}, "eval_dataset", NOT),
        (LF, {"val_size": 100}, "val_size", NONE),
        (LF, {"adapter_name_or_path": "x"}, "adapter_name_or_path", NONE),
        (LF, {"finetuning_type": "full", "lora_rank": 4}, "lora_rank", UNNEEDED),
        (LF, {"mix_strategy": "interleave_over"}, "mix_strategy", UNNEEDED),
        (LF, {"dataset": "a,b", "mix_strategy": "sometimes"}, "mix_strategy", NONE),
        (LF, {"dataset": "a,b", "mix_strategy": "interleave_under", "interleave_probs": "1"}, "interleave_probs", NONE),
        (LF, {"dataset": "a,b", "interleave_probs": "0.5,0.5"}, "interleave_probs", UNNEEDED),
        (LF, {"use_galore": True}, "use_galore", NOT),
        (SW, {"dataset": ["a", "b"], "stopping_strategy": "all_exhausted"}, "stopping_strategy", UNNEEDED),
        (SW, {"dataset": ["a", "b"], "interleave_prob": [0.5, 0.5]}, "interleave_prob", NONE),
        (SW, {"dataset": ["org/a:x/y#10"]}, "dataset: org/a:x/y#10", NONE),
        (SW, {"val_dataset": "d:x", "split_dataset_ratio": 0.1}, "split_dataset_ratio", UNNEEDED),
        (SW, {"val_dataset": "e"}, "val_dataset", NOT),
        (SW, {"eval_steps": 5}, "eval_steps", UNNEEDED),
        (SW, {"eval_strategy": "steps"}, "eval_strategy", UNNEEDED),
        (SW, {"adapters": "x"}, "adapters", NONE),
        (SW, {"train_type": "full", "lora_rank": 8}, "lora_rank", UNNEEDED),
        (SW, {"deepspeed": "zero3"}, "deepspeed", SAME),
        (LF, {**FREEZE, "freeze_trainable_modules": "mlp"}, "freeze_trainable_modules", NONE),
        (LF, {**FREEZE, "lora_rank": 8}, "lora_rank", UNNEEDED),
        (LF, {"freeze_trainable_layers": 3}, "freeze_trainable_layers", UNNEEDED),
        (AX, {"unfrozen_parameters": ["model.embed_tokens.weight$[:32000]"]}, "unfrozen_parameters", NOT),
        (AX, {**LORA, "unfrozen_parameters": ["lm_head"]}, "unfrozen_parameters", NOT),
        (SW, {**FULL, "freeze_parameters_ratio": 0.5}, "freeze_parameters_ratio", NONE),
        (SW, {**FULL, "trainable_parameters": ["lm_head"]}, "trainable_parameters", UNNEEDED),
        (SW, {"trainable_parameters": ["lm_head"]}, "trainable_parameters", NONE),
    ],
)  # fmt: skip
def test_a_key_is_listed_with_what_it_means_for_the_training(tool, keys, key, gap):
    left = {each.key: each for each in made(tool, keys).translation.left}
    assert left[key].gap is gap
    assert left[key].reason


@pytest.mark.parametrize(
    ("tool", "keys"),
    [
        (AX, {"adapter": "oft"}),
        (AX, {"load_in_4bit": True}),
        (LF, {"finetuning_type": "oft"}),
        (LF, {"finetuning_type": "freeze", "quantization_bit": 4}),
        (LF, {"finetuning_type": "freeze", "freeze_trainable_layers": 0}),
        (SW, {"train_type": "full", "freeze_parameters_ratio": 1}),
        (LF, {"quantization_bit": 3}),
        (LF, {"pref_bco_weight": -0.1}),
        (SW, {"train_type": "longlora"}),
        (SW, {"quant_bits": 3}),
    ],
)
def test_what_would_be_another_training_is_refused(tool, keys):
    with pytest.raises(RecipeError, match="nothing was written"):
        made(tool, keys)


def test_a_hub_name_of_dataset_info_is_taken(folder):
    (folder / "data").mkdir()
    entry = '{"d": {"hf_hub_url": "org/d", "subset": "s", "columns": {"prompt": "ask", "chosen": "good"}}}'
    (folder / "data" / "dataset_info.json").write_text(entry)
    assert value(LF, {}, "data.name") == "org/d"
    assert value(LF, {}, "data.config") == "s"
    assert value(LF, {}, "data.columns") == {"instruction": "ask", "chosen": "good"}
