"""What ``dpotrain.testing`` gives to people who write plugins, used as they use it."""

import textwrap
import types
from pathlib import Path

import pytest

from dpotrain import hookimpl
from dpotrain.core.errors import PluginError, RecipeError
from dpotrain.core.packages import package_version
from dpotrain.core.pair import PreferencePair
from dpotrain.plugin.api import Logger, Loss
from dpotrain.testing import build_tiny_model, example_pairs, run_recipe
from dpotrain.testing.installed import why_not_offered


class HalfLoss(Loss):
    name = "half"

    def __call__(self, scores):
        return 0.5 * (scores.rejected_logratio - scores.chosen_logratio)

    def first_loss(self):
        return 0.0


class Collected(Logger):
    name = "collected"
    seen: list[object] = []  # noqa: RUF012

    def start(self, run):
        type(self).seen = [run.total_steps]

    def log(self, record):
        self.seen.append((record.kind, record.step))

    def finish(self, outcome):
        self.seen.append(outcome.status)


def _plugin() -> types.ModuleType:
    module = types.ModuleType("my_plugin")
    module.dpotrain_losses = hookimpl(lambda: [HalfLoss], specname="dpotrain_losses")
    module.dpotrain_loggers = hookimpl(lambda: [Collected], specname="dpotrain_loggers")
    return module


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    recipe = '[loss]\nuse = "half"\n[[loggers]]\nuse = "collected"\n[training]\nsteps = 3'
    return run_recipe(recipe, tmp_path_factory.mktemp("author"), plugins=[_plugin()])


def test_a_plugin_s_loss_trains_a_real_model(run):
    assert run.outcome.status == "finished"
    assert [record["step"] for record in run.train] == [1, 2, 3]
    assert run.train[0]["loss"] == 0.0
    assert run.train[-1]["loss"] < 0.0
    assert [record["step"] for record in run.evaluations] == [0, 3]
    assert (run.outcome.final / "model.safetensors").exists()


def test_a_plugin_s_logger_hears_the_whole_run(run):
    events = [("eval", 0), ("train", 1), ("train", 2), ("train", 3), ("eval", 3)]
    assert [3, *events, "finished"] == Collected.seen


def test_a_module_that_has_only_run_events_is_called(tmp_path):
    module, heard = types.ModuleType("my_events"), []
    module.dpotrain_step_ended = hookimpl(
        lambda step: heard.append(step.step), specname="dpotrain_step_ended"
    )
    done = run_recipe("[training]\nsteps = 2", tmp_path, plugins=[module])
    assert heard == [1, 2]
    assert [call.method for call in done.calls if call.plugin == "my_events"] == ["dpotrain_step_ended"] * 2


def test_a_module_that_is_refused_ends_the_run_that_was_given_it(tmp_path):
    module = types.ModuleType("my_events")
    module.dpotrain_step_end = hookimpl(lambda: None, specname="dpotrain_step_end")
    with pytest.raises(
        PluginError, match=r'plugin "my_events" failed: .* did you mean "dpotrain_step_ended"'
    ):
        run_recipe("", tmp_path, model=tmp_path, data=tmp_path, plugins=[module])


def test_the_calls_of_plugins_are_recorded_in_order(run):
    mine = [call.method for call in run.calls if call.plugin == "my_plugin"]
    assert mine[:2] == ["dpotrain_losses", "dpotrain_loggers"]
    assert [method for method in mine if method in ("start", "log", "finish")] == [
        "start",
        *["log"] * 5,
        "finish",
    ]
    assert {call.component for call in run.calls if call.plugin == "my_plugin"} == {
        "",
        "loss half",
        "logger collected",
    }


def test_the_output_is_what_a_person_sees(run):
    assert "step 3/3 loss=" in run.output
    assert f"result       {run.outcome.final}" in run.output


def test_what_a_recipe_gets_wrong_is_raised_as_a_user_sees_it(tmp_path):
    with pytest.raises(RecipeError, match="betta"):
        run_recipe("[loss]\nbetta = 0.1", tmp_path, model=tmp_path, data=tmp_path)


def test_the_tiny_model_reads_any_text_and_is_the_same_every_time(tmp_path):
    from safetensors.torch import load_file
    from transformers import AutoTokenizer

    one, two = build_tiny_model(tmp_path / "one"), build_tiny_model(tmp_path / "two")
    first, second = (load_file(folder / "model.safetensors") for folder in (one, two))
    assert all((first[name] == second[name]).all() for name in first)
    tokenizer = AutoTokenizer.from_pretrained(one)
    text = "Grüße, 世界! 🙂"
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text
    assert tokenizer.pad_token == "<pad>"
    chat = tokenizer.apply_chat_template([{"role": "user", "content": "Hi"}], tokenize=False)
    assert chat == "<|im_start|>user\nHi<|im_end|>\n"


def test_the_example_pairs_are_usable_pairs():
    rows = example_pairs(20)
    pairs = [PreferencePair(**row) for row in rows]
    assert len({pair.prompt for pair in pairs}) == 20
    assert all(pair.chosen != pair.rejected for pair in pairs)


def test_the_fixtures_work_in_an_author_s_own_test_suite(forked, tmp_path: Path):
    (tmp_path / "conftest.py").write_text('pytest_plugins = ["dpotrain.testing"]\n')
    (tmp_path / "test_mine.py").write_text(
        textwrap.dedent(
            """
            def test_run(dpotrain_run, dpotrain_model, dpotrain_data):
                run = dpotrain_run('[loss]\\nuse = "ipo"', overrides=["training.steps=1"])
                assert run.outcome.steps == 1
                assert dpotrain_model.is_dir() and dpotrain_data.is_file()
            """
        )
    )
    ended = forked.pytest("--rootdir", str(tmp_path), folder=tmp_path)
    assert "1 passed" in ended.out, ended.output


LOSS = """
from dpotrain import hookimpl
from dpotrain.plugin.api import Loss


class Mine(Loss):
    name = "mine"

    def __call__(self, scores):
        return scores.rejected_logratio - scores.chosen_logratio


@hookimpl
def dpotrain_losses():
    return [Mine]
"""
TEST = """
from dpotrain.testing import LossConformance
from dpotrain_mine import Mine


class TestMine(LossConformance):
    component = Mine


def test_run(dpotrain_run):
    dpotrain_run('loss.use = "mine"')
"""


def test_a_package_that_is_not_installed_is_told_so_once(forked, tmp_path: Path):
    (tmp_path / "pyproject.toml").write_text('[project]\nname = "dpotrain-mine"\nversion = "0.1.0"\n')
    (tmp_path / "conftest.py").write_text('pytest_plugins = ["dpotrain.testing"]\n')
    (tmp_path / "dpotrain_mine.py").write_text(LOSS)
    (tmp_path / "test_mine.py").write_text(TEST)
    ended = forked.pytest("--rootdir", str(tmp_path), folder=tmp_path)
    said = f"dpotrain-mine is not installed, so dpotrain does not find its plugins: pip install -e {tmp_path}"
    assert f"AssertionError: {said}" in ended.out, ended.output
    assert f"RecipeError: {said}" in ended.out, ended.output
    assert "2 failed" in ended.out
    assert "passed" not in ended.out.splitlines()[-1]


def test_a_component_that_an_installed_plugin_forgot_to_offer_is_told_so():
    class Forgotten(HalfLoss):
        name = "forgotten"

    Forgotten.__module__ = "dpotrain_plugins.losses"
    owner = f'plugin "losses" (dpotrain {package_version("dpotrain")})'
    assert why_not_offered(Forgotten) == f"{owner} does not offer Forgotten: return it from dpotrain_losses"
    Forgotten.__module__ = "nowhere"
    why_not_offered.cache_clear()
    assert "no installed distribution has an entry point for nowhere" in why_not_offered(Forgotten)
