"""Free memory of the machine and of the container around the process."""

import os
import subprocess
import sys

import pytest
import torch

from dpotrain.engine.memory import device_memory
from tests.run.recipes import project, run

CPU = torch.device("cpu")


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """A machine of 64 MB, 48 of them available, without a container."""
    meminfo = tmp_path / "meminfo"
    meminfo.write_text("MemTotal:  65536 kB\nMemFree: 1 kB\nMemAvailable:   49152 kB\n")
    monkeypatch.setattr(device_memory, "_MEMINFO", meminfo)
    group = tmp_path / "cgroup"
    group.mkdir()
    monkeypatch.setattr(device_memory, "_CGROUPS", ((group / "memory.max", group / "memory.current"),))
    return group


def test_without_a_container_it_is_what_the_machine_has(machine):
    assert device_memory.free_memory(CPU) == 48 * 2**20


def test_a_container_without_a_limit_is_none(machine):
    (machine / "memory.max").write_text("max\n")
    (machine / "memory.current").write_text("4096\n")
    assert device_memory.free_memory(CPU) == 48 * 2**20


def test_a_containers_limit_counts_and_its_file_cache_makes_room(machine):
    (machine / "memory.max").write_text(str(20 * 2**20))
    (machine / "memory.current").write_text(str(15 * 2**20))
    assert device_memory.free_memory(CPU) == 5 * 2**20
    (machine / "memory.stat").write_text(f"anon 1\ninactive_file {4 * 2**20}\n")
    assert device_memory.free_memory(CPU) == 9 * 2**20


def test_a_system_that_does_not_say_is_taken_to_be_half_free(machine, monkeypatch):
    monkeypatch.setattr(device_memory, "_MEMINFO", machine / "nowhere")
    monkeypatch.setattr(device_memory, "_installed", lambda: 2**30)
    assert device_memory.free_memory(CPU) == 2**29


def test_this_process_is_in_memory():
    held = device_memory.resident_memory()
    assert held is None or held > 2**24


def _printed(code: str, *words: str) -> int:
    """Return the number that code prints in a process of its own, which has the usual caches of products."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    for name in device_memory._PRODUCT_CACHES:
        environment.pop(name, None)
    command = [sys.executable, "-c", code, *words]
    return int(subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout)


@pytest.mark.skipif(device_memory._glibc() is None, reason="needs glibc")
def test_mapped_tensors_leave_no_gaps():
    """In a process of its own: the setting is the whole process's."""
    code = """
import torch
from dpotrain.engine.memory.device_memory import map_large_tensors, resident_memory
warm = [torch.ones(1 << 22) for _ in range(4)]  # freed, they raise glibc's own threshold
del warm
map_large_tensors()
tensors = [torch.ones(1 << 19) for _ in range(100)]
before = resident_memory()
del tensors[::2]
print((before - resident_memory()) >> 20)
"""
    assert _printed(code) >= 95  # of 50 tensors of 2 MB each


_PRODUCTS = """
import sys
import torch
from dpotrain.engine.memory.device_memory import keep_few_compiled_products, resident_memory
if sys.argv[1] == "few":
    keep_few_compiled_products(torch.device("cpu"), 1024)
weight = torch.ones(256, 256, dtype=torch.bfloat16)
for length in range(1, 1200):
    if length == 300:
        before = resident_memory()
    torch.ones(length, 256, dtype=torch.bfloat16) @ weight
print((resident_memory() - before) >> 20)
"""


@pytest.mark.skipif(device_memory.resident_memory() is None, reason="memory in use is not reported")
def test_products_of_many_shapes_do_not_fill_the_memory():
    """In processes of their own: the caches are as large as they are at the first product."""
    usual, few = (_printed(_PRODUCTS, word) for word in ("usual", "few"))
    if usual < 20:
        pytest.skip("this processor's products in 16 bits are not oneDNN's")
    assert few < usual / 4


def test_caches_of_the_person_s_own_size_stay(monkeypatch):
    monkeypatch.setenv("LRU_CACHE_CAPACITY", "1000")
    monkeypatch.setenv("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "")  # so that what is set is gone after the test
    os.environ.pop("ONEDNN_PRIMITIVE_CACHE_CAPACITY")
    device_memory.keep_few_compiled_products(CUDA, 1024)
    assert "ONEDNN_PRIMITIVE_CACHE_CAPACITY" not in os.environ
    device_memory.keep_few_compiled_products(CPU, 1024)
    assert os.environ["LRU_CACHE_CAPACITY"] == "1000"
    assert os.environ["ONEDNN_PRIMITIVE_CACHE_CAPACITY"] == "192"


def test_a_run_keeps_them_by_the_length_of_its_rows(tmp_path, monkeypatch):
    for name in device_memory._PRODUCT_CACHES:
        monkeypatch.setenv(name, "")  # so that what is set is gone after the test
        os.environ.pop(name)
    run(project(tmp_path), "data.max_length=400", "training.steps=1")
    assert [os.environ[name] for name in device_memory._PRODUCT_CACHES] == ["114", "114"]


@pytest.fixture
def cuda_settings(monkeypatch):
    """What CUDA's allocator is set to; a device there is none."""
    for name in device_memory._ALLOCATOR_SETTINGS:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setenv("PYTORCH_ALLOC_CONF", "")  # so that what is set is gone after the test
    settings = []
    monkeypatch.setattr(torch._C, "_accelerator_setAllocatorSettings", settings.append)
    monkeypatch.setattr(device_memory.torch, "empty", lambda *size, **more: None)
    return settings


CUDA = torch.device("cuda", 0)


def test_segments_are_expandable_here_and_in_processes_that_follow(cuda_settings):
    device_memory.use_expandable_segments(CUDA)
    assert cuda_settings == ["expandable_segments:True"]
    assert os.environ["PYTORCH_ALLOC_CONF"] == "expandable_segments:True"


@pytest.mark.parametrize("name", ["PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF"])
def test_settings_of_the_persons_own_stay(name, cuda_settings, monkeypatch):
    monkeypatch.setenv(name, "max_split_size_mb:128")
    device_memory.use_expandable_segments(CUDA)
    assert not cuda_settings
    assert os.environ[name] == "max_split_size_mb:128"


def test_a_driver_that_cannot_map_memory_keeps_segments_of_fixed_sizes(cuda_settings, monkeypatch):
    def fail(*size, **more):
        raise RuntimeError("CUDA driver error: operation not supported")

    monkeypatch.setattr(device_memory.torch, "empty", fail)
    device_memory.use_expandable_segments(CUDA)
    assert cuda_settings == ["expandable_segments:True", "expandable_segments:False"]
    assert not os.environ["PYTORCH_ALLOC_CONF"]


def test_on_a_cpu_and_other_systems_nothing_is_set(cuda_settings, monkeypatch):
    device_memory.use_expandable_segments(CPU)
    monkeypatch.setattr(sys, "platform", "win32")
    device_memory.use_expandable_segments(CUDA)
    assert not cuda_settings
