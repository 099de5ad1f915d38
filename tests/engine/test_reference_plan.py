"""How each recipe reaches its reference: which model computes it, when, and what that costs."""

from types import SimpleNamespace
from typing import Any

import pytest

from dpotrain.engine.reference.plan import ReferencePlan
from dpotrain.recipe.sections.reference import INITIAL_POLICY, ReferenceUpdate

MOVES = ReferenceUpdate(every=512, share=0.6)


def plan(
    of=INITIAL_POLICY, when="auto", *, adapter=True, epochs=1, needed=True, columns=(), update=None
) -> ReferencePlan:
    recipe: Any = SimpleNamespace(
        data=SimpleNamespace(pair_columns=frozenset(columns)),
        reference=SimpleNamespace(of=of, when=when, update=update),
        trains_in_place=not adapter,
        loss=SimpleNamespace(needs_reference=needed),
        training=SimpleNamespace(epochs=epochs),
    )
    return ReferencePlan.of(recipe)


@pytest.mark.parametrize("of", [INITIAL_POLICY, "another"])
@pytest.mark.parametrize("when", ["auto", "live", "precomputed"])
def test_a_loss_without_reference_computes_none(of, when):
    found = plan(of, when, needed=False)
    assert found == ReferencePlan("none", "never")
    assert (found.passes_per_step, found.pass_before_training, found.model_beside_policy) == (0, False, False)


def test_log_probs_in_the_data_are_computed_by_nothing():
    found = plan(epochs=2, columns=["reference_chosen", "reference_rejected", "weight"])
    assert found == ReferencePlan("data", "never")
    assert plan(columns=["weight"]).model == "policy"


@pytest.mark.parametrize(
    ("found", "model", "computed"),
    [
        (plan(when="auto"), "policy", "every step unless stored"),
        (plan(when="auto", epochs=2), "policy", "before training"),
        (plan(when="live", epochs=2), "policy", "every step"),
        (plan(when="precomputed"), "policy", "before training"),
        (plan(when="auto", adapter=False), "policy", "before training"),
        (plan(when="live", adapter=False), "second copy", "every step"),
        (plan(when="precomputed", adapter=False), "policy", "before training"),
        (plan(when="auto", epochs=2, update=MOVES), "second copy", "every step"),
        (plan(when="live", adapter=False, update=MOVES), "second copy", "every step"),
        (plan("another", "auto"), "separate model", "before training"),
        (plan("another", "live", adapter=False), "separate model", "every step"),
        (plan("another", "precomputed", epochs=2), "separate model", "before training"),
    ],
)
def test_model_and_time_follow_from_the_recipe(found, model, computed):
    assert (found.model, found.computed) == (model, computed)
    assert found.pass_before_training == (computed == "before training")
    assert found.passes_per_step == (0 if found.pass_before_training else 1)
    assert found.loaded_before_policy == (model == "separate model")


def test_two_sets_of_weights_are_in_memory_only_where_the_recipe_asks_for_it():
    live = [plan(when="live", adapter=False), plan("another", "live"), plan(update=MOVES)]
    assert all(found.model_beside_policy for found in live)
    stored = [plan(of, when) for of in (INITIAL_POLICY, "another") for when in ("auto", "precomputed")]
    assert not any(found.model_beside_policy for found in [*stored, plan(when="live")])
