"""axolotl's ``datasets``: where rows come from, their type, and the chat template."""

from __future__ import annotations

from typing import Any

from dpotrain.convert.translation import Given, Translation
from dpotrain.recipe.foreign import Gap

#: Types that write a template's text around a system text and one question, which are columns of the row.
_QUESTIONS = ("intel", "icr", "prompt_pairs")


def data(t: Translation) -> None:
    """Write ``[data]``, and ``model.chat_template`` where the configuration says one."""
    t.draft.set("data.use", "hf-datasets")
    given = t.take("datasets")
    listed = given.value if given is not None and isinstance(given.value, list) else []
    sets = [entry for entry in listed if isinstance(entry, dict)]
    if given is not None and (not sets or len(sets) < len(listed)):
        t.leave(given, Gap.NONE, "a list of tables, each with a path, is expected")
    template, jinja = t.take("chat_template"), t.take("chat_template_jinja")
    for index, entry in enumerate(sets):
        assert given is not None
        if index:
            what = " ".join(str(part) for part in (entry.get("path"), entry.get("split", "")) if part)
            t.leave(
                Given(f"datasets[{index}]", what),
                Gap.NOT_SUPPORTED,
                "mixtures of data sets are not supported yet",
            )
        else:
            _data_set(t, given, dict(entry))
    held_out = t.take_number("val_set_size")
    tests = t.take("test_datasets")
    if tests is not None:
        first = tests.value[0] if isinstance(tests.value, list) and tests.value else {}
        entry = first if isinstance(first, dict) else {}
        same = bool(sets) and entry.get("path") == sets[0].get("path")
        if same and entry.get("split"):
            t.put("data.eval_split", entry["split"], tests)
        else:
            t.leave(
                tests,
                Gap.NOT_SUPPORTED,
                "held-out pairs come from the same data: data.eval_split or eval_fraction",
            )
    elif held_out is not None and held_out.value:
        if held_out.value < 1:
            t.put("data.eval_fraction", held_out.value, held_out)
        else:
            t.leave(held_out, Gap.NONE, "data.eval_fraction is a share of the prompts, not a number")
    if jinja is not None:
        t.put("model.chat_template", jinja.value, jinja)
        if template is not None:
            t.translated[template.key] = "model.chat_template"
    elif template is not None:
        _template(t, template)


def _data_set(t: Translation, given: Given, entry: dict[str, Any]) -> None:
    kind = entry.pop("type", None)
    files = entry.pop("data_files", None)
    t.put(
        "data.name", files or entry.pop("path", ""), given, "datasets: " + ("data_files" if files else "path")
    )
    entry.pop("path", None)
    entry.pop("ds_type", None)
    for here, there in (("config", "name"), ("train_split", "split"), ("revision", "revision")):
        if (value := entry.pop(there, None)) is not None:
            t.put(f"data.{here}", value, given, f"datasets: {there}")
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
            Given("datasets: message_property_mappings", mapping), Gap.NONE,
            "messages have role and content, or from and value; rename other keys in the data",
        )  # fmt: skip
    if isinstance(kind, dict):
        t.leave(
            Given("datasets: type", kind),
            Gap.NONE,
            "own prompt formats are not read; see data.format and columns",
        )
    elif kind is not None:
        strategy, _, variant = str(kind).partition(".")
        if strategy in ("chatml", "llama3", "zephyr"):
            _text_type(t, str(kind), strategy, variant)
        elif strategy != "chat_template" and variant != "default":
            t.leave(
                Given("datasets: type", kind),
                Gap.NONE,
                "the format is detected from the rows; see data.format",
            )
    if columns:
        t.put("data.columns", columns, given, "datasets: field_…")
    for key, value in entry.items():
        t.leave(Given(f"datasets: {key}", value), Gap.NONE, "dpotrain does not know this key")


def _text_type(t: Translation, kind: str, strategy: str, variant: str) -> None:
    """Write the format for a type that writes a template's text around the columns of a row."""
    if variant in _QUESTIONS:
        t.draft.set("data.format", "question", f"datasets: type {kind}: the prompt is one user turn")
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
