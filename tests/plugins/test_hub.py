"""The ``hub`` exporter: a repository's folder with a true card, and a push to a hub that speaks its protocol."""

import base64
import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tests.plugins.serving import Handler, serving
from tests.run.recipes import project, run
from tests.support import dpotrain

EXPORTER = 'exporters=[{use="hub", repo="me/mine"}]'


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    """The run folder of a short LoRA run with the exporter, and no key."""
    recipe = project(tmp_path_factory.mktemp("hub"), adapter=True)
    run(recipe, "training.steps=2", EXPORTER)
    return recipe.parent / "run"


@pytest.fixture
def repository(finished) -> Path:
    return finished / "hub" / "me--mine"


def test_without_a_key_the_folder_is_written_and_the_run_says_how_to_upload_it(finished, repository):
    (done,) = json.loads((finished / "exports.json").read_text())
    assert done["result"] == f"{repository}; upload it with: hf upload me/mine {repository}"
    theirs = {path.name: path.read_bytes() for path in (finished / "final").iterdir()}
    mine = {path.name: path.read_bytes() for path in repository.iterdir()}
    assert mine.keys() == theirs.keys() | {"README.md"}
    assert all(mine[name] == data for name, data in theirs.items() if name != "README.md")


def test_the_card_states_recipe_data_metrics_and_versions(finished, repository):
    from huggingface_hub import ModelCard

    card = ModelCard.load(repository / "README.md")
    assert card.data.library_name == "peft"
    assert {"dpo", "dpotrain"} <= set(card.data.tags)
    text = card.text
    summary = json.loads((finished / "summary.json").read_text())
    row = f"| loss | {summary['first_evaluation']['loss']:.4f} | {summary['last_evaluation']['loss']:.4f} |"
    assert row in text
    report = json.loads((finished / "data_report.json").read_text())["splits"]["train"]
    assert f"- train: {report['pairs_kept']} pairs of {report['rows_read']} rows" in text
    packages = json.loads((finished / "environment.json").read_text())["packages"]
    assert f"torch {packages['torch']}" in text
    recipe = tomllib.loads(text.partition("```toml\n")[2].partition("```")[0])
    assert (recipe["loss"], recipe["adapter"]["rank"], recipe["optimizer"]["lr"]) == (
        {"use": "dpo", "beta": 0.1, "divergence": "reverse-kl", "tail_weight": 1.0, "label_smoothing": 0.0},
        4,
        1e-3,
    )


def test_the_card_names_no_place_of_this_machine_and_no_prompt(finished, repository):
    text = (repository / "README.md").read_text()
    assert str(finished.parent) not in text
    assert str(Path.home()) not in text
    assert "fox jumps" not in text


def test_a_hub_that_does_not_answer_leaves_the_folder(tmp_path, finished):
    said = push(finished, "http://127.0.0.1:9", "auto")
    assert "the hub did not take" in said
    assert "upload it with: hf upload me/mine" in said
    assert "could not be pushed" in push(finished, "http://127.0.0.1:9", "online")


def test_online_without_a_key_is_refused_before_the_run(tmp_path):
    recipe = project(tmp_path, adapter=True)
    exporter = 'exporters=[{use="hub", repo="me/mine", mode="online"}]'
    done = dpotrain("run", str(recipe), "--set", exporter)
    assert done.exit_code == 2
    assert '[exporters.0]: the "hub" exporter has mode = "online", but there is no key for it' in done.stderr


#: Hands a finished run to the exporter, as the run does.
PUSH = """
import json, sys
from pathlib import Path
from dpotrain import load_recipe
from dpotrain.core import summary
from dpotrain.plugin.api import Finished
from dpotrain_plugins.hub import Hub

folder, mode = Path(sys.argv[1]), sys.argv[2]
recipe = load_recipe(folder / "recipe.toml")
outcome = summary.from_json(json.loads((folder / "summary.json").read_text()), folder)
hub = Hub(Hub.Options(repo="me/mine", mode=mode))
try:
    print(hub.export(Finished(folder, outcome.final, recipe, outcome, print)))
except Exception as error:
    print(error)
"""


def push(finished: Path, endpoint: str, mode: str) -> str:
    environment = {name: value for name, value in os.environ.items() if name != "HF_HUB_OFFLINE"}
    environment |= {"HF_ENDPOINT": endpoint, "HF_TOKEN": "hf_made_up", "HF_HUB_DISABLE_XET": "1"}
    done = subprocess.run(
        [sys.executable, "-c", PUSH, str(finished), mode],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "hf_made_up" not in done.stdout + done.stderr
    return done.stdout


class FakeHub(Handler):
    """As much of the hub as a push of small files needs."""

    heard: list[str] = []  # noqa: RUF012
    files: dict[str, bytes] = {}  # noqa: RUF012

    def post(self, body: bytes) -> None:
        self.heard.append(f"{self.path} {self.headers.get('Authorization')}")
        if self.path == "/api/repos/create":
            self.heard.append(body.decode())
            self.answer({"url": f"http://{self.headers['Host']}/me/mine", "name": "me/mine", "id": "1"})
        elif self.path.endswith("/preupload/main"):
            names = [file["path"] for file in json.loads(body)["files"]]
            how = {"uploadMode": "regular", "shouldIgnore": False}
            self.answer({"files": [{"path": name, **how} for name in names]})
        elif "/commit/main" in self.path:
            for line in body.splitlines():
                entry = json.loads(line)
                if entry["key"] == "file":
                    self.files[entry["value"]["path"]] = base64.b64decode(entry["value"]["content"])
            url = f"http://{self.headers['Host']}/me/mine/commit/abc"
            self.answer({"commitUrl": url, "commitOid": "abc", "success": True})
        else:
            self.answer({})

    def get(self, body: bytes) -> None:
        self.answer({"id": "me/mine", "sha": "0", "siblings": [], "name": "me", "tags": []})


def test_with_a_key_everything_is_pushed_to_a_private_repository(finished, repository):
    with serving(FakeHub) as place:
        said = push(finished, f"http://{place}", "auto")
    assert said.strip().endswith("/me/mine/commit/abc"), said
    created = json.loads(next(text for text in FakeHub.heard if text.startswith("{")))
    assert created.get("private") is True or created.get("visibility") == "private"
    assert all(text.endswith("Bearer hf_made_up") for text in FakeHub.heard if text.startswith("/api/models"))
    assert FakeHub.files == {path.name: path.read_bytes() for path in repository.iterdir()}
