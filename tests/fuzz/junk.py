"""Values that nobody asked for, and changes to plain data that put them in."""

import copy
from collections.abc import Iterator
from typing import Any

from hypothesis import strategies as st

Place = tuple[str | int, ...]

#: Texts that have broken somebody's program.
TEXTS = st.sampled_from(
    [
        *(
            "", " ", "\0", "a\0b", "\n", "\n\n\n", "\t", "a\r\nb", "\x1b[31mred", "\x7f", "\u202e", "é",
            "e\u0301", "🦊",
        ),
        *(
            "None", "null", "nan", "true", "0", "-1", "1e999", "{}", "[]", "auto", "false", "~nobody/x",
            "~", ".", "..", "/",
        ),
        *(
            "../../etc/passwd",
            "a" * 300,
            "a/" * 3000,
            "x" * 70_000,
            "word " * 9000,
            "\n" * 30_000 + "end",
            "C:\\x\\y",
        ),
        *(
            "https://user:hunter22@host/x", "file:///etc/passwd", "{{ 7 * 7 }}", "{% for x in y %}",
            "<|im_end|>", "%s%n",
        ),
        *(
            "*", "?[", "[a-", "**/*", "owner/name", "owner/name/more", "a b/c d", "-", "--set", "'", '"',
            '"""', "\\",
        ),
    ]
) | st.text(st.characters(exclude_categories=()), max_size=12)  # fmt: skip
NUMBERS = (
    st.sampled_from([0, 1, -1, 2**31, 2**63 - 1, 2**63, -(2**63) - 1, 10**400, 0.0, -0.0, 1e-320, 1e308, 0.5])
    | st.integers()
    | st.floats()
)


def nested(depth: int, leaf: Any = 1) -> Any:
    """Return lists and tables inside each other."""
    value = leaf
    for level in range(depth):
        value = [value] if level % 2 else {"a": value}
    return value


DEEP = st.builds(nested, st.sampled_from([3, 31, 32, 33, 60, 150, 199, 210]))
LEAVES = st.booleans() | NUMBERS | TEXTS
ANYTHING = st.recursive(
    LEAVES | st.none(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=6,
)


def places(value: Any, at: Place = ()) -> Iterator[Place]:
    """Yield where everything in plain data is, tables and lists too."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in inner:
        yield (*at, key)
        yield from places(item, (*at, key))


def holder(value: Any, place: Place) -> Any:
    """Return the table or list that a place is in."""
    for part in place[:-1]:
        value = value[part]
    return value


def misspelt(draw: st.DrawFn, word: str) -> str:
    """Return a word as a hurried person types it."""
    if not word:
        return "x"
    at = draw(st.integers(0, len(word) - 1))
    return draw(
        st.sampled_from(
            [word[:at] + word[at + 1 :], word[:at] + word[at] * 2 + word[at + 1 :], word + "s", word.upper(),
             word[:at] + word[at:][::-1], word.replace("_", "-"), f" {word}", word[:at] + "é" + word[at + 1 :]]
        )
    )  # fmt: skip


def mutate(draw: st.DrawFn, value: Any, junk: st.SearchStrategy[Any]) -> Any:
    """Return a changed copy: something in it replaced, taken out, doubled, renamed, or put in."""
    value = copy.deepcopy(value)
    there = list(places(value))
    if not there:
        return draw(junk)
    place = draw(st.sampled_from(there))
    inside, key = holder(value, place), place[-1]
    match draw(
        st.sampled_from(["replace", "replace", "remove", "rename", "insert", "wrap", "double", "move"])
    ):
        case "replace":
            inside[key] = draw(junk)
        case "remove":
            del inside[key]
        case "rename" if isinstance(inside, dict):
            inside[misspelt(draw, str(key))] = inside.pop(key)
        case "insert" if isinstance(inside, dict):
            inside[draw(TEXTS | st.just(misspelt(draw, str(key))))] = draw(junk)
        case "insert" | "double" if isinstance(inside, list):
            inside.insert(int(key), draw(junk | st.just(copy.deepcopy(inside[key]))))
        case "wrap":
            inside[key] = draw(st.sampled_from([[inside[key]], {"a": inside[key]}, [inside[key]] * 3]))
        case _:  # to a place that it was not meant for
            other = draw(st.sampled_from(there))
            holder(value, other)[other[-1]] = copy.deepcopy(inside[key])
    return value


def damage(draw: st.DrawFn, whole: bytes, inserts: st.SearchStrategy[bytes]) -> bytes:
    """Return bytes with one thing wrong: a bit flipped, a part missing, doubled or moved, or something put in."""
    one, two = sorted(draw(st.tuples(st.integers(0, len(whole)), st.integers(0, len(whole)))))
    match draw(st.sampled_from(["flip", "cut", "take out", "double", "insert", "swap lines"])):
        case "flip" if whole:
            at = min(one, len(whole) - 1)
            return whole[:at] + bytes([whole[at] ^ (1 << draw(st.integers(0, 7)))]) + whole[at + 1 :]
        case "cut":
            return whole[:one]
        case "take out":
            return whole[:one] + whole[min(two, one + 40) :]
        case "double":
            return whole[:two] + whole[one:]
        case "swap lines":
            lines = whole.splitlines(keepends=True) or [whole]
            a, b = (draw(st.integers(0, len(lines) - 1)) for _ in range(2))
            lines[a], lines[b] = lines[b], lines[a]
            return b"".join(lines)
        case _:
            return whole[:one] + draw(inserts) + whole[one:]
