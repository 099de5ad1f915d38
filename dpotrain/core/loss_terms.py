"""The losses in the options of another, in words: what each counts, and its beta."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any


def terms_text(table: Mapping[str, Any]) -> str:
    """Return `` of dpo (0.8, beta 0.1) and sft (1)`` for the resolved table of a mix, "" for a loss without others.

    A number alone is a weight.
    """
    terms = [_term(each, weight) for each, weight in _inside(table)]
    if len(terms) < 2:
        return "".join(f" of {term}" for term in terms)
    return f" of {', '.join(terms[:-1])} and {terms[-1]}"


def _term(table: Mapping[str, Any], weight: Any) -> str:
    values = [f"{weight:g}"] if _is_number(weight) else []
    values += [f"beta {table['beta']:g}"] if _is_number(table.get("beta")) else []
    name = f"{table['use']}{terms_text(table)}"
    return f"{name} ({', '.join(values)})" if values else name


def _inside(value: Any, weight: Any = None) -> Iterator[tuple[Mapping[str, Any], Any]]:
    """Yield the tables in a value that pick a component, each with the ``weight`` beside it."""
    items = value.values() if isinstance(value, Mapping) else value if isinstance(value, list) else ()
    for item in items:
        if isinstance(item, Mapping) and isinstance(item.get("use"), str):
            # Beside the component's own keys, or in the table around it where both have such a key.
            yield item, item.get("weight") if weight is None else weight
        else:
            yield from _inside(item, item.get("weight") if isinstance(item, Mapping) else None)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
