"""What became of each key, in lines for a person."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from dpotrain.convert.convert import Converted
from dpotrain.convert.translation import Left, Translation
from dpotrain.core.errors import short
from dpotrain.recipe.draft import toml
from dpotrain.recipe.foreign import Gap

_SHOWN = 60  # characters of a value
_SECRET = re.compile(r"(^|_)(token|api_key|secret|password)$")


def report_lines(converted: Converted, path: Path) -> list[str]:
    """Return what was translated, what was not and why, and what to do next."""
    t = converted.translation
    lines = [f"{t.configuration.source}: {t.tool.name} -> {path}, {len(t.translated)} keys translated"]
    lines += [f"  {text}{_assumption(t, converted.assumed)}" for text in t.explained]
    lines += _part("not translated; the training may differ:", t.lost)
    lines += _part("not translated; the training is the same:", _of(t, Gap.SAME_TRAINING))
    lines += _part("not needed:", _of(t, Gap.NOT_NEEDED))
    if t.notes:
        lines += [f"{t.tool.name} and dpotrain:", *(f"  {note}" for note in dict.fromkeys(t.notes))]
    if converted.fault:
        lines += ["the recipe does not load yet:", *(f"  {line}" for line in converted.fault.splitlines())]
    lines += ["next:", *(f"  dpotrain {command} {path}" for command in ("check", "inspect", "plan", "run"))]
    return lines


def _of(t: Translation, gap: Gap) -> list[Left]:
    return [left for left in t.left if left.gap is gap]


def _assumption(t: Translation, assumed: bool) -> str:
    return (
        "; one process is assumed, --processes N sets another number" if assumed and t.processes == 1 else ""
    )


def _part(heading: str, left: Sequence[Left]) -> Iterator[str]:
    if not left:
        return
    yield heading
    reasons: dict[str, list[Left]] = {}
    for each in left:
        reasons.setdefault(each.reason, []).append(each)
    for reason, same in reasons.items():
        if heading.startswith("not needed"):
            yield f"  {', '.join(each.key for each in same)}: {reason}"
        else:
            keys = ", ".join(f"{each.key} = {_shown(each)}" for each in same)
            yield f"  {keys}: {reason}"


def _shown(left: Left) -> str:
    """Return a value as a line shows it; keys that sound like a secret show none."""
    return "…" if _SECRET.search(left.key) else short(toml(left.value), _SHOWN)
