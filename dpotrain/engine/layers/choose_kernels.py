"""Which Triton kernels a run uses: those that compute what the plain code does on its device, in less time.

Each is compared and timed with the plain code, forward and backward, on tensors as the model has them. Where Triton is
missing, or cannot compile for the device, the plain code computes, and a note says so.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from dpotrain.engine.kernels import plain
from dpotrain.engine.layers.memory_efficient import Functions, functions_of, use_functions
from dpotrain.engine.scoring.logprobs import LogitTransform, token_log_probs
from dpotrain.engine.scoring.scorer import causal_lm

if TYPE_CHECKING:
    from transformers import PreTrainedModel

#: The kernels, and what they are called where a run is described.
LABELS = {"rms_norm": "norm", "swiglu": "SwiGLU", "rotary": "rotary embedding", "head": "head"}
#: Most tokens of the rows that are timed: beyond, time grows as they do.
MOST_TOKENS = 4096
#: Most words of the head that is timed.
MOST_WORDS = 1 << 14
#: How far apart results may be, relative to their norm. The head multiplies in 16 bits what it rounded to as many.
CLOSE = {torch.float32: 1e-4, torch.bfloat16: 1e-2}
#: Times that each is timed; the fastest counts.
TIMES = 5

Call = Callable[..., torch.Tensor | tuple[torch.Tensor, ...]]


@dataclass(frozen=True, slots=True)
class Sizes:
    """What kernels meet in a model."""

    tokens: int
    """Tokens of a row."""
    hidden: int
    intermediate: int
    heads: int
    groups: int
    head_size: int
    words: int
    """Words of the vocabulary."""
    dtype: torch.dtype
    """Dtype of the weights outside of products, and of what they meet."""
    bf16: bool
    """Whether products are in bfloat16, by autocast."""
    trained: bool
    """Whether the norms' weights are."""
    head_trained: bool

    @classmethod
    def of(cls, policy: nn.Module, tokens: int, bf16: bool) -> Sizes:
        """Return the sizes of a model that computes rows of ``tokens`` tokens."""
        model = causal_lm(policy)
        config, embedding = model.config.get_text_config(), model.get_input_embeddings().weight
        words, hidden = embedding.shape
        heads = int(getattr(config, "num_attention_heads", None) or 1)
        head = getattr(model.get_output_embeddings(), "weight", None)
        norms = [weight for weight in model.parameters() if weight.ndim == 1]
        return cls(
            tokens=min(tokens, MOST_TOKENS),
            hidden=hidden,
            intermediate=_one(getattr(config, "intermediate_size", None)) or 4 * hidden,
            heads=heads,
            groups=int(getattr(config, "num_key_value_heads", None) or heads),
            head_size=int(getattr(config, "head_dim", None) or hidden // heads),
            words=min(words, MOST_WORDS),
            dtype=embedding.dtype,
            bf16=bf16,
            trained=any(weight.requires_grad for weight in norms),
            head_trained=head is not None and head.requires_grad,
        )


@dataclass(frozen=True, slots=True)
class Comparison:
    """A kernel beside the plain code, both passes; no times where its results are wrong."""

    fault: str
    """What is wrong with its results; "" where they are the plain code's."""
    plain_ms: float = 0.0
    kernel_ms: float = 0.0


@dataclass(frozen=True, slots=True)
class _Case:
    """One kernel beside the plain code, on the same inputs."""

    plain: Call
    kernel: Call
    inputs: Sequence[torch.Tensor]


def candidates(model: PreTrainedModel) -> set[str]:
    """Return the kernels that a model could use once its layers are replaced, by the names of :data:`LABELS`."""
    head = causal_lm(model).get_output_embeddings()
    return functions_of(model) | ({"head"} if type(head) is nn.Linear else set())


def choose_kernels(
    names: Collection[str], sizes: Sizes, device: torch.device, note: Callable[[str], None]
) -> set[str]:
    """Return those of the named kernels that give the plain code's results on a device and are faster.

    ``note`` is called with the reason why one cannot be used.
    """
    chosen = set()
    for name in (name for name in LABELS if name in names):
        try:
            found = compare(name, sizes, device)
        # Triton's compiler raises anything, and the device's memory may not do for the comparison.
        except Exception as error:
            found = Comparison(f"{type(error).__name__}: {error}".splitlines()[0][:200])
        if found.fault:
            note(
                f"plain code computes the {LABELS[name]}, because its Triton kernel failed its test: {found.fault}"
            )
        if found.kernel_ms < found.plain_ms:
            chosen.add(name)
    return chosen


def compare(name: str, sizes: Sizes, device: torch.device) -> Comparison:
    """Compare one of the kernels of :data:`LABELS` with the plain code, and time both on a CUDA device."""
    case = _case(name, sizes, device)
    if fault := _difference(case, sizes.bf16):
        return Comparison(fault)
    plain_ms, kernel_ms = (
        _milliseconds(partial(_both_passes, function, case.inputs, sizes.bf16))
        for function in (case.plain, case.kernel)
    )
    return Comparison("", plain_ms, kernel_ms)


def use_kernels(model: PreTrainedModel, names: Collection[str]) -> None:
    """Have the replaced modules of a model use these kernels; the head's is its scorer's to use."""
    wanted = [name for name in names if name != "head"]
    if wanted:
        from dpotrain.engine.kernels import triton_layers

        use_functions(model, Functions(**{name: getattr(triton_layers, name) for name in wanted}))


def _case(name: str, sizes: Sizes, device: torch.device) -> _Case:
    from dpotrain.engine.kernels import triton_layers

    random = torch.Generator(device).manual_seed(0)
    product = torch.bfloat16 if sizes.bf16 else sizes.dtype

    def numbers(*shape: int, dtype: torch.dtype, trained: bool = True) -> torch.Tensor:
        return torch.randn(*shape, generator=random, device=device).to(dtype).requires_grad_(trained)

    if name == "rms_norm":
        hidden = numbers(1, sizes.tokens, sizes.hidden, dtype=sizes.dtype)
        weight = numbers(sizes.hidden, dtype=sizes.dtype, trained=sizes.trained)
        return _Case(
            lambda hidden, weight: plain.rms_norm(hidden, weight, 1e-6),
            lambda hidden, weight: triton_layers.rms_norm(hidden, weight, 1e-6),
            (hidden, weight),
        )
    if name == "swiglu":
        factors = [numbers(1, sizes.tokens, sizes.intermediate, dtype=product) for _ in range(2)]
        return _Case(plain.swiglu, triton_layers.swiglu, factors)
    if name == "rotary":
        # As views of rows by token, which is what the projections give.
        rows = [
            numbers(1, sizes.tokens, heads, sizes.head_size, dtype=product).detach().transpose(1, 2)
            for heads in (sizes.heads, sizes.groups)
        ]
        tables = [
            numbers(1, sizes.tokens, sizes.head_size, dtype=sizes.dtype, trained=False) for _ in range(2)
        ]
        return _Case(plain.rotary, triton_layers.rotary, (*(each.requires_grad_() for each in rows), *tables))
    assert name == "head"
    count = max(1, sizes.tokens // 2)
    head = nn.Linear(sizes.hidden, sizes.words, bias=False, device="meta")
    weight = numbers(sizes.words, sizes.hidden, dtype=sizes.dtype, trained=False).div_(sizes.hidden**0.5)
    head.weight = nn.Parameter(weight, requires_grad=sizes.head_trained)
    targets = torch.randint(sizes.words, (count,), generator=random, device=device)

    def log_probs(fused: bool) -> Call:
        def call(hidden: torch.Tensor, _: torch.Tensor) -> torch.Tensor:
            return token_log_probs(hidden, head, targets, LogitTransform(), fused=fused)

        return call

    hidden = numbers(count, sizes.hidden, dtype=sizes.dtype)
    return _Case(log_probs(False), log_probs(True), (hidden, head.weight))


def _difference(case: _Case, bf16: bool) -> str:
    """Return how a kernel's results and gradients differ from the plain code's; "" where they do not."""
    expected, got = (_both_passes(function, case.inputs, bf16) for function in (case.plain, case.kernel))
    for one, other in zip(got, expected, strict=True):
        if one.dtype != other.dtype or one.shape != other.shape:
            return f"{one.dtype} {tuple(one.shape)} instead of {other.dtype} {tuple(other.shape)}"
        apart = float((one.float() - other.float()).norm() / other.float().norm())
        # A float32 result of bfloat16 products is as close as these.
        if not apart <= CLOSE[torch.bfloat16 if bf16 else other.dtype]:
            return f"results are {apart:.2g} apart, relative to their norm"
    return ""


def _both_passes(function: Call, inputs: Sequence[torch.Tensor], bf16: bool) -> list[torch.Tensor]:
    """Return outputs and gradients of the inputs that have them."""
    with torch.autocast(inputs[0].device.type, torch.bfloat16, enabled=bf16):
        output = function(*inputs)
    outputs = output if isinstance(output, tuple) else (output,)
    wanted = [each for each in inputs if each.requires_grad]
    slopes = [each.detach() for each in outputs]
    return [*slopes, *torch.autograd.grad(outputs, wanted, slopes)]


def _milliseconds(call: Callable[[], object]) -> float:
    """Return the shortest time of a call on the CUDA device."""
    times = []
    for _ in range(TIMES):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
        start.record()
        call()
        end.record()
        end.synchronize()
        times.append(float(start.elapsed_time(end)))
    return min(times)


def _one(sizes: Any) -> int:
    """Return the largest of a layer's sizes, of which some models have one a layer; 0 where there is none."""
    return max(map(int, sizes), default=0) if isinstance(sizes, (list, tuple)) else int(sizes or 0)
