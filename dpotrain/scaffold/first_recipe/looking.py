"""What is known of a model, of data and of this machine without loading weights, and without the network."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dpotrain.core.errors import DpotrainError
from dpotrain.core.formats import count, megabytes
from dpotrain.plugin.api import DatasetFormatter, DatasetSource
from dpotrain.plugin.runtime.manager import PluginManager

_SIZE = re.compile(r"(?<![a-z0-9])(\d+(?:\.\d+)?)\s*([bm])(?![a-z])", re.IGNORECASE)
#: Parts of names of models that were trained to chat, whose tokenizers have a template.
_CHATS = re.compile(r"instruct|chat|(?<![a-z])(it|sft|dpo|zephyr|tulu)(?![a-z])", re.IGNORECASE)
_BYTES = {"float32": 4, "float16": 2, "bfloat16": 2}
_EVALUATION_SPLITS = ("test", "validation", "eval", "dev")


@dataclass(frozen=True, slots=True)
class Model:
    """What is known of a model."""

    name: str
    parameters: int | None = None
    guessed: bool = False
    """Whether the number of parameters is read off the name."""
    has_template: bool | None = None
    """Whether its tokenizer has a chat template; None where that is not known."""

    def describe(self) -> str:
        """Return one line for a person, "" where nothing is known."""
        parts = []
        if self.parameters:
            parts.append(f"{_shown(self.parameters)} parameters{' by its name' if self.guessed else ''}")
        if self.has_template is not None:
            parts.append("a chat template" if self.has_template else "no chat template")
        return ", ".join(parts)


@dataclass(frozen=True, slots=True)
class Data:
    """What is known of data."""

    name: str
    rows: int | None = None
    """Of the training split; None where the data was not looked at."""
    columns: Sequence[str] = ()
    splits: Sequence[str] = ()
    format: str = ""
    """The formatter that reads the rows."""
    fault: str = ""
    """Why no formatter does."""

    @property
    def eval_split(self) -> str | None:
        """The split to evaluate on, if there is one."""
        return next((name for name in _EVALUATION_SPLITS if name in self.splits), None)

    @property
    def train_split(self) -> str:
        """The split to train on."""
        return "train" if "train" in self.splits or not self.splits else self.splits[0]

    def describe(self) -> str:
        """Return one line for a person, "" where nothing is known."""
        if self.rows is None:
            return ""
        reads = f"; format {self.format}" if self.format else ""
        return f"{count(self.rows)} rows with {', '.join(self.columns)}{reads}"


@dataclass(frozen=True, slots=True)
class Machine:
    """Where it will train."""

    gpu: bool
    memory: int
    """Bytes of the GPU, or of this machine where there is none."""

    def describe(self) -> str:
        """Return one line for a person."""
        return f"{'a GPU' if self.gpu else 'a CPU'} with {megabytes(self.memory / 2**20)}"


def look_at_machine() -> Machine:
    """Return the first GPU that the driver's own program names, or the processor. Imports no torch."""
    program = shutil.which("nvidia-smi")
    if program is not None:
        command = [program, "--query-gpu=memory.total", "--format=csv,noheader,nounits"]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
            return Machine(gpu=True, memory=int(done.stdout.split()[0]) * 2**20)
        except (OSError, subprocess.SubprocessError, ValueError, IndexError):
            pass
    return Machine(gpu=False, memory=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))


def look_at_model(name: str) -> Model:
    """Return what a folder, or the hub's cache on this machine, says of a model, else what its name says."""
    folder = Path(name).expanduser()
    if not folder.is_dir():
        config = _cached(name, "config.json")
        if config is None:
            found = _SIZE.search(name.rpartition("/")[2])
            scale = 10**9 if found and found[2].lower() == "b" else 10**6
            parameters = round(float(found[1]) * scale) if found else None
            template = True if _CHATS.search(name.rpartition("/")[2]) else None
            return Model(name, parameters, guessed=True, has_template=template)
        folder = config.parent
    return Model(name, _parameters(folder), has_template=_has_template(folder))


def look_at_data(name: str, plugins: PluginManager) -> Data:
    """Return what files on this machine hold; a hub name is not looked at.

    Raises:
        DataError: files are named, and cannot be read.
    """
    here = Path(name).expanduser()
    if not here.exists() and not any(char in name for char in "*?[") and not here.suffix:
        return Data(name)
    from dpotrain.data.formats.choose_formatter import choose_formatter

    chosen = plugins.find(DatasetSource, "hf-datasets")
    source = chosen(chosen.Options.model_validate({"name": name}))
    source.check()
    splits = source.splits()
    rows = source.load("train" if "train" in splits else splits[0])
    columns, number = rows.columns, len(rows)
    try:
        decision = choose_formatter(rows, plugins.components(DatasetFormatter), None, {})
    except DpotrainError as error:
        return Data(name, number, columns, splits, fault=str(error))
    return Data(name, number, columns, splits, decision.formatter.name)


def _cached(name: str, file: str) -> Path | None:
    """Return a file of a hub model in the cache, None where it is not there."""
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        found = try_to_load_from_cache(name, file)
    except HFValidationError:
        return None
    return Path(found) if isinstance(found, str) else None


def _parameters(folder: Path) -> int | None:
    """Return the number of parameters: the bytes of the weights by those of one."""
    config = _read(folder / "config.json")
    inner = config.get("text_config")
    stored = config.get("dtype") or config.get("torch_dtype")
    if stored is None and isinstance(inner, dict):
        stored = inner.get("dtype") or inner.get("torch_dtype")
    size = _read(folder / "model.safetensors.index.json").get("metadata", {}).get("total_size")
    if not isinstance(size, int | float):
        size = sum(path.stat().st_size for path in folder.glob("model*.safetensors"))
    return int(size) // _BYTES.get(str(stored), 2) or None


def _has_template(folder: Path) -> bool | None:
    if any(folder.glob("chat_template*")):
        return True
    if not (folder / "tokenizer_config.json").is_file():
        return None
    return bool(_read(folder / "tokenizer_config.json").get("chat_template"))


def _read(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def _shown(number: int) -> str:
    return f"{number / 1e9:.1f} billion" if number >= 1e9 else f"{round(number / 1e6)} million"
