"""ms-swift's data: ``--dataset HF::id:subset#rows …``, how several are mixed, and what is evaluated on.

Data sets are joined whole, or with ``#rows`` of each, drawn once; ``interleave_prob`` draws which comes next, until the
first (``stopping_strategy``) or all are used up.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from dpotrain.convert.data_sets import DataSet, Part, interleave
from dpotrain.convert.data_tables import write_data_sets
from dpotrain.convert.held_out import hold_out
from dpotrain.convert.translation import Given, Translation
from dpotrain.recipe.foreign import Gap


def data(t: Translation) -> None:
    """Write ``[data]`` or ``[[data.sources]]``, and when the held-out pairs are evaluated."""
    sets, tests = _named(t, t.take("dataset")), _named(t, t.take("val_dataset"))
    share = t.take("split_dataset_ratio")
    sets = _mixed(t, sets)
    hold_out(t, sets, tests)
    fraction = (
        share.value if share is not None and not tests and isinstance(share.value, int | float) else 0.0
    )
    write_data_sets(t, sets, held_out=fraction)
    every, strategy = t.take("eval_steps"), t.take("eval_strategy", "evaluation_strategy")
    if share is not None and tests:
        t.leave(share, Gap.NOT_NEEDED, "val_dataset is evaluated on")
    elif share is not None and share.value:
        t.put("data.eval_fraction", share.value, share)
    if every is not None:
        if tests or (share is not None and share.value):
            t.put("evaluation.every", every.value, every)
        else:
            reason = "there are no held-out pairs: split_dataset_ratio is 0 unless set"
            t.leave(every, Gap.NOT_NEEDED, reason)
    if strategy is not None:
        t.leave(strategy, Gap.NOT_NEEDED, "see evaluation.every")


def _mixed(t: Translation, sets: Sequence[DataSet]) -> list[DataSet]:
    probabilities, stop = t.take("interleave_prob"), t.take("stopping_strategy")
    if probabilities is None or len(sets) < 2:
        why = "there is one data set" if len(sets) < 2 else "without interleave_prob all rows are taken"
        for given in filter(None, (probabilities, stop)):
            t.leave(given, Gap.NOT_NEEDED, why)
        return list(sets)
    chosen = stop or Given("stopping_strategy", "first_exhausted", t.tool.name)
    return interleave(t, sets, chosen, probabilities, repeat=chosen.value == "all_exhausted")


def _named(t: Translation, given: Given | None) -> list[DataSet]:
    listed = [] if given is None else given.value if isinstance(given.value, list) else [given.value]
    return [] if given is None else [each for text in listed for each in _of(t, given, str(text))]


def _of(t: Translation, given: Given, text: str) -> list[DataSet]:
    """Return the subsets of one data set, with the number of rows behind a ``#``."""
    name, _, number = text.partition("#")
    name = re.sub(r"^(HF|MS|hf|ms)::", "", name)
    name, _, subsets = name.partition(":") if not name.startswith(("/", ".")) else (name, "", "")
    found = []
    for subset in subsets.split("/"):
        one = DataSet(Given(given.key, text))
        one.set("name", name, given.key)
        one.set("config", subset or None, f"{given.key}, after the colon")
        found.append(one)
    if number.isdigit() and int(number):
        part = Part(Given(f"{given.key}: {text}", int(number)), f"{given.key}, after the #", rows=int(number))
        part.repeat = True
        if len(found) == 1:
            found[0].part = part
        else:
            t.leave(part.given, Gap.NONE, "it is drawn from all subsets together; set the pairs of each")
    return found
