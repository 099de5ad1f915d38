"""Stage 2: log-probs of scored tokens in all three ways, the memory-efficient layers, and Triton kernels."""

from __future__ import annotations

import copy

import torch
from torch import nn

from dpotrain.data.batches.packing import pack
from dpotrain.engine.layers.choose_kernels import LABELS, Sizes, compare
from dpotrain.engine.layers.memory_efficient import use_memory_efficient_layers
from dpotrain.engine.scoring.logprobs import LogitTransform, token_log_probs
from dpotrain.engine.scoring.scorer import PackedScorer
from tests.benchmarks.hot_parts import full_log_probs, milliseconds
from tests.engine.pairs import random_pairs
from tests.gpu.report import Report
from tests.support import tiny_model

#: Largest relative error, by norm, of bfloat16 products against float32 logits.
CLOSE = 0.02
#: Scored tokens, hidden size, vocabulary.
REAL, TINY = (4096, 4096, 128256), (40, 64, 1000)


class OtherHead(nn.Linear):
    """A head that cannot be taken apart, since its class is not plain ``nn.Linear``."""


def stage(report: Report) -> None:
    torch.manual_seed(0)
    rows, size, vocabulary = TINY if report.dry else REAL
    hidden = torch.randn(rows, size, device=report.device).bfloat16().requires_grad_()
    weight = (torch.randn(vocabulary, size, device=report.device) / size**0.5).bfloat16()
    targets = torch.randint(vocabulary, (rows,), device=report.device)
    slope = torch.randn(rows, device=report.device)
    expected, own = _expected(hidden, weight, targets, slope)
    ways = {"frozen": (nn.Linear, False), "trained": (nn.Linear, True), "any": (OtherHead, False)}
    for name, (kind, trained) in ways.items():
        head = kind(size, vocabulary, bias=False, device="meta")
        head.weight = nn.Parameter(weight, requires_grad=trained)

        def score(head: nn.Module = head) -> torch.Tensor:
            return token_log_probs(hidden, head, targets, LogitTransform())

        wanted = [hidden, head.weight] if trained else [hidden]
        got = score()
        found = [got, *torch.autograd.grad(got, wanted, slope)]
        for what, mine, theirs in zip(
            ("log-probs", "hidden", "weight"), found, [expected, *own], strict=False
        ):
            error = float((mine.float() - theirs).norm() / theirs.norm())
            report.figure(f"{name}, {what}", error)
            report.expect(error < CLOSE, f"{name} head, {what}: relative error {error:.3g}")
        del got, found
        taken = milliseconds(
            lambda score=score, wanted=wanted: torch.autograd.grad(score(), wanted, slope),
            0.05 if report.dry else 0.4,
        )
        report.figure(f"{name}, ms", taken)
    layers(report)
    kernels(report)


def _expected(
    hidden: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor, slope: torch.Tensor
) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """Return log-probs and gradients by way of full float32 logits."""
    exact = hidden.detach().float().requires_grad_()
    head = nn.Linear(*reversed(weight.shape), bias=False, device="meta")
    head.weight = nn.Parameter(weight.float())
    log_probs = full_log_probs(exact, head, targets)
    return log_probs.detach(), list(torch.autograd.grad(log_probs, [exact, head.weight], slope))


def layers(report: Report) -> None:
    """Compare scores before and after the layers are replaced, bit for bit, and gradients to rounding."""
    data = random_pairs([(40, 30, 20), (9, 25, 31)])
    batch = pack(data, [0, 1]).to(torch.device(report.device))
    for kind in ("llama", "qwen3"):
        for dtype in (torch.float32, torch.bfloat16):
            plain = tiny_model(kind).to(report.device, dtype)
            other = copy.deepcopy(plain)
            replaced = use_memory_efficient_layers(other)
            report.expect(replaced > 0, f"{kind}: no layer was replaced")
            scores, slopes = [], []
            for model in (plain, other):
                sums = PackedScorer(model, LogitTransform(), bf16=False)(batch)
                (sums[:, 0] - sums[:, 1]).sum().backward()
                scores.append(sums.detach())
                slopes.append(torch.cat([weight.grad.flatten().float() for weight in model.parameters()]))
            case = f"{kind} in {str(dtype).removeprefix('torch.')}"
            report.expect(
                scores[0].equal(scores[1]), f"{case}: memory-efficient layers change the scores' bits"
            )
            apart = float((slopes[0] - slopes[1]).norm() / slopes[0].norm())
            report.figure(f"gradients of {case}", apart)
            report.expect(
                apart < (1e-4 if dtype == torch.float32 else 0.05), f"{case}: gradients {apart:.3g} apart"
            )


def kernels(report: Report) -> None:
    """Compare every Triton kernel with the plain code, and time both, with the shapes of three kinds of training."""
    small = {"hidden": 2048, "intermediate": 8192, "heads": 32, "groups": 8, "head_size": 64}
    large = {"hidden": 4096, "intermediate": 14336, "heads": 32, "groups": 8, "head_size": 128}
    bfloat16 = {"dtype": torch.bfloat16, "bf16": True, "trained": False, "head_trained": False}
    full = {"dtype": torch.float32, "bf16": True, "trained": True, "head_trained": True}
    for kind, shape in (
        ("1B LoRA", small | bfloat16),
        ("1B full", small | full),
        ("8B LoRA", large | bfloat16),
    ):
        sizes = Sizes(tokens=4096, words=1 << 14, **shape)
        for name, label in LABELS.items():
            if report.dry:  # kernels need a GPU, or a process of Triton's interpreter
                report.figure(f"{label}, {kind}", "on a GPU only")
                continue
            try:
                found = compare(name, sizes, torch.device(report.device))
            except Exception as error:  # Triton's compiler raises anything
                report.fail(f"{label}, {kind}: {type(error).__name__}: {str(error)[:200]}")
                continue
            report.expect(not found.fault, f"{label}, {kind}: {found.fault}")
            report.figure(f"{label}, {kind}, plain ms", found.plain_ms)
            report.figure(f"{label}, {kind}, kernel ms", found.kernel_ms)
