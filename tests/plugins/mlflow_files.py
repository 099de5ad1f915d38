"""Reads what MLflow has of the one run in a run folder, with MLflow's own client."""

from pathlib import Path
from typing import Any


def client(folder: Path) -> Any:
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri=(folder / "mlflow" / "mlruns").resolve().as_uri())


def the_run(folder: Path, experiment: str = "dpotrain") -> Any:
    of = client(folder).get_experiment_by_name(experiment)
    (run,) = client(folder).search_runs([of.experiment_id])
    return run


def metrics(folder: Path, experiment: str = "dpotrain") -> dict[str, list[tuple[int, float]]]:
    """Return the steps and values of every metric, all that were ever sent, in the order in which they were."""
    run = the_run(folder, experiment)
    return {
        name: [
            (metric.step, metric.value) for metric in client(folder).get_metric_history(run.info.run_id, name)
        ]
        for name in run.data.metrics
    }
