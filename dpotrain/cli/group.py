"""The group of commands: each is imported when it is named, and every error becomes lines and an exit code."""

from __future__ import annotations

import importlib
import traceback
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

import click
from click.shell_completion import CompletionItem

from dpotrain.cli.completing import WORDS, complete_set
from dpotrain.cli.leaving import leave_with
from dpotrain.cli.usage import no_command, with_remedy

if TYPE_CHECKING:
    from dpotrain.plugin.runtime.commands import PluginCommand

F = TypeVar("F", bound=Callable[..., Any])

#: Keys of a context's ``meta``: whether tracebacks are shown, and the plugin's command that runs.
_DEBUG = "dpotrain.debug"
_PLUGIN_COMMAND = "dpotrain.plugin_command"


class CommandGroup(click.Group):
    """A group whose commands are in modules of their own, each under the name ``command``."""

    def __init__(self, *args: Any, modules: Mapping[str, str], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._modules = modules

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the commands in the order in which a person needs them."""
        return list(self._modules)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import a command."""
        if cmd_name not in self._modules:
            return None
        command: click.Command = importlib.import_module(self._modules[cmd_name]).command
        return command

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Keep the words, which a message about a wrong command line is made from."""
        ctx.meta[WORDS] = list(args)
        return super().parse_args(ctx, args)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find a command; name the one that may be meant where it does not exist."""
        name = args[0]
        if name.startswith("-") or ctx.resilient_parsing or self.get_command(ctx, name) is not None:
            return super().resolve_command(ctx, args)
        raise no_command(name, self.known_commands(), ctx)

    def known_commands(self) -> list[str]:
        """Return the names of all commands."""
        return list(self._modules)

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command; end with the exit code of whatever it raises."""
        try:
            return super().invoke(ctx)
        except click.UsageError as error:
            raise with_remedy(error, ctx.meta[WORDS]) from None
        except (click.ClickException, click.exceptions.Exit, click.Abort, BrokenPipeError):
            raise  # click handles these
        except KeyboardInterrupt:
            from dpotrain.core.errors import INTERRUPTED

            _show_traceback(ctx)
            click.echo("interrupted", err=True)
            ctx.exit(INTERRUPTED)
        except Exception as error:
            _show_traceback(ctx)
            ctx.exit(_show(error, ctx.meta.get(_PLUGIN_COMMAND)))


class Program(CommandGroup):
    """The outermost group. A name that is not its own may be a command of a plugin."""

    def __init__(self, *args: Any, sections: Mapping[str, Collection[str]], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._sections = sections

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run a command and end the process, even where a library's thread or exit handler would not let it end."""
        try:
            return super().__call__(*args, **kwargs)
        except SystemExit as end:
            leave_with(end.code if isinstance(end.code, int) else int(end.code is not None))
            raise

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import a command; dpotrain's own ones without looking at plugins, which cannot replace them.

        Raises:
            PluginError: a plugin's command cannot be imported, or two plugins have it.
        """
        own = super().get_command(ctx, cmd_name)
        if own is not None:
            return own
        from dpotrain.plugin.runtime.commands import plugin_commands

        found = plugin_commands(self._modules).get(cmd_name)
        if found is None:
            return None
        ctx.meta[_PLUGIN_COMMAND] = found
        return found.load()

    def known_commands(self) -> list[str]:
        """Return the names of dpotrain's commands and of plugins'."""
        from dpotrain.plugin.runtime.commands import plugin_commands

        return list(dict.fromkeys([*self._modules, *plugin_commands(self._modules)]))

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands by what they are for, and those of plugins, broken ones with the reason."""
        from dpotrain.plugin.runtime.commands import plugin_commands

        known = {name: self.get_command(ctx, name) for name in self._modules}
        width = max(map(len, known))
        limit = formatter.width - 6 - width
        for heading, names in self._headings(known).items():
            own = [(name, command) for name in names if (command := known[name]) is not None]
            rows = [(name.ljust(width), command.get_short_help_str(limit)) for name, command in own]
            with formatter.section(heading):
                formatter.write_dl(rows)
        found = plugin_commands(self._modules)
        if found:
            with formatter.section("Commands of plugins"):
                formatter.write_dl([(name.ljust(width), command.help()) for name, command in found.items()])

    def _headings(self, names: Iterable[str]) -> dict[str, list[str]]:
        """Return the commands by heading, in the order in which a person needs them."""
        found: dict[str, list[str]] = {}
        for heading, under in self._sections.items():
            found[heading] = [name for name in names if name in under]
        listed = {name for under in found.values() for name in under}
        found["More"] = [name for name in names if name not in listed]
        return {heading: under for heading, under in found.items() if under}

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Complete the commands of plugins, too."""
        from dpotrain.plugin.runtime.commands import plugin_commands

        items = super().shell_complete(ctx, incomplete)
        found = plugin_commands(self._modules)
        return [*items, *(CompletionItem(name) for name in found if name.startswith(incomplete))]


def set_option(command: F) -> F:
    """Add ``--set KEY=VALUE``, which may be given several times."""
    return click.option(
        "--set",
        "overrides",
        metavar="KEY=VALUE",
        multiple=True,
        shell_complete=complete_set,
        help="Override a key of the recipe with a TOML value: training.epochs=2, loggers=[], quantizer=false "
        "(none). May be given several times.",
    )(command)


def debug_option(command: F) -> F:
    """Add ``--debug``, which is accepted before and after the command's name."""
    return click.option(
        "--debug",
        is_flag=True,
        expose_value=False,
        callback=_remember_debug,
        help="Show the traceback of an error.",
    )(command)


def wants_traceback(ctx: click.Context) -> bool:
    """Whether ``--debug`` was given, before or after the command's name."""
    return bool(ctx.meta.get(_DEBUG))


def _remember_debug(ctx: click.Context, _: click.Parameter, value: bool) -> None:
    if value:
        ctx.meta[_DEBUG] = True


def _show_traceback(ctx: click.Context) -> None:
    if wants_traceback(ctx):
        from dpotrain.core.masking import mask

        click.echo(mask(traceback.format_exc()), err=True, nl=False)


def _show(error: Exception, command: PluginCommand | None) -> int:
    """Print an error and return its exit code; an unexpected one with the plugin's ``command`` that raised it."""
    from dpotrain.core.errors import DpotrainError, describe_exception
    from dpotrain.ui.errors import print_error

    if not isinstance(error, DpotrainError):
        if command:
            text = f"{command.label} raised {describe_exception(error, command.module)}"
        else:
            what = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
            text = f"unexpected error: {what}"
        error = DpotrainError(f"{text}\nrun again with --debug for the traceback")
    print_error(error)
    return error.exit_code
