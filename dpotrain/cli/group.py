"""The group of verbs: each imported when it is named, and every error turned into lines and an exit code."""

from __future__ import annotations

import importlib
import traceback
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

import click

from dpotrain.cli.leaving import leave_with

if TYPE_CHECKING:
    from dpotrain.plugin.runtime.commands import PluginVerb

F = TypeVar("F", bound=Callable[..., Any])

#: What a context remembers for those below it: whether tracebacks are shown, and the plugin's verb that is run.
_DEBUG = "dpotrain.debug"
_PLUGIN_VERB = "dpotrain.plugin_verb"

#: What shells give a process that was interrupted: 128 + SIGINT.
INTERRUPTED = 130


class VerbGroup(click.Group):
    """A group whose verbs live in modules of their own, each of which calls its command ``command``."""

    def __init__(self, *args: Any, verbs: Mapping[str, str], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._verbs = verbs

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the verbs in the order in which a person meets them."""
        return list(self._verbs)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import a verb."""
        if cmd_name not in self._verbs:
            return None
        command: click.Command = importlib.import_module(self._verbs[cmd_name]).command
        return command

    def invoke(self, ctx: click.Context) -> Any:
        """Run a verb; end with the exit code of whatever it raised."""
        try:
            return super().invoke(ctx)
        except (click.ClickException, click.exceptions.Exit, click.Abort, BrokenPipeError):
            raise  # click knows what to do with these
        except KeyboardInterrupt:
            _show_traceback(ctx)
            click.echo("interrupted", err=True)
            ctx.exit(INTERRUPTED)
        except Exception as error:
            _show_traceback(ctx)
            ctx.exit(_show(error, ctx.meta.get(_PLUGIN_VERB)))


class Program(VerbGroup):
    """The outermost group. What it does not know by itself may be a verb of a plugin ."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Be the program: run a verb and end the process, which nothing left behind keeps from ending."""
        try:
            return super().__call__(*args, **kwargs)
        except SystemExit as end:
            leave_with(end.code if isinstance(end.code, int) else int(end.code is not None))
            raise

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import a verb; its own ones without a look at plugins, which could not take their place.

        Raises:
            PluginError: a plugin's verb cannot be imported, or two plugins have it.
        """
        own = super().get_command(ctx, cmd_name)
        if own is not None:
            return own
        from dpotrain.plugin.runtime.commands import plugin_verbs

        verb = plugin_verbs(self._verbs).get(cmd_name)
        if verb is None:
            return None
        ctx.meta[_PLUGIN_VERB] = verb
        return verb.load()

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the verbs, and those of plugins under a heading of their own, broken ones with what is wrong."""
        super().format_commands(ctx, formatter)
        from dpotrain.plugin.runtime.commands import plugin_verbs

        verbs = plugin_verbs(self._verbs)
        if verbs:
            with formatter.section("Commands of plugins"):
                formatter.write_dl([(name, verb.help()) for name, verb in verbs.items()])


def debug_option(command: F) -> F:
    """Add ``--debug``, which may stand before or after the verb."""
    return click.option(
        "--debug",
        is_flag=True,
        expose_value=False,
        callback=_remember_debug,
        help="Show the traceback of an error.",
    )(command)


def _remember_debug(ctx: click.Context, _: click.Parameter, value: bool) -> None:
    if value:
        ctx.meta[_DEBUG] = True


def _show_traceback(ctx: click.Context) -> None:
    if ctx.meta.get(_DEBUG):
        from dpotrain.core.masking import mask

        click.echo(mask(traceback.format_exc()), err=True, nl=False)


def _show(error: Exception, verb: PluginVerb | None) -> int:
    """Print an error and return its exit code; one that is not for people comes with the ``verb`` that raised it."""
    from dpotrain.core.errors import DpotrainError, describe_exception
    from dpotrain.ui.errors import print_error

    if not isinstance(error, DpotrainError):
        if verb:
            told = f"{verb.label} raised {describe_exception(error)}"
        else:
            what = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
            told = f"unexpected error: {what}"
        error = DpotrainError(f"{told}\nrun again with --debug for the traceback")
    print_error(error)
    return error.exit_code
