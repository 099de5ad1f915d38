"""Command lines of trainers, also in shell scripts: launchers, the program, and its options."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import Any

from dpotrain.core.errors import RecipeError

_ASSIGNMENT = re.compile(r"(?:export\s+)?([A-Za-z_]\w*)=(.*)", re.DOTALL)
_VARIABLE = re.compile(r"\$\{(\w+)\}|\$(\w+)")

#: Programs that start others, with their options for the number of processes, and of machines.
_LAUNCHERS = {
    "accelerate": ("num_processes", ""),
    "torchrun": ("nproc_per_node", "nnodes"),
    "deepspeed": ("num_gpus", "num_nodes"),
}
#: Options of launchers that take no value.
_SWITCHES = frozenset({"multi_gpu", "use_deepspeed", "use_fsdp", "standalone", "no_local_rank", "module"})
_PROGRAMS = frozenset(
    {"trl", "swift", "axolotl", "llamafactory-cli", "lmf", "python", "python3", *_LAUNCHERS}
)
_CONFIGS = (".yaml", ".yml", ".json")


@dataclass(slots=True)
class Command:
    """One command line."""

    words: list[str]
    programs: frozenset[str] = frozenset()
    """Words before the program's own options, scripts by their names."""
    config: str = ""
    """The YAML file that it reads."""
    options: dict[str, Any] = field(default_factory=dict)
    """By the option's name with underscores; texts, lists of texts, or True and False for switches."""
    processes: int | None = None


def commands_of(script: str) -> list[Command]:
    """Return the commands of a shell script that start a trainer, with the script's own variables filled in.

    Raises:
        RecipeError: the quotes of a command are not closed.
    """
    variables: dict[str, str] = {}
    found = []
    for line in _lines(script):
        words = _split(line)
        leading = 0
        while leading < len(words) and (match := _ASSIGNMENT.fullmatch(words[leading])):
            variables[match[1]] = _filled(match[2], variables)
            leading += 1
        if words[:1] == ["export"]:
            variables |= {
                m[1]: _filled(m[2], variables) for w in words[1:] if (m := _ASSIGNMENT.fullmatch(w))
            }
            continue
        rest = [_filled(word, variables) for word in words[leading:]]
        if rest and PurePath(rest[0]).name in _PROGRAMS:
            found.append(parse([*(f"{name}={value}" for name, value in variables.items()), *rest]))
    return found


def parse(words: Sequence[str]) -> Command:
    """Return the parts of one command line, which may begin with assignments: ``NPROC_PER_NODE=4 swift rlhf …``."""
    command = Command(list(words))
    environment: dict[str, str] = {}
    rest = list(words)
    while rest and (match := _ASSIGNMENT.fullmatch(rest[0])) and not rest[0].startswith("-"):
        environment[match[1]] = match[2]
        rest.pop(0)
    command.words = rest
    launched: dict[str, str] = {}
    programs: list[str] = []
    while rest and not rest[0].startswith("--"):
        word = rest.pop(0)
        if word.startswith("-") and len(word) == 2:  # python -m module, -u
            continue
        name = PurePath(word).name
        if word.endswith(_CONFIGS):
            command.config = word
        elif "=" in word:  # LLaMA-Factory's overrides: learning_rate=1e-5
            key, _, value = word.partition("=")
            command.options[key] = value
        else:
            programs.append(name)
        if name in _LAUNCHERS:
            launched |= _launcher_options(rest)
    command.programs = frozenset(programs)
    for key, values in _options(rest):
        command.options[key] = values
    if isinstance(config := command.options.pop("config", None), str):
        command.config = config
    if "trl" in programs:  # takes accelerate's options among its own
        number = command.options.pop("num_processes", "")
        launched |= {"num_processes": number} if isinstance(number, str) else {}
    command.processes = _processes(launched, environment)
    return command


def _launcher_options(rest: list[str]) -> dict[str, str]:
    """Take a launcher's options, which end at the script, off the words."""
    found: dict[str, str] = {}
    if rest and rest[0] in ("launch",):
        rest.pop(0)
    while rest and rest[0].startswith("-"):
        word = rest.pop(0)
        key, equals, value = word.lstrip("-").replace("-", "_").partition("=")
        if key == "m":
            break
        if not equals and key not in _SWITCHES and rest and not rest[0].startswith("-"):
            value = rest.pop(0)
        found[key] = value
    return found


def _options(rest: Sequence[str]) -> Iterator[tuple[str, Any]]:
    """Yield options and values: of ``--a 1 --b --no_c --d=x y``, 1, True, False (for ``c``), and a list."""
    key, values = "", list[str]()
    for word in [*rest, "--"]:
        if word.startswith("--") or (re.match(r"-[A-Za-z]", word) and len(word) > 1):
            if key:
                yield _option(key, values)
            name, equals, value = word.lstrip("-").partition("=")
            key, values = name.replace("-", "_"), [value] if equals else []
        elif "=" in word and not key:
            name, _, value = word.partition("=")
            yield name, value
        else:
            values.append(word)


def _option(key: str, values: list[str]) -> tuple[str, Any]:
    if values:
        return key, values[0] if len(values) == 1 else values
    return (key.removeprefix("no_"), False) if key.startswith("no_") else (key, True)


def _processes(launched: dict[str, str], environment: dict[str, str]) -> int | None:
    for program in _LAUNCHERS.values():
        per_machine, machines = (launched.get(name, "") for name in program)
        if per_machine.isdigit():
            return int(per_machine) * (int(machines) if machines.isdigit() else 1)
    per_machine, machines = environment.get("NPROC_PER_NODE", ""), environment.get("NNODES", "1")
    return int(per_machine) * int(machines) if per_machine.isdigit() and machines.isdigit() else None


def _lines(script: str) -> Iterator[str]:
    """Yield the lines of a script, continued ones joined, without comments."""
    joined = re.sub(r"^\s*#.*$", "", script, flags=re.MULTILINE)
    for line in re.sub(r"\\\s*\n", " ", joined).splitlines():
        if line.strip():
            yield line.strip()


def _split(line: str) -> list[str]:
    try:
        return shlex.split(line, comments=True)
    except ValueError as error:
        raise RecipeError(f"a command cannot be read ({error}): {line[:80]}") from None


def _filled(text: str, variables: dict[str, str]) -> str:
    return _VARIABLE.sub(lambda match: variables.get(match[1] or match[2], match[0]), text)
