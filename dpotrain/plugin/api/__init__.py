"""The interface for plugins: kinds of component, the objects that they get, and the errors that they raise.

A plugin imports from here only; the modules below may move. Nothing heavy is imported.
"""

from __future__ import annotations

from dpotrain.core.atomic import folder_aside, write_json, write_text
from dpotrain.core.errors import (
    DataError,
    DpotrainError,
    PluginError,
    RecipeError,
    RunError,
    RunWarning,
    did_you_mean,
    short,
)
from dpotrain.core.hashing import hash_file
from dpotrain.core.masking import mask, mask_data, mask_values
from dpotrain.core.messages.message import Messages, read_messages
from dpotrain.core.messages.tools import read_tools
from dpotrain.core.messages.values import (
    SYSTEM_ROLES,
    is_empty,
    is_message,
    is_messages,
    reasoning_of,
    unwrapped,
)
from dpotrain.core.model_card import model_card
from dpotrain.core.packages import import_apart
from dpotrain.core.pair import Message, PreferencePair, Text, UnusableRow
from dpotrain.core.paths import is_file, is_folder, user_path
from dpotrain.core.records import (
    CheckpointRecord,
    HeldOutPair,
    LoggedRun,
    Outcome,
    Record,
    Run,
    StepRecord,
    TextRecord,
)
from dpotrain.core.saving import save_model
from dpotrain.core.scores import PairScores
from dpotrain.plugin.api.adapter import Adapter, InPlaceAdapter
from dpotrain.plugin.api.callback import Callback
from dpotrain.plugin.api.component import Component, Options, hookimpl, hookspec, require
from dpotrain.plugin.api.dataset_formatter import DatasetFormatter, Recognition
from dpotrain.plugin.api.dataset_source import DatasetSource, Rows
from dpotrain.plugin.api.exporter import Exporter, Finished
from dpotrain.plugin.api.kinds import CATALOGUES, KINDS, Kind, kind_of
from dpotrain.plugin.api.logger import Logger
from dpotrain.plugin.api.loss import Loss, LossWithoutBeta
from dpotrain.plugin.api.metric import Measured, Metric
from dpotrain.plugin.api.model_loader import LoadRequest, ModelLoader, OpenedModel
from dpotrain.plugin.api.nested import Beside, Use
from dpotrain.plugin.api.optimizer import Optimizer, Trained
from dpotrain.plugin.api.quantizer import Quantizer
from dpotrain.plugin.api.schedule import Schedule
from dpotrain.plugin.api.selection import Selection

__all__ = [
    "CATALOGUES",
    "KINDS",
    "SYSTEM_ROLES",
    "Adapter",
    "Beside",
    "Callback",
    "CheckpointRecord",
    "Component",
    "DataError",
    "DatasetFormatter",
    "DatasetSource",
    "DpotrainError",
    "Exporter",
    "Finished",
    "HeldOutPair",
    "InPlaceAdapter",
    "Kind",
    "LoadRequest",
    "LoggedRun",
    "Logger",
    "Loss",
    "LossWithoutBeta",
    "Measured",
    "Message",
    "Messages",
    "Metric",
    "ModelLoader",
    "OpenedModel",
    "Optimizer",
    "Options",
    "Outcome",
    "PairScores",
    "PluginError",
    "PreferencePair",
    "Quantizer",
    "RecipeError",
    "Recognition",
    "Record",
    "Rows",
    "Run",
    "RunError",
    "RunWarning",
    "Schedule",
    "Selection",
    "StepRecord",
    "Text",
    "TextRecord",
    "Trained",
    "UnusableRow",
    "Use",
    "did_you_mean",
    "folder_aside",
    "hash_file",
    "hookimpl",
    "hookspec",
    "import_apart",
    "is_empty",
    "is_file",
    "is_folder",
    "is_message",
    "is_messages",
    "kind_of",
    "mask",
    "mask_data",
    "mask_values",
    "model_card",
    "read_messages",
    "read_tools",
    "reasoning_of",
    "require",
    "save_model",
    "short",
    "unwrapped",
    "user_path",
    "write_json",
    "write_text",
]
