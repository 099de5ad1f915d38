"""Keys of transformers' ``TrainingArguments``, which all of these tools have under these names or others."""

from __future__ import annotations

from typing import Any

from dpotrain.convert.dialect import Batch
from dpotrain.convert.translation import Given, Translation, as_names, processes_text
from dpotrain.recipe.foreign import Gap
from dpotrain.recipe.foreign_keys import FOREIGN_KEYS

#: Where both answers of a pair are cut at their start, each with its own prompt.
CUTS_EACH = (
    "a pair that is too long loses the first tokens of either sequence by itself, also of an answer; dpotrain cuts the "
    "prompt that both share, behind its BOS, and drops a pair of which an answer alone is too long"
)
#: Services that have a logger of the same name.
_SERVICES = ("wandb", "tensorboard", "mlflow", "trackio")


def batch(
    t: Translation,
    size: str = "per_device_train_batch_size",
    accumulation: str = "gradient_accumulation_steps",
    *,
    accumulated: int | None = None,
) -> Batch:
    """Return what the tool computes one loss of; ``accumulated`` is its number of batches where it is no key."""
    values = {**t.tool.defaults, **t.configuration.values}
    times = accumulated or values.get(accumulation)
    pairs = values.get(size)
    return Batch(pairs if isinstance(pairs, int) else 0, times == 1 and t.processes == 1)


def step_size(
    t: Translation,
    size: str = "per_device_train_batch_size",
    accumulation: str = "gradient_accumulation_steps",
) -> None:
    """Write ``training.pairs_per_step``, which counts the pairs of all devices and accumulated batches."""
    pairs, times = t.take_number(size), t.take_number(accumulation)
    assert pairs is not None  # every tool has defaults
    assert times is not None
    total = int(pairs.value) * int(times.value) * t.processes
    how = f"{_worded(pairs)} * {_worded(times)} * {processes_text(t.processes)}"
    t.put("training.pairs_per_step", total, pairs, how)
    if not times.default_of:
        t.translated[times.key] = "training.pairs_per_step"
    t.explained.append(f"training.pairs_per_step = {total}: {how}")


def length(t: Translation, epochs: str = "num_train_epochs", steps: str = "max_steps") -> None:
    """Write epochs, and steps where the tool stops after a number of them."""
    limit, passes = t.take(steps), t.take(epochs)
    if limit is not None and isinstance(limit.value, int) and limit.value > 0:
        t.put("training.steps", limit.value, limit)
        t.notes.append(
            f"{t.tool.name} passes over the data as often as {limit.key} takes; dpotrain stops after training.epochs, "
            "so raise that where the data has fewer steps"
        )
    if passes is not None:
        t.put("training.epochs", passes.value, passes)


def lengths(t: Translation, whole: str = "max_length", prompt: str = "max_prompt_length") -> None:
    """Write ``data.max_length``, and the bound on the prompt where the recipe can have it."""
    most, of_prompt = t.move("data.max_length", whole), t.take_number(prompt)
    if of_prompt is None:
        return
    if most is not None and isinstance(most.value, int | float) and of_prompt.value >= most.value:
        t.leave(
            of_prompt, Gap.NONE, f"data.max_prompt_length must be less than data.max_length ({most.origin})"
        )
    else:
        t.put("data.max_prompt_length", of_prompt.value, of_prompt)


def precision(
    t: Translation, *, bf16: tuple[str, ...] = ("bf16",), fp16: tuple[str, ...] = ("fp16",)
) -> None:
    """Write ``training.precision`` from switches for bfloat16 and float16."""
    half, brain = t.take(*fp16), t.take(*bf16)
    if half is not None and half.value and not (brain is not None and brain.value):
        t.put("training.precision", "bf16", half, f"{half.key}: float16 is not supported")
        t.leave(half, Gap.NOT_SUPPORTED, "float16 needs loss scaling; training.precision is bf16 instead")
        return
    if brain is not None:
        t.put("training.precision", "bf16" if brain.value else "fp32", brain)


def optimizer(t: Translation, name: str = "optim", rate: str = "learning_rate") -> None:
    """Write ``[optimizer]``: one that dpotrain does not have is listed, and AdamW written."""
    names = FOREIGN_KEYS["optim"].values
    chosen = t.move("optimizer.use", name, values=names)
    use = "adamw" if chosen is None else names.get(str(chosen.value), chosen.value)
    if chosen is not None and use == "lion" and "8bit" in str(chosen.value):
        t.notes.append(
            f"{chosen.key}: lion keeps its moment in 32 bits here, so updates differ in their last digits"
        )
    t.move("optimizer.lr", rate)
    first, second, eps = t.take("adam_beta1"), t.take("adam_beta2"), t.take("adam_epsilon")
    if use == "adafactor":
        for given in filter(None, (first, second)):
            t.leave(given, Gap.NOT_NEEDED, "adafactor has no such moments")
    elif first or second or use == "lion":
        # transformers passes AdamW's betas on to Lion, whose own second one is another.
        betas = [first.value if first else 0.9, second.value if second else 0.999]
        for given in filter(None, (first, second)):
            if not given.default_of:
                t.translated[given.key] = "optimizer.betas"
        origins = ", ".join(given.origin for given in (first, second) if given)
        t.draft.set("optimizer.betas", betas, origins or "transformers' default")
    if eps is not None and use in ("adafactor", "lion"):
        t.leave(eps, Gap.NOT_NEEDED, f"{use} does not use it")
    elif eps is not None:
        t.put("optimizer.eps", eps.value, eps)
    t.move("optimizer.weight_decay", "weight_decay")


def lora_plus(t: Translation, ratio: str, default_rate: float | None = None) -> None:
    """Write LoRA+ (arXiv 2402.12354), a higher learning rate of LoRA's second matrices, as ``[[optimizer.groups]]``."""
    given = t.take(ratio)
    lr = t.configuration.values.get("learning_rate", t.tool.defaults.get("learning_rate", default_rate))
    if given is None:
        return
    if isinstance(given.value, bool) or not isinstance(given.value, int | float) or not isinstance(lr, float):
        t.leave(given, Gap.NONE, FOREIGN_KEYS["loraplus_lr_ratio"].hint())
        return
    t.draft.set("optimizer.groups.0.match", "*lora_B*", given.origin)
    t.put("optimizer.groups.0.lr", given.value * lr, given, f"{given.key} {given.value} * {lr:g}")


def schedule(t: Translation, kind: str = "lr_scheduler_type") -> None:
    """Write ``[schedule]`` with its warm-up and its lowest learning rate."""
    given = t.take(kind)
    arguments = t.take("lr_scheduler_kwargs")
    shapes = FOREIGN_KEYS["lr_scheduler_type"].values
    shape = shapes.get(str(given.value)) if given else None
    if given is not None:
        if shape is None:
            t.leave(
                given,
                Gap.NOT_SUPPORTED,
                f"schedule.use has {', '.join(dict.fromkeys(shapes.values()))}; cosine is written",
            )
        t.put("schedule.use", shape or "cosine", given)
    warm, share = t.take("warmup_steps"), t.take("warmup_ratio")
    if warm is not None and warm.value:
        if isinstance(warm.value, float) and warm.value < 1:  # transformers 5 takes a share, too
            t.put("schedule.warmup_fraction", warm.value, warm)
        else:
            t.put("schedule.warmup_steps", warm.value, warm)
        if share is not None and share.value:
            t.leave(share, Gap.NOT_NEEDED, f"{warm.key} overrides it")
    elif share is not None and share.value:
        t.put("schedule.warmup_fraction", share.value, share)
    if shape in _ARGUMENTS and (arguments is None or isinstance(arguments.value, dict)):
        _arguments(t, shape, given, arguments)
    elif arguments is not None and arguments.value:
        t.leave(arguments, Gap.NOT_SUPPORTED, "the schedule has no such arguments")


#: Keys of the schedule by those of ``lr_scheduler_kwargs``, for each ``use``.
_ARGUMENTS = {
    "cosine": {"min_lr_rate": "min_lr_fraction"},
    "linear": {"min_lr_rate": "min_lr_fraction"},
    "wsd": {"num_decay_steps": "decay_steps", "decay_type": "shape", "min_lr_ratio": "min_lr_fraction"},
    "inverse-sqrt": {"timescale": "timescale"},
}
#: What transformers takes for arguments that are not given, or have no counterpart, where nothing is lost by that.
_DEFAULT_ARGUMENTS = {"warmup_type": "linear", "num_cycles": 0.5}


def _arguments(t: Translation, shape: str, kind: Given | None, arguments: Given | None) -> None:
    """Write what ``lr_scheduler_kwargs`` says of a schedule."""
    known: dict[str, Any] = {} if arguments is None else dict(arguments.value)
    if shape == "wsd" and kind is not None:
        known.setdefault("decay_type", "cosine")
        if "num_decay_steps" not in known:
            t.leave(
                kind,
                Gap.NONE,
                "num_decay_steps is not given; set schedule.decay_steps, or the last tenth falls",
            )
    for name, here in _ARGUMENTS[shape].items():
        if (value := known.pop(name, None)) is None:
            continue
        origin = f"lr_scheduler_kwargs.{name}"
        if arguments is None or name not in arguments.value:
            t.draft.set(f"schedule.{here}", value, f"{origin}, transformers' default")
        else:
            t.put(f"schedule.{here}", value, arguments, origin)
    if arguments is None:
        return
    if known.pop("min_lr", None) is not None:
        t.leave(arguments, Gap.NONE, "set schedule.min_lr_fraction to min_lr / learning_rate")
    if known.pop("num_stable_steps", None) is not None:
        t.leave(
            arguments,
            Gap.NONE,
            "num_stable_steps: the rate is stable until the run's last schedule.decay_steps",
        )
    if other := [name for name, value in known.items() if _DEFAULT_ARGUMENTS.get(name) != value]:
        t.leave(arguments, Gap.NOT_SUPPORTED, f"the schedule has no {', '.join(other)}")


def evaluation(t: Translation) -> bool:
    """Write ``evaluation.every``; return whether the tool evaluates."""
    strategy = t.take("eval_strategy", "evaluation_strategy")
    wanted = t.take("do_eval")
    every = t.take("eval_steps")
    chosen = strategy.value if strategy is not None else False
    if chosen in ("no", False):  # YAML 1.1 reads a bare `no` as false
        if every is not None:
            t.leave(every, Gap.NOT_NEEDED, "without an eval_strategy there are no evaluations")
        return bool(wanted is not None and wanted.value and strategy is None)
    assert strategy is not None
    if chosen == "epoch":
        t.leave(
            strategy, Gap.SAME_TRAINING, "evaluation.every is a number of steps: set it to those of an epoch"
        )
    elif every is not None:
        t.put("evaluation.every", every.value, every)
    if not strategy.default_of:
        t.translated.setdefault(strategy.key, "evaluation.every")
    if wanted is not None:
        t.translated[wanted.key] = "evaluation.every"
    return True


def saving(t: Translation) -> None:
    """Write ``[checkpoints]``."""
    strategy, every = t.take("save_strategy"), t.take("save_steps")
    chosen = strategy.value if strategy is not None else "steps"
    if strategy is not None and chosen in ("no", False):
        t.put("checkpoints.every", False, strategy, "save_strategy; the last step is always saved")
        if every is not None:
            t.leave(every, Gap.NOT_NEEDED, "save_strategy overrides it")
    elif strategy is not None and chosen in ("epoch", "best"):
        t.leave(
            strategy, Gap.SAME_TRAINING, "checkpoints.every is a number of steps: set it to those of an epoch"
        )
    elif every is not None:
        t.put("checkpoints.every", every.value, every)
        if strategy is not None and not strategy.default_of:
            t.translated[strategy.key] = "checkpoints.every"
    t.move("checkpoints.keep", "save_total_limit")
    only = t.take("save_only_model")
    if only is not None and only.value:
        t.leave(only, Gap.SAME_TRAINING, "checkpoints hold the optimizer, so that a run can be resumed")
    strategy = t.take("logging_strategy")
    t.move("logging.every", "logging_steps")


def early_stopping(t: Translation) -> None:
    """Write the ``early-stopping`` callback."""
    patience = t.take("early_stopping_patience", "early_stopping_steps")
    if patience is not None:
        t.draft.set("callbacks.0.use", "early-stopping", patience.key)
        t.put("callbacks.0.patience", patience.value, patience)


def moving_reference(t: Translation) -> None:
    """Write how the reference follows the policy, with TRL's defaults."""
    sync = t.take("sync_ref_model")
    every, share = t.take("ref_model_sync_steps"), t.take("ref_model_mixup_alpha")
    if sync is None or not sync.value:
        for unused in filter(None, (every, share)):
            t.leave(unused, Gap.NOT_NEEDED, "it has no effect without sync_ref_model")
        return
    value = {
        "every": 512 if every is None else every.value,
        "share": 0.6 if share is None else share.value,
    }
    t.put("reference.update", value, sync)
    for given, key in ((every, "every"), (share, "share")):
        if given is not None:
            t.translated[given.key] = f"reference.update.{key}"


def loggers(t: Translation) -> None:
    """Write ``[[loggers]]`` for the services that have one."""
    services, name = t.take("report_to"), t.take("run_name")
    project = t.take("wandb_project", "project")
    wanted = [] if services is None or services.value is True else as_names(services.value)
    known = [service for service in wanted if service in _SERVICES]
    for service in wanted:
        if service not in _SERVICES and service not in ("none", "False") and services is not None:
            t.leave(
                services, Gap.SAME_TRAINING, f"there is no logger {service}; there are {', '.join(_SERVICES)}"
            )
    for index, service in enumerate(known):
        assert services is not None
        t.put(f"loggers.{index}.use", service, services)
        if project is not None and service in ("wandb", "trackio"):
            t.put(f"loggers.{index}.project", project.value, project)
        if name is not None and service != "tensorboard":
            t.put(f"loggers.{index}.name", name.value, name)
    if services is not None and not services.default_of:
        t.translated.setdefault(services.key, "[[loggers]]")
    for given in filter(None, (name, project)):
        if not known:
            t.leave(given, Gap.NOT_NEEDED, "no service is logged to")


def pushing(t: Translation) -> None:
    """Write the ``hub`` exporter."""
    push, repository = t.take("push_to_hub"), t.take("hub_model_id")
    private, strategy = t.take("hub_private_repo"), t.take("hub_strategy")
    if push is None or not push.value:
        for given in filter(None, (repository, private, strategy)):
            t.leave(given, Gap.NOT_NEEDED, "without push_to_hub nothing is pushed")
        return
    if repository is None:
        t.leave(
            push,
            Gap.SAME_TRAINING,
            'add [[exporters]] with use = "hub" and repo = "you/name" to push the result',
        )
        return
    t.draft.set("exporters.0.use", "hub", push.key)
    t.put("exporters.0.repo", repository.value, repository)
    t.translated[push.key] = "[[exporters]]"
    if private is not None:
        t.put("exporters.0.private", private.value, private)
    if strategy is not None:
        t.leave(strategy, Gap.NOT_NEEDED, "the result is pushed once, after the run")


def _worded(given: Given) -> str:
    return f"{given.key} {given.value}" + (f" ({given.default_of}'s default)" if given.default_of else "")
