"""Where the weights of a model are while they are loaded: several processes of a machine load at the same time."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import transformers

from dpotrain.core.errors import RunError
from dpotrain.plugin.api import LoadRequest
from dpotrain_plugins.transformers_loader import TransformersLoader
from tests.support import tiny_checkpoint

linux = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")

#: The most that a loader may hold, of the weights.
PEAK = 1.3
#: Loads a small model for the imports, then a large one; prints the bytes of its weights and of the peak above before.
MEASURE = """
import sys
from pathlib import Path
from dpotrain.plugin.api import LoadRequest
from dpotrain_plugins.transformers_loader import TransformersLoader

def load(folder):
    return TransformersLoader(TransformersLoader.Options(name=folder)).load_model(LoadRequest())

def status(key):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(key)) * 1024

load(sys.argv[1])
Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
before = status("VmRSS")
model = load(sys.argv[2])
print(sum(weight.nbytes for weight in model.parameters()), status("VmHWM") - before)
"""


def load(folder, device="cpu"):
    return TransformersLoader(TransformersLoader.Options(name=str(folder))).load_model(
        LoadRequest(device=device)
    )


@linux
def test_on_a_cpu_the_weights_are_the_file_s_pages_which_processes_share(tmp_path):
    model = load(tiny_checkpoint(tmp_path))
    maps = [line.split() for line in Path("/proc/self/maps").read_text().splitlines()]
    file = str(tmp_path / "model.safetensors")
    ranges = [[int(end, 16) for end in words[0].split("-")] for words in maps if words[-1] == file]
    assert ranges
    for name, weight in model.named_parameters():
        assert any(start <= weight.data_ptr() < end for start, end in ranges), name


def test_on_a_gpu_each_tensor_goes_from_the_file_to_the_device(tmp_path, monkeypatch):
    """And not by way of a whole model in the host's memory, of which every process would have its own."""
    seen = {}

    def from_pretrained(*arguments, **named):
        seen.update(named)
        raise RunError("seen")

    monkeypatch.setattr(transformers.AutoModelForCausalLM, "from_pretrained", from_pretrained)
    with pytest.raises(RunError, match="seen"):
        load(tiny_checkpoint(tmp_path), "cuda:1")
    assert seen["device_map"] == {"": "cuda:1"}


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_model_on_a_gpu_is_the_one_of_a_cpu(tmp_path):
    folder = tiny_checkpoint(tmp_path)
    on_cpu, on_gpu = load(folder), load(folder, "cuda:0")
    assert {each.device for each in (*on_gpu.parameters(), *on_gpu.buffers())} == {torch.device("cuda", 0)}
    assert all(map(torch.equal, on_cpu.parameters(), [each.cpu() for each in on_gpu.parameters()]))


@pytest.mark.soak
@linux
def test_the_peak_of_loading_is_little_more_than_the_weights(tmp_path):
    small = tiny_checkpoint(tmp_path / "small")
    large = tiny_checkpoint(tmp_path / "large", hidden_size=1024, intermediate_size=8192, num_hidden_layers=4)
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, str(small), str(large)],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    weights, peak = map(int, done.stdout.split()[-2:])
    assert weights > 300e6
    assert peak < PEAK * weights
