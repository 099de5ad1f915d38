"""A preference pair as text or messages, before tokenizing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

#: One chat message: ``{"role": "user", "content": "…"}``, plus what the chat template reads (``tool_calls``, …).
Message: TypeAlias = Mapping[str, Any]

#: Plain text, or a conversation in order.
Text: TypeAlias = str | Sequence[Message]


@dataclass(frozen=True, slots=True)
class PreferencePair:
    """A prompt with the preferred completion and the other one.

    The three are either all plain strings (the tokenizer's own special tokens are used) or all sequences of messages
    (the tokenizer's chat template is used). In a completion of several messages only the assistant's are scored.
    """

    prompt: Text
    chosen: Text
    rejected: Text
    tools: Sequence[Mapping[str, Any]] = ()
    """Tool schemas handed to the chat template."""
    numbers: Mapping[str, float] = field(default_factory=dict)
    """Numbers of the pair that a loss or metric may ask for (``columns``), besides those in the row's columns."""
    template_arguments: Mapping[str, Any] = field(default_factory=dict)
    """Variables of the chat template for this pair, which replace those of ``data.template_arguments``. Those that
    stand in the row's column of this name are added after the formatter."""

    @property
    def conversational(self) -> bool:
        """Whether the pair consists of messages rather than of plain strings."""
        return not isinstance(self.prompt, str)


class UnusableRow(ValueError):  # noqa: N818  # it is the row that is named
    """Raised by a formatter for a row that holds no usable pair; it is dropped and counted.

    The message is the reason under which the data report counts the row: keep it short, and the same for all
    rows with that fault: ``"answer is empty"``, not ``"row 17: answer '' is empty"``.
    """
