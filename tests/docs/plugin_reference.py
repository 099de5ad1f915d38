"""The reference of component types, hooks, and what they are handed."""

import inspect
import re
import textwrap

from dpotrain.cli import COMMANDS
from dpotrain.plugin import api
from dpotrain.plugin.api import hookspecs
from dpotrain.plugin.api.hookspecs import EVENTS, HOOKS
from dpotrain.plugin.api.kinds import CATALOGUES
from dpotrain.scaffold.kinds import kinds
from tests.docs.markdown import prose
from tests.docs.recipe_reference import keys
from tests.docs.source import members, paragraphs

#: What hooks and components are handed or return, and where it is defined.
OBJECTS: tuple[type, ...] = (
    api.PreferencePair, api.UnusableRow, api.LoadRequest, api.OpenedModel, api.Rows, api.Recognition, api.PairScores,
    api.Trained, api.Run, api.HeldOutPair, api.LoggedRun, api.StepRecord, api.Record, api.TextRecord,
    api.CheckpointRecord, api.Outcome, api.Finished, api.Selection, api.Kind, api.Beside,
)  # fmt: skip

#: Classes between a kind and its components, from which a component may derive instead of the kind.
BASES: tuple[type[api.Component], ...] = (api.InPlaceAdapter, api.LossWithoutBeta)


def life_of_a_run() -> str:
    """Return the page's pseudocode."""
    doc = inspect.cleandoc(hookspecs.__doc__ or "")
    found = re.search(r"^    .*?(?=\n\n\S)", doc, re.DOTALL | re.MULTILINE)
    assert found is not None
    return f"```text\n{textwrap.dedent(found[0]).rstrip()}\n```"


def scaffolds() -> str:
    """Return what ``dpotrain plugins new --kind`` takes."""
    return ", ".join(f"`{kind}`" for kind in kinds(COMMANDS))


def components() -> str:
    """Return the kinds: what is inherited, then each with its options, attributes and methods."""
    blocks = [
        "### Every component",
        *members(api.Component, 4),
        "#### Options",
        *paragraphs(_doc(api.Options)),
    ]
    for hook, kind in CATALOGUES.items():
        blocks += [f"### {kind.__name__}", *members(kind, 4), f"#### `{kind.__name__}.Options`"]
        if "Options" in vars(kind):
            blocks += [*paragraphs(_doc(kind.Options)), keys(kind.Options)]
        else:
            blocks.append("No options of its own.")
        blocks.append(f"Offered by `{hook}`.")
        for base in BASES:
            if issubclass(base, kind):
                blocks += [f"### {base.__name__}", f"Derives from {kind.__name__}.", *members(base, 4)]
    return "\n\n".join(blocks)


def hooks() -> str:
    """Return every hook: when it is called, on which rank, what becomes of the result, and an example."""
    blocks = []
    for title, names in {
        "New kinds": [name for name in HOOKS if name not in CATALOGUES and name not in EVENTS],
        "Catalogues": list(CATALOGUES),
        "Run events, in the order of a run": [name for name in HOOKS if name in EVENTS],
    }.items():
        blocks.append(f"### {title}")
        common = set.intersection(*(set(_hook(name)) for name in names)) if len(names) > 1 else set()
        blocks += [f"For each: {line}" for line in sorted(common)]
        blocks += [block for name in names for block in _hook(name) if block not in common]
    return "\n\n".join(blocks)


def objects() -> str:
    """Return what hooks and components are handed, field by field."""
    return "\n\n".join(
        block for owner in OBJECTS for block in (f"### {owner.__name__}", *members(owner, level=4))
    )


def _hook(name: str) -> list[str]:
    function = HOOKS[name]
    doc = inspect.getdoc(function) or ""
    text, _, example = doc.partition("Example:\n")
    arguments = ", ".join(inspect.signature(function).parameters)
    blocks = [f"#### `{name}({arguments})`"]
    for paragraph in re.split(r"\n\s*\n", text.strip()):
        line = prose(" ".join(paragraph.split()))
        blocks.append(re.sub(r"^([A-Z][\w ]*):", r"**\1:**", line))
    return [*blocks, f"```python\n{textwrap.dedent(example).rstrip()}\n```"]


def _doc(of: type) -> str:
    return inspect.getdoc(of) or ""
