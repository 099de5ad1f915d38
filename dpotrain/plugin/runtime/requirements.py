"""``requires = ["dpotrain-foo>=0.2"]``: distributions that a recipe needs."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Iterable

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

from dpotrain.core.errors import short


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
    """Return why one entry of ``requires`` is not met in this environment and the remedy, or None."""
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
