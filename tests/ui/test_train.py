"""What is shown of a run before anything heavy is imported."""

import os
import subprocess
import sys

_RUN = """
import sys
from dpotrain import load_recipe
from dpotrain.core.reporter import Reporter
from dpotrain.ui.train import train

class Shown(Reporter):
    def __enter__(self):
        print("entered", "torch" in sys.modules)
        return self

    def phase(self, name, total):
        print(name, "torch" in sys.modules)
        raise SystemExit

train(load_recipe(sys.argv[1]), reporter=Shown())
"""


def shown(tmp_path, **environment: str) -> str:
    recipe = tmp_path / "recipe.toml"
    recipe.write_text('run.output_dir = "r"\nmodel.use = "demo"\ndata.use = "demo"\nloss.use = "dpo"\n')
    done = subprocess.run(
        [sys.executable, "-c", _RUN, str(recipe)],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, **environment},
        timeout=120,
    )
    return done.stdout


def test_the_reporter_is_up_before_torch_is_imported_which_is_a_phase(tmp_path):
    assert shown(tmp_path) == "entered False\nimporting torch and transformers False\n"


def test_of_several_processes_the_first_alone_shows_anything(tmp_path):
    assert (
        shown(tmp_path, RANK="1", WORLD_SIZE="1", LOCAL_RANK="0", MASTER_ADDR="127.0.0.1", MASTER_PORT="0")
        == ""
    )
