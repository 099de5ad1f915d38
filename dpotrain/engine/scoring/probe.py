"""Proof that a model takes the packed row, before anything is trained on it.

The log-probs of one micro-batch, packed and by the model's ordinary forward, are compared, and attention calls counted,
which detects a model that ignores segments. A model that fails is padded instead, and the reason is shown.

Neither may the log-probs of a short sequence depend on a long one in the same micro-batch. Of transformers' own models
it is known which do (:mod:`.rope_scaling`); of others it is measured.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from dpotrain.core.errors import RunError
from dpotrain.data.batches.packing import PackedPairs
from dpotrain.engine.attention import packed
from dpotrain.engine.scoring.dropout import dropout_off
from dpotrain.engine.scoring.logprobs import LogitTransform
from dpotrain.engine.scoring.padding import pad
from dpotrain.engine.scoring.rope_scaling import LengthRule, length_rules
from dpotrain.engine.scoring.scorer import PackedScorer, PaddedScorer, Scorer, accepted, causal_lm
from dpotrain.engine.sharding.shards import computes_in_float32

if TYPE_CHECKING:
    from transformers import PreTrainedModel

#: Configuration keys of a factor on the logits. Whether it multiplies or divides differs between models, and is
#: measured.
SCALE_NAMES = ("logit_scale", "logits_scaling", "lm_head_multiplier", "output_multiplier_scale")

#: Differences of tokens' log-probs, in nats, that rounding explains. In float32 no token may differ by more. With
#: weights of 16 or fewer bits an unlikely token may well be off by half a nat, so there the mean over tokens counts: it
#: is a few hundredths when all is well, and several tenths on real text where a mask is wrong.
LARGEST_IN_FLOAT32 = 1e-3
MEAN_IN_LOW_PRECISION = 0.1
#: Where weights in float32 are computed with in bfloat16, it is known what rounding makes of the ordinary log-probs.
#: The mean of the packed ones may be off by so many times that, and a little for models that hardly round.
TIMES_ROUNDING, LEAST_ROUNDING = 3.0, 1e-3


class NotFiniteLogits(RunError):  # noqa: N818 - named by what the numbers are
    """A model computes logits that are not finite before anything is trained."""


@dataclass(frozen=True, slots=True)
class Chosen:
    """The scorer that a model gets, and why."""

    scorer: Scorer
    reason: str
    """Empty where the row is packed; otherwise why it is not."""


def choose_scorer(
    policy: PreTrainedModel,
    sample: PackedPairs,
    *,
    packing: str,
    bf16: bool,
    extremes: PackedPairs | None = None,
) -> Chosen:
    """Return a packed scorer where it is proven on ``sample``, a padded one otherwise.

    ``sample`` is a small micro-batch of real pairs on the policy's device; ``bf16`` is whether to run under bfloat16
    autocast. ``extremes`` has the pairs with the shortest and the longest sequence of all that will be scored; None
    where ``sample`` has them.

    Raises:
        RunError: ``packing`` ("auto", "on" or "off") is "on" and the model cannot take it, or what the model computes
            depends on what it has computed before.
        NotFiniteLogits: what the model computes is not finite.
    """
    with dropout_off(policy):
        return _choose(policy, sample, sample if extremes is None else extremes, packing, bf16)


def _choose(
    policy: PreTrainedModel, sample: PackedPairs, extremes: PackedPairs, packing: str, bf16: bool
) -> Chosen:
    model = causal_lm(policy)
    exact = computes_in_float32(model)
    # Float32 shows the smallest mistake, so the probe uses it where it can. Where the run's own precision is another,
    # it is probed besides: it may have kernels of its own.
    low = bf16 and not exact
    longest = max(size.prompt + max(size.chosen, size.rejected) for size in extremes.lengths)
    rules = length_rules(model, longest)
    try:
        with torch.no_grad(), torch.autocast(sample.input_ids.device.type, torch.bfloat16, enabled=low):
            ordinary = _Ordinary(policy, sample)
    except (TypeError, ValueError, RuntimeError) as error:
        if isinstance(error, torch.OutOfMemoryError):
            raise
        raise RunError(
            f"an ordinary forward pass of {type(causal_lm(policy)).__name__} fails: {error}\n"
            'Where the weights are of several dtypes, training.precision = "bf16" brings them together.'
        ) from error
    if not ordinary.log_probs.isfinite().all():
        raise NotFiniteLogits(
            f"{type(model).__name__} computes log-probs that are not finite before anything is trained.\n"
            'Its weights are finite, so a sum overflows: try training.precision = "fp32" and model.dtype = "float32".'
        )
    if not agree(ordinary.foresight, torch.zeros_like(ordinary.foresight), exact):
        raise RunError(
            f"{type(model).__name__} is no causal language model: another last token changes what it computes of those "
            "before it, so it sees the tokens that it scores.\nName a decoder-only model in model.name; an encoder "
            "that was trained as a decoder has is_decoder = true in its config.json."
        )
    transform = ordinary.transform()
    reason = "; ".join([*["packing is off in the recipe"][: packing == "off"], *map(str, rules)])
    scorer: Scorer | None = None
    with torch.no_grad(), torch.autocast(sample.input_ids.device.type, torch.bfloat16, enabled=low):
        if not reason:
            try:
                if transform is None:
                    raise packed.CannotPackError("how it computes logits from hidden states is not known")
                scorer = PackedScorer(policy, transform, bf16)
                _prove(scorer, sample, ordinary.log_probs, exact)
                if bf16 and exact:
                    _prove_in_bfloat16(scorer, sample, ordinary)
            except packed.CannotPackError as error:
                packed.uninstall(model)
                scorer, reason = None, str(error)
        scorer = scorer or PaddedScorer(policy, transform, bf16, rules)
        if not type(model).__module__.startswith("transformers."):
            apart = PaddedScorer(
                policy, transform, bf16, [LengthRule("found by comparing", 0, per_length=True)]
            )
            if not _shares(scorer, apart, extremes, exact):
                packed.uninstall(model)
                scorer, reason = apart, str(apart.rules[0])
    if packing == "on" and not scorer.packs:
        raise RunError(
            f"{type(model).__name__} cannot take packed pairs: {reason}.\n"
            'Set training.packing = "auto" to pad its pairs instead.'
        )
    return Chosen(scorer, reason)


def _shares(scorer: Scorer, apart: Scorer, extremes: PackedPairs, exact: bool) -> bool:
    """Whether the sequences of a micro-batch may be of any length: log-probs are those of each sequence apart.

    Raises:
        RunError: these depend on what has been computed before.
    """
    expected, together, again = (each.log_probs(extremes) for each in (apart, scorer, apart))
    if not agree(again, expected, exact):
        raise RunError(
            f"the log-probs that {type(causal_lm(scorer.policy)).__name__} computes of a sequence depend on longer "
            "ones computed before, so no order of the pairs is right.\nIts code keeps something between forward "
            "passes, such as frequencies of its rotary embedding; lower data.max_length to where it does not."
        )
    return agree(together, expected, exact)


def agree(got: torch.Tensor, expected: torch.Tensor, exact: bool) -> bool:
    """Whether rounding explains the difference of two (S,) log-probs."""
    return _difference(got, expected, exact) <= (LARGEST_IN_FLOAT32 if exact else MEAN_IN_LOW_PRECISION)


def _difference(got: torch.Tensor, expected: torch.Tensor, exact: bool) -> float:
    apart = (got - expected).abs()
    return (apart.max() if exact else apart.mean()).item()


class _Ordinary:
    """The model's own forward over the sample, one sequence at a time, without padding."""

    def __init__(self, policy: PreTrainedModel, sample: PackedPairs) -> None:
        self.model = causal_lm(policy)
        self.targets = sample.targets
        (part,), _ = pad(sample)
        length = part.ids.shape[1]
        logits, raw = [], []
        self._inputs: list[tuple[dict[str, Any], torch.Tensor]] = []
        head = self.model.get_output_embeddings()
        for number, (row, seen) in enumerate(zip(part.ids, part.mask, strict=True)):
            inputs: dict[str, Any] = {"input_ids": row[None, : int(seen.sum())], "use_cache": False}
            inside = part.places[(part.places // length) == number] % length
            outputs = self.model(**accepted(self.model, inputs)).logits[0, inside]
            self._inputs.append((inputs, inside))
            logits.append(outputs.float())
            if head is not None:
                body = self.model.base_model
                hidden = getattr(body(**accepted(body, inputs)), "last_hidden_state", None)
                if hidden is not None:
                    raw.append(head(hidden[0, inside]).float())
        self.exact = outputs.dtype == torch.float32
        self.logits = torch.cat(logits)
        self.raw = torch.cat(raw) if raw else None
        changed = inputs["input_ids"].clone()
        changed[0, -1] = changed[0, 0] if changed[0, 0] != changed[0, -1] else changed[0, 1]
        other = self.model(**accepted(self.model, inputs | {"input_ids": changed})).logits[0, inside]
        self.foresight = other.float().log_softmax(-1) - outputs.float().log_softmax(-1)
        """(n, vocabulary) what another last token changes of the log-probs before it: nothing, if the model is
        causal."""

    @property
    def log_probs(self) -> torch.Tensor:
        """(S,) log-probs of the scored tokens."""
        return self._at_targets(self.logits)

    def log_probs_again(self) -> torch.Tensor:
        """Return (S,) log-probs of the scored tokens by another pass, in the precision that is set now."""
        logits = [
            self.model(**accepted(self.model, inputs)).logits[0, inside].float()
            for inputs, inside in self._inputs
        ]
        return self._at_targets(torch.cat(logits))

    def _at_targets(self, logits: torch.Tensor) -> torch.Tensor:
        return logits.gather(1, self.targets[:, None])[:, 0] - logits.logsumexp(1)

    def transform(self) -> LogitTransform | None:
        """Find the transform between head and logits among those that configurations can set; None if none fits."""
        if self.raw is None or self.raw.shape != self.logits.shape:
            return None
        config = self.model.config.get_text_config()
        factors = [1.0]
        for name in SCALE_NAMES:
            value = getattr(config, name, None)
            if isinstance(value, (int, float)) and value:
                factors += [float(value), 1.0 / float(value)]
        caps = [None, getattr(config, "final_logit_softcapping", None)]
        best: tuple[float, LogitTransform] | None = None
        for scale, cap in itertools.product(dict.fromkeys(factors), dict.fromkeys(caps)):
            candidate = LogitTransform(scale, cap)
            error = (candidate(self.raw) - self.logits).abs().max().item()
            if best is None or error < best[0]:
                best = error, candidate
        assert best is not None
        # A low-precision model rounds its logits once more after scaling them.
        rounding = 1e-5 if self.exact else 2**-6
        return best[1] if best[0] <= rounding * max(1.0, self.logits.abs().max().item()) else None


def _prove(scorer: PackedScorer, sample: PackedPairs, expected: torch.Tensor, exact: bool) -> None:
    """Raise CannotPackError unless the packed row gives the expected (S,) log-probs, through every layer."""
    model = causal_lm(scorer.policy)
    try:
        with packed.counting() as calls:
            got = scorer.log_probs(sample)
    except torch.OutOfMemoryError:
        raise
    except (TypeError, ValueError, RuntimeError, AttributeError, IndexError) as error:
        raise packed.CannotPackError(f"its forward fails on a packed row ({error})") from error
    layers = int(model.config.get_text_config().num_hidden_layers)
    if calls.all != layers:
        raise packed.CannotPackError(
            f"{calls.all} of its {layers} layers call the attention that packing needs"
        )
    windows = _windowed_layers(model)
    if windows is not None and calls.windowed < windows:
        raise packed.CannotPackError("it does not pass its sliding window to its attention")
    if not agree(got, expected, exact):
        off = _difference(got, expected, exact)
        raise packed.CannotPackError(f"its packed log-probs differ from the ordinary ones by {off:.2g} nats")


def _prove_in_bfloat16(scorer: PackedScorer, sample: PackedPairs, ordinary: _Ordinary) -> None:
    """Raise CannotPackError unless the packed row gives the ordinary log-probs under bfloat16 autocast as well.

    On CUDA another kernel then attends, and since policy and reference share it, no later check would see its mistakes.
    """
    with torch.autocast(sample.input_ids.device.type, torch.bfloat16):
        expected = ordinary.log_probs_again()
        got = scorer.log_probs(sample)
    rounding = _difference(expected, ordinary.log_probs, exact=False)
    off = _difference(got, expected, exact=False)
    if not off <= min(MEAN_IN_LOW_PRECISION, TIMES_ROUNDING * rounding + LEAST_ROUNDING):
        raise packed.CannotPackError(
            f"its packed log-probs differ in bfloat16 from the ordinary ones by {off:.2g} nats on average, where "
            f"rounding explains {rounding:.2g}"
        )


def _windowed_layers(model: PreTrainedModel) -> int | None:
    """Return how many layers have a window, or None where the configuration does not list them."""
    config = model.config.get_text_config()
    kinds = getattr(config, "layer_types", None)
    if kinds is None or not getattr(config, "sliding_window", None):
        return None
    return int(sum(kind == "sliding_attention" for kind in kinds))
