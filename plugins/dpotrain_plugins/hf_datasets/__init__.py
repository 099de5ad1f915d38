"""The ``hf-datasets`` source: hub names, folders, and json, jsonl, csv, tsv and parquet files."""

from __future__ import annotations

from dpotrain import hookimpl
from dpotrain.plugin.api import DatasetSource
from dpotrain_plugins.hf_datasets.source import HFDatasetsSource

dpotrain_interface = 2


@hookimpl
def dpotrain_dataset_sources() -> list[type[DatasetSource]]:
    return [HFDatasetsSource]
