"""The package that a component works with, where it may not be installed: one of an extra, or one a person took out."""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING

from dpotrain.errors import RecipeError

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
