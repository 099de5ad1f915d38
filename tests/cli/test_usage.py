"""A wrong command line says what was probably meant; ``help``, ``-V`` and bare commands lead on."""

import pytest

import dpotrain as package
from dpotrain.cli import COMMANDS, SECTIONS
from dpotrain.recipe.load import load_recipe
from tests.support import dpotrain


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def error(*words: str) -> str:
    """Return what is said of a wrong command line."""
    result = dpotrain(*words)
    assert result.exit_code == 2
    assert result.stdout == ""
    usage, _, text = result.stderr.partition("\nError: ")
    assert usage.startswith("Usage: dpotrain")
    return text.removesuffix("\n")


@pytest.mark.parametrize(
    ("word", "text"),
    [
        ("rnu", 'there is no command "rnu"; did you mean "run"?'),
        ("chek", 'there is no command "chek"; did you mean "check"?'),
        ("mrege", 'there is no command "mrege"; did you mean "merge"?'),
        ("train", 'there is no command "train"; dpotrain run does that'),
        ("version", 'there is no command "version"; dpotrain --version does that'),
        ("x.toml", 'there is no command "x.toml"; to train: dpotrain run x.toml'),
    ],
)
def test_a_command_that_does_not_exist(word, text):
    assert error(word) == text
    assert error("help", word) == text


def test_a_word_like_no_command_gets_the_list():
    assert error("frobnicate").startswith('there is no command "frobnicate"; there are init, run, check')


def test_an_option_that_does_not_exist():
    assert "Did you mean '--resume'?" in error("run", "x.toml", "--resum")


@pytest.mark.parametrize("command", ["run", "check", "plan", "inspect"])
def test_an_override_without_set(command):
    assert error(command, "x.toml", "training.epochs=2") == (
        "Got unexpected extra argument (training.epochs=2); did you mean --set training.epochs=2?"
    )


def test_an_override_without_an_equals_sign():
    assert error("run", "x.toml", "--set", "training.epochs", "2") == (
        "Got unexpected extra argument (2); did you mean --set training.epochs=2?"
    )


@pytest.mark.parametrize(
    ("option", "text"),
    [
        ("--learning_rate", "Keys of the recipe are set by --set optimizer.lr=VALUE."),
        ("--num-train-epochs", "Keys of the recipe are set by --set training.epochs=VALUE."),
        ("--training.epochs", "Keys of the recipe are set by --set training.epochs=VALUE."),
        ("--max_prompt_length", "Keys of the recipe are set by --set data.max_prompt_length=VALUE."),
        ("--dataset_num_proc", "Keys of the recipe are set by --set KEY=VALUE; data is tokenized once"),
    ],
)
def test_an_option_that_is_a_key_of_a_recipe(option, text):
    said = error("run", "x.toml", option, "2")
    assert said.startswith(f"No such option '{option}'.")
    assert text in said


def test_a_word_too_many_where_nothing_can_be_set():
    assert error("checkpoints", "runs/x", "a=b") == "Got unexpected extra argument (a=b)"


def test_without_a_recipe_it_names_those_that_are_here(folder):
    assert error("run") == (
        "RECIPE is missing\nthere are no recipes here or in recipes/\ndpotrain init writes one, by questions"
    )
    (folder / "recipes").mkdir()
    for name in ("mine.toml", "pyproject.toml", "recipes/b.toml", "notes.txt"):
        (folder / name).write_text("")
    assert error("check") == (
        "RECIPE is missing\nrecipes that are here:\n  dpotrain check mine.toml\n  dpotrain check recipes/b.toml\n"
        "dpotrain init writes one, by questions"
    )


def test_the_version_has_a_short_option():
    assert (
        dpotrain("-V").output == dpotrain("--version").output == f"dpotrain, version {package.__version__}\n"
    )


@pytest.mark.parametrize("words", [[], ["run"], ["plugins"], ["plugins", "show"], ["merge"]])
def test_help_shows_what_the_option_shows(words):
    shown = dpotrain("help", *words)
    assert shown.exit_code == 0
    assert shown.output == dpotrain(*words, "--help").output


def test_help_of_a_command_of_a_command_that_has_none():
    assert error("help", "run", "fast") == "dpotrain run has no commands of its own"


def test_every_command_stands_under_one_heading():
    text = dpotrain("--help").output
    assert [name for name in COMMANDS if text.count(f"\n  {name} ") != 1] == []
    assert set().union(*SECTIONS.values()) & {"plugins", "schema"} == set()
    for heading in [*SECTIONS, "More", "Commands of plugins"]:
        assert f"\n{heading}:\n" in text


def test_an_override_that_was_meant_works(folder):
    (folder / "r.toml").write_text('[run]\noutput_dir = "x"\n[model]\nuse = "demo"\n[data]\nuse = "demo"\n')
    with (folder / "r.toml").open("a") as file:
        file.write('[loss]\nuse = "dpo"\n[optimizer]\nlr = 1e-4\n')
    assert load_recipe("r.toml", ["training.epochs=2"]).training.epochs == 2
