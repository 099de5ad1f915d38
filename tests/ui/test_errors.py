import io

from rich.console import Console

from dpotrain.core.errors import RecipeError, RunStopped
from dpotrain.ui.errors import print_error


def _printed(error: BaseException, *, terminal: bool) -> str:
    stream = io.StringIO()
    color = "standard" if terminal else None
    print_error(error, Console(file=stream, width=40, force_terminal=terminal, color_system=color))
    return stream.getvalue()


def test_an_error_is_its_own_lines_behind_one_word():
    error = RecipeError("recipe.toml: unknown key [training] stepps\ndid you mean: steps?")
    assert _printed(error, terminal=False) == (
        "error: recipe.toml: unknown key [training] stepps\ndid you mean: steps?\n"
    )


def test_on_a_terminal_the_word_is_red():
    assert _printed(RecipeError("no"), terminal=True) == "\x1b[1;31merror: \x1b[0mno\n"


def test_long_paths_are_not_broken():
    path = "/data/" + "x" * 100
    assert path in _printed(RecipeError(f"no file {path}"), terminal=False)


def test_a_stopped_run_did_nothing_wrong():
    assert _printed(RunStopped("saved at step 20"), terminal=False) == "stopped: saved at step 20\n"


def test_an_error_without_words_still_has_a_name():
    assert _printed(RecipeError(), terminal=False) == "error: RecipeError\n"


def test_an_error_that_quotes_data_cannot_steer_the_terminal():
    assert "\x1b[2J" not in _printed(RecipeError("row 3: \x1b[2J"), terminal=True)
