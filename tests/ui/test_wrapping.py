import io

import pytest
from rich.console import Console

from dpotrain.core.errors import RecipeError
from dpotrain.ui.errors import print_error
from dpotrain.ui.wrapping import wrapped

COMMAND = "dpotrain run runs/a-rather-long-name/recipe.toml --resume"


def test_lines_are_broken_between_words():
    assert wrapped("one two three four", 9) == "one two\nthree\nfour"
    assert wrapped("one\ntwo three", 9) == "one\ntwo three"
    assert wrapped("  six seven eight", 12) == "  six seven\n  eight"


@pytest.mark.parametrize("width", range(8, 100, 7))
@pytest.mark.parametrize(
    "whole",
    [
        COMMAND,
        "/a/path/that/is/very/long/and/has/no/space.toml",
        "wandb sync --id abcdefgh /folder/folder/folder",
    ],
)
def test_what_is_copied_stays_on_a_line_of_its_own_or_with_words_before(width, whole):
    lines = wrapped(f"the run was stopped and its state is saved; go on with: {whole}", width).split("\n")
    assert any(line.endswith(whole) for line in lines)
    assert (
        " ".join(lines).split() == f"the run was stopped and its state is saved; go on with: {whole}".split()
    )


def test_an_error_on_a_terminal_breaks_no_word_and_one_in_a_file_no_line():
    text = "the data has no column that could be a prompt, and nothing says which one is meant"
    for terminal in (True, False):
        console = Console(
            file=io.StringIO(), width=30, force_terminal=terminal, color_system=None, _environ={}
        )
        print_error(RecipeError(text), console)
        lines = console.file.getvalue().splitlines()
        assert " ".join(lines) == f"error: {text}"
        assert (max(map(len, lines)) <= 30) is terminal
