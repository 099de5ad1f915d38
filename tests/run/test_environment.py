"""environment.json holds no secret."""

from dpotrain.run.building.environment import _without_secrets

DOCUMENT = {"loss": {"beta": 0.1}, "loggers": [{"use": "x", "project": "p"}]}


def test_overrides_of_keys_that_the_resolved_recipe_leaves_out_are_masked():
    """Secret options are never in the resolved recipe, so that a key that is not there may be one."""
    command = [
        "dpotrain", "run", "r.toml", "--set", "loss.beta=0.1", "--set", "loggers.0.token=s3cret",
        "--set=loggers.0.project=p", "--set=loggers.0.key=s3cret", "--set", "adapter=false",
    ]  # fmt: skip
    assert _without_secrets(command, DOCUMENT) == [
        "dpotrain", "run", "r.toml", "--set", "loss.beta=0.1", "--set", "loggers.0.token=***",
        "--set=loggers.0.project=p", "--set=loggers.0.key=***", "--set", "adapter=false",
    ]  # fmt: skip
