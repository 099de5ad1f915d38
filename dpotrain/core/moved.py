"""Old import paths of public names, which warn of the new ones (DeprecationWarning).

The table goes when the plugin interface's oldest version is raised (:mod:`dpotrain.plugin.runtime.interface`).
"""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.machinery
import sys
import types
import warnings
from collections.abc import Callable, Sequence
from typing import Any

#: Old module to the one where its names are now, or some of its names (``module.name``) to theirs.
MOVED = {
    "dpotrain.errors": "dpotrain.core.errors",
    "dpotrain.masking": "dpotrain.core.masking",
    "dpotrain.paths": "dpotrain.core.paths",
    "dpotrain.data.pair": "dpotrain.core.pair",
    "dpotrain.engine.scores": "dpotrain.core.scores",
    "dpotrain.engine.memory.Trained": "dpotrain.plugin.api",
    "dpotrain.plugin.components": "dpotrain.plugin.api",
    "dpotrain.plugin.hookspecs": "dpotrain.plugin.api.hookspecs",
    "dpotrain.plugin.manager": "dpotrain.plugin.runtime.manager",
    "dpotrain.plugin.packages": "dpotrain.plugin.api",
    "dpotrain.run.atomic": "dpotrain.core.atomic",
    "dpotrain.run.folder.RunFolder": "dpotrain.run.folder.run_folder",
    "dpotrain.run.folder.no_run_folder": "dpotrain.run.folder.run_folder",
    "dpotrain.run.metrics_file": "dpotrain.run.folder.metrics_file",
    "dpotrain.run.records": "dpotrain.core.records",
    "dpotrain.run.records.Finished": "dpotrain.plugin.api",
    "dpotrain.run.reporter": "dpotrain.core.reporter",
    "dpotrain.run.train": "dpotrain",
}

_PUBLIC = "dpotrain.plugin.api"  # what warnings name for everything that is there


class MovedWarning(DeprecationWarning):
    """A name was imported from its old address; ``dpotrain plugins`` shows which plugin did."""

    def __init__(self, old: str, home: str) -> None:
        super().__init__(f"{old} has moved: import {old.rpartition('.')[2]} from {home}")
        self.old = old
        self.home = home


def names_of(module: str) -> Callable[[str], Any]:
    """Return the ``__getattr__`` of a module whose names, or some of them, have moved."""

    def find(name: str) -> Any:
        home = MOVED.get(f"{module}.{name}") or MOVED.get(module)
        if home is None or (name.startswith("__") and name.endswith("__")):
            raise AttributeError(f"module {module!r} has no attribute {name!r}")
        found = getattr(importlib.import_module(home), name)
        if getattr(importlib.import_module(_PUBLIC), name, None) is found:
            home = _PUBLIC
        warnings.warn(MovedWarning(f"{module}.{name}", home), stacklevel=2)
        return found

    return find


class _Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds modules that are only there under another name; asked after every other finder."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: types.ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        return importlib.machinery.ModuleSpec(fullname, self) if fullname in MOVED else None

    def exec_module(self, module: types.ModuleType) -> None:
        module.__doc__ = f"Moved to {MOVED[module.__name__]}."
        vars(module)["__getattr__"] = names_of(module.__name__)


def install() -> None:
    """Have imports of moved modules find them."""
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.append(_Finder())
