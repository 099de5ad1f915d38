"""The text of a first recipe: every key with what it does, and what else there is."""

from __future__ import annotations

from dpotrain.recipe.draft import Draft
from dpotrain.scaffold.first_recipe.answers import Answers, Choices

#: The template of Llama 2's chat models, for its base models, which have none.
LLAMA2_TEMPLATE = """\
{%- set system = namespace(text="") %}
{%- for message in messages %}
  {%- if message.role == "system" %}
    {%- set system.text = "<<SYS>>\\n" + message.content | trim + "\\n<</SYS>>\\n\\n" %}
  {%- elif message.role == "user" %}
    {{- bos_token + "[INST] " + system.text + message.content | trim + " [/INST]" }}
    {%- set system.text = "" %}
  {%- else %}
    {{- " " + message.content | trim + " " + eos_token }}
  {%- endif %}
{%- endfor %}"""

_OBJECTIVES = {
    "dpo": "sigmoid DPO; others: recipes/README.md, Choosing a loss",
    "ipo": "squared distance of the margin from 1 / (2 * beta)",
    "hinge": "hinge on beta times the margin",
}


def write(answers: Answers, choices: Choices, file: str) -> str:
    """Return the recipe as TOML text, for the file of that name."""
    draft = Draft(_heading(answers, choices, file))
    draft.set("seed", 42, "the same recipe gives the same run")
    draft.set("run.output_dir", choices.output_dir.as_posix(), "metrics, checkpoints and the result go here")
    draft.suggest("run.max_minutes", 600, "save and stop after so long; --resume continues")
    _model(draft, answers, choices)
    if choices.lora:
        _adapter(draft, choices)
    _data(draft, answers, choices)
    others = "others: recipes/README.md, Choosing a loss"
    draft.set("loss.use", answers.loss, _OBJECTIVES.get(answers.loss, others))
    if answers.beta is not None:
        pull = "the higher, the closer the policy stays to the reference"
        known = answers.loss in _OBJECTIVES
        draft.set("loss.beta", answers.beta, pull if known else f"see dpotrain plugins show {answers.loss}")
    if answers.loss == "dpo":
        draft.suggest("loss.label_smoothing", 0.1, "for labels of which one in ten may be wrong")
    _training(draft, answers, choices)
    draft.set("checkpoints.every", choices.save_every, "steps; --resume goes on from the newest")
    if choices.large and not choices.lora:
        draft.set("checkpoints.keep", 1, "the newest, and the one with the lowest evaluation loss")
    else:
        draft.set("checkpoints.keep", 3, "the newest three, and the one with the lowest evaluation loss")
    draft.set("logging.every", choices.log_every, "steps averaged in one line of metrics.jsonl")
    for index, service in enumerate(answers.loggers):
        draft.set(f"loggers.{index}.use", service, "without a key or network it logs into the run folder")
        if service == "wandb":
            draft.set(
                f"loggers.{index}.project", choices.output_dir.name, "name, entity, tags, … are options, too"
            )
    if not answers.loggers:
        draft.suggest("loggers.0.use", "wandb", "or tensorboard, mlflow, trackio")
    return draft.text()


def _heading(answers: Answers, choices: Choices, file: str) -> str:
    what = (
        "LoRA" + (" on 4-bit weights" if choices.four_bit else "") if choices.lora else "all weights trained"
    )
    return (
        f"{answers.model.name} on {answers.data.name}, {what}. Written by `dpotrain init` for "
        f"{answers.machine.describe()}.\n\n"
        f"    dpotrain check {file}    # everything but the weights; shows one pair as the model sees it\n"
        f"    dpotrain run {file}\n\n"
        "Every key is documented in recipes/README.md of dpotrain; `dpotrain schema` is for editors."
    )


def _model(draft: Draft, answers: Answers, choices: Choices) -> None:
    draft.set("model.use", "transformers")
    draft.set("model.name", answers.model.name, "a hub name, or the folder of a model or an adapter")
    if choices.lora:
        draft.set("model.dtype", "bfloat16", "of the frozen weights")
    else:
        draft.set("model.dtype", "float32", "of the weights: small updates get lost in bfloat16")
    name = answers.model.name.lower()
    if answers.model.has_template is False or ("llama-2-" in name and "chat" not in name):
        llama2 = "llama-2" in name
        text = "The tokenizer has no chat template, and conversations need one. Remove it for a model that has its own."
        draft.set(
            "model.chat_template",
            LLAMA2_TEMPLATE if llama2 else "chatml",
            text if llama2 else "conversations need one",
        )
    elif answers.model.has_template is None:
        draft.suggest("model.chat_template", "chatml", "for conversations and a tokenizer without a template")


def _adapter(draft: Draft, choices: Choices) -> None:
    if choices.four_bit:
        draft.set("quantizer.use", "bnb-4bit", "QLoRA's 4-bit NormalFloat; without the table 16-bit weights")
    draft.set("adapter.use", "lora", "without the table all weights are trained")
    draft.set("adapter.rank", choices.rank, "every linear layer gets two matrices of this rank;")
    draft.set("adapter.alpha", choices.alpha, "their product is scaled by alpha / rank")


def _data(draft: Draft, answers: Answers, choices: Choices) -> None:
    data = answers.data
    draft.set("data.use", "hf-datasets")
    draft.set("data.name", data.name, "a hub name, a folder, or json, jsonl, csv or parquet files")
    if data.format == "standard" and answers.model.has_template:
        draft.set(
            "data.format",
            "question",
            'the prompt is one user turn of a chat; "standard" takes it as it stands',
        )
    else:
        reads = f" (it reads as {data.format})" if data.format else ""
        draft.set("data.format", "auto", f"detected from the rows{reads}")
    if data.train_split != "train":
        draft.set("data.train_split", data.train_split)
    if choices.eval_split is not None:
        draft.set("data.eval_split", choices.eval_split, "evaluated before, during and after training")
    elif choices.eval_fraction is not None:
        share = 'held-out prompts, evaluated before, during and after; or eval_split = "test"'
        draft.set("data.eval_fraction", choices.eval_fraction, share)
    else:
        draft.suggest("data.eval_fraction", 0.1, "there are too few rows to hold some out")
    draft.set("data.max_length", answers.max_length, "tokens of prompt + answer; longer answers are cut")
    if answers.max_prompt_length is not None:
        draft.set(
            "data.max_prompt_length", answers.max_prompt_length, "longer prompts are cut at their start"
        )


def _training(draft: Draft, answers: Answers, choices: Choices) -> None:
    draft.set("training.epochs", answers.epochs, "passes over the pairs")
    draft.suggest("training.steps", 10, "stop after so many steps, for a first try")
    draft.set(
        "training.pairs_per_step",
        choices.pairs_per_step,
        "pairs in one update; micro-batches follow from memory",
    )
    fallback = "" if answers.machine.gpu else "; on a processor without bfloat16 products, float32"
    draft.set("training.precision", "bf16", f'or "fp32"{fallback}')
    if choices.large and not choices.lora:
        draft.set("training.activation_checkpointing", True, "less memory, a third more arithmetic")
    eight = choices.large and not choices.lora
    draft.set(
        "optimizer.use",
        "adamw-8bit" if eight else "adamw",
        "moments in 8 bits" if eight else 'or "adamw-8bit"',
    )
    draft.set("optimizer.lr", choices.lr, "LoRA takes about ten times the rate of all weights")
    draft.set("schedule.use", "cosine", 'or "linear", "constant"')
    draft.set("schedule.warmup_fraction", 0.1, "share of the steps in which the rate rises")
    if choices.eval_split is not None or choices.eval_fraction is not None:
        draft.set(
            "evaluation.every", choices.save_every, "steps; and before the first step and after the last"
        )
        draft.set(
            "samples.prompts", "held-out", "prompts that the model answers; or a list of texts, or a file"
        )
        draft.set("samples.count", 3, "before training, at every evaluation, and at the end")
