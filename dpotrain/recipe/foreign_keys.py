"""Keys of other trainers (transformers, TRL, peft, axolotl, LLaMA-Factory, ms-swift), and what each is in a recipe.

Unknown keys of a recipe are looked up here for a hint, and ``dpotrain convert`` translates by the same table.
"""

from __future__ import annotations

from dpotrain.recipe.foreign import Foreign, Gap


def _unneeded(note: str) -> Foreign:
    return Foreign(note=note, gap=Gap.NOT_NEEDED)


def _none(note: str) -> Foreign:
    return Foreign(note=note, gap=Gap.NONE)


def _same_training(note: str) -> Foreign:
    return Foreign(note=note, gap=Gap.SAME_TRAINING)


def _unsupported(note: str) -> Foreign:
    return Foreign(note=note, gap=Gap.NOT_SUPPORTED)


_STEP = "the pairs of one update: batch size per device * gradient accumulation * number of processes"
_ATTENTION = _unneeded(
    "attention over packed pairs is chosen automatically; model.attention is for models that cannot be packed"
)
_PROMPTS = Foreign("data.max_prompt_length", "less than data.max_length; a longer prompt is cut at its start")
_CUTS = '"end" cuts answers at their end, "start" prompts at their start, "drop" drops longer pairs'
_ANSWERS = _none("answers have no bound of their own; data.max_length bounds prompt + answer")
_WORKERS = _unneeded(
    "data is tokenized once by worker processes and cached; their number follows from the machine"
)
_PACKED = _unneeded("pairs are packed without padding wherever the model allows it")
_SFT_TERM = Foreign(
    "[[loss.terms]]",
    '[loss] use = "mix" is the sum of losses: one term is the loss, another "sft" with this weight',
)
_WEIGHTING = Foreign("loss.weighting", '"wpo"', values={True: "wpo", False: None})
_SHARDING = _same_training(
    'parallel.shard = "all" shards weights, gradients and optimizer state over the processes'
)
_EVALUATIONS = Foreign(
    "evaluation.every", "a number of steps; the held-out pairs are also evaluated before and after training"
)
_SAVES = Foreign("checkpoints.every", "a number of steps, or false for none; the last step is always saved")
_LOGGERS = Foreign("[[loggers]]", 'one table for each service, as in [[loggers]] use = "wandb"')
_HUB = Foreign("[[exporters]]", 'use = "hub" with repo = "you/name" pushes the result after the run')
_LORA = Foreign("[adapter]", 'use = "lora" trains an adapter; without the table all weights are trained')
_LAYERS = Foreign(
    "[adapter]", 'use = "layers" trains the last layers (last = 2), or weights by name (match = […])'
)
_FOUR_BIT = Foreign("[quantizer]", 'use = "bnb-4bit" loads the weights in 4 bits')
_LIGER = Foreign(
    "model.use",
    '"liger" loads the model with Liger\'s kernels (pip install dpotrain[liger])',
    values={True: "liger", False: None},
)
_PRECISION = Foreign("training.precision", '"bf16" (mixed precision) or "fp32"')
_EARLY = Foreign("[[callbacks]]", 'use = "early-stopping" with patience, a number of evaluations')
_ROUTERS = Foreign("training.router_loss_weight", "of a mixture of experts; unset, it is the model's own")
_MOVING = Foreign("reference.update", "{ every = 512, share = 0.6 }: sync steps and mixup alpha")
_BETAS = Foreign("optimizer.betas", "a list of both, as in [0.9, 0.999]")
_LORA_PLUS = Foreign("[[optimizer.groups]]", 'match = "*lora_B*", and as lr the ratio times optimizer.lr')
_LOSS = Foreign(
    "loss.use",
    'TRL\'s "sigmoid" is "dpo", "sigmoid_norm" "dpo-norm", "exo_pair" "exo", "nca_pair" "nca", "bco_pair" "bco", '
    '"sppo_hard" "sppo"; others have the same name, with - for _; several are [[loss.terms]] of use = "mix"',
)
_WEIGHTS = Foreign("[[loss.terms]]", '[loss] use = "mix" is the sum of losses, each a table with its weight')
_DIVERGENCES = {
    "reverse_kl": "reverse-kl",
    "forward_kl": "forward-kl",
    "js_divergence": "jensen-shannon",
    "alpha_divergence": "alpha",
}
_DATA = Foreign("data.name", "a hub name, a folder, or json, jsonl, csv or parquet files")
_SOURCES = Foreign("[[data.sources]]", "one table for each data set, with weight, fraction or pairs of it")
_WEIGHT = Foreign(
    "[[data.sources]]",
    "weight of each source; repeat = true goes on until all of them are used up, not only the first",
)
_OTHER_DATA = Foreign(
    "data.eval_split", 'another split, or another file: name = { train = "a.jsonl", test = "b.jsonl" }'
)
_SCHEDULES = {
    "cosine": "cosine",
    "cosine_with_min_lr": "cosine",
    "linear": "linear",
    "constant": "constant",
    "constant_with_warmup": "constant",
    "warmup_stable_decay": "wsd",
    "inverse_sqrt": "inverse-sqrt",
}
_OPTIMIZERS = {
    **dict.fromkeys(("adamw_torch", "adamw_torch_fused", "adamw_hf", "adamw_apex_fused"), "adamw"),
    **dict.fromkeys(("paged_adamw", "paged_adamw_32bit"), "adamw"),
    **dict.fromkeys(("adamw_bnb_8bit", "adamw_8bit"), "adamw-8bit"),
    "paged_adamw_8bit": "adamw-8bit-paged",
    "adafactor": "adafactor",
    **dict.fromkeys(("lion_32bit", "paged_lion_32bit", "lion_8bit", "paged_lion_8bit"), "lion"),
    "muon": "muon",
}
_OPTIMIZER = Foreign(
    "optimizer.use",
    '"adamw", "adamw-8bit", "adamw-8bit-paged", "adafactor", "lion" or "muon"',
    values=_OPTIMIZERS,
)
_SCHEDULE = Foreign(
    "schedule.use", '"cosine", "linear", "constant", "wsd" or "inverse-sqrt"', values=_SCHEDULES
)

#: By the key's own name. A tool whose key means something else has an entry of its own in ``dpotrain/convert``.
FOREIGN_KEYS: dict[str, Foreign] = {
    # model
    "model_name_or_path": Foreign("model.name"),
    "model_id_or_path": Foreign("model.name"),
    "base_model": Foreign("model.name"),
    "pretrained_model_name_or_path": Foreign("model.name"),
    "model_revision": Foreign("model.revision"),
    "revision_of_model": Foreign("model.revision"),
    "torch_dtype": Foreign("model.dtype"),
    "dtype": Foreign("model.dtype"),
    "trust_remote_code": Foreign("model.trust_remote_code"),
    "attn_implementation": _ATTENTION,
    "attn_impl": _ATTENTION,
    "flash_attn": _ATTENTION,
    "flash_attention": _ATTENTION,
    "use_flash_attention_2": _ATTENTION,
    "use_liger_kernel": _LIGER,
    "enable_liger_kernel": _LIGER,
    "use_liger": _LIGER,
    "model_type": _unneeded("the architecture is read from the model's config.json"),
    "tokenizer_type": _unneeded("the tokenizer is the model's own"),
    "tokenizer_name_or_path": _none(
        "the tokenizer is the model's own; put another one into the model's folder"
    ),
    # adapter and quantizer
    "use_peft": _LORA,
    "use_lora": _LORA,
    "finetuning_type": _LORA,
    "train_type": _LORA,
    "tuner_type": _LORA,
    "sft_type": _LORA,
    "r": Foreign("adapter.rank"),
    "lora_r": Foreign("adapter.rank"),
    "lora_rank": Foreign("adapter.rank"),
    "lora_alpha": Foreign("adapter.alpha"),
    "lora_dropout": Foreign("adapter.dropout"),
    "lora_target_modules": Foreign("adapter.target_modules"),
    "lora_target": Foreign("adapter.target_modules"),
    "target_modules": Foreign("adapter.target_modules"),
    "lora_target_linear": Foreign("adapter.target_modules", '"all-linear", which is the default'),
    "lora_modules_to_save": Foreign("adapter.modules_to_save"),
    "modules_to_save": Foreign("adapter.modules_to_save"),
    "additional_target": Foreign("adapter.modules_to_save"),
    "use_rslora": Foreign("adapter.rslora"),
    "peft_use_rslora": Foreign("adapter.rslora"),
    "use_dora": Foreign("adapter.dora"),
    "peft_use_dora": Foreign("adapter.dora"),
    "lora_bias": _none(
        "biases are not trained: they are changed in place, and the reference would move with them"
    ),
    "freeze_trainable_layers": _LAYERS,
    "freeze_trainable_modules": _LAYERS,
    "freeze_extra_modules": _LAYERS,
    "unfrozen_parameters": _LAYERS,
    "trainable_parameters": _LAYERS,
    "trainable_parameters_regex": _LAYERS,
    "load_in_4bit": _FOUR_BIT,
    "use_4bit": _FOUR_BIT,
    "quantization_bit": _FOUR_BIT,
    "quant_bits": _FOUR_BIT,
    "load_in_8bit": Foreign("[quantizer]", 'use = "bnb-8bit" loads the weights in 8 bits'),
    "bnb_4bit_quant_type": Foreign("quantizer.quant_type"),
    "bnb_4bit_use_double_quant": Foreign("quantizer.double_quant"),
    "use_bnb_nested_quant": Foreign("quantizer.double_quant"),
    "double_quantization": Foreign("quantizer.double_quant"),
    "quantization_type": Foreign("quantizer.quant_type"),
    "bnb_4bit_compute_dtype": Foreign("quantizer.compute_dtype"),
    "bnb_4bit_quant_storage": _unneeded("4-bit weights are sharded byte by byte, whatever they are held in"),
    # data
    "dataset_name": _DATA,
    "dataset": _DATA,
    "datasets": _SOURCES,
    "dataset_mixture": _SOURCES,
    "dataset_mixer": _SOURCES,
    "mix_strategy": _WEIGHT,
    "interleave_probs": _WEIGHT,
    "interleave_prob": _WEIGHT,
    "stopping_strategy": _WEIGHT,
    "eval_dataset": _OTHER_DATA,
    "test_datasets": _OTHER_DATA,
    "val_dataset": _OTHER_DATA,
    "train_file": _DATA,
    "data_path": _DATA,
    "dataset_config": Foreign("data.config"),
    "dataset_train_split": Foreign("data.train_split"),
    "dataset_test_split": Foreign("data.eval_split"),
    "val_size": Foreign("data.eval_fraction", "a share between 0 and 1"),
    "val_set_size": Foreign("data.eval_fraction", "a share between 0 and 1"),
    "split_dataset_ratio": Foreign("data.eval_fraction"),
    "test_split_size": Foreign("data.eval_fraction", "a share between 0 and 1"),
    "max_samples": Foreign("data.limit"),
    "max_length": Foreign("data.max_length"),
    "max_seq_length": Foreign("data.max_length"),
    "sequence_len": Foreign("data.max_length"),
    "cutoff_len": Foreign("data.max_length"),
    "max_prompt_length": _PROMPTS,
    "max_prompt_len": _PROMPTS,
    "max_completion_length": _ANSWERS,
    "max_target_length": _ANSWERS,
    "truncation_mode": Foreign("data.truncation", _CUTS, values={"keep_start": "end", "keep_end": "start"}),
    "excess_length_strategy": Foreign("data.truncation", _CUTS, values={"drop": "drop", "truncate": "end"}),
    "truncation_strategy": Foreign(
        "data.truncation", _CUTS, values={"delete": "drop", "left": "start", "right": "end"}
    ),
    "chat_template_arguments": Foreign("data.template_arguments"),
    "chat_template_kwargs": Foreign("data.template_arguments"),
    "enable_thinking": Foreign(
        "data.template_arguments",
        "{ enable_thinking = false }",
        values={each: {"enable_thinking": each} for each in (True, False)},
    ),
    "template": Foreign("model.chat_template", "unless the tokenizer's own template is right"),
    "dataset_num_proc": _WORKERS,
    "dataset_processes": _WORKERS,
    "dataloader_num_workers": _WORKERS,
    "preprocessing_num_workers": _WORKERS,
    "sample_packing": _PACKED,
    "neat_packing": _PACKED,
    "padding_free": _PACKED,
    "pad_to_sequence_len": _PACKED,
    "pad_to_multiple_of": _PACKED,
    "group_by_length": _unneeded("the pairs of a step are packed by their lengths"),
    "remove_unused_columns": _unneeded("columns are read by the formatter; others are listed and left alone"),
    # loss and reference
    "beta": Foreign("loss.beta"),
    "pref_beta": Foreign("loss.beta"),
    "rl_beta": Foreign("loss.beta"),
    "dpo_beta": Foreign("loss.beta"),
    "label_smoothing": Foreign("loss.label_smoothing"),
    "dpo_label_smoothing": Foreign("loss.label_smoothing"),
    "loss_type": _LOSS,
    "pref_loss": _LOSS,
    "simpo_gamma": Foreign("loss.gamma"),
    "cpo_alpha": Foreign("loss.weight"),
    "discopop_tau": Foreign("loss.tau"),
    "rpo_alpha": _SFT_TERM,
    "pref_ftx": _SFT_TERM,
    "pref_bco_weight": _WEIGHTS,
    "loss_weights": _WEIGHTS,
    "dpo_loss_type": _LOSS,
    "dpo_loss_weights": _WEIGHTS,
    "ref_model": Foreign("reference.of"),
    "ref_model_name_or_path": Foreign("reference.of"),
    "precompute_ref_log_probs": Foreign(
        "reference.when",
        '"precomputed" or "live"; "auto" chooses',
        None,
        {True: "precomputed", False: "auto"},
    ),
    "sync_ref_model": _MOVING,
    "ref_model_sync_steps": _MOVING,
    "ref_model_mixup_alpha": _MOVING,
    "reference_free": _none(
        'loss.use picks a loss without a reference: "cpo" with weight = 0 is DPO without one'
    ),
    "f_divergence_type": Foreign(
        "loss.divergence", '"forward-kl", "jensen-shannon", "alpha" or "chi-squared"', values=_DIVERGENCES
    ),
    "f_alpha_divergence_coef": Foreign(
        "loss.divergence_alpha", "1 less TRL 1.16's coefficient; that of older versions as it is"
    ),
    "use_weighting": _WEIGHTING,
    "dpo_use_weighting": _WEIGHTING,
    "ld_alpha": Foreign("loss.tail_weight"),
    "disable_dropout": _unneeded("dropout of the model is off; adapter.dropout alone is drawn"),
    # optimizer and schedule
    "learning_rate": Foreign("optimizer.lr"),
    "optim": _OPTIMIZER,
    "weight_decay": Foreign("optimizer.weight_decay"),
    "adam_beta1": _BETAS,
    "adam_beta2": _BETAS,
    "adam_epsilon": Foreign("optimizer.eps"),
    "loraplus_lr_ratio": _LORA_PLUS,
    "lorap_lr_ratio": _LORA_PLUS,
    "lr_scheduler_type": _SCHEDULE,
    "lr_scheduler": _SCHEDULE,
    "warmup_ratio": Foreign("schedule.warmup_fraction"),
    "warmup_steps": Foreign("schedule.warmup_steps"),
    "lr_scheduler_kwargs": Foreign(
        "schedule.min_lr_fraction", "the last learning rate as a share of the peak"
    ),
    "cosine_min_lr_ratio": Foreign("schedule.min_lr_fraction"),
    # training
    "per_device_train_batch_size": Foreign(
        "training.pairs_per_step", f"{_STEP}; micro-batches follow from memory"
    ),
    "micro_batch_size": Foreign("training.pairs_per_step", f"{_STEP}; micro-batches follow from memory"),
    "gradient_accumulation_steps": Foreign(
        "training.pairs_per_step", f"{_STEP}; micro-batches follow from memory"
    ),
    "batch_size": Foreign("training.pairs_per_step", _STEP),
    "train_batch_size": Foreign("training.pairs_per_step", _STEP),
    "per_device_eval_batch_size": _unneeded(
        "the size of micro-batches follows from memory, in evaluation too"
    ),
    "eval_batch_size": _unneeded("the size of micro-batches follows from memory, in evaluation too"),
    "num_train_epochs": Foreign("training.epochs"),
    "num_epochs": Foreign("training.epochs"),
    "max_steps": Foreign("training.steps"),
    "bf16": _PRECISION,
    "fp16": _PRECISION,
    "mixed_precision": _PRECISION,
    "bfloat16": _PRECISION,
    "tf32": _none(
        'TF32 is not switched on; with training.precision = "bf16" matrix products are in bfloat16'
    ),
    "max_grad_norm": Foreign("training.max_grad_norm", values={0: False}),
    "gradient_clipping": Foreign("training.max_grad_norm"),
    "gradient_checkpointing": Foreign(
        "training.activation_checkpointing",
        '"auto" recomputes as few layers as memory needs; results are the same',
    ),
    "activation_offloading": Foreign(
        "training.activation_offload",
        "of checkpointed layers the inputs are kept, and only these are moved; results are the same",
    ),
    "gradient_checkpointing_kwargs": _unneeded("see training.activation_checkpointing"),
    "torch_compile": Foreign("training.compile"),
    "context_parallel_size": Foreign("parallel.context"),
    "sequence_parallel_degree": Foreign("parallel.context"),
    "sequence_parallel_size": Foreign("parallel.context"),
    "deepspeed": _SHARDING,
    "fsdp": _SHARDING,
    "fsdp_config": _SHARDING,
    "router_aux_loss_coef": _ROUTERS,
    "moe_aux_loss_coef": _ROUTERS,
    "aux_loss_coef": _ROUTERS,
    "output_router_logits": Foreign(
        "training.router_loss_weight",
        "a weight; 0 trains a mixture of experts without",
        values={True: "auto", False: 0.0},
    ),
    "neftune_noise_alpha": _unsupported("noise on the embeddings is not supported"),
    "use_unsloth": _unneeded("the engine packs pairs and computes log-probs in chunks by itself"),
    # run
    "logging_steps": Foreign("logging.every"),
    "eval_steps": _EVALUATIONS,
    "eval_strategy": _EVALUATIONS,
    "evaluation_strategy": _EVALUATIONS,
    "evals_per_epoch": _EVALUATIONS,
    "do_eval": _EVALUATIONS,
    "save_steps": Foreign("checkpoints.every"),
    "save_strategy": _SAVES,
    "saves_per_epoch": _SAVES,
    "save_total_limit": Foreign("checkpoints.keep"),
    "load_best_model_at_end": Foreign(
        "evaluation.best",
        "final/ is then the policy of the best evaluation; checkpoints.best names the metric",
    ),
    "early_stopping_patience": _EARLY,
    "early_stopping_steps": _EARLY,
    "output_dir": Foreign("run.output_dir"),
    "overwrite_output_dir": _same_training(
        "a run folder is never overwritten; --resume continues the run in it"
    ),
    "resume_from_checkpoint": _unneeded(
        "`dpotrain run RECIPE --resume` continues from the newest checkpoint"
    ),
    "report_to": _LOGGERS,
    "use_wandb": _LOGGERS,
    "wandb_project": Foreign("[[loggers]]", 'project, in a table with use = "wandb"'),
    "run_name": Foreign("[[loggers]]", "name, in the service's table; the run folder's name unless set"),
    "push_to_hub": _HUB,
    "hub_model_id": _HUB,
    "seed": Foreign("seed"),
    # the recipe's own names, in the wrong place
    "lr": Foreign("optimizer.lr"),
    "betas": Foreign("optimizer.betas"),
    "eps": Foreign("optimizer.eps"),
    "rank": Foreign("adapter.rank"),
    "alpha": Foreign("adapter.alpha"),
    "dropout": Foreign("adapter.dropout"),
}


def foreign_hint(key: str, *, at_top: bool = False) -> str:
    """Return ``; it is called optimizer.lr here`` for a key of another tool, "" for one that is not known.

    A key that has the same name here stands in the wrong table. At the top of a recipe the hint names its table.
    """
    found = FOREIGN_KEYS.get(key.replace("-", "_"))
    if found is None:
        return ""
    table, _, name = found.here.rpartition(".")
    if name == key:
        return f"; it belongs to [{table}]" if at_top and table else ""
    return f"; {found.hint()}"
