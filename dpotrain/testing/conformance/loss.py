"""What holds for every loss."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any

import pytest

from dpotrain.testing.conformance.component import ComponentConformance

if TYPE_CHECKING:
    import torch

    from dpotrain.core.scores import PairScores


def scores(pairs: int = 64, *, spread: float = 4.0, seed: int = 0) -> PairScores:
    """Return made-up scores: policy and reference differ by normal numbers of that ``spread``, in nats."""
    import torch

    from dpotrain.core.scores import PairScores

    draw = torch.Generator().manual_seed(seed)
    lengths = torch.randint(1, 40, (2, pairs), generator=draw)
    reference = -2.0 * lengths * torch.rand(2, pairs, generator=draw)
    policy = reference + spread * torch.randn(2, pairs, generator=draw)
    return PairScores(
        policy[0].clone().requires_grad_(), policy[1].clone().requires_grad_(), *reference, *lengths
    )


class LossConformance(ComponentConformance):
    """A loss is a function of one pair's scores; the engine decides which pairs share a micro-batch."""

    def test_it_gives_every_pair_one_finite_number(self, part: Any) -> None:
        """Float32, shape (pairs,), never a mean."""
        import torch

        for pairs in (1, 64):
            losses = part(scores(pairs))
            assert losses.shape == (pairs,)
            assert losses.dtype == torch.float32
            assert losses.isfinite().all()

    def test_gradients_reach_both_completions_and_nothing_else(self, part: Any) -> None:
        """Both log-probs of the policy move the loss; the reference's are constants."""
        made = scores()
        part(made).sum().backward()
        for policy in (made.policy_chosen, made.policy_rejected):
            assert policy.grad is not None
            assert policy.grad.isfinite().all()
            assert policy.grad.any()
        for constant in (made.reference_chosen, made.reference_rejected):
            assert constant.grad is None

    def test_a_pair_s_loss_depends_on_its_own_scores_alone(self, part: Any) -> None:
        """The same pair in another micro-batch has the same loss."""
        import torch

        made = scores(16)
        together = part(made).detach()
        alone = torch.cat([part(_pairs(made, torch.tensor([pair]))).detach() for pair in range(16)])
        torch.testing.assert_close(alone, together, rtol=1e-6, atol=1e-6)
        order = torch.randperm(16, generator=torch.Generator().manual_seed(1))
        torch.testing.assert_close(part(_pairs(made, order)).detach(), together[order], rtol=1e-6, atol=1e-6)

    def test_it_is_a_function(self, part: Any) -> None:
        """The same scores give the same bits, and are left as they were."""
        made, untouched = scores(), scores()
        first, second = part(made), part(made)
        assert (first == second).all()
        for name in ("policy_chosen", "policy_rejected", "reference_chosen", "reference_rejected"):
            assert (getattr(made, name) == getattr(untouched, name)).all()

    def test_the_first_loss_is_what_it_says(self, part: Any) -> None:
        """While policy and reference are one model, every pair has that loss; the run refuses to start otherwise."""
        told = part.first_loss()
        if told is None:
            pytest.skip("it says that there is no such number")
        losses = part(scores(spread=0.0)).detach()
        assert losses.tolist() == pytest.approx([told] * len(losses), abs=1e-5, rel=1e-5)

    def test_it_says_truly_whether_it_needs_a_reference(self, part: Any) -> None:
        """Where it does not, the engine computes none and hands it zeros."""
        made = scores()
        zeros = replace(
            made,
            reference_chosen=made.reference_chosen * 0,
            reference_rejected=made.reference_rejected * 0,
        )
        same = bool((part(made) == part(zeros)).all())
        assert same is not part.needs_reference, (
            f"needs_reference = {part.needs_reference}, but the reference "
            f"{'has no' if same else 'has an'} effect"
        )

    def test_scores_far_apart_give_no_infinities(self, part: Any) -> None:
        """Ten thousand nats either way, as a diverging run or a very long answer has them."""
        import torch

        far = torch.tensor([1e4, -1e4, 1e4, -1e4])
        made = scores(4, spread=0.0)
        policy = [(made.policy_chosen.detach() + far), (made.policy_rejected.detach() - far)]
        chosen, rejected = (each.requires_grad_() for each in policy)
        losses = part(replace(made, policy_chosen=chosen, policy_rejected=rejected))
        losses.sum().backward()
        assert losses.isfinite().all()
        assert chosen.grad is not None
        assert rejected.grad is not None
        assert chosen.grad.isfinite().all()
        assert rejected.grad.isfinite().all()


def _pairs(made: PairScores, chosen: torch.Tensor) -> PairScores:
    """Return the scores of these pairs."""
    return type(made)(*[getattr(made, field.name)[chosen] for field in fields(made)])
