import io
import re
from pathlib import Path

import pytest

from dpotrain.core.records import CheckpointRecord, Record, Sample, SamplesRecord
from dpotrain.ui.judgement import CHOSEN_REWARDS_FALL
from dpotrain.ui.plain import PlainReporter
from tests.ui.records import FIRST, LAST, Clock, evaluation, metrics, outcome, step


@pytest.fixture
def stream():
    return io.StringIO()


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def plain(stream, clock):
    return PlainReporter(stream, clock)


def test_a_train_record_is_one_greppable_line(plain, stream):
    plain.step(step(10))
    plain.logged(Record("train", 10, metrics()))
    assert stream.getvalue() == (
        "step 10/470 loss=0.5312 accuracy=0.7500 margin=0.5000 chosen=-0.2500 rejected=-0.7500 "
        "grad_norm=1.2500 lr=5.0e-07 pairs/s=12.3 tokens/s=2345 memory_mb=3220 eta=15m20s\n"
    )


def test_a_metric_that_a_record_lacks_is_left_out(plain, stream):
    plain.logged(Record("train", 10, {"loss": 0.5}))
    assert stream.getvalue() == "step 10 loss=0.5000\n"


def test_an_evaluation_is_one_line(plain, stream):
    plain.logged(FIRST)
    assert (
        stream.getvalue()
        == "eval step=0 loss=0.6931 accuracy=0.5000 margin=0.0000 chosen=0.0000 rejected=0.0000\n"
    )


def test_steps_alone_write_nothing(plain, stream):
    for number in range(1, 100):
        plain.step(step(number))
    assert stream.getvalue() == ""


def test_falling_chosen_rewards_are_called_normal_once_where_people_look(plain, stream):
    plain.logged(FIRST)
    plain.logged(LAST)
    plain.logged(evaluation(400, 0.5, 0.7, 0.6, -0.4))
    assert stream.getvalue().count(f"note: {CHOSEN_REWARDS_FALL}\n") == 1


def test_falling_chosen_rewards_without_a_growing_margin_are_not_called_normal(plain, stream):
    plain.logged(evaluation(0, 0.6, 0.7, 0.5, 0.0))
    plain.logged(evaluation(200, 0.8, 0.4, -0.1, -0.5))
    plain.logged(evaluation(300, 0.6, 0.6, 0.3, 0.1))
    assert "normal" not in stream.getvalue()


def test_a_phase_says_start_progress_at_a_sane_rate_and_done(plain, stream, clock):
    with plain.phase("tokenizing", 100) as advance:
        for _ in range(100):
            clock.sleep(0.9)
            advance()
    lines = stream.getvalue().splitlines()
    assert (lines[0], lines[1]) == ("tokenizing: start total=100", "tokenizing: 12/100 eta=1m19s")
    assert lines[-1] == "tokenizing: done 100/100 in 1m30s"
    assert len(lines) == 2 + 8


def test_a_slow_phase_is_heard_of_every_minute(plain, stream, clock):
    with plain.phase("reference", 10_000) as advance:
        for _ in range(19):
            clock.sleep(10)
            advance()
    assert [line for line in stream.getvalue().splitlines() if "eta" in line] == [
        "reference: 6/10000 eta=1d04h",
        "reference: 12/10000 eta=1d04h",
        "reference: 18/10000 eta=1d04h",
    ]


def test_a_phase_of_unknown_length(plain, stream, clock):
    with plain.phase("reading", None) as advance:
        advance(0)
        clock.sleep(61)
        advance(5)
    assert stream.getvalue() == "reading: start\nreading: 5\nreading: done 5 in 1m01s\n"


def test_a_phase_that_is_broken_off_says_so(plain, stream):
    def run() -> None:
        with plain.phase("tokenizing", 100) as advance:
            advance(7)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run()
    assert stream.getvalue().splitlines()[-1] == "tokenizing: interrupted at 7/100 after 0.0s"


def test_notes_warnings_header_and_checkpoints_are_marked(plain, stream):
    plain.started("recipe.toml", {"model": "tiny", "data": "two\tpairs"})
    plain.note("one\ntwo")
    plain.warn("careful")
    plain.checkpoint(CheckpointRecord(200, Path("runs/x/checkpoints/step-00000200")))
    assert stream.getvalue().splitlines() == [
        "recipe.toml",
        "model: tiny",
        "data: two pairs",
        "note: one",
        "note: two",
        "warning: careful",
        "checkpoint step=200 path=runs/x/checkpoints/step-00000200",
    ]


def test_no_line_is_wrapped_or_coloured(plain, stream, tmp_path):
    plain.note("x" * 500)
    plain.finished(outcome(tmp_path / ("long" * 30)))
    text = stream.getvalue()
    assert "x" * 500 in text
    assert str(tmp_path / ("long" * 30) / "final") in text
    assert "\x1b" not in text
    assert not re.search(r" +$", text, re.MULTILINE)


def test_a_lost_reader_or_a_closed_stream_does_not_end_the_run():
    class Broken(io.StringIO):
        def write(self, text: str) -> int:
            raise BrokenPipeError

    for stream in (Broken(), io.StringIO()):
        reporter = PlainReporter(stream)
        stream.close()
        with reporter, reporter.phase("tokenizing", 3) as advance:
            advance()
            reporter.note("hello")


def test_a_stream_that_lacks_a_character_gets_a_question_mark(tmp_path):
    path = tmp_path / "log"
    with path.open("w", encoding="ascii") as stream:
        PlainReporter(stream).note("naïve → ok")
    assert path.read_text() == "note: na?ve ? ok\n"


def test_a_step_of_minutes_is_heard_of_every_minute(plain, stream, clock):
    plain.started("recipe.toml", {}, 47)
    for done in range(9):
        plain.microbatch(1, done, 12)
        clock.sleep(25)
    plain.step(step(1))
    plain.microbatch(2, 0, 12)
    assert stream.getvalue().splitlines()[1:] == [
        "step 1/47: 3/12 micro-batches eta=3m45s",
        "step 1/47: 6/12 micro-batches eta=2m30s",
    ]


def test_samples_are_a_line_each(plain, stream):
    plain.samples(SamplesRecord(200, [Sample("What is\n0+0?", "It is 0."), Sample("Go on", "x" * 400)]))
    one, two = stream.getvalue().splitlines()
    assert one == 'sample step=200 prompt="What is\\n0+0?" answer="It is 0."'
    assert two.endswith('x…"')


def test_a_short_phase_of_unknown_length_is_one_line_also_where_it_fails(plain, stream):
    with plain.phase("hashing the data", None):
        pass

    def fail() -> None:
        with plain.phase("reading the data", None):
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert stream.getvalue() == "hashing the data: start\nreading the data: start\n"


def test_the_time_left_counts_the_evaluations_to_come(stream, clock):
    plain = PlainReporter(stream, clock, evaluate_every=100)
    with plain.phase("evaluating", None):
        clock.sleep(50)
    plain.logged(FIRST)
    plain.step(step(300))
    plain.logged(Record("train", 300, {"loss": 0.5}))
    assert stream.getvalue().splitlines()[-1] == "step 300/470 loss=0.5000 eta=8m10s"
