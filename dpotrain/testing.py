"""Fixtures for people who write plugins: a tiny real model, a few pairs, and a whole run in seconds.

In a plugin's ``tests/conftest.py``::

    pytest_plugins = ["dpotrain.testing"]

and in a test::

    def test_my_loss_trains(dpotrain_run):
        run = dpotrain_run('loss = { use = "my-loss", my_option = 3 }', plugins=[my_module])
        assert run.outcome.status == "finished"
        assert run.train[-1]["loss"] < run.train[0]["loss"]

Nothing here touches the network. An installed plugin is found through its entry point; ``plugins`` is for modules
and objects with hooks that are not installed.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import pytest

if TYPE_CHECKING:
    from dpotrain.run.records import Outcome

_END = "<|im_end|>"
_CHAT_TEMPLATE = (
    "{%- for message in messages %}"
    "{{- '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}"
    "{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}"
)

#: What a recipe of :func:`run_recipe` starts from; its own tables override these.
_BASE = """\
seed = 1

[run]
output_dir = {output_dir}
cache_dir = false

[model]
use = "transformers"
name = {model}
dtype = "float32"

[data]
use = "hf-datasets"
name = {data}
eval_fraction = 0.25
max_length = 128

[loss]
use = "dpo"

[training]
steps = 4
pairs_per_step = 4
precision = "fp32"

[optimizer]
lr = 1e-3

[logging]
every = 1
"""


@dataclass(frozen=True, slots=True)
class FinishedRun:
    """A run of :func:`run_recipe` and what it left."""

    outcome: Outcome
    metrics: list[dict[str, Any]]
    """The lines of ``metrics.jsonl``."""
    output: str
    """What a person saw, as plain lines."""

    @property
    def train(self) -> list[dict[str, Any]]:
        """The train records, one a step."""
        return [record for record in self.metrics if record["kind"] == "train"]

    @property
    def evaluations(self) -> list[dict[str, Any]]:
        """The eval records: before training, after it, and whenever the recipe evaluates."""
        return [record for record in self.metrics if record["kind"] == "eval"]


def build_tiny_model(folder: Path) -> Path:
    """Save a randomly initialised Llama (2 layers, 32 wide, float32) with its chat tokenizer, and return the folder.

    The tokenizer reads any text byte by byte. The weights are the same every time.
    """
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    special = ["<pad>", "<s>", "<|im_start|>", _END]
    vocabulary = [*special, *sorted(pre_tokenizers.ByteLevel.alphabet())]
    backend = Tokenizer(models.BPE(vocab={token: at for at, token in enumerate(vocabulary)}, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens(special)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<s>", eos_token=_END, pad_token="<pad>"
    )
    tokenizer.chat_template = _CHAT_TEMPLATE
    config = LlamaConfig(
        vocab_size=len(vocabulary),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=3,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = LlamaForCausalLM(config)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def example_pairs(count: int = 32) -> list[dict[str, Any]]:
    """Return rows of standard preference pairs with distinct prompts and answers of varied length."""
    things = ("tea", "a table for two", "the last train", "some help", "a longer list of what there is")
    return [
        {
            "prompt": f"May I have {things[number % len(things)]}, number {number}?",
            "chosen": f" Certainly, {things[number % len(things)]} it is." + " Gladly!" * (number % 3),
            "rejected": " No." + " Not now." * (number % 4),
        }
        for number in range(count)
    ]


def run_recipe(
    recipe: str,
    folder: Path,
    *,
    model: Path | None = None,
    data: Path | None = None,
    plugins: Sequence[object] = (),
    overrides: Sequence[str] | Mapping[str, Any] = (),
    resume: bool = False,
) -> FinishedRun:
    """Run a recipe on a tiny model for a few steps, as ``dpotrain run`` would.

    Args:
        recipe: TOML that is laid over a small recipe: all weights of the tiny model, four steps of four pairs,
            float32, a quarter of the pairs held out. It may be empty; it says what the test is about.
        folder: where ``recipe.toml`` and the run folder ``run`` go; a second run with ``resume`` needs the same one.
        model: folder of the model; made in ``folder`` unless given.
        data: file of the pairs; :func:`example_pairs` unless given.
        plugins: modules or objects with hooks, besides the plugins that are installed.
        overrides: as ``--set`` takes them.
        resume: go on with the run in ``folder``.

    Raises:
        DpotrainError: as the run raises it.
    """
    from dpotrain.plugin.manager import PluginManager
    from dpotrain.recipe import load_recipe
    from dpotrain.run import train
    from dpotrain.ui.plain import PlainReporter

    folder.mkdir(parents=True, exist_ok=True)
    if model is None:
        model = folder / "model"
        if not model.exists():
            build_tiny_model(model)
    if data is None:
        data = _write_pairs(folder / "pairs.jsonl")
    places = {"output_dir": folder / "run", "model": model, "data": data}
    base = _BASE.format(**{name: json.dumps(str(path)) for name, path in places.items()})
    (folder / "base.toml").write_text(base, encoding="utf-8")
    path = folder / "recipe.toml"
    path.write_text(f'extends = "base.toml"\n{recipe}\n', encoding="utf-8")

    seen = io.StringIO()
    loaded = load_recipe(path, overrides, plugins=PluginManager.from_entry_points(extra=plugins))
    outcome = train(loaded, resume=resume, reporter=PlainReporter(seen))
    lines = (outcome.folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return FinishedRun(outcome, [json.loads(line) for line in lines], seen.getvalue())


def _write_pairs(path: Path) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in example_pairs()), encoding="utf-8")
    return path


RunRecipe: TypeAlias = Callable[..., FinishedRun]


@pytest.fixture(scope="session")
def dpotrain_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a tiny model and its tokenizer (:func:`build_tiny_model`); shared, so do not write to it."""
    return build_tiny_model(tmp_path_factory.mktemp("dpotrain") / "model")


@pytest.fixture(scope="session")
def dpotrain_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a JSON Lines file of :func:`example_pairs`; shared, so do not write to it."""
    return _write_pairs(tmp_path_factory.mktemp("dpotrain") / "pairs.jsonl")


@pytest.fixture
def dpotrain_run(dpotrain_model: Path, dpotrain_data: Path, tmp_path: Path) -> RunRecipe:
    """Return :func:`run_recipe` with the model, the data and a fresh folder filled in."""

    def run(recipe: str = "", **options: Any) -> FinishedRun:
        given = {"folder": tmp_path, "model": dpotrain_model, "data": dpotrain_data} | options
        return run_recipe(recipe, **given)

    return run
