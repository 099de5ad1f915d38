"""Recipe files: syntax, what is missing, and ``extends``."""

import pytest

from dpotrain.core.errors import RecipeError
from dpotrain.recipe.load import load_recipe
from tests.plugin.fakes import FakeIpo, OtherSource
from tests.recipe.writing import MINIMAL, load, refused


def message(path) -> str:
    with pytest.raises(RecipeError) as caught:
        load_recipe(path)
    return str(caught.value)


def test_a_syntax_error_shows_its_line(plugins):
    assert refused("seed = 1\n[training\nepochs = 1\n", plugins=plugins) == (
        "r.toml:2:10: not TOML: Expected ']' at the end of a table declaration\n  [training\n           ^"
    )


def test_a_missing_file_comes_with_the_nearest_one(folder):
    assert message("bose.toml") == 'there is no recipe bose.toml; did you mean "base.toml"?'
    assert message("base") == 'there is no recipe base; did you mean "base.toml"?'
    assert message("quite-another.toml") == "there is no recipe quite-another.toml; . holds base.toml"
    assert message("nowhere/x.toml") == "there is no recipe nowhere/x.toml; there is no folder nowhere either"


def test_a_folder_and_a_binary_file_are_refused(folder):
    (folder / "binary.toml").write_bytes(b"seed = 1\xff")
    assert message(".") == ". cannot be read: Is a directory"
    assert message("binary.toml") == "binary.toml is not UTF-8 text (byte 8); save it as UTF-8"


def test_extends_is_relative_to_the_file_that_says_so(folder, plugins):
    (folder / "deep" / "er").mkdir(parents=True)
    (folder / "deep" / "middle.toml").write_text(
        'extends = "../base.toml"\nseed = 1\n[training]\nepochs = 2\n'
    )
    (folder / "deep" / "er" / "top.toml").write_text('extends = "../middle.toml"\n[training]\nsteps = 3\n')
    recipe = load_recipe("deep/er/top.toml", plugins=plugins)
    assert (recipe.seed, recipe.training.epochs, recipe.training.steps) == (1, 2, 3)
    assert recipe.model.options.name == "m"
    assert "extends" not in recipe.document


def test_files_that_extend_each_other_are_named(folder):
    (folder / "a.toml").write_text('extends = "b.toml"')
    (folder / "b.toml").write_text('extends = "./a.toml"')
    assert message("a.toml") == "a.toml: files that extend each other: a.toml -> b.toml -> a.toml"
    (folder / "self.toml").write_text('extends = "self.toml"')
    assert "self.toml -> self.toml" in message("self.toml")


def test_a_missing_base_names_the_file_that_extends_it(folder):
    (folder / "a.toml").write_text('extends = "bse.toml"')
    assert message("a.toml") == 'a.toml: extends: there is no recipe bse.toml; did you mean "base.toml"?'
    (folder / "a.toml").write_text("extends = 3")
    assert message("a.toml").startswith("a.toml: extends: expected the path of one recipe")


def test_a_table_whose_use_changes_does_not_inherit_the_other_components_options(plugins):
    base = MINIMAL.replace('"fake-dpo"', '"fake-dpo"\nbeta = 0.5\nlabel_smoothing = 0.1')
    load(base, plugins=plugins, name="base.toml")
    changed = load('extends = "base.toml"\n[loss]\nuse = "fake-ipo"\n', plugins=plugins)
    assert changed.loss.options == FakeIpo.Options(beta=0.1)
    same = load('extends = "base.toml"\n[loss]\nuse = "fake-dpo"\nbeta = 0.2\n', plugins=plugins)
    assert (same.loss.options.beta, same.loss.options.label_smoothing) == (0.2, 0.1)


def test_the_cores_keys_of_data_outlive_a_change_of_source(plugins):
    load(
        MINIMAL.replace('name = "d"', 'name = "d"\ncount = 3\nmax_length = 77'),
        plugins=plugins,
        name="base.toml",
    )
    recipe = load('extends = "base.toml"\n[data]\nuse = "other-rows"\n', plugins=plugins)
    assert (recipe.sources[0].options, recipe.data.max_length) == (OtherSource.Options(), 77)


def test_errors_in_keys_that_outlive_a_change_of_source_name_their_own_file(plugins, folder):
    (folder / "base.toml").write_text(MINIMAL.replace('name = "d"', 'name = "d"\nmax_length = 0'))
    text = refused('extends = "base.toml"\n[data]\nuse = "other-rows"\n', plugins=plugins)
    assert text == "base.toml: 1 error\n  [data] max_length: expected an integer >= 2, got 0"


def test_a_table_of_loggers_is_replaced_as_a_whole(plugins):
    load(MINIMAL + '[[loggers]]\nuse = "fake-log"\nproject = "old"\n' * 2, plugins=plugins, name="base.toml")
    recipe = load('extends = "base.toml"\n[[loggers]]\nuse = "fake-log"\n', plugins=plugins)
    assert [logger.options.project for logger in recipe.loggers] == ["p"]
    assert load('extends = "base.toml"\nloggers = []\n', plugins=plugins).loggers == ()


def test_an_inherited_table_is_taken_away_with_false_and_brought_back_with_a_table(plugins):
    load(MINIMAL + '[adapter]\nuse = "fake-lora"\nrank = 4\n', plugins=plugins, name="base.toml")
    without = load('extends = "base.toml"\nadapter = false\n', plugins=plugins, name="full.toml")
    assert without.adapter is None
    assert "adapter" not in without.document
    again = load('extends = "full.toml"\n[adapter]\nuse = "fake-lora"\n', plugins=plugins)
    assert again.adapter.options.rank == 16


def test_an_inherited_key_is_taken_back_with_false(plugins):
    load(MINIMAL.replace('name = "d"', 'name = "d"\neval_fraction = 0.1'), plugins=plugins, name="base.toml")
    recipe = load(
        'extends = "base.toml"\n[data]\neval_fraction = false\neval_split = "test"\n', plugins=plugins
    )
    assert (recipe.data.eval_fraction, recipe.data.eval_split) == (None, "test")
