"""The prompts of ``[samples]`` that do not come from the data: a list in the recipe, or a file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dpotrain.core.errors import RecipeError, short
from dpotrain.core.messages.message import read_messages
from dpotrain.core.messages.values import is_message, is_messages
from dpotrain.core.pair import Text, UnusableRow

#: Keys of an object in a file of prompts, the first of them that it has.
KEYS = ("prompt", "messages")


def read_prompts(source: list[str] | Path) -> list[Text]:
    """Return the prompts of a list or file, in order: texts, or messages that do not end in an answer.

    Raises:
        RecipeError: the file cannot be read, there is no prompt, or one of them is none.
    """
    if isinstance(source, list):
        return [_prompt(text, f"prompt {number}") for number, text in enumerate(source, start=1)]
    file = source.expanduser()
    try:
        text = file.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise RecipeError(
            f"there is no file {short(str(source))}; a prompt itself is written as a list of texts: "
            '["What is DPO?"]'
        ) from None
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is not text in UTF-8"
        raise RecipeError(f"{short(str(source))} cannot be read: {why}") from error
    ending = file.suffix.lower()
    if ending == ".json":
        values = _parsed(text, str(source))
        if not isinstance(values, list) or is_messages(values):
            raise RecipeError(f"{source} is not a list of prompts")
        found = {f"{source}, prompt {number}": value for number, value in enumerate(values, start=1)}
    elif ending in (".jsonl", ".ndjson", ".txt", ""):
        lines = {
            f"{source}:{number}": line
            for number, line in enumerate(text.split("\n"), start=1)
            if line.strip()
        }
        is_json = ending in (".jsonl", ".ndjson")
        found = {at: _parsed(line, at) if is_json else line.rstrip("\r") for at, line in lines.items()}
    else:
        raise RecipeError(f"{source} has none of the endings .txt, .jsonl and .json")
    if not found:
        raise RecipeError(f"{source} has no prompt")
    return [_prompt(value, at) for at, value in found.items()]


def _parsed(text: str, at: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        raise RecipeError(f"{at} is not JSON") from None


def _prompt(value: Any, at: str) -> Text:
    if isinstance(value, Mapping) and not is_message(value):
        key = next((key for key in KEYS if value.get(key)), None)
        if key is None:
            raise RecipeError(f"{at} has neither {' nor '.join(KEYS)}")
        value = value[key]
    if isinstance(value, str):
        if not value.strip():
            raise RecipeError(f"{at} is empty")
        _check_text(value, at)
        return value
    try:
        messages = read_messages(value, "prompt")
    except UnusableRow as error:
        raise RecipeError(f"{at}: {error}") from None
    # A conversation of a data set may end in its answer, which is no part of the question.
    if messages[-1]["role"] == "assistant":
        messages = messages[:-1]
    if not messages:
        raise RecipeError(f"{at} has no turn before the answer")
    _check_text(json.dumps(messages, ensure_ascii=False), at)
    return messages


def _check_text(text: str, at: str) -> None:
    """Refuse half a character, which JSON can hold and no tokenizer takes."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise RecipeError(f"{at} holds half a character") from None
