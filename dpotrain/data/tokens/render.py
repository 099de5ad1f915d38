"""A pair as the texts that are tokenized: the prompt alone, and the prompt with each answer.

Prompt and answer are one text, so that tokens that span the boundary come out as they do in free text.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from dpotrain.core.messages.values import REASONING, is_empty, reasoning_of
from dpotrain.core.pair import Message, PreferencePair, Text, UnusableRow
from dpotrain.data.tokens.chat_template import (
    ChatTemplate,
    TemplateInputs,
    Tools,
    strings,
    template_source,
)
from dpotrain.data.tokens.control_tokens import ControlTokens, turn_markers
from dpotrain.data.tokens.parts import TEXT, THOUGHT, Part, text_of
from dpotrain.data.tokens.written import Written

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

#: What the data report says of pairs that are kept.
REASONING_LEFT_OUT = "the chat template leaves out the reasoning of earlier assistant turns"
CONTROL_TOKEN = "the control token"  # how notes of control tokens begin
UNREAD_KEY = "the chat template does not read"  # how notes of keys begin
UNREAD_ARGUMENT = "of template_arguments"  # and end, of variables
UNUSED_ARGUMENTS = "template_arguments are not used: no chat template is applied to plain text"
KEPT_CONTROL_TOKEN = "in plain text is kept as a control token"

#: Different variables that are remembered with what a template writes of them; a text may be another one in every row.
_MOST_ARGUMENTS = 1000
#: Keys of a message that are checked elsewhere, or that say nothing to the model.
_OWN_KEYS = frozenset(("role", "content", "tool_calls", "tool_call_id", "id", "type", *REASONING))


@dataclass(frozen=True, slots=True)
class Turn:
    """One assistant turn inside a completion of several messages, located by three texts that should be prefixes."""

    before: str
    """Everything before the turn."""
    opened: str
    """The same with the template's generation prompt, after which the turn begins."""
    closed: str | None
    """Through the end of the turn; None for the last message, whose end is the end of the text."""


@dataclass(frozen=True, slots=True)
class Answer:
    """The prompt with one answer."""

    full: str
    turns: tuple[Turn, ...] | None = None
    """None where every token of the answer is the model's own."""

    def texts(self) -> Iterator[str]:
        """Yield every text of this answer that is tokenized."""
        yield self.full
        for turn in self.turns or ():
            yield turn.before
            yield turn.opened
            if turn.closed is not None:
                yield turn.closed


@dataclass(frozen=True, slots=True)
class Rendering:
    """The texts of one pair."""

    prompt: str
    chosen: Answer
    rejected: Answer
    plain: bool
    """Whether the pair is plain text: the tokenizer's own special tokens are added to the ids."""
    control: ControlTokens | None = None
    """Tokenizes the texts, because messages quote control tokens, which are broken in them; usually None."""
    notes: tuple[str, ...] = ()
    """What the data report says of the pair, if it is kept."""
    arguments: Mapping[str, Any] = field(default_factory=dict)
    """The variables that the chat template was given."""

    def texts(self) -> Iterator[str]:
        """Yield every text of the pair that is tokenized."""
        yield self.prompt
        yield from self.chosen.texts()
        yield from self.rejected.texts()


class Renderer:
    """Turns pairs into texts, by a tokenizer's chat template where they are conversations."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, inputs: TemplateInputs) -> None:
        self._tokenizer = tokenizer
        self._inputs = inputs
        self._plain = ControlTokens(tokenizer)
        self._templates: dict[bool, _Conversations] = {}
        """By whether there are tools: a tokenizer may have a template of its own for them."""

    def __call__(self, pair: PreferencePair) -> Rendering:
        """Return the pair's texts.

        Raises UnusableRow where the chat template refuses the messages or leaves a part of them out, and DataError for
        a conversation where the tokenizer has no chat template.
        """
        if not isinstance(pair.prompt, str):
            with_tools = bool(pair.tools)
            if with_tools not in self._templates:
                source = template_source(self._tokenizer, tools=with_tools)
                template = ChatTemplate(self._tokenizer, source, self._inputs)
                self._templates[with_tools] = _Conversations(
                    self._tokenizer, template, self._inputs.arguments
                )
            return self._templates[with_tools](pair)
        assert isinstance(pair.chosen, str)
        assert isinstance(pair.rejected, str)
        chosen, rejected = Answer(pair.prompt + pair.chosen), Answer(pair.prompt + pair.rejected)
        quoted = self._plain.quoted([pair.prompt, pair.chosen, pair.rejected])
        notes = [f"{CONTROL_TOKEN} {name} {KEPT_CONTROL_TOKEN}" for name in quoted]
        notes += [UNUSED_ARGUMENTS] * bool(pair.template_arguments)
        return Rendering(pair.prompt, chosen, rejected, plain=True, notes=tuple(notes))


class _Conversations:
    """Renders pairs of messages by one template, which has been given ``arguments``."""

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, template: ChatTemplate, arguments: Mapping[str, Any]
    ) -> None:
        self._template = template
        self._arguments = arguments
        self._given: dict[str, tuple[ChatTemplate, Written]] = {}
        """By the variables of pairs: what a template leaves out may depend on them."""
        self._read: dict[str, bool] = {}
        self._control = ControlTokens(tokenizer, _markers(tokenizer, template))

    def __call__(self, pair: PreferencePair) -> Rendering:
        tools: Tools = pair.tools
        variables = pair.template_arguments.items()
        read = {name: value for name, value in variables if self._template.reads_variable(name)}
        parts: list[list[Message]] = [_messages(part) for part in (pair.prompt, pair.chosen, pair.rejected)]
        quoted = self._control.quoted([parts, tools, read])
        if quoted:
            parts, tools, read = map(self._control.broken, (parts, tools, read))
        template, written = self._with(read)
        parts = [[self._renamed(message) for message in part] for part in parts]
        shapes = [written.shape([*parts[0], *answer], tools) for answer in parts[1:]]
        form = shapes[0].form | shapes[1].form
        prompt, chosen, rejected = ([form.of(message) for message in part] for part in parts)
        # The generation prompt belongs to the prompt only where an assistant message follows.
        opens = chosen[0]["role"] == "assistant" and rejected[0]["role"] == "assistant"
        text = template(prompt, tools, opens=opens)
        answers: list[Answer] = []
        notes: list[str] = []
        for name, answer, as_given, shape in zip(
            ("chosen", "rejected"), (chosen, rejected), parts[1:], shapes, strict=True
        ):
            full = template([*prompt, *answer], tools, opens=False)
            start = common_start(text, full)
            missing = written.unwritten(shape, full, start, (parts[0], as_given), tools)
            notes += _note_or_refuse(missing, name, [*parts[0], *as_given], len(prompt))
            answers.append(Answer(full, _turns(template, text, full, start, (prompt, answer), tools)))
        notes += [f'{UNREAD_KEY} "{key}" of messages' for key in self._unread_keys(pair)]
        notes += [
            f'{UNREAD_KEY} "{name}" {UNREAD_ARGUMENT}'
            for name, value in sorted(variables)
            if name not in read and not is_empty(value)
        ]
        notes += [f"{CONTROL_TOKEN} {name} in a message is tokenized as text" for name in quoted]
        return Rendering(
            text,
            answers[0],
            answers[1],
            plain=False,
            control=self._control if quoted else None,
            notes=tuple(dict.fromkeys(notes)),
            arguments={**self._arguments, **read},
        )

    def _with(self, arguments: Mapping[str, Any]) -> tuple[ChatTemplate, Written]:
        """Return the template with a pair's variables, and what is known of it."""
        key = json.dumps(arguments, sort_keys=True, default=str)
        if key not in self._given:
            if len(self._given) >= _MOST_ARGUMENTS:
                self._given.clear()
            template = self._template.given(arguments)
            self._given[key] = template, Written(template)
        return self._given[key]

    def _unread_keys(self, pair: PreferencePair) -> list[str]:
        """Return the keys with text, at any depth, that messages have and the template does not read, sorted."""
        keys = {
            key
            for part in (pair.prompt, pair.chosen, pair.rejected)
            for message in _messages(part)
            for key, value in message.items()
            if isinstance(key, str) and key not in _OWN_KEYS and any(map(str.strip, strings(value)))
        }
        return sorted(key for key in keys if not self._reads(key))

    def _reads(self, key: str) -> bool:
        if key not in self._read:
            self._read[key] = self._template.reads(key)
        return self._read[key]

    def _renamed(self, message: Message) -> Message:
        """Return the message with its reasoning under every name by which the template reads it."""
        reasoning = reasoning_of(message)
        if not reasoning:
            return message
        absent = [name for name in self._template.reasoning_names if not message.get(name)]
        return {**message, **dict.fromkeys(absent, reasoning)}


def _turns(
    template: ChatTemplate,
    text: str,
    full: str,
    start: int,
    sides: tuple[list[Message], list[Message]],
    tools: Tools,
) -> tuple[Turn, ...] | None:
    """Return where the model's own turns are; None where all that follows the prompt is one.

    Raises UnusableRow where an only turn cannot be told from a prompt that the template writes otherwise.
    """
    prompt, answer = sides
    if len(answer) == 1:
        return None if start == len(text) else _only_turn(template, text, full, start, prompt, tools)
    turns = []
    for index, message in enumerate(answer):
        if message["role"] != "assistant":
            continue
        before, last = [*prompt, *answer[:index]], index == len(answer) - 1
        closed = None if last else template([*before, message], tools, opens=False)
        unopened, opened = (template(before, tools, opens=opens) for opens in (False, True))
        turns.append(Turn(unopened, opened, closed))
    return tuple(turns)


def _only_turn(
    template: ChatTemplate, text: str, full: str, start: int, prompt: list[Message], tools: Tools
) -> tuple[Turn, ...] | None:
    """Return where the answer is after a prompt that the template writes otherwise once it is answered."""
    before = template(prompt, tools, opens=False)
    if start >= len(before):  # all but the generation prompt
        return None
    begins = _after_header(text, full, start, before)
    if begins is not None:
        return (Turn("", full[:begins], None),)
    if not _ends_before(prompt, before, start):
        raise UnusableRow("the chat template writes the prompt otherwise once it is answered")
    return None


def _messages(part: Text) -> list[Message]:
    assert not isinstance(part, str)
    return list(part)


def _note_or_refuse(
    missing: set[Part], name: str, messages: Sequence[Message], prompt: int
) -> tuple[str, ...]:
    """Raise UnusableRow where the template leaves out what must be trained on; return notes for the report.

    The first ``prompt`` messages are the prompt, the others the answer of this name.
    """
    if not missing:
        return ()
    last = max(at for at, message in enumerate(messages) if message["role"] == "assistant")
    earlier = {part for part in missing if part[1] == THOUGHT and part[0] < last}
    in_answer = {part for part in missing - earlier if part[0] >= prompt}
    for parts, where in ((missing - earlier - in_answer, "prompt"), (in_answer, f"{name} answer")):
        if parts:
            kinds = ", ".join(sorted({_name_of(part, messages, prompt) for part in parts}))
            raise UnusableRow(f"the chat template leaves out part of the {where} ({kinds})")
    return (REASONING_LEFT_OUT,)


def common_start(a: str, b: str) -> int:
    """Return how many leading characters two texts have in common."""
    if b.startswith(a):
        return len(a)
    low, high = 0, min(len(a), len(b))
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if a[:middle] == b[:middle] else (low, middle - 1)
    return low


def _after_header(text: str, full: str, start: int, before: str) -> int | None:
    """Return where the answer begins in a rendering that differs from the prompt's from ``start`` on.

    That is after the generation prompt, by which the prompt's rendering ``text`` is longer than ``before``, as often as
    it stands in the prompt itself. None where it is not there.
    """
    header = text[len(before) :] if text.startswith(before) else ""
    if not header.strip():
        return None
    for _ in range(before.count(header, start) + 1):
        at = full.find(header, start)
        if at < 0:
            return None
        start = at + len(header)
    return start


def _ends_before(prompt: Sequence[Message], rendered: str, start: int) -> bool:
    """Whether the last words of the prompt stand in its rendering before ``start``."""
    said = [text.strip() for text in map(text_of, prompt) if text]
    at = rendered.rfind(said[-1]) if said else -1
    return at >= 0 and at + len(said[-1]) <= start


def _name_of(part: Part, messages: Sequence[Message], prompt: int) -> str:
    """Return what a part is called: in the prompt a text goes by its role."""
    at, kind = part
    return f"{messages[at]['role']} text" if kind == TEXT and at < prompt else kind


def _markers(tokenizer: PreTrainedTokenizerBase, template: ChatTemplate) -> set[str]:
    """Return the tokens that open and close turns, as far as the template renders a few plain ones."""
    turns = [("user", "x"), ("assistant", "y"), ("user", "z")]
    try:
        rendered = template([{"role": role, "content": text} for role, text in turns], (), opens=False)
    except UnusableRow:
        return set()
    return turn_markers(tokenizer, rendered)
