"""Variables for a chat template: from ``[data]``, and from a column of each row."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from dpotrain.core.pair import UnusableRow

#: The columns of a row with its variables, the first that holds some. The second is what published data sets call it.
COLUMNS = ("template_arguments", "chat_template_kwargs")

#: What the call that renders a template has already; a variable cannot have one of these names.
TAKEN = frozenset(
    {
        *("conversation", "messages", "tools", "documents", "chat_template", "add_generation_prompt"),
        *(
            "continue_final_message",
            "tokenize",
            "sanitize_control_tokens",
            "padding",
            "truncation",
            "max_length",
        ),
        *("return_tensors", "return_dict", "return_assistant_tokens_mask", "tokenizer_kwargs"),
    }
)


def without_taken(arguments: dict[str, Any]) -> dict[str, Any]:
    """Return variables of a recipe; raise a ValueError for a name that is taken."""
    for name in arguments:
        if name in TAKEN:
            raise ValueError(f"{name}: every pair has its own; remove it")
    return arguments


def read_arguments(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return a row's variables by name: an object, JSON text of one, or none where its columns hold nothing.

    None inside an object means that the row does not set the variable: data sets with a fixed structure have every
    name in every row.

    Raises:
        UnusableRow: the column holds something else, or a name that is taken.
    """
    for column in COLUMNS:
        value = row.get(column)
        if isinstance(value, str):
            try:
                value = json.loads(value) if value.strip() else None
            except (ValueError, RecursionError):
                raise UnusableRow(f"{column} is neither an object nor JSON text of one") from None
        if value is None or (isinstance(value, list) and not value):
            continue
        if not isinstance(value, Mapping) or not all(isinstance(name, str) for name in value):
            raise UnusableRow(f"{column} is neither an object nor JSON text of one")
        found = {name: each for name, each in value.items() if each is not None}
        for name in found:
            if name in TAKEN:
                raise UnusableRow(f'{column} sets "{name}", which every pair has of its own')
        if found:
            return found
    return {}
