"""The suite for commands that plugins add to the command line."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import click
import pytest
from click.testing import CliRunner, Result

from dpotrain.cli import COMMANDS, main
from dpotrain.plugin.runtime.commands import PluginCommand, plugin_commands
from dpotrain.testing.conformance.component import heavy_imports


class CommandConformance:
    """A command is found, documents itself, imports nothing heavy, and reports wrong calls as dpotrain's own do."""

    command: ClassVar[str]
    """Its name: what is typed after ``dpotrain``."""
    wrong: ClassVar[Sequence[str]]
    """Arguments that a person may give and that cannot work: a file that does not exist."""

    @pytest.fixture(autouse=True)
    def _installed(self, request: pytest.FixtureRequest) -> None:
        """Let one test fail where no installed plugin has the command, since all others would for that reason."""
        missing = self.command not in plugin_commands(COMMANDS)
        if missing and request.node.originalname != "test_an_installed_plugin_brings_it":
            pytest.skip("no installed plugin has it: see test_an_installed_plugin_brings_it")

    def found(self) -> PluginCommand:
        """Return the command as it is installed."""
        installed = plugin_commands(COMMANDS)
        assert self.command in installed, (
            f'no installed plugin has the command "{self.command}": pip install -e .'
        )
        return installed[self.command]

    def call(self, *arguments: str) -> Result:
        """Run ``dpotrain`` with these arguments."""
        return CliRunner().invoke(main, arguments, prog_name="dpotrain")

    def test_an_installed_plugin_brings_it(self) -> None:
        """It is found by its entry point, is a click command, and nothing else has its name."""
        self.found().load()

    def test_help_lists_it_with_a_line_of_its_own(self) -> None:
        """``dpotrain --help`` says in a sentence what it does."""
        assert self.found().load().get_short_help_str().strip(), "it has neither short_help nor a docstring"
        result = self.call("--help")
        assert result.exit_code == 0, result.output
        assert f"\n  {self.command} " in result.output

    def test_its_own_help_explains_every_option(self) -> None:
        """And says what the command does with its arguments."""
        command = self.found().load()
        assert (command.help or "").strip(), (
            "its function has no docstring, so its help does not say what it does"
        )
        options = [each for each in command.params if isinstance(each, click.Option) and not each.hidden]
        bare = [option.opts[-1] for option in options if not (option.help or "").strip()]
        assert not bare, f"without help: {', '.join(bare)}"
        result = self.call(self.command, "--help")
        assert result.exit_code == 0, result.output
        assert all(option.opts[-1] in result.output for option in options)

    def test_importing_it_loads_nothing_heavy(self) -> None:
        """``dpotrain --help`` imports every command, and has to stay quick."""
        point = self.found().points[0]
        heavy = heavy_imports(f"import {point.module}")
        assert not heavy, f"{point.module} loads {heavy}; import it inside functions"

    def test_what_it_cannot_do_is_said_in_a_few_lines(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A ``DpotrainError``, or click's own error, with its exit code; and no file is left behind."""
        monkeypatch.chdir(tmp_path)
        result = self.call(self.command, *self.wrong)
        assert result.exit_code in (1, 2, 3), f"exit code {result.exit_code}: {result.output}"
        assert "run again with --debug" not in result.stderr, f"no message for a person: {result.stderr}"
        assert result.stderr.strip().startswith(("error: ", "Usage: ")), result.output
        assert len(result.stderr.strip().splitlines()) <= 12, result.stderr
        assert not list(tmp_path.iterdir()), "it left files behind"


class VerbConformance(CommandConformance):
    """Deprecated name of :class:`CommandConformance`; its ``verb`` is ``command`` there."""

    verb: ClassVar[str]

    def __init_subclass__(cls) -> None:
        warnings.warn(
            "VerbConformance is CommandConformance, its verb is command", DeprecationWarning, stacklevel=2
        )
        cls.command = cls.verb
