"""The ``demo`` plugin: a tiny pretrained model and preference pairs from a small grammar, for a first try.

It is also a controlled experiment. The style of every reply is known exactly (:mod:`.grammar`), the shipped model
uses both styles equally (:mod:`.pretrain` made it), and the source measures which style the policy uses before and
after training (:mod:`.experiment`).
"""

from __future__ import annotations

from dpotrain import hookimpl
from dpotrain.plugin.api import DatasetSource, ModelLoader
from dpotrain_plugins.demo.loader import DemoLoader
from dpotrain_plugins.demo.source import DemoSource

dpotrain_interface = 2


@hookimpl
def dpotrain_model_loaders() -> list[type[ModelLoader]]:
    return [DemoLoader]


@hookimpl
def dpotrain_dataset_sources() -> list[type[DatasetSource]]:
    return [DemoSource]
