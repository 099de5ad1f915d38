"""accelerate's parallelism configuration in the terms of a recipe, by the variables that its launcher exports."""

import pytest

from dpotrain.core.errors import RecipeError
from dpotrain.engine.parallel.accelerate_config import refuse_engines
from dpotrain.engine.parallel.parallelism_config import take_parallelism_config
from dpotrain.recipe.sections.parallel import ParallelSection
from tests.engine.test_accelerate_config import exported


def given(**sizes: int) -> dict[str, str]:
    options = [f"--parallelism_config_{name}_size={size}" for name, size in sizes.items()]
    return {**exported("--use_parallelism_config", *options), "WORLD_SIZE": "8"}


@pytest.mark.parametrize(
    ("sizes", "overrides"),
    [
        ({"dp_shard": 8}, ['parallel.shard="all"']),
        ({"dp_replicate": 2, "dp_shard": 4}, ['parallel.shard="all"', "parallel.group=4"]),
        ({"dp_replicate": 8}, ['parallel.shard="none"']),
        ({"dp_shard": 4, "cp": 2}, ['parallel.shard="all"', "parallel.context=2"]),
        (
            {"dp_replicate": 2, "dp_shard": 2, "cp": 2},
            ['parallel.shard="all"', "parallel.group=4", "parallel.context=2"],
        ),
    ],
)
def test_sizes_are_values_of_the_recipe(sizes, overrides):
    environment = given(**sizes)
    with pytest.raises(RecipeError, match="use_parallelism_config, which only dpotrain run reads"):
        refuse_engines(environment)
    assert take_parallelism_config(environment).with_recipe(ParallelSection()) == overrides
    # No library finds it any more.
    refuse_engines(environment)
    assert take_parallelism_config(environment) is None


@pytest.mark.parametrize(
    ("sizes", "said"),
    [
        ({"tp": 2, "dp_shard": 4}, "_tp_size: 2, and dpotrain offers no tensor parallelism"),
        ({"sp": 2, "dp_shard": 4}, "_sp_size: 2, and dpotrain offers no sequence parallelism"),
        ({"dp_shard": 4}, "which takes 4 processes, and this run has 8"),
        ({"dp_shard": 0}, "_dp_shard_size: 0.\nSet it to a whole number > 0"),
    ],
)
def test_what_is_not_offered_or_does_not_add_up_is_refused(sizes, said):
    with pytest.raises(RecipeError) as caught:
        take_parallelism_config(given(**sizes))
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("recipe", "said"),
    [
        (ParallelSection(shard="none"), 'parallel.shard = "none"'),
        (ParallelSection(group=2), "parallel.group = 2"),
        (ParallelSection(context=4), "parallel.context = 4"),
    ],
)
def test_a_contradiction_names_both(recipe, said):
    found = take_parallelism_config(given(dp_replicate=2, dp_shard=2, cp=2))
    with pytest.raises(
        RecipeError, match="the accelerate configuration parallelism_config_dp_replicate_size: 2"
    ):
        found.with_recipe(recipe)
    agreed = ParallelSection(shard="all", group=4, context=2)
    assert found.with_recipe(agreed)[1:] == ["parallel.group=4", "parallel.context=2"]
