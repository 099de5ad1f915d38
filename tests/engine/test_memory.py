"""The parts of memory by formula, against the tensors themselves."""

import numpy as np
import pytest
import torch

from dpotrain import load_recipe
from dpotrain.data.batches.plan import Costs
from dpotrain.engine.memory import planner
from dpotrain.engine.memory.activations import estimate
from dpotrain.engine.memory.budget import fit
from dpotrain.engine.memory.layout import Layout
from dpotrain.engine.memory.model_size import count, trained_bytes
from dpotrain.engine.memory.shares import Share
from dpotrain.engine.training.all_weights import AllWeights
from dpotrain.engine.training.optimizer import build_optimizer
from dpotrain_plugins.lora import Lora
from dpotrain_plugins.optimizers import Adafactor, AdamW, AdamW8bit, Lion, Muon
from tests.run.recipes import project
from tests.support import tiny_model


def policy(adapter: str, dtype: torch.dtype):
    model = tiny_model("llama", hidden_size=64, intermediate_size=256).to(dtype).train()
    return (
        Lora(Lora.Options(rank=4)).attach(model)
        if adapter == "lora"
        else AllWeights(AllWeights.Options()).attach(model)
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    "kind",
    [AdamW, AdamW8bit, *(pytest.param(kind, marks=pytest.mark.soak) for kind in (Adafactor, Lion, Muon))],
)
@pytest.mark.parametrize("adapter", ["full", "lora"])
def test_gradients_and_optimizer_take_what_is_predicted(adapter, kind, dtype):
    model = policy(adapter, dtype)
    size = count(model)
    chosen = kind(kind.Options(lr=1e-3))
    optimizer = build_optimizer(chosen, model)
    model(input_ids=torch.arange(9)[None]).logits.float().sum().backward()
    grads = [weight.grad for weight in model.parameters() if weight.grad is not None]
    assert trained_bytes(size.trained) == sum(grad.nbytes for grad in grads)
    optimizer.step()
    seen: dict[int, int] = {}
    for state in optimizer.state.values():
        for name, value in state.items():
            # The quantization maps are two for all tensors.
            if isinstance(value, torch.Tensor) and not name.startswith("qmap"):
                seen[value.data_ptr()] = value.nbytes
    assert chosen.state_bytes(size.trained) == pytest.approx(sum(seen.values()), rel=0.01)


def test_tied_weights_are_counted_once():
    model = tiny_model("llama", tie_word_embeddings=True)
    size = count(model)
    assert size.parameters == sum(weight.numel() for weight in model.parameters())
    assert size.weights["float32"] >= 4 * size.parameters
    assert size.head == model.lm_head.weight.numel()


def test_weights_are_counted_by_their_format():
    model = tiny_model("llama")
    quantized = {id(layer.mlp.up_proj.weight): 4.125 for layer in model.model.layers}
    size = count(model, quantized)
    numbers = sum(layer.mlp.up_proj.weight.numel() for layer in model.model.layers)
    assert size.weights["4.1 bits"] == int(numbers * 4.125 / 8)
    assert size.parameters == count(model).parameters


@pytest.mark.parametrize(
    ("device", "ranks", "pairs", "full"), [("cuda", 1, 200, 8192), ("cuda", 2, 20, 1000), ("cpu", 1, 200, 0)]
)
def test_rows_on_a_gpu_are_to_be_full_as_far_as_a_step_has_tokens(
    device, ranks, pairs, full, monkeypatch, tmp_path
):
    asked = []

    def noting(*given, **more):
        asked.append((more["longest"], more["full"]))
        return fit(*given, **more)

    monkeypatch.setattr(planner, "fit", noting)
    model = policy("full", torch.float32)
    recipe = load_recipe(project(tmp_path), {"training.pairs_per_step": pairs})
    lengths = np.array([60, 140] * 100)
    planner.plan_memory(
        recipe, model, Share(count(model), layout=Layout(ranks)), estimate(model, False), Costs(lengths, lengths),
        pairs=200, device=device, held={}, available=1 << 30,
    )  # fmt: skip
    assert (140, full) in asked
