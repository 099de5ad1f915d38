"""axolotl's ``datasets``: where rows come from, their type, and the chat template.

Several are joined whole. Without ``split`` the split is ``train``, also that of ``test_datasets``.
"""

from __future__ import annotations

from typing import Any

from dpotrain.convert.data_sets import DataSet
from dpotrain.convert.data_tables import write_data_sets
from dpotrain.convert.held_out import hold_out
from dpotrain.convert.translation import Given, Translation
from dpotrain.recipe.foreign import Gap

#: Types that write a template's text around a system text and one question, which are columns of the row.
_QUESTIONS = ("intel", "icr", "prompt_pairs")
#: Keys of a data set that cut it into parts, all of which are trained on with preference pairs.
_SFT = ("shards", "shards_idx", "preprocess_shards")


def data(t: Translation) -> None:
    """Write ``[data]``, and ``model.chat_template`` where the configuration says one."""
    template, jinja = t.take("chat_template"), t.take("chat_template_jinja")
    given, tests = t.take("datasets"), t.take("test_datasets")
    sets = [] if given is None else _listed(t, given)
    if tests is not None:
        hold_out(t, sets, _listed(t, tests))
    held_out = t.take_number("val_set_size")
    share = held_out.value if held_out is not None and tests is None and 0 <= held_out.value < 1 else 0.0
    write_data_sets(t, sets, held_out=share)
    if held_out is not None and held_out.value:
        if tests is not None:
            t.leave(held_out, Gap.NOT_NEEDED, "test_datasets is evaluated on")
        elif share:
            t.put("data.eval_fraction", share, held_out)
        else:
            t.leave(held_out, Gap.NONE, "data.eval_fraction is a share of the prompts, not a number")
    if jinja is not None:
        t.put("model.chat_template", jinja.value, jinja)
        if template is not None:
            t.translated[template.key] = "model.chat_template"
    elif template is not None:
        _template(t, template)


def _listed(t: Translation, given: Given) -> list[DataSet]:
    """Return the data sets of a list, one for each configuration where ``name`` lists several."""
    listed = given.value if isinstance(given.value, list) else []
    entries = [entry for entry in listed if isinstance(entry, dict)]
    if not entries or len(entries) < len(listed):
        t.leave(given, Gap.NONE, "a list of tables, each with a path, is expected")
    found = []
    for number, entry in enumerate(entries):
        place = given.key if len(entries) == 1 else f"{given.key}[{number}]"
        if entry in entries[:number] and t.configuration.values.get("dataset_exact_deduplication"):
            again = Given(place, entry.get("path"))
            t.leave(
                again, Gap.NOT_NEEDED, "dataset_exact_deduplication drops the rows that another data set has"
            )
            continue
        names = entry.get("name")
        for name in names if isinstance(names, list) and names else [names]:
            found.append(_data_set(t, Given(given.key, entry.get("path")), place, {**entry, "name": name}))
    return found


def _data_set(t: Translation, given: Given, place: str, entry: dict[str, Any]) -> DataSet:
    one = DataSet(given)
    kind = entry.pop("type", None)
    files = entry.pop("data_files", None)
    path = entry.pop("path", "")
    one.set("name", files or path, f"{given.key}: {'data_files' if files else 'path'}")
    entry.pop("ds_type", None)
    one.set("config", entry.pop("name", None), f"{given.key}: name")
    one.set("revision", entry.pop("revision", None), f"{given.key}: revision")
    split = entry.pop("split", None)
    one.set_split(t, split, Given(f"{place}: split", split), f"{given.key}: split")
    columns = {}
    for here, there in (
        ("messages", "field_messages"),
        ("chosen", "field_chosen"),
        ("rejected", "field_rejected"),
    ):
        value = entry.pop(there, None)
        if value is not None and value != here:
            columns[here] = value
    entry.pop("roles", None)
    mapping = entry.pop("message_property_mappings", None) or entry.pop("message_field_role", None)
    if mapping not in (None, {"role": "role", "content": "content"}, {"role": "from", "content": "value"}):
        t.leave(
            Given(f"{place}: message_property_mappings", mapping), Gap.NONE,
            "messages have role and content, or from and value; rename other keys in the data",
        )  # fmt: skip
    if isinstance(kind, dict):
        t.leave(
            Given(f"{place}: type", kind),
            Gap.NONE,
            "own prompt formats are not read; see data.format and columns",
        )
    elif kind is not None:
        strategy, _, variant = str(kind).partition(".")
        if strategy in ("chatml", "llama3", "zephyr"):
            _text_type(t, one, str(kind), strategy, variant)
        elif strategy != "chat_template" and variant != "default":
            t.leave(
                Given(f"{place}: type", kind),
                Gap.NONE,
                "the format is detected from the rows; see data.format",
            )
    one.set("columns", columns or None, f"{given.key}: field_…")
    for key, value in entry.items():
        if key in _SFT:
            t.leave(
                Given(f"{place}: {key}", value),
                Gap.NOT_NEEDED,
                "axolotl reads it in supervised training only",
            )
        elif value is not None:
            t.leave(Given(f"{place}: {key}", value), Gap.NONE, "dpotrain does not know this key")
    return one


def _text_type(t: Translation, one: DataSet, kind: str, strategy: str, variant: str) -> None:
    """Write the format for a type that writes a template's text around the columns of a row."""
    if variant in _QUESTIONS:
        one.set("format", "question", f"datasets: type {kind}: the prompt is one user turn")
    if strategy == "chatml" and "chat_template" not in t.configuration.values:
        t.draft.set("model.chat_template", "chatml", f"datasets: type {kind}")
    t.notes.append(
        f"datasets: type {kind} writes its own {strategy} text into the rows; dpotrain writes turns by the chat "
        "template, the model's own unless model.chat_template is set: compare with dpotrain check"
    )


def _template(t: Translation, template: Given) -> None:
    name = str(template.value)
    if name == "chatml":
        t.put("model.chat_template", "chatml", template)
    elif name.startswith("tokenizer_default"):
        t.leave(template, Gap.NOT_NEEDED, "the tokenizer's own template is the default")
    else:
        t.leave(
            template, Gap.NONE,
            "the tokenizer's own template is used; if it has none, set model.chat_template to a Jinja file",
        )  # fmt: skip
