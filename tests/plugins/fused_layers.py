"""Fused LoRA layers beside peft's own, and their formula in float64."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from tests.plugins.quantized import IDS


def layers_of(policy: nn.Module, kind: type) -> list[nn.Module]:
    return [module for module in policy.modules() if type(module) is kind]


@contextmanager
def replaced(policy: nn.Module, fused: type, by: type) -> Iterator[None]:
    """Have the fused layers compute as peft's own kind does."""
    layers = layers_of(policy, fused)
    assert layers
    for layer in layers:
        layer.__class__ = by
    try:
        yield
    finally:
        for layer in layers:
            layer.__class__ = fused


def results(policy: nn.Module, bf16: bool) -> list[torch.Tensor]:
    """Logits, and the gradients of the embedded tokens and of what is trained."""
    embedded = policy.get_input_embeddings()(IDS).detach().requires_grad_()
    torch.manual_seed(5)
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        logits = policy(inputs_embeds=embedded).logits
    weights = [weight for weight in policy.parameters() if weight.requires_grad]
    return [logits.detach(), *torch.autograd.grad(logits.float().square().mean(), [embedded, *weights])]


def assert_close(got: list[torch.Tensor], expected: list[torch.Tensor], apart: float) -> None:
    for one, other in zip(got, expected, strict=True):
        assert one.dtype == other.dtype
        assert (one.double() - other.double()).norm() <= apart * other.double().norm()


def of_layer(layer: nn.Module, rows: torch.Tensor, slope: torch.Tensor, bf16: bool) -> list[torch.Tensor]:
    """What a layer makes of rows, and the gradients of the rows and of its adapter."""
    rows = rows.detach().requires_grad_()
    torch.manual_seed(7)
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        got = layer(rows)
    weights = [layer.lora_A["default"].weight, layer.lora_B["default"].weight]
    return [got.detach(), *torch.autograd.grad(got, [rows, *weights], slope.to(got.dtype))]


def in_float64(
    layer: nn.Module, weight: torch.Tensor, rows: torch.Tensor, slope: torch.Tensor
) -> list[torch.Tensor]:
    """The same by the formula, with ``weight`` the base layer's."""
    torch.manual_seed(7)
    factor = layer.lora_dropout["default"](torch.ones_like(rows)).double()
    given = [rows, layer.lora_A["default"].weight, layer.lora_B["default"].weight]
    given = [each.detach().double().requires_grad_() for each in given]
    wide, down, up = given
    base = wide @ weight.double().t() + layer.base_layer.bias.double()
    got = base + layer.scaling["default"] * (wide * factor) @ down.t() @ up.t()
    return [got.detach(), *torch.autograd.grad(got, given, slope.double())]


def assert_near(
    got: list[torch.Tensor],
    expected: list[torch.Tensor],
    exact: list[torch.Tensor],
    *,
    times: float,
    apart: float,
) -> None:
    """At most so many ``times`` as far from the exact results as those of the unfused layer are, and not ``apart``."""
    for one, other, truth in zip(got, expected, exact, strict=True):
        assert one.dtype == other.dtype
        off, plain = ((each.double() - truth).norm() / truth.norm() for each in (one, other))
        assert off <= max(times * plain, 1e-6)
        assert off <= apart
