"""Losses: from the scores of pairs to a loss a pair."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar, Literal, final

from pydantic import Field, field_validator

from dpotrain.core.divergences import Divergence, reward_of
from dpotrain.core.scores import PairScores
from dpotrain.plugin.api.component import Component, hookspec
from dpotrain.plugin.api.nested import nested
from dpotrain.plugin.api.returns import are_names, is_number, optional, returns

if TYPE_CHECKING:
    import torch

#: The statistic that a weighting compares an answer's tokens with.
ALIGNED_BY = {"wpo": "log_squares", "wpo-greedy": "log_largest"}


class Loss(Component):
    """Turns the scores of pairs into a loss a pair; selected by ``[loss]``."""

    kind = "loss"

    needs_token_log_probs: ClassVar[bool] = False
    """Whether ``scores.policy_tokens`` is used: the log-prob of every scored token."""

    needs_statistics: tuple[str, ...] = ()
    """Which of ``scores.statistics`` are used: ``("entropy",)``. Each costs a pass over the logits."""
    columns: ClassVar[tuple[str, ...]] = ()
    """Columns of the data whose numbers ``scores.columns`` has, by the names that ``[data.columns]`` maps to them:
    ``("weight",)``. A pair without a finite number in one of them is dropped and counted."""

    needs_reference: bool = True
    """Whether ``scores.reference_*`` are used; where not, no reference is computed. A loss made of others, in
    options of the type ``Use[Loss]``, sets this and the next two for itself in ``__init__``."""

    of_difference: bool = False
    """Whether of the log-ratios only their difference matters, chosen minus rejected. Whatever of the implicit reward
    belongs to the prompt alone then cancels, and with such a loss ``divergence`` may be any, and ``[data.columns]`` may
    map a ``margin``."""
    couples_pairs: bool = False
    """Whether a pair's loss depends on the other pairs of its step. It is then called once a step, with the scores of
    all its pairs, for which the step computes one forward more; otherwise with those of a micro-batch."""

    @property
    @returns("a tuple of names of letters, digits and . _ - /", are_names)
    def part_names(self) -> tuple[str, ...]:
        """The names of :meth:`parts`."""
        return ()

    class Options(Component.Options):
        """The beta of nearly every loss; its rewards are multiples of it."""

        beta: float = Field(0.1, gt=0, description="Strength of the pull towards the reference.")
        divergence: Divergence = Field(
            "reverse-kl",
            description="What the policy's distance from the reference is measured by: rewards are beta times its "
            "derivative (arXiv 2309.16240). For losses of the difference of log-ratios, such as dpo.",
        )
        divergence_alpha: float | None = Field(
            None,
            gt=0,
            le=1,
            description='The alpha of `divergence = "alpha"`: near 0 the reverse KL, 1 the forward KL.',
        )
        weighting: Literal["wpo", "wpo-greedy"] | None = Field(
            None,
            description="Weigh pairs by how likely the policy is to write such answers (WPO, arXiv 2406.11827): "
            '"wpo" compares with a token that it draws, "wpo-greedy" with its likeliest.',
        )
        tail_weight: float = Field(
            1.0,
            ge=0,
            le=1,
            description="What tokens beyond the length of a pair's shorter answer count in its log-probs, of policy "
            "and reference: less than 1 takes length out of the loss (LD-DPO, arXiv 2409.06411).",
        )

    options: Options

    @abstractmethod
    def __call__(self, scores: PairScores) -> torch.Tensor:
        """Return the loss of every pair, float32, shape (pairs,); the step's loss is their mean.

        A pair's loss may depend on its own scores only, unless :attr:`couples_pairs` says that it does not: which
        pairs share a micro-batch is the engine's business.
        """

    @final
    def losses(self, scores: PairScores) -> torch.Tensor:
        """Return the losses of the pairs, (pairs,), under the divergence and the weighting of the options.

        The engine calls this, and so does a loss for others among its options. Not to be overridden.

        A pair's weight is the product of the probabilities of its answers under the policy, each the geometric mean
        over its tokens of the token's probability, over what a token of the policy's own has: the mean probability of
        one that is drawn, or that of the likeliest (Zhou et al. 2024, arXiv 2406.11827, section 3, "sampled" and
        "greedy" alignment). The weights have no gradients.
        """
        losses = self(self.diverged(scores))
        if self.options.weighting is not None:
            own = scores.statistics[ALIGNED_BY[self.options.weighting]]
            chosen = scores.policy_chosen.detach() / scores.chosen_tokens - own[:, 0]
            rejected = scores.policy_rejected.detach() / scores.rejected_tokens - own[:, 1]
            losses = losses * (chosen + rejected).exp()
        return losses

    @final
    def diverged(self, scores: PairScores) -> PairScores:
        """Return the scores with log-ratios as the divergence has them; the reference stays. Not to be overridden."""
        options = self.options
        if options.divergence == "reverse-kl":
            return scores
        chosen, rejected = (
            reward_of(ratio, options.divergence, options.divergence_alpha)
            for ratio in (scores.chosen_logratio, scores.rejected_logratio)
        )
        return replace(
            scores,
            policy_chosen=scores.reference_chosen + chosen,
            policy_rejected=scores.reference_rejected + rejected,
        )

    def parts(self, scores: PairScores) -> Mapping[str, torch.Tensor]:
        """Return parts of the loss to be logged, (pairs,) each, by the names of :attr:`part_names`; none, as here.

        Records have their means as ``loss/NAME``.
        """
        return {}

    def rewards(self, scores: PairScores) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the rewards of chosen and rejected, each (pairs,), as the loss defines them.

        Of them are ``rewards/chosen``, ``rewards/rejected``, ``rewards/margins`` and ``rewards/accuracies``. Here they
        are those of DPO, beta times the log-ratio (arXiv 2305.18290, section 5).
        """
        beta = self.options.beta
        return beta * scores.chosen_logratio, beta * scores.rejected_logratio

    @returns("a finite number, or None", optional(is_number))
    def first_loss(self) -> float | None:
        """Return the loss that every pair has while policy and reference are the same model.

        None where there is no such number. The run checks it before the first update.
        """
        return None


class LossWithoutBeta(Loss):
    """A loss whose equation has no beta: ``loss.beta`` is then refused, because it would change nothing.

    Its options derive from ``LossWithoutBeta.Options``, in which ``beta`` is None.
    """

    class Options(Loss.Options):
        """The keys of every loss, of which ``beta`` cannot be set."""

        beta: None = Field(None, description="This loss has none.")  # type: ignore[assignment]

        @field_validator("beta", mode="before")
        @classmethod
        def _none(cls, value: object) -> None:
            if value is not None:
                raise ValueError("this loss has no beta of its own; leave it out")

    options: Options

    def rewards(self, scores: PairScores) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the log-ratios of chosen and rejected, each (pairs,)."""
        return scores.chosen_logratio, scores.rejected_logratio


def columns_read(loss: Loss) -> set[str]:
    """Return the columns of the data that a loss, or one among its options, asks for."""
    return {name for _, part in nested(loss) if isinstance(part, Loss) for name in part.columns}


@hookspec
def dpotrain_losses() -> Iterable[type[Loss]]:  # type: ignore[empty-body]
    """Offer losses, which turn the scores of pairs into a loss a pair.

    Called: while the recipe is read, and by ``dpotrain plugins`` and ``dpotrain schema``.

    Rank: every process.

    Must not import: torch or transformers at the top of its module.

    Result: classes. ``[loss] use`` picks one by ``name``. The engine divides the losses by the pairs of the
    whole step; a loss never takes a mean itself.

    Example:
        import math

        from pydantic import Field

        from dpotrain import hookimpl
        from dpotrain.plugin.api import Loss


        class MarginLoss(Loss):
            name = "margin-dpo"

            class Options(Loss.Options):
                margin: float = Field(0.0, ge=0, description="By how much the chosen reward is to be ahead.")

            def __call__(self, scores):
                from torch.nn.functional import softplus

                policy = scores.policy_chosen - scores.policy_rejected
                reference = scores.reference_chosen - scores.reference_rejected
                return softplus(self.options.margin - self.options.beta * (policy - reference))

            def first_loss(self):
                return math.log1p(math.exp(self.options.margin))


        @hookimpl
        def dpotrain_losses():
            return [MarginLoss]
    """
