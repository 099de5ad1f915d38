"""Hub names where the hub does not answer, has no such name, or is not to be asked; in processes of their own.

The hub's client reads its environment when it is imported. A server here stands in for the hub.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.plugins.serving import Handler, serving
from tests.plugins.test_transformers_loader import hub_cache
from tests.support import tiny_checkpoint

ROOT = Path(__file__).parent.parent.parent
#: Nothing listens there: a connection is refused at once.
NOBODY = "http://127.0.0.1:9"

MODEL = """\
from dpotrain.plugin.api import DpotrainError
from dpotrain_plugins.transformers_loader import TransformersLoader as T
from huggingface_hub import constants
loader = T(T.Options(name="someone/model"))
try:
    print(len(loader.load_tokenizer()), loader.fingerprint())
except DpotrainError as error:
    print(error)
print("offline afterwards:", constants.HF_HUB_OFFLINE)
"""
DATA = """\
from dpotrain.plugin.api import DpotrainError
from dpotrain_plugins.hf_datasets import HFDatasetsSource as S
try:
    S(S.Options(name="someone/pairs")).load("train")
except DpotrainError as error:
    print(error)
"""


def said(code: str, cache: Path, endpoint: str, **environment: str) -> tuple[str, str]:
    """Return standard output and standard error."""
    kept = {name: value for name, value in os.environ.items() if name != "HF_HUB_OFFLINE"}
    given = {"HF_HOME": str(cache), "HF_HUB_CACHE": str(cache), "HF_ENDPOINT": endpoint, "NO_PROXY": "*"}
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**kept, **given, "PYTHONPATH": f"{ROOT}:{ROOT / 'plugins'}", **environment},
        cwd=cache,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout, done.stderr


@pytest.mark.parametrize(
    ("code", "key", "option"), [(MODEL, "model.name", ""), (DATA, "data.name", " --repo-type dataset")]
)
def test_a_hub_that_does_not_answer_is_asked_once_and_the_error_has_the_remedies(code, key, option, tmp_path):
    out, err = said(code, tmp_path, NOBODY)
    name = "someone/model" if code is MODEL else "someone/pairs"
    assert name in out
    assert "the hub cannot be reached (127.0.0.1: [Errno" in out
    for remedy in ("HTTPS_PROXY", "HF_ENDPOINT", f"set {key} to a folder", "HF_HUB_OFFLINE=1", str(tmp_path)):
        assert remedy in out
    assert f"hf download {name}{option}`" in out
    # The client's own waiting: five retries that take half a minute.
    assert "Retrying" not in err


def test_what_is_in_the_cache_is_used_with_one_warning(tmp_path):
    hub_cache(tmp_path, "someone/model", tiny_checkpoint(tmp_path / "made"))
    out, err = said(MODEL, tmp_path, NOBODY)
    assert out.startswith("384 hub:someone/model@")
    assert "offline afterwards: False" in out
    assert err.count("RunWarning: the hub cannot be reached") == 1
    assert "Retrying" not in err


def test_a_hub_that_hangs_is_given_up_on(tmp_path):
    import socket

    with socket.create_server(("127.0.0.1", 0)) as silent:  # accepts, and never answers
        port = silent.getsockname()[1]
        out, err = said(MODEL, tmp_path, f"http://127.0.0.1:{port}", HF_HUB_ETAG_TIMEOUT="1")
    assert "the hub cannot be reached (127.0.0.1:" in out
    assert "Retrying" not in err


def test_nothing_is_asked_where_the_person_is_offline(tmp_path):
    out, err = said(MODEL, tmp_path, NOBODY, HF_HUB_OFFLINE="1")
    assert "HF_HUB_OFFLINE is set" in out
    assert "Unset HF_HUB_OFFLINE, or set model.name to a folder" in out
    assert "cannot be reached" not in out + err


class _Hub(Handler):
    """Knows no repository: as the hub does, it answers 401 to who has no key."""

    def get(self, body: bytes) -> None:
        self.send_response(401)
        self.send_header("X-Error-Code", "RepoNotFound")
        self.send_header("X-Error-Message", "Repository not found")
        self.send_header("Content-Length", "0")
        self.end_headers()


def test_a_mistyped_name_is_told_as_such(tmp_path):
    with serving(_Hub) as place:
        model, _ = said(MODEL, tmp_path, f"http://{place}")
        data, _ = said(DATA, tmp_path, f"http://{place}")
    assert "the hub knows no model 'someone/model', and there is no folder of that name" in model
    assert 'data.name = "someone/pairs" could not be loaded' in data
    assert "Check data.name and data.revision" in data


@pytest.mark.soak
def test_a_folder_asks_nobody(tmp_path):
    folder = tiny_checkpoint(tmp_path / "made")
    code = MODEL.replace('"someone/model"', repr(str(folder))) + (
        "import sys; from dpotrain_plugins import hub_access; print('asked:', hub_access._last)"
    )
    out, _ = said(code, tmp_path, NOBODY)
    assert "asked: None" in out
