"""What of loss, reference and columns of pairs cannot be right together is refused, with the reason."""

import pytest

from dpotrain.plugin.runtime.manager import PluginManager
from tests.recipe.writing import load, refused

RECIPE = """
[run]
output_dir = "runs/x"
[model]
use = "demo"
[data]
use = "demo"
eval_fraction = 0.1
[loss]
use = "dpo"
[optimizer]
lr = 1e-4
"""
BOTH = 'data.columns={reference_chosen="a", reference_rejected="b"}'


@pytest.fixture(scope="module")
def plugins():
    return PluginManager.from_entry_points()


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ['loss.use="ipo"', 'loss.divergence="forward-kl"'],
            "[loss] divergence: forward-kl needs a loss of the difference of the two log-ratios, in which the part of "
            "the reward that belongs to the prompt cancels; ipo is none",
        ),
        (
            ["loss.divergence_alpha=0.3"],
            '[loss] divergence_alpha: it belongs to divergence = "alpha", and the divergence is reverse-kl',
        ),
        (
            ['loss.divergence="alpha"'],
            '[loss] divergence_alpha: missing; divergence = "alpha" needs it, a number > 0 and <= 1',
        ),
        (
            ['loss.use="ipo"', 'data.columns.margin="gap"'],
            "[data] columns.margin: a margin is taken off beta times the difference of the two log-ratios, and ipo is "
            "no loss of that difference; leave it out, or use dpo",
        ),
        (
            ['loss.use="aot"', 'data.columns.label_probability="p"'],
            "[data] columns.label_probability: aot is formed over all pairs of a step, so the answers of one cannot be "
            "exchanged in it; leave the column out, or use a loss of single pairs",
        ),
        (
            ['data.columns.reference_chosen="a"'],
            "[data] columns.reference_chosen: columns.reference_rejected is missing; the reference's log-probs are "
            "needed of both answers",
        ),
        (
            [BOTH, 'reference.when="live"'],
            "[data] columns.reference_chosen: with the reference's log-probs from the data, nothing is computed; leave "
            "[reference] out",
        ),
    ],
)
def test_it_is_refused_with_the_reason(overrides, message, plugins):
    assert message in refused(RECIPE, *overrides, plugins=plugins)


@pytest.mark.parametrize(
    "overrides",
    [
        ['loss.divergence="alpha"', "loss.divergence_alpha=0.3"],
        ['loss.use="hinge"', 'loss.divergence="chi-squared"', 'data.columns.margin="gap"'],
        ['loss.use="ipo"', 'data.columns={weight="w", label_probability="p"}'],
        [BOTH],
    ],
)
def test_what_is_right_is_read(overrides, plugins):
    assert load(RECIPE, *overrides, plugins=plugins).loss
