"""The version of the plugin interface, and which one a plugin was written for.

The interface is the signatures of hooks and component types; ``tests/plugin/snapshots/interface-N.txt`` lists them. An
addition raises ``INTERFACE``; a removal or change raises ``OLDEST`` too. A hook that is to be removed gets
``@hookspec(warn_on_impl=DeprecatedHook("…"))`` for at least one version before.

A plugin declares in its module the version it was written for::

    dpotrain_interface = 2

The line is read before the module is imported, so that the error says that dpotrain is too old rather than what the
import ran into. A plugin that declares nothing is taken to be compatible.
"""

from __future__ import annotations

import inspect
import re
from pathlib import Path

from dpotrain.core.errors import PluginError
from dpotrain.core.version import __version__

#: This dpotrain's interface, and the oldest that plugins for it may have been written for.
INTERFACE = 2
OLDEST = 1

#: The name of the declaration in a plugin's module.
DECLARATION = "dpotrain_interface"
_LINE = re.compile(rf"^{DECLARATION}\s*(?::\s*[\w.\[\]]+\s*)?=\s*(\d+)\s*(?:#.*)?$", re.MULTILINE)


class DeprecatedHook(FutureWarning):
    """The warning about a deprecated hook for plugins that implement it; shown by ``dpotrain plugins``."""


def declared_in(file: str | None) -> int | None:
    """Return what a Python file declares, without importing it; None where it declares nothing."""
    if file is None or not file.endswith(".py"):
        return None
    try:
        text = Path(file).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    found = _LINE.search(text)
    return None if found is None else int(found[1])


def declared_by(owner: object) -> int | None:
    """Return what a module or object declares, or None.

    Raises PluginError for a value that is not a version.
    """
    value = inspect.getattr_static(owner, DECLARATION, None)
    if value is not None and (not isinstance(value, int) or isinstance(value, bool)):
        raise PluginError(f"{DECLARATION} is a whole number, such as {INTERFACE}, not {value!r}")
    return value


def check_interface(written_for: int | None, distribution: str | None) -> None:
    """Raise a PluginError that explains why a plugin and this dpotrain do not fit."""
    if written_for is None or OLDEST <= written_for <= INTERFACE:
        return
    plugin = distribution or "the plugin"
    if written_for > INTERFACE:
        raise PluginError(
            f"it was written for plugin interface {written_for}, and dpotrain {__version__} has {INTERFACE}\n"
            f"upgrade dpotrain (pip install --upgrade dpotrain), or install an older {plugin}"
        )
    raise PluginError(
        f"it was written for plugin interface {written_for}, and dpotrain {__version__} takes {OLDEST} and newer\n"
        f"look for a newer {plugin}, or install an older dpotrain"
    )
