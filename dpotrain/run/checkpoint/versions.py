"""What computes a run: the versions that a resumed run is compared with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dpotrain.core.errors import RunError
from dpotrain.core.packages import package_version
from dpotrain.plugin.api import kind_of
from dpotrain.plugin.runtime.states import by_key
from dpotrain.recipe.recipe import Recipe

#: Packages whose versions may move the last digits of what a run computes.
NUMERIC = ("torch", "transformers", "peft", "bitsandbytes", "torchao")


def package_versions(recipe: Recipe) -> dict[str, Any]:
    """Return plain data: the distribution and version of every component by who it is, and of numeric packages."""
    owners = {
        key: recipe.plugins.owner(type(part))
        for key, part in by_key(recipe)
        if kind_of(type(part)).changes_steps
    }
    return {
        "components": {key: [owner.distribution, owner.version] for key, owner in owners.items()},
        "packages": {name: package_version(name) for name in NUMERIC},
    }


def check_same_distributions(before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Make sure that a component of one name still is the same distribution's.

    Raises:
        RunError: it is not, so it computes something else under the same name.
    """
    lines = [
        f"  {key}: of {then[0]} then, of {now['components'][key][0]} now"
        for key, then in before["components"].items()
        if key in now["components"] and now["components"][key][0] != then[0]
    ]
    if lines:
        raise RunError(
            "a component that this run was begun with now comes from another package:\n"
            + "\n".join(lines)
            + "\nInstall the package again, or begin a new run: --set run.output_dir=…"
        )


def version_changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Return a line for every version that is another one now."""
    lines = [
        f"{key}: {then[0]} {then[1]} then, {now['components'][key][1]} now; its steps may be others"
        for key, then in before["components"].items()
        if key in now["components"] and now["components"][key][1] != then[1]
    ]
    return lines + [
        f"{name} {then} then, {now['packages'][name]} now: numbers may differ in their last digits"
        for name, then in before["packages"].items()
        if now["packages"].get(name, then) != then
    ]
