"""Feed-forward blocks and norms of long rows in tiles of tokens, each computed again in the backward pass.

Both compute each token by itself, so that only one tile's activations, several times as wide as the hidden state, need
to be in memory at once; of the row the input stays. Results are those of the whole row, but for the order in which
gradients of weights are added up. Only modules that are proven to compute token by token are tiled: not a mixture of
experts, whose routers look at a row's tokens together.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any, TypeAlias

import torch
from torch import nn

from dpotrain.core.random_state import RandomState
from dpotrain.engine.layers.checkpointing import decoder_layers
from dpotrain.engine.scoring.dropout import dropout_off, drops_out
from dpotrain.engine.scoring.scorer import causal_lm
from dpotrain.engine.sharding.shards import gathered_layer

if TYPE_CHECKING:
    from transformers import PreTrainedModel

#: Tokens of a tile, by device: as few as keep matrix products at full speed.
TILE_TOKENS = {"cpu": 1024, "cuda": 4096}

Compute: TypeAlias = Callable[[torch.Tensor], torch.Tensor]

#: Attributes of modules that send tokens to experts.
_ROUTING = ("experts", "num_experts", "router")
#: Tokens of the comparison of a whole row with its tiles, and how far apart they may be, relative to the largest.
_PROOF_TOKENS = 6
_ROUNDING = {torch.float32: 1e-4}
_ROUNDING_16_BITS = 0.05


def per_token_modules(model: nn.Module) -> list[list[nn.Module]]:
    """Return those modules of each decoder layer that by their structure compute token by token.

    These are its feed-forward block and its norms: they take one tensor, and hold neither experts nor hooks. The model
    may be on the meta device.
    """
    return [
        [module for module in layer.children() if _is_candidate(module)] for layer in decoder_layers(model)
    ]


def proven_modules(policy: PreTrainedModel, bf16: bool) -> list[list[nn.Module]]:
    """Return those of :func:`per_token_modules` that compute the same of a whole row and of its halves.

    Modules of one class and settings are compared once. ``bf16`` is whether the model runs under bfloat16 autocast.
    """
    embedding = causal_lm(policy).get_input_embeddings().weight
    width = int(causal_lm(policy).config.get_text_config().hidden_size)
    random = torch.Generator().manual_seed(0)  # leaves the global generator alone
    rows = torch.randn(1, _PROOF_TOKENS, width, generator=random).to(embedding.device, embedding.dtype)
    known: dict[tuple[Any, ...], bool] = {}
    found = per_token_modules(policy)
    with dropout_off(policy), torch.no_grad(), torch.autocast(rows.device.type, torch.bfloat16, enabled=bf16):
        for layer, modules in zip(decoder_layers(policy), found, strict=True):
            new = {_kind(module): module for module in modules if _kind(module) not in known}
            if new:
                with gathered_layer(layer):
                    known |= {kind: _same_in_halves(module, rows) for kind, module in new.items()}
    return [[module for module in modules if known[_kind(module)]] for modules in found]


def tile(modules: Iterable[nn.Module], tokens: int) -> None:
    """Have modules compute rows of more than ``tokens`` tokens in tiles of so many, in place.

    State, names and classes for ``isinstance`` stay.
    """
    for module in modules:
        kind: Any = type(module)
        module.__class__ = _tiled_class(kind, tokens)


@cache  # the same class again for another layer: a compiled layer serves only layers with modules of its own classes
def _tiled_class(kind: type[nn.Module], tokens: int) -> type[nn.Module]:
    return type(kind.__name__, (_Tiled, kind), {"__module__": __name__, "tile_tokens": tokens})


class _Tiled:
    """The forward of a module that computes long rows in tiles."""

    tile_tokens: int

    def forward(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        (rows,) = (*args, *kwargs.values())
        compute: Compute = super().forward  # type: ignore[misc]
        if rows.ndim != 3 or rows.shape[:-1].numel() <= self.tile_tokens:
            return compute(rows)
        return _in_tiles(self, compute, rows, self.tile_tokens)


def exclude_from_compilation() -> None:
    """Have torch.compile call tiled modules as they are; a second call changes nothing.

    It cannot trace a backward pass within a backward pass. A decorator would import the compiler with this
    module, before anything is shown.
    """
    global _in_tiles
    if not hasattr(_in_tiles, "_torchdynamo_disable"):
        _in_tiles = torch.compiler.disable(_in_tiles)  # type: ignore[no-untyped-call]


def _in_tiles(module: Any, compute: Compute, rows: torch.Tensor, tokens: int) -> torch.Tensor:
    """Return ``compute(rows)`` for ``rows`` (sequences, length, size), computed of at most ``tokens`` tokens at a time.

    ``module`` has the weights that ``compute`` uses.
    """
    length = max(1, tokens // rows.shape[0])
    weights = [weight for weight in module.parameters() if weight.requires_grad]
    if not torch.is_grad_enabled() or not (weights or rows.requires_grad):
        return _forward(compute, rows, length)
    # A function of its own saves the input, before the output is computed: where the layer is checkpointed and nothing
    # behind needs the output, its recomputation ends here.
    kept = _Keep.apply(torch.empty(0, requires_grad=True), rows).grad_fn  # type: ignore[no-untyped-call]
    random = RandomState.capture() if drops_out(module) else None
    output: torch.Tensor = _InTiles.apply(rows, kept, compute, length, random, *weights)  # type: ignore[no-untyped-call]
    return output


class _Keep(torch.autograd.Function):
    """Saves a tensor for another function's backward pass."""

    @staticmethod
    def forward(ctx: Any, anchor: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(rows)
        return torch.empty_like(anchor)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[None, None]:
        return None, None


class _InTiles(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        rows: torch.Tensor,
        kept: Any,
        compute: Compute,
        length: int,
        random: RandomState | None,
        *weights: torch.Tensor,
    ) -> torch.Tensor:
        kind = rows.device.type
        ctx.autocast = (kind, torch.get_autocast_dtype(kind), torch.is_autocast_enabled(kind))
        ctx.kept, ctx.compute, ctx.length, ctx.random, ctx.weights = kept, compute, length, random, weights
        return _forward(compute, rows, length)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        (rows,) = ctx.kept.saved_tensors
        ctx.kept = None  # so that the input is freed as what autograd saves is
        of_rows, _, _, _, _, *of_weights = ctx.needs_input_grad
        wanted = [weight for weight, needed in zip(ctx.weights, of_weights, strict=True) if needed]
        drows = torch.empty_like(rows) if of_rows else None
        sums: list[torch.Tensor | None] = [None] * len(wanted)
        now = RandomState.capture() if ctx.random is not None else None
        if ctx.random is not None:  # the same dropout again
            ctx.random.restore()
        for place in _tiles(rows, ctx.length):
            part = rows[:, place].detach().requires_grad_(of_rows)
            with torch.enable_grad(), _autocast(*ctx.autocast):
                output = ctx.compute(part)
            inputs = [*([part] if of_rows else []), *wanted]
            found = list(torch.autograd.grad(output, inputs, grad[:, place], allow_unused=True))
            del output
            if drows is not None:
                dpart = found.pop(0)
                drows[:, place] = 0 if dpart is None else dpart
            sums = [_add(total, more) for total, more in zip(sums, found, strict=True)]
        if now is not None:
            now.restore()
        left = iter(sums)
        dweights = [
            None if total is None else total.to(weight.dtype)
            for weight, total in (
                (weight, next(left) if needed else None)
                for weight, needed in zip(ctx.weights, of_weights, strict=True)
            )
        ]
        return drows, None, None, None, None, *dweights


def _forward(compute: Compute, rows: torch.Tensor, length: int) -> torch.Tensor:
    kind = rows.device.type
    output = None
    # What autocast casts here has no gradients, and must not be used again by a shorter row that wants them.
    with _autocast(kind, torch.get_autocast_dtype(kind), torch.is_autocast_enabled(kind)):
        for place in _tiles(rows, length):
            part = compute(rows[:, place])
            if output is None:
                output = part.new_empty(*rows.shape[:-1], part.shape[-1])
            output[:, place] = part
    assert output is not None
    return output


def _tiles(rows: torch.Tensor, length: int) -> Iterator[slice]:
    for start in range(0, rows.shape[1], length):
        yield slice(start, start + length)


def _autocast(kind: str, dtype: torch.dtype, enabled: bool) -> torch.autocast:
    return torch.autocast(kind, dtype, enabled=enabled, cache_enabled=False)


def _add(total: torch.Tensor | None, more: torch.Tensor | None) -> torch.Tensor | None:
    """Return the sum of two gradients of a weight, in float32 where they have fewer bits."""
    if total is None or more is None:
        return total if more is None else more.float() if more.element_size() < 4 else more
    return total + more


def _is_candidate(module: nn.Module) -> bool:
    if "forward" in vars(module) or len(inspect.signature(type(module).forward).parameters) != 2:
        return False  # self and the rows
    parts: Sequence[nn.Module] = list(module.modules())
    if any(part._forward_hooks or part._forward_pre_hooks for part in parts):
        return False
    if any(isinstance(part, nn.ModuleList | nn.Embedding) for part in parts):
        return False
    if any(hasattr(part, name) for part in parts for name in _ROUTING):
        return False
    weights = list(module.parameters())
    return bool(weights) and all(weight.ndim <= 2 for weight in weights)


def _kind(module: nn.Module) -> tuple[Any, ...]:
    """Return what modules have in common of which one is compared for all: classes and settings."""
    settings = [
        (name, value) for name, value in vars(module).items() if isinstance(value, bool | int | float | str)
    ]
    return (tuple(map(type, module.modules())), tuple(settings))


def _same_in_halves(module: nn.Module, rows: torch.Tensor) -> bool:
    half = rows.shape[1] // 2
    try:
        whole = module(rows)
        parts = [module(rows[:, :half]), module(rows[:, half:])]
    except (TypeError, ValueError, RuntimeError, AttributeError, IndexError):
        return False
    if not all(isinstance(each, torch.Tensor) and each.ndim == 3 for each in (whole, *parts)):
        return False
    together = torch.cat(parts, 1)
    if together.shape != whole.shape or not whole.isfinite().all():
        return False
    close = _ROUNDING.get(whole.dtype, _ROUNDING_16_BITS)
    apart = (together.float() - whole.float()).abs().max()
    return bool(apart <= close * whole.float().abs().max())
