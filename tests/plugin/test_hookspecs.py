"""Every hook is documented in full, and its example is real."""

import inspect
import re
import sqlite3
import sys
import textwrap
import types
from contextlib import closing

import pytest

from dpotrain.plugin.api import hookspecs
from dpotrain.plugin.api.hookspecs import EVENTS, HOOKS
from dpotrain.plugin.api.kinds import CATALOGUES
from dpotrain.plugin.runtime.hooks import implementations
from dpotrain.plugin.runtime.manager import PluginManager
from tests.support import tiny_model

PARTS = ("Called:", "Rank:", "Must not import:", "Result:", "Example:")


def example(hook: str) -> types.ModuleType:
    """Return a hook's example as a module."""
    doc = inspect.getdoc(HOOKS[hook])
    module = types.ModuleType(f"example_of_{hook}")
    sys.modules[module.__name__] = module
    exec(compile(textwrap.dedent(doc.split("Example:\n")[1]), module.__name__, "exec"), module.__dict__)
    return module


def test_there_is_a_spec_for_each_catalogue_and_five_run_events():
    assert set(HOOKS) == {"dpotrain_kinds"} | set(CATALOGUES) | set(EVENTS)
    assert set(EVENTS) == {
        "dpotrain_run_started", "dpotrain_step_ended", "dpotrain_evaluated", "dpotrain_checkpoint_saved",
        "dpotrain_run_finished",
    }  # fmt: skip


@pytest.mark.parametrize("hook", HOOKS)
def test_a_spec_says_when_where_what_not_to_import_and_what_becomes_of_the_result(hook):
    doc = inspect.getdoc(HOOKS[hook])
    first, second, *_ = doc.splitlines()
    assert re.match(r"(Declare|Offer|Act) ", first)
    assert first.endswith(".")
    assert second == ""
    positions = [doc.index(part) for part in PARTS]
    assert positions == sorted(positions)


@pytest.mark.parametrize("event", EVENTS)
def test_the_page_shows_every_run_event_in_the_life_of_a_run(event):
    assert event in hookspecs.__doc__


@pytest.mark.parametrize("hook", HOOKS)
def test_the_example_of_a_spec_registers_with_the_manager(hook):
    module = example(hook)
    assert hook in implementations(module, "example")
    manager = PluginManager.of(module)
    assert manager.failed == (), manager.failed and manager.failed[0].reason
    if hook in CATALOGUES:
        assert len(manager.components(CATALOGUES[hook])) == 1
    elif hook == "dpotrain_kinds":
        assert manager.kinds.listed["judges"].component is module.Judge
    else:
        assert manager.plugins[0].events == (hook,)


def test_the_examples_work(tmp_path):
    import torch

    from dpotrain.core.scores import PairScores

    loss = example("dpotrain_losses").MarginLoss
    scores = PairScores(*[torch.zeros(3)] * 4, *[torch.ones(3, dtype=torch.int64)] * 2)
    made = loss(loss.Options(margin=0.3))
    assert made(scores).tolist() == pytest.approx([made.first_loss()] * 3)

    sure = example("dpotrain_metrics").Sure
    one = PairScores(*(torch.tensor([value]) for value in (-1.0, -9.0, -2.0, -2.0)), *[torch.ones(1)] * 2)
    measured = sure(sure.Options())(one)
    assert measured["share"].tolist() == measured["chosen_drop"][1].tolist() == [True]
    assert measured["chosen_drop"][0].tolist() == [-1.0]

    bitfit = example("dpotrain_adapters").BitFit
    adapter = bitfit(bitfit.Options())
    policy = adapter.attach(tiny_model("gpt2"))
    norm = policy.transformer.ln_f
    initial = norm.bias.detach().clone()
    with torch.no_grad():
        norm.bias += 1
    with adapter.reference(policy):
        assert torch.equal(norm.bias, initial)
    assert torch.equal(norm.bias, initial + 1)
    assert not norm.weight.requires_grad

    plus = example("dpotrain_optimizers").LoraPlus
    built = plus(plus.Options(lr=0.1, ratio=2.0)).build(dict(torch.nn.Linear(2, 2).named_parameters()))
    assert [group["lr"] for group in built.param_groups] == [0.1]

    polynomial = example("dpotrain_schedules").Polynomial
    schedule = polynomial(polynomial.Options(warmup_steps=2))
    assert [schedule.factor(step, 6) for step in range(1, 7)] == [0.5, 1.0, 1.0, 0.5625, 0.25, 0.0625]

    archive, final = example("dpotrain_exporters").Archive, tmp_path / "run" / "final"
    final.mkdir(parents=True)
    run = types.SimpleNamespace(folder=tmp_path / "run", final=final)
    assert archive(archive.Options()).export(run) == str(tmp_path / "run" / "final.zip")

    database = tmp_path / "pairs.db"
    with closing(sqlite3.connect(database)) as connection:
        connection.execute("CREATE TABLE train (prompt, chosen, rejected)")
        connection.execute("INSERT INTO train VALUES ('p', 'c', 'r')")
        connection.commit()
    source = example("dpotrain_dataset_sources").SqliteSource
    rows = source(source.Options(database=str(database))).load("train")
    assert list(rows) == [{"prompt": "p", "chosen": "c", "rejected": "r"}]
    assert rows.fingerprint
