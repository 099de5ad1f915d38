"""The built-in dataset formatters: one file for each family of shapes."""

from __future__ import annotations

from dpotrain import hookimpl
from dpotrain.plugin.api import DatasetFormatter
from dpotrain_plugins.formatters.conversational import ConversationalFormatter, ShareGPTFormatter
from dpotrain_plugins.formatters.hh import HHFormatter
from dpotrain_plugins.formatters.implicit import ImplicitPromptFormatter
from dpotrain_plugins.formatters.instruction import AlpacaFormatter, QuestionFormatter
from dpotrain_plugins.formatters.openai import OpenAIFormatter
from dpotrain_plugins.formatters.ranked import RankedFormatter
from dpotrain_plugins.formatters.standard import StandardFormatter

dpotrain_interface = 2


@hookimpl
def dpotrain_dataset_formatters() -> list[type[DatasetFormatter]]:
    return [
        StandardFormatter,
        ConversationalFormatter,
        ImplicitPromptFormatter,
        HHFormatter,
        ShareGPTFormatter,
        AlpacaFormatter,
        QuestionFormatter,
        OpenAIFormatter,
        RankedFormatter,
    ]
