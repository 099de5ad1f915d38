"""An option that is a component: a table inside a component's table, with everything that a table of its own has."""

import tomllib
from typing import ClassVar

import pytest
from pydantic import Field, SecretStr

from dpotrain import hookimpl
from dpotrain.core.errors import RecipeError
from dpotrain.core.masking import mask
from dpotrain.core.reporter import SilentReporter
from dpotrain.plugin.api import Beside, DatasetSource, Loss, Metric, Use
from dpotrain.plugin.describe.options import options_of
from dpotrain.plugin.runtime.events import RunEvents
from dpotrain.plugin.runtime.manager import PluginManager
from dpotrain.plugin.runtime.states import by_key
from dpotrain.recipe.document import dump_recipe
from dpotrain.recipe.load import load_recipe
from dpotrain.recipe.schema import recipe_schema
from tests.plugin.fakes import EVERYTHING, FakeIpo, FakeLoss, FakeMetric, FakeSource, Offers
from tests.plugin.test_events import STEP, run
from tests.recipe.mini_schema import valid

MINIMAL = """
[run]
output_dir = "runs/x"
[model]
use = "fake-model"
name = "m"
[data]
use = "fake-rows"
name = "d"
[optimizer]
lr = 1e-3
"""


class Term(Beside):
    loss: Use[Loss] = Field(description="A loss.")
    weight: float = Field(1.0, description="Its weight.")


class Mixed(FakeLoss):
    name = "mixed"

    class Options(Loss.Options):
        inner: Use[Loss] = Field(description="A loss.")
        terms: list[Term] = Field(default_factory=list, description="Losses with weights.")
        metrics: list[Use[Metric]] = Field(default_factory=list, description="Metrics.")
        rows: Use[DatasetSource] | None = Field(None, description="Rows.")


class Secretive(FakeLoss):
    name = "secretive"
    heard: ClassVar[list[int]] = []

    class Options(Loss.Options):
        token: SecretStr = Field(description="A secret.")

    def check(self):
        if self.options.beta > 100:
            raise RecipeError("beta is not serious")

    @hookimpl
    def dpotrain_step_ended(self, step):
        self.heard.append(step.step)


PLUGINS = PluginManager.of(Offers("fakes", *EVERYTHING), Offers("mine", Mixed, Secretive))


def load(tmp_path, text, *overrides):
    path = tmp_path / "recipe.toml"
    path.write_text(f'{MINIMAL}\n[loss]\nuse = "mixed"\n{text}')
    return load_recipe(path, overrides, plugins=PLUGINS)


FULL = """
[loss.inner]
use = "fake-dpo"
label_smoothing = 0.1
[[loss.terms]]
loss = "fake-ipo"
weight = 2
[[loss.terms]]
loss = { use = "mixed", inner = { use = "fake-ipo", beta = 0.5 } }
[[loss.metrics]]
use = "fake-metric"
scale = 3.0
[loss.rows]
use = "fake-rows"
name = "more"
"""


def test_they_are_constructed_with_their_options_and_full_defaults_at_any_depth(tmp_path):
    options = load(tmp_path, FULL).loss.options
    assert type(options.inner) is FakeLoss
    assert (options.inner.options.label_smoothing, options.inner.options.beta) == (0.1, 0.1)
    assert [(type(term.loss), term.weight) for term in options.terms] == [(FakeIpo, 2), (Mixed, 1)]
    assert options.terms[1].loss.options.inner.options.beta == 0.5
    assert [(type(each), each.options.scale) for each in options.metrics] == [(FakeMetric, 3.0)]
    assert (type(options.rows), options.rows.options.name) == (FakeSource, "more")


def test_what_may_be_none_is_none_unless_it_is_there(tmp_path):
    assert load(tmp_path, 'inner = "fake-dpo"').loss.options.rows is None
    assert load(tmp_path, FULL, "loss.rows=false").loss.options.rows is None


def test_the_resolved_recipe_is_read_as_the_same(tmp_path):
    recipe = load(tmp_path, FULL)
    (tmp_path / "again.toml").write_text(dump_recipe(recipe))
    assert load_recipe(tmp_path / "again.toml", plugins=PLUGINS).document == recipe.document
    assert tomllib.loads(dump_recipe(recipe))["loss"]["terms"][0]["use"] == "fake-ipo"


def test_an_override_reaches_inside(tmp_path):
    recipe = load(tmp_path, FULL, "loss.inner.label_smoothing=0.3", "loss.terms.0.weight=7.0")
    assert recipe.loss.options.inner.options.label_smoothing == 0.3
    assert recipe.loss.options.terms[0].weight == 7


TOGETHER = """
inner = "fake-dpo"
[[loss.terms]]
use = "fake-ipo"
beta = 0.5
weight = 2
[[loss.terms]]
use = "mixed"
inner = { use = "fake-ipo", beta = 0.7 }
terms = [{ use = "fake-dpo", label_smoothing = 0.2, weight = 3 }]
"""


def test_keys_beside_a_component_may_stand_in_its_table(tmp_path):
    first, second = load(tmp_path, TOGETHER).loss.options.terms
    assert (type(first.loss), first.loss.options.beta, first.weight) == (FakeIpo, 0.5, 2)
    assert (type(second.loss), second.weight) == (Mixed, 1)
    (third,) = second.loss.options.terms
    assert (third.loss.options.label_smoothing, third.weight) == (0.2, 3)
    apart = TOGETHER.replace('use = "fake-ipo"\nbeta = 0.5', 'loss = { use = "fake-ipo", beta = 0.5 }')
    assert load(tmp_path, apart).document == load(tmp_path, TOGETHER).document
    again = load(tmp_path, TOGETHER, "loss.terms.0.weight=4", "loss.terms.0.beta=0.6").loss.options.terms[0]
    assert (again.weight, again.loss.options.beta) == (4, 0.6)


def test_a_name_alone_has_the_defaults_of_the_component_and_of_the_keys_beside_it(tmp_path):
    text = 'inner = "fake-dpo"\nterms = ["fake-dpo", { use = "fake-ipo", weight = 2 }]'
    first, second = load(tmp_path, text).loss.options.terms
    assert (type(first.loss), first.weight, first.loss.options.beta) == (FakeLoss, 1, 0.1)
    assert (type(second.loss), second.weight) == (FakeIpo, 2)
    schema = recipe_schema(PLUGINS)
    document = tomllib.loads(f'{MINIMAL}\n[loss]\nuse = "mixed"\n{text}')
    assert valid(document, schema, schema)
    document["loss"]["terms"][0] = "fake-dop"
    assert not valid(document, schema, schema)
    with pytest.raises(RecipeError) as caught:
        load(tmp_path, text.replace('["fake-dpo"', '["fake-dop"'))
    assert '[loss.terms.0] use: there is no loss "fake-dop"; did you mean "fake-dpo"?' in str(caught.value)


def test_their_errors_have_the_address_that_was_written(tmp_path):
    with pytest.raises(RecipeError) as caught:
        load(tmp_path, TOGETHER.replace("beta = 0.5", "bta = 0.5"))
    assert '[loss.terms.0] bta: fake-ipo (registered by hand) has no option "bta"' in str(caught.value)
    with pytest.raises(RecipeError) as caught:
        load(tmp_path, TOGETHER.replace("weight = 2", 'weight = "two"'))
    assert '[loss] terms.0.weight: mixed (registered by hand) expects a number, got "two"' in str(
        caught.value
    )
    with pytest.raises(RecipeError) as caught:
        load(tmp_path, TOGETHER.replace('use = "fake-ipo"', 'use = "fake-ip"'))
    assert '[loss.terms.0] use: there is no loss "fake-ip"; did you mean "fake-ipo"?' in str(caught.value)


def test_the_schema_takes_them_together_and_apart():
    schema = recipe_schema(PLUGINS)
    for text in (TOGETHER, FULL):
        assert valid(tomllib.loads(f'{MINIMAL}\n[loss]\nuse = "mixed"\n{text}'), schema, schema)
    wrong = TOGETHER.replace("weight = 2", "weigth = 2")
    assert not valid(tomllib.loads(f'{MINIMAL}\n[loss]\nuse = "mixed"\n{wrong}'), schema, schema)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", ["[loss] inner: missing; mixed (registered by hand) expects a table in which use picks a loss"]),
        ('inner = "fake-dop"', ["[loss.inner] use:", 'did you mean "fake-dpo"?']),
        ("inner = 3", ["[loss] inner:", "a table in which use picks a loss, got 3"]),
        ("inner = {}", ["[loss.inner] use: missing", '"fake-dpo"']),
        (
            'inner = { use = "fake-dpo", label_smooth = 0.1 }',
            ["[loss.inner] label_smooth: fake-dpo", 'did you mean "label_smoothing"?'],
        ),
        (
            'inner = "fake-dpo"\n[[loss.terms]]\nloss = { use = "fake-dpo", beta = "much" }',
            ["beta: fake-dpo", 'expects a number > 0, got "much"', "loss.terms"],
        ),
        ('inner = "fake-metric"', ["[loss.inner] use:", "there is no loss"]),
        ('inner = { use = "secretive", token = "t", beta = 101 }', ["[loss.inner]", "beta is not serious"]),
    ],
)
def test_what_is_wrong_has_the_address_of_its_own_table(tmp_path, text, said):
    with pytest.raises(RecipeError) as caught:
        load(tmp_path, text)
    for words in said:
        assert words in str(caught.value)


def test_they_belong_to_the_recipe_s_components_and_are_not_what_its_tables_select(tmp_path):
    recipe = load(tmp_path, FULL)
    losses = [type(part) for part in recipe.components if isinstance(part, Loss)]
    assert losses == [Mixed, FakeLoss, FakeIpo, Mixed, FakeIpo]
    assert recipe.all_of(Loss) == (recipe.loss,)
    assert (recipe.metrics, type(recipe.sources[0])) == ((), FakeSource)
    keys = [key for key, _ in by_key(recipe)]
    assert len(keys) == len(set(keys)) == len(recipe.components)


def test_they_hear_run_events_and_their_secrets_are_masked(tmp_path):
    recipe = load(tmp_path, 'inner = { use = "secretive", token = "a-nested-secret" }')
    RunEvents(recipe, recipe.plugins, SilentReporter(), 1.0).step_ended(run(), STEP)
    assert Secretive.heard == [STEP.step]
    assert mask("it is a-nested-secret") == "it is ***"
    assert "a-nested-secret" not in dump_recipe(recipe)


def test_editors_are_told_what_may_stand_there(tmp_path):
    schema = recipe_schema(PLUGINS)
    document = tomllib.loads(f'{MINIMAL}\n[loss]\nuse = "mixed"\n{FULL}')
    assert valid(document, schema, schema)
    document["loss"]["terms"][1]["loss"]["inner"]["beta"] = "much"
    assert not valid(document, schema, schema)


def test_pages_say_what_is_picked():
    takes = {option.name: option.takes for option in options_of(Mixed.Options)}
    assert takes["inner"] == "a table in which use picks a loss"
    assert takes["rows"] == "a table in which use picks a dataset source or false"


def test_from_python_a_component_can_be_given():
    inner = FakeIpo(FakeIpo.Options())
    assert Mixed.Options(inner=inner).inner is inner
    with pytest.raises(ValueError, match="it must be a loss"):
        Mixed.Options(inner=FakeSource(FakeSource.Options(name="d")))
