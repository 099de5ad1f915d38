"""What is shown of a run before anything heavy is imported."""

import os
import subprocess
import sys

import pytest

_RUN = """
import sys
from contextlib import contextmanager
from types import SimpleNamespace
from dpotrain import load_recipe
from dpotrain.core.reporter import Reporter
from dpotrain.ui import train as module

class Shown(Reporter):
    def __enter__(self):
        print("entered", "torch" in sys.modules)
        return self

    @contextmanager
    def phase(self, name, total):
        print(name, "torch" in sys.modules)
        yield

def run_recipe(recipe, shown, resume):
    print(type(shown).__name__)

sys.modules["dpotrain.run.session"] = SimpleNamespace(run_recipe=run_recipe)
module.import_transformers = lambda: print("torch is imported")
module.train(load_recipe(sys.argv[1]), reporter=Shown())
"""


@pytest.mark.parametrize(
    ("rank", "shown"),
    [
        ("0", "entered False\nimporting torch and transformers False\ntorch is imported\nShown\n"),
        ("1", "torch is imported\nSilentReporter\n"),
    ],
    ids=["the first process", "another process"],
)
def test_the_reporter_is_up_before_torch_is_imported_and_of_the_first_process_alone(tmp_path, rank, shown):
    recipe = tmp_path / "recipe.toml"
    tables = (
        'run.output_dir = "r"',
        'model.use = "demo"',
        'data.use = "demo"',
        'loss.use = "dpo"',
        "optimizer.lr = 1",
    )
    recipe.write_text("\n".join(tables))
    done = subprocess.run(
        [sys.executable, "-c", _RUN, str(recipe)],
        capture_output=True,
        text=True,
        env={**os.environ, "RANK": rank},
    )
    assert done.stdout == shown, done.stderr
