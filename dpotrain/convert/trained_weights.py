"""What other tools train of a model's own weights, as ``[adapter] use = "layers"``."""

from __future__ import annotations

import re
from collections.abc import Sequence

from dpotrain.convert.translation import Given, Translation, as_names
from dpotrain.recipe.foreign import Gap

#: A pattern of axolotl that has no more than anchors of a regular expression.
_PLAIN = re.compile(r"\^?[\w.]+\$?")
#: The rows of a weight, at the end of a pattern of axolotl: ``[:32000]``.
_ROWS = re.compile(r".+\[\d*:?\d*\]")


def freeze_tuning(t: Translation, kind: Given) -> None:
    """Translate LLaMA-Factory's ``finetuning_type: freeze``, which trains what has one of some parts in its name."""
    layers = t.take_number("freeze_trainable_layers") or Given("freeze_trainable_layers", 2, t.tool.name)
    modules, extra = t.take("freeze_trainable_modules"), t.take("freeze_extra_modules")
    inside = ["all"] if modules is None else as_names(modules.value)
    match: list[str] = []
    t.put("adapter.use", "layers", kind)
    if layers.value > 0:
        t.put("adapter.last", layers.value, layers)
        if "all" not in inside:
            assert modules is not None
            reason = "instead of adapter.last, name the parts in adapter.match, such as model.layers.31.mlp.*"
            t.leave(modules, Gap.NONE, reason)
    else:
        parts = [""] if "all" in inside else inside
        match += [f"*.{number}.{part}*" for number in range(-int(layers.value)) for part in parts]
        for given in filter(None, (layers, modules)):
            t.translated[given.key] = "adapter.match"
    if extra is not None:
        match += [f"*{name}*" for name in as_names(extra.value)]
        t.translated[extra.key] = "adapter.match"
    _write(t, match, extra or layers)
    if layers.value <= 0 and not match:
        raise t.refuse(layers, "nothing would be trained")


def unfrozen(t: Translation) -> bool:
    """Translate axolotl's ``unfrozen_parameters``, where it has any; return whether some weights alone are trained.

    They are regular expressions for the beginning of a name, in which a dot is a dot unless ``+`` follows.
    """
    given = t.take("unfrozen_parameters")
    if given is None or not given.value:
        return False
    patterns = as_names(given.value)
    if any(map(_ROWS.fullmatch, patterns)):
        t.leave(given, Gap.NOT_SUPPORTED, "rows of a weight cannot be trained without the others")
        return False
    t.put("adapter.use", "layers", given)
    _write(t, [_of_axolotl(pattern) for pattern in patterns], given)
    return True


def frozen(t: Translation) -> bool:
    """Translate what ms-swift freezes in full training; return whether some weights alone are trained.

    It freezes by share, beginning of the name and regular expression, and what ``trainable_parameters`` name is
    trained nevertheless.
    """
    ratio, begun, searched = (t.take(f"freeze_parameters{end}") for end in ("_ratio", "", "_regex"))
    more = [
        given for end in ("", "_regex") if (given := t.take(f"trainable_parameters{end}")) and given.value
    ]
    freezing = [given for given in (ratio, begun, searched) if given is not None and given.value]
    if ratio is not None and ratio.value and ratio.value != 1:
        reason = "a share of the weights: adapter.last counts layers, adapter.match names weights"
        for given in (*freezing, *more):
            t.leave(given, Gap.NONE, reason)
        return False
    if not freezing:
        for given in more:
            t.leave(given, Gap.NOT_NEEDED, "all weights are trained")
        return False
    match = []
    if ratio is None or not ratio.value:
        left_out = [] if begun is None else [re.escape(name) for name in as_names(begun.value)]
        left_out += [f".*(?:{searched.value})"] if searched is not None and searched.value else []
        match.append(f"re:(?!{'|'.join(left_out)}).*")
    for given in more:
        if given.key.endswith("_regex"):
            match.append(f"re:.*(?:{given.value}).*")
        else:
            match += [f"{name}*" for name in as_names(given.value)]
    if not match:
        raise t.refuse(freezing[0], "nothing would be trained")
    t.put("adapter.use", "layers", freezing[0])
    for given in (*freezing, *more):
        t.translated[given.key] = "adapter.match"
    _write(t, match, (*more, *freezing)[0])
    return True


def _write(t: Translation, match: Sequence[str], given: Given) -> None:
    if match:
        t.draft.set("adapter.match", list(match), given.origin)


def _of_axolotl(pattern: str) -> str:
    if _PLAIN.fullmatch(pattern):
        name = pattern.removeprefix("^").removesuffix("$")
        return name if pattern.endswith("$") else f"{name}*"
    written = re.sub(r"\.(?!\+)", r"\.", pattern)
    return f"re:{written}" if pattern.endswith("$") else f"re:{written}.*"
