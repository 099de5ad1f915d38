"""Tokens, keys and passwords stay where they were put: out of the run folder, the log and every message."""

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from dpotrain.core.errors import RunError
from dpotrain.core.masking import mask, mask_values
from dpotrain.ui.errors import print_error
from tests.plugin.fakes import install
from tests.run.recipes import project
from tests.support import dpotrain

HUB, WANDB, PASSWORD, OPTION, MLFLOW, INNER = (
    "hf_aBcDeFgHiJkLmNoPqRsT",
    "0123456789abcdef" * 2 + "01234567",
    "hunter2hunter2",
    "s3cr3t-0pt10n",
    "mlflow-t0ken-of-somebody",
    "of-something-inside",
)
SECRETS = (HUB, WANDB, PASSWORD, OPTION, MLFLOW, INNER)

LEAKY = """\
import logging, os, warnings
from pydantic import Field, SecretStr
from dpotrain import hookimpl
from dpotrain.plugin.api import DatasetSource, Logger, Options
from dpotrain_plugins.hf_datasets.source import HFDatasetsSource

class Inner(Options):
    tokens: dict[str, list[SecretStr]] = Field(description="Secrets deep inside.")

class Wrapping(HFDatasetsSource):
    # It makes options of its own from a plain table, after the recipe is read.

    name = "wrapping"

    class Options(HFDatasetsSource.Options):
        inner: dict = Field(description="The options of something inside.")

    def load(self, split):
        Inner(**self.options.inner)
        return super().load(split)

class Leaky(Logger):
    name = "leaky"

    class Options(Logger.Options):
        token: SecretStr = Field(description="A secret.")
        address: str = Field("", description="Where to.")

    def start(self, run):
        said = f"{os.environ['HF_TOKEN']} {self.options.token.get_secret_value()} {self.options.address}"
        logging.getLogger("somebody").warning("logged %s", said)
        warnings.warn(f"warned {said}")
        run.note(f"noted {said}")
        run.report("leaky", {"said": said, "deeper": [{"said": said}]})
        raise RuntimeError(f"failed with {said}")

    def log(self, record): ...

    def finish(self, outcome): ...

@hookimpl
def dpotrain_loggers():
    return [Leaky]

@hookimpl
def dpotrain_dataset_sources():
    return [Wrapping]
"""


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    """A run with everything at once: secrets wherever they can be, and a umask that keeps nobody out."""
    folder = tmp_path_factory.mktemp("ran")
    install(folder / "site", "dpotrain-leaky", "1.0", leaky=LEAKY)
    recipe = project(folder)
    overrides = [
        'data.use="wrapping"', f'data.inner={{tokens={{of=["{INNER}"]}}}}', f'data.name="{folder}/pairs.jsonl"',
        "training.steps=2", "checkpoints.every=1", "model.trust_remote_code=true", f"run.cache_dir='{folder}/cache'",
        'loggers.0.use="wandb"', 'loggers.0.mode="offline"', f'loggers.0.notes="see https://me:{PASSWORD}@host/x"',
        f'loggers.1={{use="leaky", token="{OPTION}", address="https://{PASSWORD}@host"}}',
        f'loggers.2={{use="mlflow", name="https://me:{PASSWORD}@host/x", tags={{of="https://me:{PASSWORD}@host/x"}}}}',
        f'loggers.3={{use="trackio", group="https://me:{PASSWORD}@host/x", name="{HUB}"}}',
    ]  # fmt: skip
    settings = [part for one in overrides for part in ("--set", one)]
    secrets = {"HF_TOKEN": HUB, "WANDB_API_KEY": WANDB, "MLFLOW_TRACKING_TOKEN": MLFLOW}
    places = {
        "TRACKIO_DIR": str(folder / "trackio"),
        "PYTHONPATH": str(folder / "site"),
        "OMP_NUM_THREADS": "1",
    }
    done = subprocess.run(
        [sys.executable, "-m", "dpotrain", "run", str(recipe), *settings],
        env={**os.environ, **secrets, **places},
        capture_output=True,
        text=True,
        umask=0,
    )
    assert done.returncode == 0, done.stderr
    return folder, done


def test_nothing_that_a_run_leaves_or_says_holds_a_secret(ran):
    folder, done = ran
    said = {"stdout": done.stdout, "stderr": done.stderr}
    for part in ("run", "cache", "trackio"):
        said |= {
            str(file): file.read_bytes().decode("latin-1")
            for file in (folder / part).rglob("*")
            if file.is_file()
        }
    assert {name for name, text in said.items() for secret in SECRETS if secret in text} == set()


def test_what_was_said_around_the_secrets_is_there(ran):
    """Or the test above would hold for a run that said nothing."""
    folder, done = ran
    log = (folder / "run" / "run.log").read_text()
    for store in (folder / "run" / "mlflow", folder / "trackio"):
        assert any(b"https://***@host" in file.read_bytes() for file in store.rglob("*") if file.is_file())
    for word in ("logged ***", "warned ***", "noted ***", "failed with ***"):
        assert word in log
    assert "noted ***" in done.stdout
    assert json.loads((folder / "run" / "summary.json").read_text())["leaky"]["deeper"][0]["said"].startswith(
        "***"
    )
    assert "https://***@host" in (folder / "run" / "recipe.toml").read_text()
    command = json.loads((folder / "run" / "environment.json").read_text())["command"]
    assert "loggers.1=***" in command
    assert "training.steps=2" in command


def test_code_that_may_run_is_named_before_the_first_step_and_in_the_summary(ran):
    folder, done = ran
    line = f"Python code that comes with {folder}/model (model.trust_remote_code)"
    assert f"remote code: {line}" in done.stdout
    assert json.loads((folder / "run" / "summary.json").read_text())["remote code"] == {"allowed": line}


def test_nothing_of_a_run_can_be_written_by_others(ran):
    folder, _ = ran
    made = [folder / "run", folder / "cache", *(folder / "run").rglob("*"), *(folder / "cache").rglob("*")]
    assert len(made) > 20
    assert [str(path) for path in made if not path.is_symlink() and path.stat().st_mode & 0o022] == []


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("cannot reach https://me:hunter2@host/x?a=1", "cannot reach https://***@host/x?a=1"),
        ("GET https://host/x?token=abcd&b=2", "GET https://host/x?token=***&b=2"),
        ('  api_key = "abc def"', "  api_key = ***"),
        ("--set loggers.0.token='abc'", "--set loggers.0.token=***"),
        ('password = "never closed', "password = ***"),
        (f"401 for {HUB}.", "401 for ***."),
        ("tokens_per_microbatch = 512, lr = 5e-6", "tokens_per_microbatch = 512, lr = 5e-6"),
        ("see https://host/a@b and me@host", "see https://host/a@b and me@host"),
    ],
)
def test_what_is_taken_out_of_a_message(text, masked):
    assert mask(text) == masked


def test_only_what_can_be_nothing_else_is_taken_out_of_a_recipes_value():
    template = "{% set token = messages[0].content %}"
    assert mask_values(template) == template


def test_values_of_the_environment_are_taken_out_by_their_names(monkeypatch):
    monkeypatch.setenv("SOME_API_KEY", "abcdefgh")
    monkeypatch.setenv("SOME_SECRET", "abcdefgh-longer")
    monkeypatch.setenv("SHORT_TOKEN", "abc")
    monkeypatch.setenv("SSL_KEY", "/etc/ssl/key.pem")
    assert mask("abcdefgh-longer abcdefgh abc /etc/ssl/key.pem") == "*** *** abc /etc/ssl/key.pem"


def test_an_error_on_the_terminal_is_masked(monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "not-of-the-usual-form")
    stream = io.StringIO()
    print_error(RunError("the hub said: bad not-of-the-usual-form"), Console(file=stream))
    assert stream.getvalue() == "error: the hub said: bad ***\n"


@pytest.mark.parametrize(
    ("text", "overrides"),
    [
        (f'[[loggers]]\nuse = "x"\ntoken = "{OPTION}\n', ()),
        (f'[[loggers]]\nuse = "x"\napi_key = {OPTION}\n', ()),
        ("", (f'loggers.0.token="{OPTION}',)),
        ("", (f"loggers.0.token={OPTION}",)),
        ("", (f"data.name=https://me:{OPTION}@host/rows.jsonl",)),
        ("", (f"model.name=https://me:{OPTION}@host/model",)),
    ],
)
@pytest.mark.parametrize("debug", [(), ("--debug",)])
def test_a_wrong_recipe_is_refused_without_its_secrets(text, overrides, debug, tmp_path):
    file = tmp_path / "recipe.toml"
    quickstart = (Path(__file__).parents[2] / "recipes" / "quickstart.toml").read_text()
    file.write_text(
        quickstart.replace(
            'use = "demo"                   # pairs', 'use = "hf-datasets"\nname = "x/y" # pairs'
        )
        + text
    )
    arguments = [part for one in overrides for part in ("--set", one)]
    result = dpotrain("check", str(file), *arguments, *debug)
    assert result.exit_code in (2, 3)
    assert "error: " in result.output
    assert OPTION not in result.output
