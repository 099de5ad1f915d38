"""The suite for losses."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, ClassVar

import pytest

from dpotrain.testing.conformance.component import ComponentConformance
from dpotrain.testing.conformance.scores import SUMS, assembled, of_pairs, random_scores


class LossConformance(ComponentConformance):
    """A loss is a function of one pair's scores; the engine decides which pairs share a micro-batch."""

    moved_by: ClassVar[tuple[str, ...]] = ("policy_chosen", "policy_rejected")
    """The policy's log-probs that the loss depends on: of both answers, unless it is about chosen answers alone."""

    def test_it_gives_every_pair_one_finite_number(self, part: Any) -> None:
        """Float32, shape (pairs,), never a mean."""
        import torch

        for pairs in (1, 64):
            losses = part(random_scores(part, pairs))
            assert losses.shape == (pairs,)
            assert losses.dtype == torch.float32
            assert losses.isfinite().all()

    def test_gradients_reach_both_completions_and_nothing_else(self, part: Any) -> None:
        """Both log-probs of the policy move the loss (:attr:`moved_by`); the reference's are constants."""
        made = random_scores(part)
        part(made).sum().backward()
        for policy in (getattr(made, name) for name in self.moved_by):
            assert policy.grad is not None
            assert policy.grad.isfinite().all()
            assert policy.grad.any()
        for constant in (made.reference_chosen, made.reference_rejected):
            assert constant.grad is None

    def test_a_pair_s_loss_depends_on_its_own_scores_alone(self, part: Any) -> None:
        """The same in another micro-batch; where it couples pairs, the same mean in another order of the step."""
        import torch

        made = random_scores(part, 16)
        together = part(made).detach()
        if not part.couples_pairs:
            alone = [part(of_pairs(part, made, torch.tensor([pair]))).detach() for pair in range(16)]
            torch.testing.assert_close(torch.cat(alone), together, rtol=1e-6, atol=1e-6)
        order = torch.randperm(16, generator=torch.Generator().manual_seed(1))
        shuffled = part(of_pairs(part, made, order)).detach()
        if part.couples_pairs:  # which pair a part of the loss is given to is the loss's business
            torch.testing.assert_close(shuffled.mean(), together.mean(), rtol=1e-6, atol=1e-6)
        else:
            torch.testing.assert_close(shuffled, together[order], rtol=1e-6, atol=1e-6)

    def test_its_rewards_are_two_numbers_a_pair(self, part: Any) -> None:
        """Of chosen and rejected, from the scores of that pair alone."""
        import torch

        made = random_scores(part, 16)
        chosen, rejected = part.rewards(made)
        assert chosen.shape == rejected.shape == (16,)
        assert (chosen + rejected).isfinite().all()
        first, second = part.rewards(of_pairs(part, made, torch.tensor([3])))
        torch.testing.assert_close(torch.cat([first, second]), torch.stack([chosen[3], rejected[3]]))

    def test_it_is_a_function(self, part: Any) -> None:
        """The same scores give the same bits, and are left as they were."""
        made, untouched = random_scores(part), random_scores(part)
        first, second = part(made), part(made)
        assert (first == second).all()
        for name in SUMS:
            assert (getattr(made, name) == getattr(untouched, name)).all()

    def test_the_first_loss_is_what_it_says(self, part: Any) -> None:
        """While policy and reference are one model, every pair has that loss; the run refuses to start otherwise."""
        expected = part.first_loss()
        if expected is None:
            pytest.skip("it says that there is no such number")
        losses = part(random_scores(part, spread=0.0)).detach()
        assert losses.tolist() == pytest.approx([expected] * len(losses), abs=1e-5, rel=1e-5)

    def test_it_says_truly_whether_it_needs_a_reference(self, part: Any) -> None:
        """Where it does not, the engine computes none and hands it zeros."""
        made = random_scores(part)
        chosen, rejected = made.reference_chosen * 0, made.reference_rejected * 0
        zeros = replace(made, reference_chosen=chosen, reference_rejected=rejected)
        same = bool((part(made) == part(zeros)).all())
        assert same is not part.needs_reference, (
            f"needs_reference = {part.needs_reference}, but the reference "
            f"{'has no' if same else 'has an'} effect"
        )

    def test_a_loss_of_the_difference_is_one(self, part: Any) -> None:
        """Where it says so (``of_difference``), as much for both log-ratios changes nothing."""
        import torch

        if not part.of_difference or part.needs_token_log_probs:
            pytest.skip("it is not said to depend on the difference of the two log-ratios alone")
        made = random_scores(part)
        raised = replace(made, policy_chosen=made.policy_chosen + 2, policy_rejected=made.policy_rejected + 2)
        torch.testing.assert_close(part(raised), part(made), rtol=1e-4, atol=1e-4)

    def test_scores_far_apart_give_no_infinities(self, part: Any) -> None:
        """Ten thousand nats either way, as a diverging run or a very long answer has them."""
        import torch

        far = torch.tensor([1e4, -1e4, 1e4, -1e4])
        made = random_scores(part, 4, spread=0.0)
        reference = torch.stack([made.reference_chosen, made.reference_rejected])
        lengths = torch.stack([made.chosen_tokens, made.rejected_tokens])
        made = assembled(
            part, reference + torch.stack([far, -far]), reference, lengths, made.columns, made.statistics
        )
        losses = part(made)
        losses.sum().backward()
        assert losses.isfinite().all()
        for policy in (getattr(made, name) for name in self.moved_by):
            assert policy.grad is not None
            assert policy.grad.isfinite().all()
