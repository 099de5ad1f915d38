"""A chat template with all that it is given, so that it renders a conversation the same way whenever it is asked."""

from __future__ import annotations

import copy
import re
import string
import traceback
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any, TypeAlias

import jinja2

from dpotrain.core.errors import DataError, RecipeError, did_you_mean
from dpotrain.core.messages.values import REASONING
from dpotrain.core.pair import Message, UnusableRow

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Tools: TypeAlias = Sequence[Mapping[str, Any]]

#: Words of every conversation, which an error may name.
KEYS = frozenset(
    {"role", "content", "user", "assistant", "system", "tool", "type", "function", "name", "arguments"}
)

#: The function through which a template reads the clock. This macro takes its place: transformers passes templates no
#: functions of ours, and its own returns another time at every call.
_CLOCK = "strftime_now"
_MACRO = (
    f"{{%- macro {_CLOCK}(format) -%}}{{%- set clock = namespace(text=format) -%}}"
    "{%- for code, value in dpotrain_clock -%}{%- set clock.text = clock.text.replace(code, value) -%}{%- endfor -%}"
    "{{- clock.text -}}{%- endmacro %}\n"
)
#: The opening of a tag with its name, which may look like a code: ``{%set``, ``{%-for``.
_TAG = re.compile(r"\{%[-+]?\s*\w\w+")
#: What Jinja offers that draws at random.
_DRAWS = re.compile(r"\|\s*random\b|\blipsum\(")
#: ``text.replace("…", "")`` in a template.
_REMOVES = re.compile(r"""\.replace\(\s*(['"])(.+?)\1\s*,\s*(?:''|"")\s*\)""")
_WORD = re.compile(r"\w+")
_CODES = tuple(f"%{flag}{letter}" for flag in ("", "-", "_", "^", "#") for letter in string.ascii_letters)


@dataclass(frozen=True, slots=True)
class TemplateInputs:
    """What a chat template is given besides messages and tools."""

    arguments: Mapping[str, Any] = field(default_factory=dict)
    """Variables by name: ``enable_thinking``, …"""
    clock: datetime = field(default_factory=datetime.now)
    """The time that a template reads, the same in all of a run."""


class ChatTemplate:
    """One of a tokenizer's chat templates."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, source: str, inputs: TemplateInputs) -> None:
        """Raise a DataError for a template that draws at random."""
        if _DRAWS.search(source):
            raise DataError(
                f"The chat template of {tokenizer.name_or_path or 'this model'} draws at random, so no two renderings "
                "of a prompt are alike.\nSet model.chat_template to one that does not."
            )
        self._tokenizer = tokenizer
        self._arguments = dict(inputs.arguments)
        self._text = source
        self._lines_before = 0
        self.clock = clock_values(source, inputs.clock)
        """What the template can read of the clock, by strftime code; empty where it does not read it."""
        if self.clock:
            self._text = _MACRO + source
            self._lines_before = 1
            self._arguments["dpotrain_clock"] = self.clock
        self.reasoning_names = tuple(name for name in REASONING if _reads(source, name))
        """The names under which it looks for reasoning."""
        self._source = source
        self._words = frozenset(_WORD.findall(source))
        self.removed = tuple(dict.fromkeys(text for _, text in _REMOVES.findall(source)))
        """Texts that it takes out of messages, such as ``/no_think``, in its order."""

    def __call__(self, messages: Sequence[Message], tools: Tools, *, opens: bool) -> str:
        """Render the messages; ``opens`` adds the generation prompt.

        Raises:
            UnusableRow: the template refuses the messages.
        """
        try:
            return str(
                self._tokenizer.apply_chat_template(
                    [dict(message) for message in messages],
                    tools=[dict(tool) for tool in tools] or None,
                    chat_template=self._text,
                    add_generation_prompt=opens,
                    tokenize=False,
                    **self._arguments,
                )
            )
        except Exception as error:  # a template is a program that may raise anything
            reason = self._reason(error, (*messages, *tools))
            raise UnusableRow(f"the chat template refuses the messages: {reason}") from error

    def given(self, arguments: Mapping[str, Any]) -> ChatTemplate:
        """Return the template with further variables, which replace its own of the same names."""
        other = copy.copy(self)
        other._arguments = {**self._arguments, **arguments}
        return other

    def reads_variable(self, name: str) -> bool:
        """Whether it reads a variable of this name."""
        return name in self._words

    def reads(self, name: str) -> bool:
        """Whether it reads a key of this name."""
        return _reads(self._source, name)

    def _reason(self, error: Exception, given: Sequence[Mapping[str, Any]]) -> str:
        """Return why a rendering failed: the same text for every row, so it quotes none."""
        text = " ".join(str(error).split())
        if type(error) is jinja2.TemplateError:  # the template's own words, by raise_exception
            return text
        known = {*KEYS, *(name for message in given for name in message)}
        quotes = any(len(one) > 1 and one in text and one not in known for one in strings(given))
        reason = type(error).__name__ if quotes or not text else f"{type(error).__name__}: {text}"
        lines = [
            frame.lineno
            for frame in traceback.extract_tb(error.__traceback__)
            if frame.filename == "<template>"
        ]
        if lines and lines[-1]:
            reason += f" (line {max(1, lines[-1] - self._lines_before)} of the template)"
        return reason


def template_source(tokenizer: PreTrainedTokenizerBase, *, tools: bool) -> str:
    """Return the Jinja text that the tokenizer uses for conversations with or without tools.

    Raises:
        DataError: it has none.
        RecipeError: it has several, none of them the default.
    """
    own = tokenizer.chat_template
    if not own:
        raise DataError(
            f"The pairs are conversations, but the tokenizer of {tokenizer.name_or_path or 'this model'} "
            "has no chat template.\n"
            "Set model.chat_template, train a model that has one, or use pairs of plain strings (data.format)."
        )
    check_default(tokenizer)
    if isinstance(own, str):
        return own
    return str(own["tool_use" if tools and "tool_use" in own else "default"])


def check_default(tokenizer: PreTrainedTokenizerBase) -> None:
    """Raise a RecipeError for a tokenizer with named chat templates, none of which is called "default"."""
    own = tokenizer.chat_template
    if isinstance(own, dict) and own and "default" not in own:
        names = sorted(own)
        raise RecipeError(
            f"The tokenizer of {tokenizer.name_or_path or 'this model'} has named chat templates "
            f"({', '.join(names)}), and none of them is the default.\n"
            f'Choose one, as in model.chat_template = "{"tool_use" if "tool_use" in names else names[0]}".'
        )


def check_arguments(tokenizer: PreTrainedTokenizerBase, arguments: Mapping[str, Any], key: str) -> None:
    """Raise a RecipeError for a variable that none of the tokenizer's chat templates reads: it would change nothing.

    ``key`` is the recipe's, which sets them.
    """
    words = {word for source in template_sources(tokenizer) for word in _WORD.findall(source)}
    for name in arguments:
        if not tokenizer.chat_template:
            raise RecipeError(f"{key}.{name}: the model has no chat template that could read it")
        if name not in words:
            raise RecipeError(
                f"{key}.{name}: the chat template does not read it{did_you_mean(name, sorted(words))}"
            )


def clock_values(source: str, clock: datetime) -> tuple[tuple[str, str], ...]:
    """Return the strftime codes in a template that reads the clock, with what they stand for at this time."""
    if _CLOCK not in source:
        return ()
    text = _TAG.sub("", source)  # %f of {%for is a microsecond, by which no two runs would be alike
    codes = [code for code in _CODES if code in text] or _CODES
    values = [(code, clock.strftime(code)) for code in codes]
    # A doubled per cent sign is one, and no code begins with it.
    return (("%%", "\0"), *((code, value) for code, value in values if value != code), ("\0", "%"))


def template_sources(tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """Return the Jinja text of every chat template of the tokenizer."""
    own = tokenizer.chat_template or []
    return [own] if isinstance(own, str) else list(own.values()) if isinstance(own, Mapping) else []


def reads_clock(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether a chat template of the tokenizer reads the clock."""
    return any(_CLOCK in source for source in template_sources(tokenizer))


def strings(value: Any) -> Iterator[str]:
    """Yield every text inside plain data, names of keys included."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for name, item in value.items():
            yield from strings(name)
            yield from strings(item)
    elif isinstance(value, Sequence) and not isinstance(value, bytes | bytearray):
        for item in value:
            yield from strings(item)


def _reads(source: str, name: str) -> bool:
    """Whether a template reads a key of this name: ``message.name``, ``message['name']``, ``'name' in message``."""
    key = re.escape(name)
    return re.search(rf"""\.{key}\b|['"]{key}['"]""", source) is not None
