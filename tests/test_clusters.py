"""The files for clusters: their shape, and the command that each of them gives, as dpotrain understands it.

TrainJobs and pods are held to Kubeflow's own models. A PyTorchJob and SkyPilot's task are held to models of the parts
that they use, written from the documentation: their own packages bring far more than these tests need.
"""

import os
import shlex
import subprocess
from pathlib import Path
from typing import Any, Literal

import click
import pytest
import torch
import yaml
from kubeflow_trainer_api.models import IoK8sApiCoreV1PodTemplateSpec, TrainerV1alpha1TrainJob
from pydantic import BaseModel, ConfigDict, Field

from dpotrain.cli import main
from dpotrain.core.errors import ProcessLostError, RunStopped
from dpotrain.engine.launching.request import LaunchRequest, launch_request

CLUSTERS = Path(__file__).parent.parent / "recipes" / "clusters"


class Part(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, populate_by_name=True)


class Metadata(Part):
    name: str = Field(pattern="^[a-z]([a-z0-9-]*[a-z0-9])?$")


class Replicas(Part):
    replicas: int = Field(ge=1)
    restart_policy: Literal["OnFailure"] = Field(alias="restartPolicy")
    template: dict[str, Any]


class RunPolicy(Part):
    backoff_limit: int = Field(alias="backoffLimit")
    clean_pod_policy: Literal["Running", "All", "None"] = Field(alias="cleanPodPolicy")


class ReplicaSpecs(Part):
    master: Replicas = Field(alias="Master")
    worker: Replicas = Field(alias="Worker")


class PyTorchJobSpec(Part):
    run_policy: RunPolicy = Field(alias="runPolicy")
    specs: ReplicaSpecs = Field(alias="pytorchReplicaSpecs")


class PyTorchJob(Part):
    api: Literal["kubeflow.org/v1"] = Field(alias="apiVersion")
    kind: Literal["PyTorchJob"]
    metadata: Metadata
    spec: PyTorchJobSpec


class JobRecovery(Part):
    restarts: int = Field(alias="max_restarts_on_errors")
    codes: list[int] = Field(alias="recover_on_exit_codes")


class SkyResources(Part):
    accelerators: str = Field(pattern=r"^[\w-]+:\d+$")
    use_spot: bool
    job_recovery: JobRecovery


class Mount(Part):
    name: str
    mode: Literal["MOUNT", "MOUNT_CACHED", "COPY"]


class SkyTask(Part):
    name: str
    num_nodes: int
    resources: SkyResources
    workdir: str
    file_mounts: dict[str, Mount]
    setup: str
    run: str


def read(name: str) -> Any:
    return yaml.safe_load((CLUSTERS / name).read_text(encoding="utf-8"))


def checked(kind: type[Any], manifest: dict[str, Any]) -> Any:
    """Return a part of a manifest by a model of Kubeflow's package, which knows every key of it."""
    found = kind.from_dict(manifest)
    assert found.to_dict() == manifest
    return found


def check_pod(pod: Any) -> None:
    """Hold the specification of a pod to what a run needs."""
    assert pod.termination_grace_period_seconds > 60, "saving takes time"
    (container,) = pod.containers
    assert {each.name for each in container.volume_mounts} == {each.name for each in pod.volumes}


def understood(words: list[str], monkeypatch: pytest.MonkeyPatch) -> tuple[dict[str, Any], LaunchRequest]:
    """Return what the command line means, on a machine of eight devices."""
    assert words[:2] == ["dpotrain", "run"]
    command = main.get_command(click.Context(main), "run")
    assert command is not None
    options = command.make_context("run", words[2:]).params
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 8)
    asked = (options[name] for name in ("processes", "machines", "rendezvous", "max_restarts"))
    request = launch_request(*asked, environment={"WORLD_SIZE": "2", "RANK": "0", "PET_NNODES": "2"})
    assert request is not None
    assert options["resume"]
    return options, request


def test_a_pytorchjob(monkeypatch):
    job = PyTorchJob.model_validate(read("kubernetes.yaml"))
    specs = job.spec.specs
    assert specs.master.template == specs.worker.template
    pod = checked(IoK8sApiCoreV1PodTemplateSpec, specs.master.template).spec
    check_pod(pod)
    (container,) = pod.containers
    assert container.name == "pytorch", "the operator looks for it"
    _, request = understood(container.command, monkeypatch)
    count = specs.master.replicas + specs.worker.replicas
    host = f"{job.metadata.name}-master-0"
    devices = specs.master.template["spec"]["containers"][0]["resources"]["limits"]["nvidia.com/gpu"]
    assert request == LaunchRequest(devices, count, count, host, 29400)


def test_a_trainjob(monkeypatch):
    job = checked(TrainerV1alpha1TrainJob, read("trainjob.yaml"))
    assert (job.api_version, job.kind) == ("trainer.kubeflow.org/v1alpha1", "TrainJob")
    _, request = understood(job.spec.trainer.command, monkeypatch)
    name, nodes = job.metadata.name, job.spec.trainer.num_nodes
    assert request == LaunchRequest(8, nodes, nodes, f"{name}-node-0-0.{name}", 29400)
    (patch,) = job.spec.runtime_patches
    (patched,) = patch.training_runtime_spec.template.spec.replicated_jobs
    assert patched.name == "node", "so the runtime calls it"
    check_pod(patched.template.spec.template.spec)


#: Programs that note their arguments in place of those that a cluster has.
NOTES = '#!/bin/bash\nprintf "%q " "$(basename "$0")" "$@" >> "$NOTED"\necho >> "$NOTED"\n'


def noted(
    folder: Path, programs: dict[str, str], command: list[str], **variables: str
) -> tuple[int, list[list[str]]]:
    """Run a command among such programs, each with an end of its own; return its exit code and what was called."""
    places = folder / "bin"
    places.mkdir(exist_ok=True)
    for name, end in programs.items():
        (places / name).write_text(NOTES + end + "\n")
        (places / name).chmod(0o755)
    out = folder / "noted"
    out.write_text("")
    environment = {"PATH": f"{places}:{os.environ['PATH']}", "NOTED": str(out), **variables}
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, check=False, timeout=60
    )
    return done.returncode, [shlex.split(line) for line in out.read_text().splitlines()]


SLURM = {"SLURM_JOB_NODELIST": "node[7-8]", "SLURM_JOB_ID": "123456", "SLURM_JOB_NUM_NODES": "2"}


@pytest.mark.parametrize("code", [0, 1, RunStopped.exit_code, ProcessLostError.exit_code])
def test_a_slurm_job_gives_the_command_and_is_requeued_when_it_may_go_on(code, tmp_path, monkeypatch):
    programs = {
        "srun": f"exit {code}",
        "scontrol": 'if [ "$1" = show ]; then echo node7; echo node8; fi',
    }
    words = ["bash", str(CLUSTERS / "slurm.sh"), "mine.toml", "--set", "seed=3"]
    ended, called = noted(tmp_path, programs, words, **SLURM)
    assert ended == code
    assert called[0] == ["scontrol", "show", "hostnames", "node[7-8]"]
    srun, *rest = called[1:]
    options, request = understood(srun[srun.index("dpotrain") :], monkeypatch)
    assert (str(options["recipe"]), options["overrides"]) == ("mine.toml", ("seed=3",))
    assert request == LaunchRequest(8, 2, 2, "node7", 20000 + 123456 % 20000)
    assert rest == [["scontrol", "requeue", "123456"]] * (code in (75, 76))


def test_a_slurm_job_that_loses_a_process_again_and_again_is_not_requeued_for_ever(tmp_path):
    """A rank that is killed for its memory as it begins."""
    codes = [76] * 5 + [75] + [76] * 7
    programs = {
        "srun": 'exit "$CODE"',
        "scontrol": 'if [ "$1" = show ]; then echo node7; fi',
    }
    requeued = []
    for code in codes:
        words = ["bash", str(CLUSTERS / "slurm.sh"), "mine.toml"]
        ended, called = noted(tmp_path, programs, words, **SLURM, CODE=str(code))
        assert ended == code
        requeued.append(["scontrol", "requeue", "123456"] in called)
        if not requeued[-1]:
            break
    assert requeued == [True] * 11 + [False]
    assert not list(tmp_path.glob("*.lost"))


def test_a_slurm_job_s_options_are_slurm_s():
    text = (CLUSTERS / "slurm.sh").read_text(encoding="utf-8")
    options = dict(
        line.removeprefix("#SBATCH --").partition("=")[::2]
        for line in text.splitlines()
        if line.startswith("#SBATCH")
    )
    assert set(options) == {
        *(
            "job-name",
            "nodes",
            "ntasks-per-node",
            "gpus-per-node",
            "cpus-per-task",
            "time",
            "signal",
            "requeue",
        ),
        *("open-mode", "output"),
    }
    # The job steps get it, and not the script, which waits for them and requeues.
    assert options["signal"] == "USR1@600"
    assert options["ntasks-per-node"] == "1"
    assert subprocess.run(["bash", "-n", str(CLUSTERS / "slurm.sh")], check=False).returncode == 0


def test_a_task_of_skypilot(tmp_path, monkeypatch):
    task = SkyTask.model_validate(read("skypilot.yaml"))
    # These are followed without end.
    assert task.resources.job_recovery.codes == [RunStopped.exit_code]
    assert 1 <= task.resources.job_recovery.restarts <= 5
    for script in (task.setup, task.run):
        assert subprocess.run(["bash", "-n", "-c", script], check=False).returncode == 0
    variables = {"SKYPILOT_NODE_IPS": "10.0.0.7\n10.0.0.8", "SKYPILOT_NUM_NODES": "2"}
    _, called = noted(tmp_path, {"dpotrain": ""}, ["bash", "-c", task.run], **variables)
    options, request = understood(called[0], monkeypatch)
    assert request == LaunchRequest(8, 2, 2, "10.0.0.7", 29400)
    (folder,) = task.file_mounts
    assert options["overrides"] == (f'run.output_dir="{folder}/mine"',)
