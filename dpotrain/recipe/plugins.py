"""The plugins that a recipe chooses from: without those it blocks, with those it requires."""

from __future__ import annotations

from dpotrain.core.errors import did_you_mean, short
from dpotrain.plugin.runtime.manager import PluginManager
from dpotrain.recipe.problems import Problems
from dpotrain.recipe.sections.run import TopLevel


def choose_plugins(top: TopLevel, given: PluginManager | None, problems: Problems) -> PluginManager:
    """Return the plugins, the installed ones unless given, without those that ``block`` names.

    Collects names in ``block`` that no plugin has, and requirements that are not met.
    """
    plugins = PluginManager.from_entry_points(block=top.block) if given is None else given.blocking(top.block)
    for index, name in enumerate(top.block):
        if not any(plugin.called(name) for plugin in plugins.plugins):
            hint = did_you_mean(name, plugins.called) or "; see `dpotrain plugins`"
            text = f'no plugin or distribution is called "{short(name)}"{hint}'
            problems.add((), ("block", index), text, shown="block")
    _check_required(top.requires, plugins, problems)
    return plugins


def _check_required(requires: list[str], plugins: PluginManager, problems: Problems) -> None:
    if not requires:
        return
    from dpotrain.plugin.runtime.requirements import unmet  # packaging, which few recipes need

    for index, requirement in enumerate(requires):
        if (text := unmet(requirement)) is not None:
            problems.add((), ("requires", index), text, shown="requires")
    for plugin in plugins.required(requires):
        if plugin.failed:
            problems.add((), ("requires",), f"{plugin.label} failed: {plugin.reason}")
        if plugin.blocked:
            text = f"{plugin.label} is both required and blocked; keep one of the two"
            problems.add((), ("requires",), text)
