"""The real wandb package, offline; what it wrote is read back from its own record file."""

import json
import os
import shlex
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from dpotrain.core.errors import RecipeError
from dpotrain_plugins.loggers import wandb as wandb_logger
from dpotrain_plugins.loggers.wandb import WandbLogger
from tests.plugins.logging_run import SECRET, begun, ended, evaluation, logged, samples, train
from tests.plugins.serving import Handler, serving
from tests.plugins.wandb_files import history, of_kind, offline_folders, record_file, records_of, values

KEY = "0123456789" * 4


@pytest.fixture(autouse=True)
def _nobody_logged_in(monkeypatch, tmp_path):
    for name in list(os.environ):
        if name.startswith("WANDB"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("NETRC", str(tmp_path / "no-netrc"))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("WANDB_CONFIG_DIR", str(tmp_path / "home" / "config"))
    monkeypatch.setenv("WANDB_CACHE_DIR", str(tmp_path / "home" / "cache"))


def _logger(**options: Any) -> WandbLogger:
    return WandbLogger(WandbLogger.Options(**options))


def _logged(folder: Path, status: str = "finished", **options: Any) -> list[str]:
    return logged(_logger(**options), folder, status)


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> tuple[Path, list[str]]:
    """Return a run that was logged offline, because nobody is logged in."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NETRC", "/nowhere")
        patch.delenv("WANDB_API_KEY", raising=False)
        patch.setattr(sys, "argv", ["dpotrain", "run", "recipe.toml", "--set", f"model.token={SECRET}"])
        folder = tmp_path_factory.mktemp("runs") / "my run"
        folder.mkdir()
        patch.chdir(folder)
        notes = _logged(folder, tags=("a", "b"), group="g", project="p")
        print(SECRET)
        return folder, notes


def test_without_a_key_it_logs_offline_and_says_how_to_upload(finished):
    folder, notes = finished
    (files,) = offline_folders(folder)
    (note,) = notes
    command = note.removeprefix("wandb logs offline; upload with: ")
    kept = (folder / "wandb" / "run-id.txt").read_text().strip()
    assert shlex.split(command) == ["wandb", "sync", "--id", kept, str(files)]
    assert record_file(files).name == f"run-{kept}.wandb"


def test_metrics_keep_their_names_and_the_axis_is_the_step(finished):
    (files,) = offline_folders(finished[0])
    assert history(record_file(files)) == [
        {"_step": 0, "eval/loss": 0.69, "eval/rewards/accuracies": 0.75},
        {"_step": 2, "loss": 0.5, "rewards/margins": 0.25, "learning_rate": 1e-6},
        {
            "_step": 4,
            "loss": 0.4,
            "rewards/margins": 0.25,
            "learning_rate": 1e-6,
            "eval/loss": 0.6,
            "eval/rewards/accuracies": 0.75,
        },
    ]


def test_samples_are_a_table_at_their_step(tmp_path):
    logger = begun(_logger(mode="offline"), tmp_path, evaluation(2))
    logger.log_text(samples(2))
    logger.log(train(3))
    logger.finish(ended(tmp_path))
    (files,) = offline_folders(tmp_path)
    (row, _) = history(record_file(files))
    assert (row["_step"], row["eval/loss"]) == (2, 0.6)
    (table,) = files.rglob("*.table.json")
    found = json.loads(table.read_text())
    assert found["columns"] == ["prompt", "answer"]
    assert found["data"] == [list(each.values()) for each in samples(2).rows]


def test_the_options_and_the_resolved_recipe_arrive(finished):
    (files,) = offline_folders(finished[0])
    (run,) = [
        record.run for record in records_of(record_file(files)) if record.WhichOneof("record_type") == "run"
    ][:1]
    assert (run.project, run.run_group, list(run.tags)) == ("p", "g", ["a", "b"])
    assert run.display_name == "my run"
    config = values(run.config.update)
    assert config["model"] == {"use": "transformers", "name": "tiny"}
    assert (config["optimizer"], config["plugins"][0]["distribution"]) == ({"lr": 5e-6}, "dpotrain")
    assert config["plugins"][0]["selected"] == ["loss dpo"]


def test_the_closing_numbers_are_in_the_summary(finished):
    (files,) = offline_folders(finished[0])
    summary = {}
    for record in of_kind(record_file(files), "summary"):
        summary |= values(record.summary.update)
    assert (summary["status"], summary["eval_best/loss"]) == ("finished", 0.58)
    assert (summary["demo/preferred_after"], summary["tokens_per_second"]) == (0.96, 700.0)


def test_no_prompt_no_sample_and_no_command_line_in_any_file(finished):
    assert history(record_file(offline_folders(finished[0])[0])), "all of it is written"
    files = [path for path in finished[0].rglob("*") if path.is_file()]
    assert len(files) >= 4
    assert [path.name for path in files if SECRET.encode() in path.read_bytes()] == []


def test_every_file_is_under_the_run_folder(finished):
    folder, _ = finished
    assert {path.name for path in folder.iterdir()} == {"wandb"}


@pytest.mark.parametrize(
    ("status", "code", "preempting"), [("finished", 0, 0), ("failed", 1, 0), ("stopped", 1, 1)]
)
def test_how_the_run_ended_is_how_it_is_closed(tmp_path, status, code, preempting):
    _logged(tmp_path, status, mode="offline")
    (files,) = offline_folders(tmp_path)
    assert [record.exit.exit_code for record in of_kind(record_file(files), "exit")] == [code]
    assert len(of_kind(record_file(files), "preempting")) == preempting


def test_a_resumed_run_goes_on_under_the_same_id(tmp_path):
    first = begun(_logger(mode="offline"), tmp_path, train(1))
    first.finish(ended(tmp_path, "stopped"))
    time.sleep(1.1)  # wandb names its folders by the second
    second = begun(_logger(mode="offline"), tmp_path, train(2), resumed_from=1)
    second.finish(ended(tmp_path))
    kept = (tmp_path / "wandb" / "run-id.txt").read_text().strip()
    one, two = offline_folders(tmp_path)
    assert record_file(one).name == record_file(two).name == f"run-{kept}.wandb"
    assert [row["_step"] for file in (record_file(one), record_file(two)) for row in history(file)] == [1, 2]


def test_a_run_of_the_surrounding_program_is_left_alone(tmp_path):
    import wandb

    outer = wandb.init(mode="offline", dir=str(tmp_path), settings=wandb.Settings(silent=True, console="off"))
    try:
        _logged(tmp_path / "run", mode="offline")
        outer.log({"still": 1})
        assert offline_folders(tmp_path / "run")
    finally:
        outer.finish()


def test_disabled_logs_nothing(tmp_path, monkeypatch):
    assert _logged(tmp_path, mode="disabled") == []
    monkeypatch.setenv("WANDB_MODE", "disabled")
    assert _logged(tmp_path) == []
    assert not (tmp_path / "wandb").exists()


class _Refusing(Handler):
    """A server that knows neither the key nor anything else."""

    def get(self, body: bytes) -> None:
        self.answer({}, 404)


def test_with_a_key_but_no_service_it_goes_on_offline_under_the_run_s_id(tmp_path, monkeypatch):
    import wandb

    monkeypatch.setenv("WANDB_API_KEY", KEY)
    monkeypatch.setattr(wandb_logger, "INIT_TIMEOUT", 3.0)
    with serving(_Refusing) as place:
        monkeypatch.setenv("WANDB_BASE_URL", f"http://{place}")
        notes = _logged(tmp_path, mode="online")
    wandb.teardown()  # its session remembers the key and the address
    assert notes[0].startswith("wandb could not be reached (")
    assert "\n" not in notes[0]
    kept = (tmp_path / "wandb" / "run-id.txt").read_text().strip()
    assert f"wandb sync --id {kept} " in notes[1]
    (files,) = offline_folders(tmp_path)
    assert [row["_step"] for row in history(record_file(files))] == [0, 2, 4]


def test_online_without_a_key_is_refused_before_the_run():
    with pytest.raises(RecipeError, match="no key") as caught:
        _logger(mode="online").check()
    assert "wandb login" in str(caught.value)


def test_a_key_in_the_environment_or_in_netrc_is_found(tmp_path, monkeypatch):
    assert _logger()._mode() == "offline"
    netrc = tmp_path / "netrc"
    netrc.write_text(f"machine api.wandb.ai login user password {KEY}\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    assert _logger()._mode() == "online"
    netrc.write_text("machine elsewhere.example login user password x\n")
    assert _logger()._mode() == "offline"
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    assert _logger()._mode() == "online"
    monkeypatch.setenv("WANDB_MODE", "offline")
    assert _logger()._mode() == "offline"
