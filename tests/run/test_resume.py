"""A run that was stopped and resumed ends in the same weights, bit for bit, and tells the same story."""

import json
import os
import signal
from pathlib import Path

import pytest

from dpotrain.core.errors import RunError, RunStopped
from dpotrain.core.reporter import SilentReporter
from dpotrain.ui.summary import summary_text
from tests.run.crashing import SPEED
from tests.run.recipes import Recording, losses, project, records, run, weights
from tests.support import CHAT_TEMPLATE, tiny_tokenizer


def story(run: Path) -> list[dict]:
    lines = [*records(run), *records(run, "eval")]
    return [{name: value for name, value in line.items() if name not in SPEED} for line in lines]


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory) -> Path:
    recipe = project(tmp_path_factory.mktemp("uninterrupted"), adapter=True)
    # Dropout, so that the random states matter.
    text = (recipe.read_text() + "dropout = 0.2\n").replace(
        "every = 1", "every = 3"
    ) + "\n[evaluation]\nevery = 4\n"
    recipe.write_text(text)
    run(recipe)
    return recipe


def test_going_on_from_the_newest_checkpoint_after_a_kill(uninterrupted, tmp_path):
    """What a kill leaves: lines and files of steps after the last checkpoint."""

    class Killed(SilentReporter):
        def step(self, record) -> None:
            if record.step == 8:
                raise KeyboardInterrupt

    overrides = ["checkpoints.every=3", "checkpoints.keep=1"]
    with pytest.raises(KeyboardInterrupt):
        run(uninterrupted, *overrides, into=tmp_path / "run", reporter=Killed())
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert (summary["status"], summary["checkpoint_step"]) == ("interrupted", 6)
    assert [path.name for path in (tmp_path / "run" / "checkpoints").iterdir()] == ["step-00000006"]
    assert run(uninterrupted, *overrides, into=tmp_path / "run", resume=True).status == "finished"
    assert weights(tmp_path / "run" / "final") == weights(uninterrupted.parent / "run" / "final")
    assert story(tmp_path / "run") == story(uninterrupted.parent / "run")


def test_a_kill_while_a_finished_run_is_given_more_epochs_does_not_leave_it_finished(forked, tmp_path):
    recipe = project(tmp_path)
    assert forked.run(recipe, ["training.epochs=1"]).code == 0
    assert forked.run(recipe, acts=[["signal_after", 6, "SIGKILL"]]).code == -signal.SIGKILL
    assert not (tmp_path / "run" / "summary.json").exists()
    assert run(recipe, resume=True).steps == 10


def test_a_damaged_checkpoint_is_passed_over_and_never_counted_again(uninterrupted, tmp_path):
    overrides = ["checkpoints.every=2", "checkpoints.keep=2"]
    run(uninterrupted, *overrides, into=tmp_path / "run", reporter=Recording(stop_at=6))
    newest = tmp_path / "run" / "checkpoints" / "step-00000006"
    (newest / "state.json").write_text("{}")
    run(uninterrupted, *overrides, into=tmp_path / "run", resume=True, reporter=Recording(stop_at=5))
    names = sorted(path.name for path in newest.parent.iterdir())
    assert names == ["damaged-step-00000006", "step-00000004", "step-00000005"]
    run(uninterrupted, *overrides, into=tmp_path / "run", resume=True)
    assert weights(tmp_path / "run" / "final") == weights(uninterrupted.parent / "run" / "final")
    assert story(tmp_path / "run") == story(uninterrupted.parent / "run")


def test_what_a_kill_left_half_written_goes(uninterrupted, tmp_path):
    (tmp_path / "run" / "checkpoints" / ".step-00000004.77.partial").mkdir(parents=True)
    (tmp_path / "run" / ".summary.json.77.partial").write_text("{")
    run(uninterrupted, "training.steps=1", into=tmp_path / "run")
    assert not list((tmp_path / "run").rglob(".*"))


def test_resume_on_a_fresh_folder_begins(uninterrupted, tmp_path):
    assert run(uninterrupted, "training.steps=1", into=tmp_path / "run", resume=True).steps == 1


def test_a_finished_run_is_not_run_again(uninterrupted):
    before = (uninterrupted.parent / "run" / "metrics.jsonl").read_bytes()
    outcome = run(uninterrupted, resume=True)
    assert (outcome.status, outcome.final) == ("finished", uninterrupted.parent / "run" / "final")
    assert (uninterrupted.parent / "run" / "metrics.jsonl").read_bytes() == before


def test_a_finished_run_can_be_given_more_epochs(tmp_path):
    recipe = project(tmp_path)
    short = [
        "training.epochs=1",
        "checkpoints.every=5",
        'schedule.use="constant"',
        "schedule.warmup_fraction=0",
    ]
    assert run(recipe, *short).steps == 5
    assert run(recipe, *short, "training.epochs=2", resume=True).steps == 10
    run(recipe, *short, "training.epochs=2", into=tmp_path / "whole")
    assert weights(tmp_path / "run" / "final") == weights(tmp_path / "whole" / "final")


def test_a_folder_that_holds_a_run_is_left_alone(uninterrupted):
    with pytest.raises(RunError, match=r"already holds a run\.\nContinue it with --resume"):
        run(uninterrupted)


def files(run: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}


def test_another_recipe_is_refused_with_the_difference_and_touches_nothing(uninterrupted, tmp_path):
    run(uninterrupted, into=tmp_path / "run", reporter=Recording(stop_at=2))
    before = files(tmp_path / "run")
    with pytest.raises(RunError, match=r"loss\.beta: 0\.1 then, 0\.3 now"):
        run(uninterrupted, "loss.beta=0.3", into=tmp_path / "run", resume=True)
    assert files(tmp_path / "run") == before


def test_other_data_is_refused(uninterrupted, tmp_path):
    from tests.run.recipes import write_pairs

    pairs = write_pairs(tmp_path / "pairs.jsonl")
    run(uninterrupted, f"data.name={str(pairs)!r}", into=tmp_path / "run", reporter=Recording(stop_at=2))
    for changed in ({"count": 30}, {"seed": 1}):
        write_pairs(tmp_path / "pairs.jsonl", **changed)
        with pytest.raises(RunError, match="the data is not the run's"):
            run(uninterrupted, f"data.name={str(pairs)!r}", into=tmp_path / "run", resume=True)


def test_a_finished_run_of_another_recipe_is_refused(uninterrupted):
    with pytest.raises(RunError, match=r"loss\.beta: 0\.1 then, 0\.5 now"):
        run(uninterrupted, "loss.beta=0.5", resume=True)


def test_a_signal_before_the_first_step_is_no_failure(tmp_path):
    recipe = project(tmp_path)

    class Early(SilentReporter):
        def started(self, title, facts, total_steps=0) -> None:
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(RunStopped, match="before the first step"):
        run(recipe, reporter=Early())
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["status"] == "stopped"
    assert run(recipe, resume=True).status == "finished"


def test_a_falling_schedule_over_another_number_of_steps_is_pointed_out(tmp_path):
    recipe = project(tmp_path)
    assert run(recipe, reporter=Recording(stop_at=2)).status == "stopped"
    reporter = Recording()
    run(recipe, "training.epochs=3", resume=True, reporter=reporter)
    assert any("15 steps instead of 10" in text for text in reporter.warnings)


#: Another text at every call.
CLOCK = "<|im_start|>system\n{{ strftime_now('%H:%M:%S.%f') }}<|im_end|>\n"


CHAT = ["run.cache_dir=false", 'data.format="conversational"', "data.max_length=200", "checkpoints.every=2"]


@pytest.fixture
def by_the_clock(tmp_path) -> Path:
    """A recipe over conversations, for a model whose template reads the clock."""
    recipe = project(tmp_path)
    tiny_tokenizer(tmp_path / "model", chat_template=CLOCK + CHAT_TEMPLATE)
    pairs = [json.loads(line) for line in (tmp_path / "pairs.jsonl").read_text().splitlines()]
    chats = [
        {
            "prompt": [{"role": "user", "content": pair["prompt"]}],
            "chosen": [{"role": "assistant", "content": pair["chosen"]}],
            "rejected": [{"role": "assistant", "content": pair["rejected"]}],
        }
        for pair in pairs
    ]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(chat) + "\n" for chat in chats))
    return recipe


def report_of(run: Path) -> dict:
    return json.loads((run / "data_report.json").read_text())


def test_a_template_that_reads_the_clock_reads_the_time_of_the_runs_start_on_another_day(
    forked, by_the_clock, tmp_path
):
    """TRAPS: an uncached run that was refused the next day, since its tokens had another date in them."""
    assert forked.run(by_the_clock, CHAT, acts=[["signal_after", 5, "SIGTERM"]]).code == 75
    report = report_of(tmp_path / "run")
    ended = forked.run(by_the_clock, CHAT)
    assert ended.code == 0, ended.output
    assert report_of(tmp_path / "run") == report
    assert run(by_the_clock, *CHAT, f"data.clock={report['clock']!r}", into=tmp_path / "whole").steps
    assert weights(tmp_path / "run" / "final") == weights(tmp_path / "whole" / "final")


def test_processes_of_one_run_read_one_time(forked, by_the_clock, tmp_path):
    assert [ended.code for ended in forked.ranks(by_the_clock, CHAT)] == [0, 0]
    again = [*CHAT, f"run.output_dir={str(tmp_path / 'again')!r}"]
    clock = f"data.clock={report_of(tmp_path / 'run')['clock']!r}"
    assert [ended.code for ended in forked.ranks(by_the_clock, [*again, clock])] == [0, 0]
    assert losses(tmp_path / "run") == losses(tmp_path / "again")


def test_what_changed_is_counted_from_the_first_evaluation_of_the_run(tmp_path):
    """Not of the process that ends it: a resumed run compares with the policy before training."""
    recipe = project(tmp_path)
    options = ["training.steps=4", "evaluation.every=1", "checkpoints.every=1"]
    run(recipe, *options, reporter=Recording(stop_at=2))
    outcome = run(recipe, *options, resume=True)
    assert (outcome.first_evaluation["step"], outcome.last_evaluation["step"]) == (0, 4)
    assert "before" in summary_text(outcome)
