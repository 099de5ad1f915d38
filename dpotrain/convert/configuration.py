"""Reading another trainer's configuration: YAML, JSON, a shell script, or the words of a command line."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dpotrain.convert.command_line import Command, commands_of, parse
from dpotrain.core.errors import RecipeError, short

#: Numbers that YAML 1.1 takes for text: it wants a dot in ``5e-7``.
_NUMBER = re.compile(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+")


@dataclass(slots=True)
class Configuration:
    """What was given, by the tool's own keys."""

    source: str
    """The file's name, or ``the command line``."""
    values: dict[str, Any]
    programs: frozenset[str] = frozenset()
    """Words of a command line before its options: ``trl``, ``dpo``, ``accelerate``."""
    processes: int | None = None
    """Number of processes, where a launcher or NPROC_PER_NODE says so."""
    folder: Path = field(default_factory=Path)
    """Where relative paths of the configuration may lead to."""
    repeated: tuple[str, ...] = ()
    """Keys that a YAML file gives several times, of which the last counts."""


def read_configuration(words: Sequence[str]) -> Configuration:
    """Return the configuration in a file, or on a command line.

    Raises:
        RecipeError: the file cannot be read or is of no known form, or the command line has no options.
    """
    if len(words) == 1:
        path = Path(words[0])
        suffix = path.suffix.lower()
        if suffix == ".py":
            raise RecipeError(
                f"{path} is a Python program, which is not read; give its command line instead: "
                f"dpotrain convert -- python {path} --model_name_or_path …"
            )
        if suffix == ".toml":
            raise RecipeError(f"{path} is a TOML file, as recipes are: dpotrain check {path}")
        if suffix in (".yaml", ".yml", ".json"):
            values, repeated = _read_mapping(path)
            return Configuration(path.name, values, folder=path.parent, repeated=repeated)
        return _from_commands(commands_of(_read(path)), path.name, path.parent)
    return _from_commands([parse(list(words))], "the command line", Path())


def _from_commands(commands: Sequence[Command], source: str, folder: Path) -> Configuration:
    found = [command for command in commands if command.options or command.config]
    if not found:
        raise RecipeError(
            f"{source} has no command with options; a command line, or a .sh file with one, is expected, "
            "as in: trl dpo --model_name_or_path …"
        )
    if len(found) > 1:
        lines = "\n".join(f"  {short(' '.join(command.words))}" for command in found)
        raise RecipeError(
            f"{source} has {len(found)} commands with options; give the one that trains:\n{lines}"
        )
    (command,) = found
    values: dict[str, Any] = {}
    repeated: tuple[str, ...] = ()
    if command.config:
        path = Path(command.config)
        path = path if path.is_file() or path.is_absolute() else folder / path
        values, repeated = _read_mapping(path)
        source, folder = path.name, path.parent
    values |= {key: _scalars(value) for key, value in command.options.items()}
    return Configuration(source, values, command.programs, command.processes, folder, repeated)


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise RecipeError(f"there is no file {short(str(path))}") from None
    except UnicodeDecodeError:
        raise RecipeError(f"{short(str(path))} is not UTF-8 text") from None
    except OSError as error:
        raise RecipeError(f"{short(str(path))} cannot be read: {error.strerror}") from None


def _read_mapping(path: Path) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Return the document and the keys that stand in it several times."""
    import yaml

    text = _read(path)
    try:
        document = yaml.safe_load(text)  # JSON too: YAML has it in it
        node = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.YAMLError as error:
        raise RecipeError(f"{path} is not YAML: {error}") from None
    except RecursionError:
        raise RecipeError(f"{path} is nested too deeply") from None
    if not isinstance(document, dict):
        raise RecipeError(
            f"{path} holds no keys with values; a configuration is a mapping: learning_rate: 5.0e-7"
        )
    keys = [str(key.value) for key, _ in node.value]
    repeated = tuple(dict.fromkeys(key for key in keys if keys.count(key) > 1))
    return {str(key): _numbers(value) for key, value in document.items()}, repeated


def _numbers(value: Any) -> Any:
    """Return a value with the numbers that YAML 1.1 takes for text."""
    if isinstance(value, str) and _NUMBER.fullmatch(value.strip()):
        return float(value)
    if isinstance(value, dict):
        return {str(key): _numbers(item) for key, item in value.items()}
    return [_numbers(item) for item in value] if isinstance(value, list) else value


def _scalars(value: Any) -> Any:
    """Return the values of an option as YAML would read them: ``true``, ``5``, ``null``, a JSON object."""
    import yaml

    if isinstance(value, list):
        return [_scalars(item) for item in value]
    if not isinstance(value, str):
        return value
    try:
        return _numbers(yaml.safe_load(value))
    except yaml.YAMLError:
        return value
