"""A conversation at a terminal: whose turns are whose, what is shown of an answer, and what ends what."""

import io
from collections.abc import Callable, Iterable
from typing import Any

import pytest
from rich.console import Console

from dpotrain.core.errors import RunError
from dpotrain.ui.chat import Chat


class Model:
    """Answers with the number of turns it has heard, in pieces; keeps what it was asked."""

    def __init__(self) -> None:
        self.heard: list[Any] = []

    def __call__(self, prompt: Any, write: Callable[[str], None]) -> None:
        self.heard.append(prompt)
        for piece in ("I heard ", str(len(prompt)), " of you"):
            write(piece)


def chat(lines: Iterable[str | type[BaseException]], *models: Any, **more: Any) -> str:
    """Say these lines to models and return what is shown; an exception is raised where a line is asked for."""
    said = iter(lines)

    def ask(shown: str) -> str:
        line = next(said, EOFError)
        if isinstance(line, str):
            return line
        raise line

    names = ["before training", "final/"][-len(models) :]
    console = Console(file=io.StringIO(), width=60, color_system=None, force_terminal=False)
    Chat(dict(zip(names, models, strict=True)), console, ask=ask, **more).run()
    return console.file.getvalue()


def turns(*said: tuple[str, str]) -> list[dict[str, str]]:
    return [{"role": role, "content": text} for role, text in said]


def test_turns_add_up_and_reset_forgets_them():
    model = Model()
    shown = chat(["one", "", "two", "/reset", "three", "/quit", "four"], model, system="be brief")
    system, first = ("system", "be brief"), ("assistant", "I heard 2 of you")
    assert model.heard == [
        turns(system, ("user", "one")),
        turns(system, ("user", "one"), first, ("user", "two")),
        turns(system, ("user", "three")),
    ]
    assert shown == "I heard 2 of you\nI heard 4 of you\nthe conversation begins anew\nI heard 2 of you\n"


def test_each_model_has_its_own_conversation_and_a_name():
    class Other(Model):
        def __call__(self, prompt, write):
            self.heard.append(prompt)
            write("no")

    one, other = Other(), Model()
    assert chat(["a", "b"], one, other) == (
        "before training\nno\nfinal/\nI heard 1 of you\nbefore training\nno\nfinal/\nI heard 3 of you\n\n"
    )
    assert one.heard[1] == turns(("user", "a"), ("assistant", "no"), ("user", "b"))
    assert other.heard[1] == turns(("user", "a"), ("assistant", "I heard 1 of you"), ("user", "b"))


def test_texts_of_a_base_model_are_continued_one_by_one():
    model = Model()
    chat(["one", "two"], model, conversational=False)
    assert model.heard == ["one", "two"]


def test_an_interrupt_stops_the_answer_and_keeps_what_there_is_of_it():
    class Stopped(Model):
        def __call__(self, prompt, write):
            super().__call__(prompt, write)
            if len(self.heard) == 1:
                raise KeyboardInterrupt

    model = Stopped()
    assert chat(["one", KeyboardInterrupt, "two"], model) == (
        "I heard 1 of you …\n\nCtrl-D or /quit ends; Ctrl-C stops an answer\nI heard 3 of you\n\n"
    )
    assert model.heard[1] == turns(("user", "one"), ("assistant", "I heard 1 of you"), ("user", "two"))


def test_a_prompt_that_cannot_be_answered_is_forgotten():
    class Full(Model):
        def __call__(self, prompt, write):
            self.heard.append(list(prompt))
            if len(self.heard) == 1:
                raise RunError("the prompt has 9 tokens, and the model 8 positions")

    model = Full()
    assert "the model 8 positions; /reset forgets" in chat(["long", "short"], model)
    assert model.heard[1] == turns(("user", "short"))


def test_a_failure_that_is_no_person_s_ends_it():
    def fails(prompt, write):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        chat(["one"], fails)


def test_control_characters_of_an_answer_do_not_reach_the_terminal():
    def evil(prompt, write):
        write("\x1b[2Jgone [bold]markup[/bold]\n")

    assert chat(["one"], evil) == "\ufffd[2Jgone [bold]markup[/bold]\n\n\n"


def test_commands_that_do_not_exist_are_told_and_not_asked():
    model = Model()
    shown = chat(["/rest", "/help"], model)
    assert "there is no /rest; there are" in shown
    assert "/reset  forget the conversation" in shown
    assert model.heard == []
