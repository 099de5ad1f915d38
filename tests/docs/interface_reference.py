"""The reference of everything else that a plugin may import, of the numbers in records, and of processes."""

import ast
import importlib
import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dpotrain
from dpotrain.core.own_metrics import OWN_METRICS
from dpotrain.plugin import api
from dpotrain.plugin.api import Component
from dpotrain.plugin.api.hookspecs import EVENTS
from dpotrain.plugin.api.kinds import KINDS, Kind
from dpotrain.plugin.describe.tracing import methods_of_kind
from dpotrain.run.folder.metrics_file import MetricsFile
from dpotrain.run.folder.run_folder import RunFolder, no_run_folder
from tests.docs.markdown import paragraphs, table
from tests.docs.source import comment, function, members

#: What plugins may import, by module, besides ``dpotrain.plugin.api`` and ``dpotrain.testing``. These addresses stay:
#: each is in DOCUMENTED of ``tests/plugin/test_moved.py``.
OTHER_ADDRESSES: dict[str, tuple[str, ...]] = {
    "dpotrain": ("hookimpl", "PreferencePair", "load_recipe", "Recipe", "train", "Outcome"),
    "dpotrain.run.folder.run_folder": ("RunFolder", "no_run_folder"),
    "dpotrain.run.folder.metrics_file": ("MetricsFile",),
}

#: Where a method is called.
EVERY, MAIN, WORKERS = "every process", "the main process", "worker processes"
#: Where methods of a kind are called, unless they are called wherever the kind hears run events.
_EVERYWHERE = {api.DatasetSource: EVERY, api.DatasetFormatter: EVERY}
_APART = {(api.Adapter, "save"): MAIN, (api.DatasetFormatter, "format"): WORKERS}
_OF_EVERY_KIND = {"__init__": EVERY, "check": EVERY, "state_dict": MAIN, "load_state_dict": EVERY}


def addresses() -> str:
    """Return a table of the modules that a plugin imports from, with their names."""
    rows = [
        ("`dpotrain.plugin.api`", "Everything on this page that has no other address."),
        *(
            (f"`{module}`", ", ".join(f"`{name}`" for name in names))
            for module, names in OTHER_ADDRESSES.items()
        ),
        ("`dpotrain.testing`", "What is under [Testing](#testing)."),
    ]
    return table(("module", "names"), rows)


def errors() -> str:
    """Return a table of the exceptions and warnings that a plugin may raise."""
    found = [each for each in map(api.__dict__.get, api.__all__) if _is_exception(each)]
    rows = []
    for each in sorted(found, key=_order):
        code = str(each.exit_code) if issubclass(each, api.DpotrainError) else ""
        rows.append((f"`{each.__name__}`", code, " ".join(paragraphs(each))))
    return table(("class", "exit code", "meaning"), rows)


def functions() -> str:
    """Return the functions and constants of ``dpotrain.plugin.api``."""
    homes = dict(_homes())
    blocks = []
    for name in api.__all__:
        value = getattr(api, name)
        if inspect.isfunction(value):
            blocks += function(value, 3)
        elif not isinstance(value, type):
            importlib.import_module(homes[name])
            said = comment(homes[name], name)
            assert said, f"{name} has no comment in {homes[name]}"
            blocks += [f"### `{name}`", said]
    return "\n\n".join([*blocks, "### `Use`", *paragraphs(api.Use)])


def records() -> str:
    """Return a table of the numbers that a run's records have by themselves."""
    rows = [
        (f"`{name}`", "yes" if each.in_train else "", "yes" if each.in_eval else "", each.meaning)
        for name, each in OWN_METRICS.items()
    ]
    return table(("name", "train", "eval", "meaning"), rows)


def files() -> str:
    """Return what reads the files of a run."""
    folder = RunFolder(Path("runs/mine"))
    attributes = [
        (f"`{name}`", f"`{path.relative_to(folder.path)}`")
        for name, path in vars(folder).items()
        if path != folder.path
    ]
    blocks = [
        "### `RunFolder(path: Path)`",
        "The paths in a run folder, whether or not they exist; `path` is the folder itself. What each holds: "
        "[What a run leaves](../recipes/runs.md#what-a-run-leaves).",
        table(("attribute", "path"), attributes),
        *function(no_run_folder, 3),
        "### `MetricsFile(path: Path)`",
        *members(MetricsFile, 4, only=("read", "evaluations")),
    ]
    return "\n\n".join(blocks)


def programs() -> str:
    """Return what reads and runs a recipe from Python."""
    blocks = [
        *function(dpotrain.load_recipe, 3),
        *function(dpotrain.train, 3),
        "### Recipe",
        *members(dpotrain.Recipe, 4),
        "It is a [Selection](#selection) as well.",
    ]
    return "\n\n".join(blocks)


def processes() -> str:
    """Return a table of where methods and run events of each kind are called."""
    rows = [("every kind", *_by_place(_OF_EVERY_KIND), "")]
    for kind in KINDS:
        found = {name: where(kind.component, name) for name in methods_of_kind(kind.component)}
        rows.append((f"`{kind.component.__name__}`", *_by_place(found), events_of(kind)))
    rows.append(("functions of a module", "", "", MAIN))
    return table(("kind", "methods on every process", "on the main process only", "run events"), rows)


def where(kind: type[Component], method: str) -> str:
    """Return on which processes a method of a kind is called."""
    if method in EVENTS:
        raise ValueError(method)
    if method in _OF_EVERY_KIND:
        return _OF_EVERY_KIND[method]
    (row,) = (row for row in KINDS if row.component is kind)
    usual = EVERY if row.on_every_process else MAIN
    return _APART.get((kind, method), _EVERYWHERE.get(kind, usual))


def events_of(kind: Kind) -> str:
    """Return on which processes components of a kind hear run events, but for saved checkpoints."""
    return EVERY if kind.on_every_process else MAIN


def _by_place(places: dict[str, str]) -> tuple[str, ...]:
    """Return the methods that are called on every process, and those that are called on the main one only."""
    return tuple(
        ", ".join(f"`{name}`" for name, at in places.items() if at == place) for place in (EVERY, MAIN)
    )


def _order(error: type[Exception]) -> tuple[bool, int, str]:
    """Sort what ends a command before what does not, and that by its exit code, the base first."""
    ends = issubclass(error, api.DpotrainError)
    return not ends, error.exit_code if ends and error is not api.DpotrainError else 0, error.__name__


def _is_exception(value: Any) -> bool:
    return isinstance(value, type) and issubclass(value, Exception)


def _homes() -> Iterator[tuple[str, str]]:
    """Yield the names of ``dpotrain.plugin.api``, each with the module that defines it."""
    for statement in ast.parse(inspect.getsource(api)).body:
        if isinstance(statement, ast.ImportFrom) and statement.module:
            for alias in statement.names:
                yield alias.name, statement.module
