"""The texts of a pair that inspection compares: what was asked and what was answered, without the system text."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from dpotrain.core.messages.values import SYSTEM_ROLES
from dpotrain.core.pair import Message, PreferencePair, Text


@dataclass(frozen=True, slots=True)
class PairTexts:
    """One pair as plain texts."""

    prompt: str
    """All turns but the system's, which is the same in many rows and would make short prompts look alike."""
    chosen: str
    """The assistant's turns."""
    rejected: str
    systems_differ: bool
    """Whether the two sides have different system texts, which tell chosen from rejected."""

    @property
    def answers(self) -> tuple[str, str]:
        """Chosen and rejected."""
        return self.chosen, self.rejected


def pair_texts(pair: PreferencePair) -> PairTexts:
    """Return the texts of a pair that has passed :func:`dpotrain.data.formats.check_pair.check_pair`."""
    systems = [_joined(part, lambda role: role in SYSTEM_ROLES) for part in (pair.chosen, pair.rejected)]
    return PairTexts(
        prompt=_said(pair.prompt, lambda role: role not in SYSTEM_ROLES),
        chosen=_said(pair.chosen, lambda role: role == "assistant"),
        rejected=_said(pair.rejected, lambda role: role == "assistant"),
        systems_differ=systems[0] != systems[1],
    )


def _said(part: Text, counts: Callable[[str], bool]) -> str:
    return part if isinstance(part, str) else _joined(part, counts)


def _joined(part: Text, counts: Callable[[str], bool]) -> str:
    """Return the messages whose role counts, as one text; none of plain text."""
    if isinstance(part, str):
        return ""
    return "\n".join(_content(message) for message in part if counts(message["role"]))


def _content(message: Message) -> str:
    """Return a message's text, followed by its tool calls and whatever else it holds, as JSON."""
    content = message.get("content")
    text = content if isinstance(content, str) else "" if content is None else _json(content)
    rest = {key: value for key, value in message.items() if key not in ("role", "content", "name")}
    return f"{text}\n{_json(rest)}" if rest else text


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, sort_keys=True, default=str)
