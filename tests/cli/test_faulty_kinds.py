"""What a person sees of an optimizer, schedule, metric, exporter or command that fails, in ``snapshots``.

Each raises at import, in its options, as it is built, and in use. Paths stand there as SITE (where plugins are
installed) and HERE (where the recipe is).
"""

import re
from pathlib import Path

import pytest

from tests.plugin.fakes import DEMO_RECIPE, forget, install
from tests.support import dpotrain

COMPONENT = """\
from pydantic import model_validator
from dpotrain import hookimpl
from dpotrain.plugin.api import {base}
{top}

class Faulty({base}):
    name = "faulty"
    {head}

    class Options({base}.Options):
        @model_validator(mode="after")
        def _check(self):
            {options}
            return self

    def __init__(self, options):
        {init}
        super().__init__(options)

{body}


@hookimpl
def dpotrain_{hook}():
    return [Faulty]
"""

OPTIMIZER = """
    def build(self, weights):
        import torch
        {build}

        class Steps(torch.optim.SGD):
            def step(self, closure=None):
                {use}

        return Steps(list(weights.values()), lr=self.options.lr)
"""
SCHEDULE = """
    def factor(self, step, total_steps):
        {use}
"""
METRIC = """
    def __call__(self, scores):
        {use}
"""
EXPORTER = """
    def export(self, run):
        {use}
"""

COMMAND = """\
import click
{top}

def positive(context, parameter, value):
    {options}

@click.command(short_help="Fail.")
@click.option("--count", default=1, callback=positive)
def command(count):
    {use}
{build}
"""


def component(base: str, body: str, **more: str) -> tuple[str, dict[str, str]]:
    return COMPONENT, {"base": base, "hook": f"{base.lower()}s", "body": body, **more}


#: For each kind its module.
KINDS = {
    "optimizer": component("Optimizer", OPTIMIZER),
    "schedule": component("Schedule", SCHEDULE),
    "metric": component("Metric", METRIC, head='measures = ("one",)'),
    "exporter": component("Exporter", EXPORTER),
    "command": (COMMAND, {}),
}

RAISES = 'raise RuntimeError("no way")'
#: Where it raises, in words.
PHASES = {
    "top": "at import",
    "options": "in its options",
    "init": "as it is constructed",
    "build": "as it is built",
    "use": "in use",
}


def module(kind: str, phase: str) -> str | None:
    """Return a module that raises in one phase, None where the kind has no such phase."""
    template, parts = KINDS[kind]
    source = template.replace("{body}", parts.get("body", ""))
    if f"{{{phase}}}" not in source:
        return None
    nothing = {"top": "", "head": "", "options": "pass", "init": "pass", "build": "", "use": "pass"}
    raises = RAISES if (kind, phase) != ("command", "build") else "command = command.callback"
    return source.format(**{**nothing, **parts, phase: raises})


@pytest.mark.parametrize("kind", KINDS)
def test_what_a_person_sees(kind, tmp_path, monkeypatch, snapshot):
    (tmp_path / "r.toml").write_text(DEMO_RECIPE.format(folder=tmp_path, loss="dpo"))
    shown = []
    for phase, where in PHASES.items():
        source = module(kind, phase)
        if source is None:
            continue
        site = tmp_path / phase
        plugins = {"commands": {"faulty": source}} if kind == "command" else {"faulty": source}
        install(site, "dpotrain-faulty", "2.0", **plugins)
        with monkeypatch.context() as patch:
            patch.chdir(tmp_path)
            patch.syspath_prepend(str(site))
            use = f'{kind}s=[{{use="faulty"}}]' if kind in ("metric", "exporter") else f"{kind}.use=faulty"
            words = ["faulty"] if kind == "command" else ["run", "r.toml", "--set", use]
            shown.append(
                f"raises {where}\n{said(['plugins'], tmp_path, site)}\n{said(words, tmp_path, site)}"
            )
        forget(site)
    snapshot(f"faulty_{kind}.txt", "\n".join(shown))


def said(words: list[str], here: Path, site: Path) -> str:
    """Return a command, what it says of the plugin or of the error, and its exit code."""
    result = dpotrain(*words)
    assert "Traceback" not in result.output
    listed = [" ".join(line.split()) for line in result.stdout.splitlines() if line.startswith("faulty ")]
    _, found, error = result.stderr.rpartition("error: ")
    lines = [
        f"$ dpotrain {' '.join(words)}",
        *listed,
        *f"{found}{error}".splitlines(),
        f"exit code {result.exit_code}",
    ]
    text = "\n".join(lines).replace(str(site), "SITE").replace(f"{here}/", "HERE/")
    return re.sub(r'there (is|are) "\S.*', "there are …", text) + "\n"  # whatever is built in
