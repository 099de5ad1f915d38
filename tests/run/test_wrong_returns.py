"""A component that returns the wrong thing ends the run with its name, its method, and what is due."""

import pytest

from dpotrain.core.errors import PluginError
from dpotrain.testing import build_tiny_model, run_recipe
from dpotrain_plugins.formatters.standard import StandardFormatter
from dpotrain_plugins.lora import Lora
from dpotrain_plugins.transformers_loader import TransformersLoader
from tests.plugin.fakes import Offers


class WritesNothing(Lora):
    name = "writes-nothing"

    def save(self, policy, folder):
        pass


class NoFingerprint(TransformersLoader):
    name = "no-fingerprint"

    def fingerprint(self, source=None):
        return None


class NoPair(StandardFormatter):
    name = "no-pair"

    def format(self, row):
        return {"prompt": "a"}


@pytest.mark.parametrize(
    ("component", "recipe", "said"),
    [
        (
            WritesNothing,
            'adapter.use = "writes-nothing"',
            'adapter "writes-nothing" of plugin "odd": save wrote no file into the folder that it was given',
        ),
        (
            NoFingerprint,
            'model = { use = "no-fingerprint", name = "MODEL" }',
            'model loader "no-fingerprint" of plugin "odd": fingerprint returned None; it must return a text',
        ),
        (
            NoPair,
            'data.format = "no-pair"',
            'dataset formatter "no-pair" of plugin "odd": format returned a dict',
        ),
    ],
)
def test_what_is_returned_wrongly_ends_the_run_by_name(component, recipe, said, tmp_path):
    model = build_tiny_model(tmp_path / "model")
    with pytest.raises(PluginError) as caught:
        run_recipe(
            recipe.replace("MODEL", str(model)), tmp_path, model=model, plugins=[Offers("odd", component)]
        )
    assert said in str(caught.value)
    assert not (tmp_path / "run" / "final").exists()
