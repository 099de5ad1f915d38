"""What a person sees when something is wrong with a plugin: the texts themselves, in ``snapshots``.

Paths stand there as SITE (where plugins are installed) and HERE (where the recipe is), seconds as N.N s.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from dpotrain import __version__
from tests.plugin.fakes import DEMO_RECIPE, LOSS_MODULE, install
from tests.support import dpotrain

#: A loss that works; what is wrong with it is put into one of its places.
LOSS = """\
from pydantic import Field, model_validator
from dpotrain import hookimpl
from dpotrain.plugin.api import Loss, Logger
{top}

class Bad(Loss):
    name = "bad"

    class Options(Loss.Options):
        gamma: float = Field(0.5, description="A margin.")
        {options}

    {body}

    def __call__(self, scores):
        return (scores.rejected_logratio - scores.chosen_logratio) + self.options.gamma


@hookimpl
def dpotrain_losses():
    return [Bad]

{bottom}
"""


def loss(top: str = "", options: str = "", body: str = "", bottom: str = "") -> str:
    return LOSS.format(top=top, options=options, body=body, bottom=bottom)


LOGGER = """
class BadLogger(Logger):
    name = "bad-logger"

    def start(self, run): pass
    def log(self, record): pass
    def finish(self, outcome): raise OSError("the disk is gone")


@hookimpl
def dpotrain_loggers():
    return [BadLogger]
"""

INIT = """
    def __init__(self, options):
        raise ValueError("gamma and beta do not fit")
"""

VALIDATOR = """
        @model_validator(mode="after")
        def _check(self):
            assert 1 / (self.gamma - 0.5) > self.beta
            return self
"""

#: For each case the plugins that are installed, and the commands that a person gives.
CASES: dict[str, tuple[dict[str, str], tuple[str, ...]]] = {
    "two plugins with one name": (
        {"one": LOSS_MODULE.format(name="bad"), "two": LOSS_MODULE.format(name="bad")},
        ("plugins", "check"),
    ),
    "raises at import": ({"bad": "raise RuntimeError('no licence found')"}, ("plugins", "check")),
    "lacks a package": ({"bad": "import no_such_package"}, ("plugins", "check")),
    "raises in its options": ({"bad": loss(options=VALIDATOR)}, ("plugins", "check")),
    "has an option without description": ({"bad": loss(options="delta: float = 1.0")}, ("plugins", "check")),
    "raises when it is constructed": ({"bad": loss(body=INIT)}, ("plugins", "check")),
    "raises in a catalogue": (
        {"bad": "from dpotrain import hookimpl\n@hookimpl\ndef dpotrain_losses():\n    return 1 / 0"},
        ("plugins", "check"),
    ),
    "raises in a run event": (
        {
            "bad": loss(
                bottom="@hookimpl\ndef dpotrain_step_ended(run, step):\n    raise KeyError('grad_norm_2')"
            )
        },
        ("plugins", "run"),
    ),
    "raises in its last run event": (
        {"bad": loss(bottom="@hookimpl\ndef dpotrain_run_finished(run):\n    raise ConnectionError('gone')")},
        ("run",),
    ),
    "is a logger that raises as it closes": ({"bad": loss(bottom=LOGGER)}, ("run-logged",)),
    "raises when Python exits": (
        {"bad": loss(top="import atexit\natexit.register(lambda: 1 / 0)")},
        ("plugins",),
    ),
    "is written for a later interface": (
        {"bad": "dpotrain_interface = 99\nfrom dpotrain.plugin.api import Sampler"},
        ("plugins", "check"),
    ),
    "imports torch at the top": ({"bad": loss(top="import torch")}, ("plugins",)),
    "is blocked": ({"bad": loss()}, ("plugins-blocked", "check-blocked")),
}


#: What only shows in a process of its own: what is imported by then, and what comes after the last line.
OWN_PROCESS = {"imports torch at the top", "raises when Python exits"}


@pytest.mark.parametrize("case", CASES)
def test_what_a_person_sees(case, site, tmp_path, snapshot, monkeypatch):
    plugins, commands = CASES[case]
    for name, source in plugins.items():
        install(site, f"dpotrain-{name}", "1.0", **{name: source})
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    recipe = DEMO_RECIPE.format(folder=here, loss="bad")
    (here / "r.toml").write_text(recipe)
    (here / "blocked.toml").write_text(f'block = ["bad"]\n{recipe}')
    (here / "logged.toml").write_text(f'{recipe}\n[[loggers]]\nuse = "bad-logger"\n')
    shown = []
    for given in commands:
        command, _, which = given.partition("-")
        words = [command, *([] if given == "plugins" else [f"{which or 'r'}.toml"])]
        if command == "plugins" and which:  # the recipe that blocks it needs another loss
            words += ["--set", "loss.use='dpo'"]
        call = in_a_process if case in OWN_PROCESS else here_and_now
        output, errors, code = call(words, site)
        lines = [f"$ dpotrain {' '.join(words)}"]
        lines += [" ".join(line.split()) for line in output.splitlines() if concerns(line, list(plugins))]
        lines += [*without_tracebacks(errors.splitlines()), f"exit code {code}\n"]
        shown.append(normalized("\n".join(lines), site, here))
    snapshot(f"{case.replace(' ', '_')}.txt", "\n".join(shown))


def here_and_now(words: list[str], site: Path) -> tuple[str, str, int]:
    result = dpotrain(*words)
    return result.stdout, result.stderr, result.exit_code


def in_a_process(words: list[str], site: Path) -> tuple[str, str, int]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(site), *sys.path])}
    code = "from dpotrain.cli import main; main(prog_name='dpotrain')"
    done = subprocess.run(
        [sys.executable, "-c", code, *words], env=environment, capture_output=True, text=True
    )
    return done.stdout, done.stderr, done.returncode


def concerns(line: str, plugins: list[str]) -> bool:
    return any(re.search(rf"\b{name}\b", line) for name in [*plugins, "bad-logger"])


def without_tracebacks(lines: list[str]) -> list[str]:
    """Leave out what each Python writes in a way of its own."""
    kept, inside = [], False
    for line in lines:
        inside = line.startswith("Traceback") or (inside and line.startswith(" "))
        if not inside:
            kept.append(re.sub(r"(atexit callback).*", r"\1", line))
    return kept


def normalized(text: str, site: Path, here: Path) -> str:
    text = text.replace(str(site), "SITE").replace(f"{here}/", "HERE/")
    return re.sub(r"\d+\.\d s\b", "N.N s", text.replace(f"dpotrain {__version__}", "dpotrain VERSION"))
