"""What has to be installed: what a recipe ``requires``, and the package that a component works with."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Iterable
from importlib.util import find_spec
from typing import TYPE_CHECKING

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

from dpotrain.errors import RecipeError, short

if TYPE_CHECKING:
    from dpotrain.plugin.components import Component


def require(part: Component, package: str, extra: str = "") -> None:
    """Raise a RecipeError that says how to install ``package``, alone or by an extra of dpotrain, if it is not there.

    For a component's ``check``: the package is looked for and not imported. Its module is called like the package.
    """
    if find_spec(package.replace("-", "_")) is None:
        wanted = f'"dpotrain[{extra}]"' if extra else package
        raise RecipeError(
            f'the "{part.name}" {part.kind} needs the package {package}, which is not installed\n'
            f"install it: pip install {wanted}"
        )


def required_distributions(requires: Iterable[str]) -> set[str]:
    """Return the normalized names of the distributions that valid entries of ``requires`` name."""
    names = set()
    for text in requires:
        try:
            names.add(str(canonicalize_name(Requirement(text).name)))
        except InvalidRequirement:
            continue
    return names


def unmet(text: str) -> str | None:
    """Return what is wrong with one entry of ``requires`` in this environment and how to mend it, or None."""
    try:
        requirement = Requirement(text)
    except InvalidRequirement as error:
        return _no_requirement(text, error)
    try:
        if requirement.marker is not None and not requirement.marker.evaluate():
            return None
    except ValueError as error:  # a comparison that means nothing
        return _no_requirement(text, error)
    wanted = short(f'"{requirement.name}{requirement.specifier}"')
    try:
        version = importlib.metadata.version(requirement.name)
    except importlib.metadata.PackageNotFoundError:
        return f"{short(requirement.name)} is not installed; pip install {wanted}"
    if not requirement.specifier.contains(version, prereleases=True):
        return f"{requirement.name} {version} is installed, not {requirement.specifier}; pip install {wanted}"
    return None


def _no_requirement(text: str, error: ValueError) -> str:
    detail = short(str(error).partition("\n")[0])
    return f'"{short(text)}" is not a requirement as pip takes it ("dpotrain-foo>=0.2"): {detail}'
