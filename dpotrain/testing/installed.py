"""Whether the package under test is installed: without its entry points nothing of it is found."""

from __future__ import annotations

import functools
import sys
import tomllib
from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path

from dpotrain.core.packages import package_version
from dpotrain.plugin.api import Component, kind_of
from dpotrain.plugin.runtime.manager import PluginManager
from dpotrain.plugin.runtime.plugin import GROUP


@dataclass(frozen=True, slots=True)
class Project:
    """A folder with a pyproject.toml."""

    name: str
    folder: Path

    @classmethod
    def around(cls, path: Path) -> Project | None:
        """Return the nearest one above or at ``path`` that has a name; None where there is none."""
        for folder in (path, *path.parents):
            try:
                name = tomllib.loads((folder / "pyproject.toml").read_text(encoding="utf-8"))["project"][
                    "name"
                ]
            except (OSError, ValueError, KeyError, TypeError):
                continue
            return cls(str(name), folder)
        return None

    @property
    def missing(self) -> str:
        """That it is not installed, and how to install it; "" where it is."""
        if package_version(self.name) is not None:
            return ""
        return f"{self.name} is not installed, so dpotrain does not find its plugins: pip install -e {self.folder}"


@functools.cache
def why_not_offered(component: type[Component]) -> str:
    """Return why no installed plugin offers a component, with the remedy; "" where one does."""
    manager = PluginManager.from_entry_points()
    if any(component in plugin.components for plugin in manager.plugins):
        return ""
    package = component.__module__.partition(".")[0]
    modules = {point.name: point.module for point in entry_points(group=GROUP)}
    own = [each for each in manager.plugins if modules.get(each.name, "").partition(".")[0] == package]
    if own:
        nearest = max(own, key=lambda plugin: component.__module__.startswith(modules[plugin.name]))
        if nearest.failed:
            return f"{nearest.label} failed: {nearest.reason}"
        hook = kind_of(component).catalogue
        return f"{nearest.label} does not offer {component.__name__}: return it from {hook}"
    file = getattr(sys.modules.get(component.__module__), "__file__", None)
    project = None if file is None else Project.around(Path(file).parent)
    if project is None:
        return f'no installed distribution has an entry point for {package} in the group "{GROUP}": pip install -e .'
    return project.missing or (
        f'{project.name} is installed without an entry point for {package} in the group "{GROUP}": add one to '
        f"{project.folder / 'pyproject.toml'} and run again: pip install -e {project.folder}"
    )
