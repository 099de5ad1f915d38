"""The cache key of a tokenized split: everything that its tokens and the report on them depend on."""

from __future__ import annotations

import inspect
import json
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dpotrain.core.hashing import hash_text
from dpotrain.data.formats.columns import MappedRows
from dpotrain.data.tokens.chat_template import TemplateInputs, clock_values, template_sources
from dpotrain.plugin.api import DatasetFormatter
from dpotrain.recipe.sections.data import DataSection

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

#: Increased whenever dpotrain makes other tokens, counts or columns of the same rows.
FORMAT = 7

#: Libraries that render the chat template and tokenize.
_LIBRARIES = ("transformers", "tokenizers", "jinja2")


def cache_key(
    rows: MappedRows,
    split: str,
    formatter: DatasetFormatter,
    distribution: str,
    tokenizer: PreTrainedTokenizerBase,
    data: DataSection,
    columns: tuple[str, ...],
    inputs: TemplateInputs,
) -> dict[str, Any]:
    """Return plain data that is equal only where tokens and report are.

    ``distribution`` is the formatter's, with its version. The clock counts only where a chat template reads it, and
    then only what it reads of it: a date is the same all day.
    """
    clock = {value for source in template_sources(tokenizer) for value in clock_values(source, inputs.clock)}
    return {
        "format": FORMAT,
        "rows": {
            "fingerprint": rows.fingerprint,
            "split": split,
            "columns": dict(rows.mapping),
            **({"ignored": sorted(rows.ignored)} if rows.ignored else {}),
            "count": len(rows),
        },
        "formatter": {
            "use": formatter.name,
            "options": formatter.options.model_dump(mode="json"),
            "class": _class(formatter),
            "distribution": distribution,
            "source": _source(type(formatter)),
        },
        "tokenizer": _tokenizer(tokenizer),
        "libraries": {name: version(name) for name in _LIBRARIES},
        "max_length": data.max_length,
        "max_prompt_length": data.max_prompt_length,
        "truncation": data.truncation,
        "template_arguments": dict(inputs.arguments),
        "clock": sorted(clock),
        # Left out where there are none, so that entries from before there were any are still found.
        **({"columns": columns} if columns else {}),
    }


def _tokenizer(tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    """Return what a tokenizer's ids depend on; its vocabulary and rules as a hash."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:  # a tokenizer in pure Python keeps its rules in its options
        rules = {"vocabulary": tokenizer.get_vocab(), "options": tokenizer.init_kwargs}
    else:  # without what a call to the tokenizer sets and dpotrain never uses
        rules = {k: v for k, v in json.loads(backend.to_str()).items() if k not in ("padding", "truncation")}
    return {
        "class": _class(tokenizer),
        "rules": hash_text(json.dumps(rules, sort_keys=True, default=str)),
        "chat_template": hash_text(json.dumps(tokenizer.chat_template, sort_keys=True)),
        "special": tokenizer.special_tokens_map,
        "special_ids": sorted(tokenizer.all_special_ids),
        "added": {str(id): str(token) for id, token in sorted(tokenizer.added_tokens_decoder.items())},
        "split_special_tokens": bool(getattr(tokenizer, "split_special_tokens", False)),
    }


def _class(thing: object) -> str:
    return f"{type(thing).__module__}.{type(thing).__qualname__}"


def _source(formatter: type) -> str:
    """Hash the formatter's module and those beside it: code under development changes without a new version."""
    try:
        file = inspect.getsourcefile(formatter)
    except TypeError:
        file = None
    if file is None:
        return ""
    path = Path(file)
    files = sorted(path.parent.glob("*.py")) if (path.parent / "__init__.py").exists() else [path]
    try:
        return hash_text("".join(f"{one.name}\n{one.read_text(encoding='utf-8')}" for one in files))
    except OSError:
        return ""
