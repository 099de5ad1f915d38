import socket
import time
from dataclasses import replace

import pytest

pytest.importorskip("tensorboard")

from dpotrain_plugins.loggers.tensorboard import TensorBoardLogger
from tests.plugins.logging_run import begun, ended, evaluation, logged, made_up_run, samples, train
from tests.plugins.tensorboard_files import scalars


def _logger() -> TensorBoardLogger:
    return TensorBoardLogger(TensorBoardLogger.Options())


def test_records_are_read_back_under_their_names_at_their_steps(tmp_path):
    logged(_logger(), tmp_path)
    assert scalars(tmp_path) == {
        "eval/loss": [(0, 0.69), (4, 0.6)],
        "eval/rewards/accuracies": [(0, 0.75), (4, 0.75)],
        "loss": [(2, 0.5), (4, 0.4)],
        "rewards/margins": [(2, 0.25), (4, 0.25)],
        "learning_rate": [(2, 0.0), (4, 0.0)],
    }


def test_evaluations_of_a_source_are_below_those_of_the_whole(tmp_path):
    whole = evaluation(4, 0.6)
    record = replace(whole, metrics={**whole.metrics, "few/loss": 0.5})
    begun(_logger(), tmp_path, record).finish(ended(tmp_path))
    assert scalars(tmp_path)["eval/few/loss"] == [(4, 0.5)]


def test_the_plugins_that_ran_are_in_it(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    logger = _logger()
    logger.start(made_up_run(tmp_path))
    logger.finish(ended(tmp_path))
    accumulator = EventAccumulator(str(tmp_path / "tensorboard"))
    accumulator.Reload()
    (event,) = accumulator.Tensors("plugins/losses/text_summary")
    assert event.tensor_proto.string_val == [b"dpotrain 0.1.0: loss dpo"]


def texts(folder, tag: str) -> list[tuple[int, str]]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    accumulator = EventAccumulator(str(folder / "tensorboard"), size_guidance={"tensors": 0})
    accumulator.Reload()
    events = accumulator.Tensors(f"{tag}/text_summary")
    return [(event.step, event.tensor_proto.string_val[0].decode()) for event in events]


def test_each_prompt_has_a_tag_with_its_answers_by_step(tmp_path):
    logger = _logger()
    logger.start(made_up_run(tmp_path))
    logger.log_text(samples(0))
    logger.log_text(samples(2))
    logger.finish(ended(tmp_path))
    assert [step for step, _ in texts(tmp_path, "samples/2")] == [0, 2]
    (_, before), (_, after) = texts(tmp_path, "samples/1")
    shown = "**prompt**\n\n    What is *DPO*?\n\n**answer**\n\n    A loss,\n    \n    at step {} <b>&"
    assert (before, after) == (shown.format(0), shown.format(2))


def test_a_resumed_run_has_no_step_twice_and_loses_none(tmp_path):
    killed = begun(
        _logger(),
        tmp_path,
        evaluation(0),
        train(1, 0.9),
        train(2, 0.8),
        evaluation(2),
        train(3, 99.0),
        evaluation(3, 99.0),
    )
    killed._writer.flush()  # killed at step 3, after the checkpoint of step 2
    resumed = begun(_logger(), tmp_path, train(3, 0.7), evaluation(3), train(4, 0.6), resumed_from=2)
    resumed.finish(ended(tmp_path))
    written = scalars(tmp_path)
    assert written["loss"] == [(1, 0.9), (2, 0.8), (3, 0.7), (4, 0.6)]
    assert written["eval/loss"] == [(0, 0.6), (2, 0.6), (3, 0.6)]


def test_a_run_killed_before_its_first_checkpoint_starts_its_log_over(tmp_path):
    killed = begun(_logger(), tmp_path, evaluation(0, 99.0), train(1, 99.0))
    killed._writer.flush()
    again = begun(_logger(), tmp_path, evaluation(0, 0.7), train(1, 0.6))
    again.finish(ended(tmp_path))
    assert (scalars(tmp_path)["loss"], scalars(tmp_path)["eval/loss"]) == ([(1, 0.6)], [(0, 0.7)])


@pytest.mark.parametrize("ahead", [0, 3600])
def test_a_resumed_run_is_read_last_whatever_the_clock_said_before(tmp_path, ahead):
    """Files are read in the order of their names: the time, then what does not grow from one process to the next."""
    folder = tmp_path / "tensorboard"
    for step, first in ((1, "z"), (2, "y")):
        killed = begun(_logger(), tmp_path, train(step, 0.9), train(step + 1, 99.0), resumed_from=step - 1)
        killed._writer.flush()
        (file,) = folder.glob(f"events.out.tfevents.*.{socket.gethostname()}.*")
        file.rename(folder / f"events.out.tfevents.{int(time.time()) + ahead:010d}.{first}.1.0")
    begun(_logger(), tmp_path, train(3, 0.7), resumed_from=2).finish(ended(tmp_path))
    assert scalars(tmp_path)["loss"] == [(1, 0.9), (2, 0.9), (3, 0.7)]


@pytest.mark.parametrize("status", ["finished", "stopped", "failed"])
def test_the_last_record_is_on_disk_however_the_run_ends(tmp_path, status):
    logger = begun(_logger(), tmp_path, train(4))
    logger.finish(ended(tmp_path, status))
    assert scalars(tmp_path)["loss"] == [(4, 0.5)]
