"""Talking to a model at a terminal: turns, commands, answers that appear as they come and can be stopped."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from rich.console import Console
from rich.text import Text as RichText

from dpotrain.core.errors import DpotrainError
from dpotrain.core.formats import printable
from dpotrain.core.pair import Message, Text
from dpotrain.core.reporter import Advance, Reporter

#: Answers a prompt, calling its second argument with the text piece by piece.
Answer = Callable[[Text, Callable[[str], None]], None]

COMMANDS = {"/reset": "forget the conversation", "/quit": "end (so does Ctrl-D)", "/help": "show this"}


class LoadingReporter(Reporter):
    """Shows what is being loaded, on standard error, for as long as it takes; what a run would warn of is no matter."""

    def __init__(self, console: Console) -> None:
        self._console = console

    @contextmanager
    def phase(self, name: str, total: int | None) -> Iterator[Advance]:  # noqa: D102
        with self._console.status(f"{name} …"):
            yield lambda count: None


@dataclass
class Chat:
    """One conversation with each of some models, which hear the same turns of the person."""

    answers: Mapping[str, Answer]
    """By what each model is called; the name is shown where there are several."""
    console: Console
    conversational: bool = True
    """Whether turns add up to a conversation; else every text is continued by itself."""
    system: str = ""
    """What a system turn says; empty for none."""
    ask: Callable[[str], str] = input
    """Reads a line after a prompt; raises EOFError at the end."""
    _turns: dict[str, list[Message]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Forget what was said."""
        first: list[Message] = [{"role": "system", "content": self.system}] if self.system else []
        self._turns = {name: list(first) for name in self.answers}

    def run(self) -> None:
        """Answer until the person ends it."""
        while True:
            try:
                line = self.ask("> ").strip()
            except KeyboardInterrupt:
                self._say("\nCtrl-D or /quit ends; Ctrl-C stops an answer", style="dim")
                continue
            except EOFError:
                self._say("")
                return
            if line == "/quit":
                return
            if line == "/reset":
                self.reset()
                self._say("the conversation begins anew", style="dim")
            elif line.startswith("/"):
                known = "\n".join(f"{name:<8}{meaning}" for name, meaning in COMMANDS.items())
                self._say(
                    known if line == "/help" else f"there is no {line}; there are\n{known}", style="dim"
                )
            elif line:
                try:
                    self.answer(line)
                except DpotrainError as error:
                    self._say(f"{error}; /reset forgets the conversation", style="red")

    def answer(self, said: str) -> None:
        """Have every model answer; Ctrl-C stops the answer that is being written, and what there is of it is kept."""
        for name, answer in self.answers.items():
            if len(self.answers) > 1:
                self._say(name, style="bold")
            turns = self._turns[name]
            turns.append({"role": "user", "content": said})
            pieces: list[str] = []

            def write(piece: str, pieces: list[str] = pieces) -> None:
                pieces.append(piece)
                self.console.print(RichText(printable(piece)), end="", soft_wrap=True, highlight=False)

            try:
                answer(self._prompt(turns, said), write)
            except KeyboardInterrupt:
                self._say(" …", style="dim", end="")
            except BaseException:
                turns.pop()
                raise
            self._say("")
            turns.append({"role": "assistant", "content": "".join(pieces).strip()})

    def _prompt(self, turns: Sequence[Message], said: str) -> Text:
        return list(turns) if self.conversational else said

    def _say(self, text: str, **how: Any) -> None:
        self.console.print(RichText(printable(text)), soft_wrap=True, **how)
