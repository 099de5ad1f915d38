"""Names of a new plugin: which are valid and free, and what follows from one."""

from __future__ import annotations

import re
from importlib.util import find_spec

from dpotrain.core.errors import RecipeError
from dpotrain.core.packages import package_version
from dpotrain.plugin.runtime.manager import PluginManager
from dpotrain.scaffold.kinds import Kind

_NAME = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")


def distribution_of(name: str) -> str:
    """Return the distribution of the plugin ``my-loss``: ``dpotrain-my-loss``."""
    return f"dpotrain-{name}"


def module_of(name: str) -> str:
    """Return its module: ``dpotrain_my_loss``."""
    return distribution_of(name).replace("-", "_")


def class_of(name: str, base: str) -> str:
    """Return the class of its component: ``MyLoss``; "hinge" is called ``HingeLoss``, after its base class."""
    own = "".join(part.capitalize() for part in name.split("-"))
    last_word = re.findall(r"[A-Z][a-z]*", base)[-1]
    return own if own.endswith(last_word) and own != base else own + base


def check_name(name: str, kind: Kind) -> None:
    """Refuse a name that is invalid, or that something installed has already.

    Raises:
        RecipeError: with what has the name, and the remedy.
    """
    if not _NAME.fullmatch(name):
        near = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
        hint = f'; what about "{near}"?' if _NAME.fullmatch(near) else ""
        raise RecipeError(f'"{name}" is not a name for a plugin: use small letters, digits and hyphens{hint}')
    taken = _taken(name, kind)
    if taken is not None:
        remedy = "choose another name"
        if package_version(distribution_of(name)) is not None:
            remedy += f", or uninstall it first: pip uninstall {distribution_of(name)}"
        raise RecipeError(f"{taken}; {remedy}")


def _taken(name: str, kind: Kind) -> str | None:
    """Return a message that says what has the name already, or None."""
    plugins = PluginManager.from_entry_points()
    clash = kind.clash(name, plugins)
    if clash is not None:
        return clash
    for plugin in plugins.plugins:
        if plugin.name == name:
            return f"{plugin.label} is installed already"
    version = package_version(distribution_of(name))
    if version is not None:
        return f"the distribution {distribution_of(name)} {version} is installed already"
    module = find_spec(module_of(name))
    if module is not None:
        return f"there is a module {module_of(name)} already ({module.origin})"
    return None
