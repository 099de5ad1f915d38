"""What may go wrong with files while a run uses them, and what must come of it: one list for tests and documents."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tests.docs.markdown import table

MEND = "Free disk space or fix the permissions; --resume then continues from the last checkpoint."
MEND_CHECKPOINT = (
    "Free disk space or fix the permissions; --resume then continues from the checkpoint before it."
)


#: Checkpoints of a run of four steps that saves every two.
ALL, TWO, NONE = ("step-00000002", "step-00000004"), ("step-00000002",), ()


@dataclass(frozen=True)
class Fault:
    """A fault of one run, which is resumed without it and must end in the same bits as any other."""

    what: str
    seen: str
    """What a person sees of it, and what the run does."""
    acts: Sequence[Sequence[Any]]
    """See :mod:`tests.run.acts`; ``{run}`` and ``{cache}`` in a text are the folders."""
    says: str
    """The error, or the warning of a run that goes on; ``{run}`` and ``{cache}`` likewise, ``…`` is any text."""
    ends: bool = True
    """Whether the run ends of it, with exit code 1."""
    settings: Sequence[str] = ()
    left: Sequence[str] = ALL
    """Checkpoints that are there afterwards."""
    mended: Sequence[str] = ()
    """Folders that are made writable again before the run is resumed."""
    soak: bool = False
    """Whether it is like another one, and only tried in the long tests."""


def _full(pattern: str, room: int = 100, only: str = "") -> list[list[Any]]:
    return [["no_room", pattern, room, only] if only else ["no_room", pattern, room]]


_CACHE = ['run.cache_dir="{cache}"']
_GOES_ON = "a warning; the run goes on and finishes"

_NOTHING_STAYS = "error with the checkpoint's name; nothing of it stays, the one before it does"


def _checkpoint(
    what: str, acts: Sequence[Sequence[Any]], seen: str = "the same", soak: bool = False
) -> Fault:
    says = (
        f"cannot write the checkpoint {{run}}/checkpoints/step-00000004: File too large.\n{MEND_CHECKPOINT}"
    )
    return Fault(f"{what} of a checkpoint", seen, acts, says, left=TWO, soak=soak)


#: A run of four steps in which all weights are trained, with a checkpoint every two steps. Wherever "full" stands, no
#: file can grow beyond some bytes from that moment on, so that the write is short and everything after it fails too.
FAULTS = [
    _checkpoint(
        "disk full in `trained.safetensors`",
        _full(r"/checkpoints/\.step-00000004[^/]*$"),
        seen=_NOTHING_STAYS,
    ),
    # Larger than the weights, which are written before it, and smaller than the optimizer's state.
    _checkpoint(
        "disk full in `optimizer.safetensors`",
        _full(r"/checkpoints/\.step-00000004[^/]*$", 250_000),
        soak=True,
    ),
    *(
        # The last one: the others are written while training goes on, which would run out of room as well.
        _checkpoint(
            f"disk full in `{name}`",
            _full(rf"/checkpoints/\.step-00000004.*/{name}"),
            soak=name != "manifest.json",
        )
        for name in ("state.json", "manifest.json")
    ),
    Fault(
        "disk full in `metrics.jsonl`",
        "error; the line that was cut short goes when the run is resumed",
        [*_full(r"/metrics\.jsonl$")],
        f"cannot write {{run}}/metrics.jsonl: File too large.\n{MEND}",
        left=NONE,
    ),
    Fault(
        "disk full in `evaluations/`",
        "error; the evaluation is repeated when the run is resumed",
        _full(r"/evaluations/\.step-00000004[^/]*$"),
        f"cannot write {{run}}/evaluations/step-00000004.jsonl: File too large.\n{MEND}",
        left=TWO,
    ),
    Fault(
        "disk full in `samples.jsonl`",
        "error; the line that was cut short goes when the run is resumed",
        _full(r"/samples\.jsonl$"),
        f"cannot write {{run}}/samples.jsonl: File too large.\n{MEND}",
        settings=[f'samples={{prompts=["{"help " * 30}"], max_tokens=2}}'],
        left=NONE,
    ),
    Fault(
        "disk full in `run.log`",
        f"{_GOES_ON}, without a log",
        _full(r"/run\.log$", only=r"/run\.log$"),
        "cannot write {run}/run.log: File too large; the run goes on without a log",
        ends=False,
    ),
    *(
        Fault(
            f"disk full in `{name}`",
            "error before the first step",
            _full(rf"/\.{name}\."),
            f"cannot write {{run}}/{name}: File too large.\n{MEND}",
            left=NONE,
            soak=name != "environment.json",
        )
        for name in ("environment.json", "data_report.json", "recipe.toml")
    ),
    Fault(
        "disk full in the run's `reference/`",
        "error before the first step",
        _full(r"/run/reference/.*\.pairs$"),
        f"cannot write {{run}}/reference/…: File too large.\n{MEND}",
        left=NONE,
    ),
    Fault(
        "disk full in the weights of `final/`",
        "error; no `final/`; the last checkpoint holds everything",
        _full(r"/\.final[^/]*$"),
        f"training is done, but {{run}}/final cannot be written: File too large.\n{MEND}",
    ),
    Fault(
        "disk full in the tokenizer of `final/`",
        "the same",
        _full(r"/\.final.*/tokenizer_config\.json$", 10_000),
        f"training is done, but {{run}}/final cannot be written: File too large.\n{MEND}",
        soak=True,
    ),
    Fault(
        "disk full in `summary.json`",
        "error; `final/` is there",
        _full(r"/\.summary\.json"),
        f"cannot write {{run}}/summary.json: File too large.\n{MEND}",
    ),
    Fault(
        "disk full in `nonfinite_pairs.jsonl`",
        "the error about the numbers says that, too",
        [*_full(r"/nonfinite_pairs\.jsonl$", only=r"/nonfinite_pairs\.jsonl$"), ["spoil", 3]],
        "step 3: the loss is nan…They cannot be written to {run}/nonfinite_pairs.jsonl: File too large.…",
        left=TWO,
    ),
    Fault(
        "disk full before the run begins",
        "error; nothing is begun",
        _full(r"/\.\.owner\.json", 10),
        "cannot write to {run}: File too large",
        left=NONE,
    ),
    Fault(
        "disk full in the cache's tokens",
        f"{_GOES_ON}, with temporary files instead",
        _full(r"/cache/tokens/.*\.npy$", only="/cache/"),
        "tokenized data is not cached: {cache} cannot be written (File too large); see run.cache_dir",
        ends=False,
        settings=_CACHE,
    ),
    Fault(
        "disk full in the cache's reference log-probs",
        f"{_GOES_ON}",
        _full(r"/cache/reference/", only="/cache/"),
        "reference log-probs cannot be stored in {cache}/reference/… (File too large); "
        "the run continues without storing them",
        ends=False,
        settings=_CACHE,
    ),
    *(
        Fault(
            f"disk error (EIO) as `{name}` of a checkpoint is synced",
            _NOTHING_STAYS,
            [["disk_error", rf"/checkpoints/\.step-00000004.*/{name}"]],
            f"cannot write the checkpoint {{run}}/checkpoints/step-00000004: Input/output error.\n{MEND_CHECKPOINT}",
            left=TWO,
            soak=True,
        )
        for name in ("trained.safetensors", "manifest.json")
    ),
    Fault(
        "disk error (EIO) as `final/` is synced",
        "error; no `final/`; the last checkpoint holds everything",
        [["disk_error", r"/\.final.*/model\.safetensors"]],
        f"training is done, but {{run}}/final cannot be written: Input/output error.\n{MEND}",
    ),
    Fault(
        "disk error (EIO) as a small file of the run (`recipe.toml`, `summary.json`, …) is synced",
        "error with the file's name; what was there before stays",
        [["disk_error", r"/\.recipe\.toml"]],
        f"cannot write {{run}}/recipe.toml: Input/output error.\n{MEND}",
        left=NONE,
    ),
    Fault(
        "disk error (EIO) as tokens are synced to the cache",
        f"{_GOES_ON}, with temporary files instead",
        [["disk_error", r"/cache/tokens/.*\.npy"]],
        "tokenized data is not cached: {cache} cannot be written (Input/output error); see run.cache_dir",
        ends=False,
        settings=_CACHE,
    ),
    Fault(
        "a run folder that cannot be written to",
        "error; nothing is begun",
        [["read_only", "{run}"]],
        "cannot write to {run}: Permission denied",
        left=NONE,
        mended=["{run}"],
    ),
    Fault(
        "no permission to make the run folder",
        "error; nothing is begun",
        [["read_only", "{parent}"]],
        "cannot make the run folder {run}: Permission denied",
        left=NONE,
        soak=True,
        mended=["{parent}"],
    ),
    Fault(
        "`checkpoints/` becomes one that cannot be written to while the run goes on",
        "error with the checkpoint's name; the one before it stays",
        [["read_only", "{run}/checkpoints", 3]],
        f"cannot write the checkpoint {{run}}/checkpoints/step-00000004: Permission denied.\n{MEND_CHECKPOINT}",
        left=TWO,
        mended=["{run}/checkpoints"],
    ),
    Fault(
        "a cache folder that cannot be written to",
        f"{_GOES_ON}, with temporary files instead",
        [["read_only", "{cache}"]],
        "tokenized data is not cached: {cache} cannot be written (Permission denied); see run.cache_dir",
        ends=False,
        settings=_CACHE,
        mended=["{cache}"],
    ),
    Fault(
        "the clock goes backwards",
        "nothing: no decision is taken by the time of day",
        [["clock_goes_backwards"]],
        "",
        ends=False,
    ),
]


#: What has a test of its own: its name, then what goes wrong, what is seen, and the exit code.
OTHERS = {
    "test_damaged_checkpoints_are_named_and_passed_over": (
        "a file of a checkpoint truncated, changed in one bit, or missing, the manifest too",
        "a warning with the checkpoint, the file and the damage; the newest sound one is gone on from",
        "0",
    ),
    "test_where_no_checkpoint_is_sound_the_run_begins_anew": (
        "every checkpoint damaged",
        "the same; the run begins at step 1",
        "0",
    ),
    "test_a_second_process_is_refused_while_the_first_goes_on": (
        "a second process on the run folder",
        "error with process, host and time of the first, which goes on",
        "1",
    ),
    "test_a_disk_that_becomes_full_anywhere": (
        "a disk that becomes full, whatever is being written then (real ones, of many sizes)",
        "error with the file; with more room `--resume` goes on",
        "1",
    ),
}


def fault_table() -> str:
    """Return the table of ``tests/README.md``."""
    rows = [(fault.what, fault.seen, "1" if fault.ends else "0") for fault in FAULTS]
    return table(["fault", "what is seen", "exit code"], [*rows, *OTHERS.values()])
