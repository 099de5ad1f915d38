from dpotrain.core.records import CheckpointRecord
from dpotrain.ui.judgement import CHOSEN_REWARDS_FALL
from dpotrain.ui.state import Tracker
from dpotrain.ui.view import picture
from tests.ui.records import FIRST, LAST, Clock, step


def seen(tracker: Tracker, clock: Clock, width: int = 79) -> list[str]:
    return [line.plain.rstrip() for line in picture(tracker.state, clock(), width)]


def test_line_mode_at_79_columns(tmp_path):
    clock = Clock()
    tracker = Tracker(clock)
    tracker.logged(FIRST)
    for number in range(1, 9):
        clock.sleep(2)
        tracker.step(step(number, total=32, loss=0.7 - 0.01 * number))
    tracker.logged(LAST)
    tracker.checkpoint(CheckpointRecord(8, tmp_path))
    tracker.microbatch(9, 1, 4)
    clock.sleep(1)
    assert seen(tracker, clock) == [
        "training ━━━━━━━━─────────────────────────── step 8 of 32, epoch 0.25, 47s left",
        "step 9   ━━━━━━━────────────────────── 1 of 4 micro-batches, 1.0s of about 2.0s",
        "loss 0.6550, accuracy 75.0 %, margin +0.5000, chosen -0.2500, rejected -0.7500",
        "gradient norm 1.2500",
        "loss █▇▆▅▄▃▂▁ from 0.6200 to 0.6900",
        "4.0 pairs/s, 500 tokens/s, peak memory 3.1 GB, lr 5.0e-07, checkpoint step 8",
        "eval step 200: loss 0.5431 (-0.1500), accuracy 65.0 % (+15.0), margin +0.5500",
        CHOSEN_REWARDS_FALL,
    ]


def test_before_the_first_step_the_phases_alone():
    clock = Clock()
    tracker = Tracker(clock)
    assert seen(tracker, clock) == []
    with tracker.phase("loading the model", None):
        clock.sleep(3)
        (line,) = seen(tracker, clock)
        assert line.startswith("loading the model ─")
        assert line.endswith(" 3.0s")
    with tracker.phase("tokenizing", 2000) as advance:
        advance(500)
        clock.sleep(3)
        assert seen(tracker, clock)[0].endswith(" 500 of 2,000, 9.0s left")
