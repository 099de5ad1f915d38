"""The plugin author's reference, from the hook specifications, the component types and what they are handed."""

import ast
import inspect
import re
import sys
import textwrap
from collections.abc import Iterator

from dpotrain.cli import COMMANDS
from dpotrain.plugin import api
from dpotrain.plugin.api import hookspecs
from dpotrain.plugin.api.hookspecs import EVENTS, HOOKS
from dpotrain.plugin.api.kinds import CATALOGUES
from dpotrain.scaffold.kinds import kinds
from tests.docs.markdown import prose

#: What hooks and components are handed or return, and where it is defined.
OBJECTS: tuple[type, ...] = (
    api.PreferencePair, api.UnusableRow, api.LoadRequest, api.Rows, api.Recognition, api.PairScores,
    api.Trained, api.Run, api.LoggedRun, api.StepRecord, api.Record, api.CheckpointRecord, api.Outcome,
    api.Finished, api.Selection, api.Kind,
)  # fmt: skip

#: Special methods that are part of a contract, and attributes of components that only the core looks at.
_CALLED = {"__call__", "__len__", "__getitem__"}
_INTERNAL = {"kind", "options"}


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
    """Return the kinds: what is inherited, then each with its attributes and methods."""
    blocks = ["### Every component", *_class(api.Component, level=4)]
    for hook, kind in CATALOGUES.items():
        blocks += [f"### {kind.__name__}", *_class(kind, 4), f"Offered by `{hook}`."]
    return "\n\n".join(blocks)


def hooks() -> str:
    """Return every hook: when it is called, on which rank, what becomes of the result, and an example."""
    blocks = []
    for title, names in {
        "Catalogues": [name for name in HOOKS if name not in EVENTS],
        "Run events, in the order of a run": [name for name in HOOKS if name in EVENTS],
    }.items():
        blocks.append(f"### {title}")
        common = set.intersection(*(set(_hook(name)) for name in names))
        blocks += [f"For each: {line}" for line in sorted(common)]
        blocks += [block for name in names for block in _hook(name) if block not in common]
    return "\n\n".join(blocks)


def objects() -> str:
    """Return what hooks and components are handed, field by field."""
    blocks = []
    for owner in OBJECTS:
        blocks += [f"### {owner.__name__}", *_class(owner, level=4)]
    return "\n\n".join(blocks)


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


def _class(owner: type, level: int) -> list[str]:
    """Return a class as its source has it: docstring, attributes with theirs, methods with theirs."""
    (node,) = (
        each
        for each in ast.parse(inspect.getsource(sys.modules[owner.__module__])).body
        if isinstance(each, ast.ClassDef) and each.name == owner.__name__
    )
    blocks = [prose(text) for text in _paragraphs(ast.get_docstring(node))]
    attributes = [f"- `{text}`{f': {doc}' if doc else ''}" for text, doc in _attributes(owner, node)]
    if attributes:
        blocks.append("\n".join(attributes))
    for method in node.body:
        if isinstance(method, ast.FunctionDef) and (
            not method.name.startswith("_") or method.name in _CALLED
        ):
            blocks += _method(method, level)
    return blocks


def _attributes(owner: type, node: ast.ClassDef) -> Iterator[tuple[str, str]]:
    """Yield each attribute as its source has it, with the text that stands below it."""
    for statement, following in zip(node.body, [*node.body[1:], ast.Pass()], strict=True):
        if not isinstance(statement, ast.AnnAssign | ast.Assign):
            continue
        target = statement.target if isinstance(statement, ast.AnnAssign) else statement.targets[0]
        if issubclass(owner, api.Component) and ast.unparse(target) in _INTERNAL:
            continue
        doc = ""
        if isinstance(following, ast.Expr) and isinstance(following.value, ast.Constant):
            doc = prose(" ".join(inspect.cleandoc(following.value.value).split()))
        yield _without_field(ast.unparse(statement)), doc


def _without_field(text: str) -> str:
    """Return an attribute without how its default is made, which is no business of a reader's."""
    return re.sub(r" = (field|lambda|nullcontext)\b.*", "", text)


def _method(method: ast.FunctionDef, level: int) -> list[str]:
    marks = {ast.unparse(decorator) for decorator in method.decorator_list}
    if "property" in marks:
        signature = f"{method.name}: {ast.unparse(method.returns) if method.returns else ''}"
    else:
        result = f" -> {ast.unparse(method.returns)}" if method.returns else ""
        arguments = ast.unparse(method.args).removeprefix("self").removeprefix(", ").removesuffix(", /")
        signature = f"{method.name}({arguments}){result}"
    needed = " (required)" if "abstractmethod" in marks else ""
    heading = f"{'#' * level} `{signature}`{needed}"
    return [heading, *(prose(text) for text in _paragraphs(ast.get_docstring(method)))]


def _paragraphs(doc: str | None) -> list[str]:
    return [] if doc is None else [" ".join(part.split()) for part in re.split(r"\n\s*\n", doc)]
