"""The optimizer step: one function, and a generator over the steps.

Saving, logging and evaluating belong to the caller, so that a test takes three steps and stops.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import nn

from dpotrain.core.random_state import RandomState
from dpotrain.core.records import StepRecord
from dpotrain.core.scores import PairScores
from dpotrain.data.batches.packing import PackedPairs, pack
from dpotrain.data.batches.plan import BatchPlan, MicroBatch, StepPlan, make_microbatches
from dpotrain.data.tokens.tokenized import TokenizedPairs
from dpotrain.engine.memory.device_memory import release_memory
from dpotrain.engine.memory.out_of_memory import smaller
from dpotrain.engine.parallel.protocol import Parallel
from dpotrain.engine.reference.reference import Reference
from dpotrain.engine.scoring.loss_check import (
    check_apart,
    check_gradients,
    check_rewards,
    check_trained,
    loss_fault,
)
from dpotrain.engine.scoring.objective import loss_parts, pair_losses
from dpotrain.engine.scoring.pairs import need_tokens, needed_statistics, score_pairs
from dpotrain.engine.scoring.router_loss import RouterLoss, summing
from dpotrain.engine.scoring.router_sums import RouterSums
from dpotrain.engine.training.agreement import RanOut, agreeing
from dpotrain.engine.training.coupled import CoupledStep, GatheredScores
from dpotrain.engine.training.first_loss import FirstLoss
from dpotrain.engine.training.metrics import SUMMED, Window, means, means_of, speed
from dpotrain.engine.training.recipe_metrics import RecipeMetrics
from dpotrain.engine.training.step_balance import StepBalance
from dpotrain.engine.training.sums import batch_sums, no_sums, split_sums
from dpotrain.engine.training.unfinished import Interrupted, NotFinite, end, not_finite
from dpotrain.plugin.api import Loss, Schedule


@dataclass(kw_only=True)
class Trainer:
    """Everything a step needs, put together by :mod:`dpotrain.run.building.build`."""

    parallel: Parallel
    scorer: nn.Module
    """The policy's scorer, as :meth:`.protocol.Parallel.place` returned it."""
    optimizer: torch.optim.Optimizer
    loss: Loss
    plan: BatchPlan
    data: TokenizedPairs
    reference: Reference
    schedule: Schedule
    peak_learning_rate: float
    """What records multiply by the schedule's factor; parameter groups may have rates of their own."""
    max_grad_norm: float | None
    first_loss: FirstLoss | None
    """What the first step's loss must be, where that is known."""
    interrupted: Callable[[], bool] = lambda: False
    """Asked between micro-batches; where it is true on one rank, all are interrupted. Where passes are collective, it
    is the same on every rank (see :meth:`.protocol.Parallel.agreed`)."""
    progress: Callable[[int, int, int], None] = lambda step, done, total: None
    """Told the step, and how many of this rank's micro-batches of it are computed, of how many."""
    note: Callable[[str], None] = lambda text: None
    """Tells the person that memory ran out and what was done about it."""
    on_nonfinite: Callable[[NotFinite], None] = end
    """Told of numbers that are not finite; where it returns, the step is left out, and the next one taken."""
    router_loss: RouterLoss | None = None
    """Added to the loss where the policy's routers are to be balanced; not part of the metric ``loss``."""
    pair_columns: frozenset[str] = frozenset()
    """Columns of the data that change the loss (see :func:`.objective.pair_losses`)."""
    extra: RecipeMetrics = field(default_factory=RecipeMetrics)
    window: Window = field(default_factory=Window)
    loss_label: str = ""
    """The loss with its plugin, as messages name it."""

    def __post_init__(self) -> None:
        self._peaks = [group["lr"] for group in self.optimizer.param_groups]
        self._tokens = need_tokens(self.loss, self.extra.chosen)
        self._statistics = needed_statistics(self.loss, self.extra.chosen)
        self._looked_at_loss = False
        self._loss_fault = ""

    def steps(self, after: int = 0) -> Iterator[StepRecord]:
        """Take the steps that follow step ``after``, one a record."""
        done = after
        while done < self.plan.total_steps:
            plan = self.plan
            for step in plan.steps(done):
                yield self.train_step(step)
                done = step.step
                if self.plan is not plan:  # memory ran out: the steps to come are cut smaller, too
                    break

    def train_step(self, step: StepPlan) -> StepRecord:
        """Take one optimizer step over the pairs of ``step``.

        Where memory runs out on a rank, all of them do the whole step again in smaller micro-batches, which stay for
        the steps to come. Loss and gradient are those of the smaller ones from the start.

        Raises:
            NotFinite: loss or gradient norm is not finite (as ``on_nonfinite`` has it); nothing was updated, and
                random states are as before the step.
            RunError: the first loss is not what it must be; nothing was updated.
            Interrupted: the person asked to stop; nothing was updated.
            torch.OutOfMemoryError: single pairs do not fit either.
            OutOfMemoryElsewhereError: they do not fit on another rank.
        """
        started = time.perf_counter()
        learning_rate = self._set_learning_rate(step.step)
        random_before = RandomState.capture()
        before, sums = self.plan.tokens_per_microbatch, self._gradients(step, random_before)
        while sums is None:
            release_memory()
            step = self._cut_smaller(step)
            sums = self._gradients(step, random_before)
        if (now := self.plan.tokens_per_microbatch) != before:
            self.note(
                f"memory ran out in step {step.step}: it was done again with micro-batches of at most {now:,} tokens "
                f"instead of {before:,}, and so are the steps to come; results stay the same"
            )
        self._looked_at_loss = True
        sums, grad_norm = self._clip_and_sum(sums)
        sums, extra = split_sums(sums, self.extra)
        metrics = means(sums.tolist())
        finite = math.isfinite(metrics["loss"]) and math.isfinite(grad_norm)
        if finite:
            if step.step == 1 and self.first_loss is not None:
                tolerance = self.first_loss.tolerance(self.parallel, coupled=self.loss.couples_pairs)
                self.first_loss.check(metrics["loss"], tolerance, self.loss_label or self.loss.name)
            self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        if not finite:
            try:
                fault, self._loss_fault = self._loss_fault, ""
                named = f"{self.loss_label or self.loss.name}: {fault}" if fault else ""
                rows = self.data.rows[step.pairs]
                self.on_nonfinite(not_finite(step, rows, metrics["loss"], grad_norm, named))
            except NotFinite:
                random_before.restore()
                raise
        self.reference.after_step(step.step)

        seconds = time.perf_counter() - started
        if finite:  # one such number would hide all others of a record
            self.window.add(sums.tolist(), extra, grad_norm, seconds)
        tokens = int(sums[SUMMED.index("tokens")])
        loss = metrics.pop("loss")
        return StepRecord(
            step=step.step,
            total_steps=self.plan.total_steps,
            epoch=self.plan.epochs_done(step.step),
            metrics={
                "loss": loss,
                "grad_norm": grad_norm,
                "learning_rate": learning_rate,
                **metrics,
                **speed(sums.tolist(), seconds),
                **means_of(extra),
            },
            pairs=len(step.pairs),
            tokens=tokens,
            seconds=seconds,
        )

    def _gradients(self, step: StepPlan, random_before: RandomState) -> torch.Tensor | None:
        """Add up the gradients of this rank's pairs, and return its sums on the device. Collective.

        They are the engine's, then the recipe's metrics', then two of the router loss, where there is one.

        None where memory ran out on a rank and smaller micro-batches may fit: gradients and random states are then as
        before.
        """
        microbatches = step.microbatches[self.parallel.data_rank]
        # Every pair of the step weighs the same, wherever it is computed; the exchange adds gradients over ranks.
        share = 1 / len(step.pairs)
        sums = no_sums(self.extra, self.parallel.device)
        if self.first_loss is not None:
            self.first_loss.forget()
        first = (self._passes(microbatches) - 1) * len(microbatches)
        try:
            coupled, routed = self._first_pass(step, microbatches, random_before) if first else (None, None)
            balance = StepBalance(self.router_loss, routed, self.parallel)
            # Unless passes are collective, ranks exchange nothing before all have computed their gradients, so that one
            # that cannot may say so.
            with agreeing(self.parallel):
                for number, pairs in enumerate(microbatches):
                    self._progress(step, number, computed=first)
                    last = number == len(microbatches) - 1
                    # Nothing in here waits for the device: the next micro-batch is packed while it computes this one.
                    batch = pack(self.data, pairs).to(self.parallel.device)
                    reference = self.reference.scores(batch) if coupled is None else coupled.reference(batch)
                    with summing(self.router_loss, self.parallel.device) as rows:
                        scores = self._score(step, batch, reference)
                    check_trained(scores, self.scorer)
                    if coupled is None:
                        losses = self._losses(scores, batch.weights / len(step.pairs))
                        parts = loss_parts(self.loss, scores)
                        total = (losses * batch.weights).sum()
                    else:
                        (losses, parts), total = coupled.of_batch(batch), coupled.carried(batch, scores)
                    self.parallel.begin_backward(last=last)
                    (total * share + balance.part(rows)).backward()  # type: ignore[no-untyped-call]
                    sums += batch_sums(self.loss, scores, losses, parts, batch, self.extra)
                    if not last and self.interrupted():
                        raise Interrupted
        except (Interrupted, RanOut) as error:
            self.scorer.zero_grad(set_to_none=True)
            random_before.restore()
            if isinstance(error, Interrupted):
                raise
            if not any(len(pairs) > 1 for pairs in _of_all_ranks(step)):
                raise error.error() from None
            return None
        return torch.cat([sums, balance.sums(len(step.pairs))])

    def _score(self, step: StepPlan, batch: PackedPairs, reference: torch.Tensor) -> PairScores:
        return score_pairs(
            self.scorer,
            reference,
            batch,
            tokens=self._tokens,
            statistics=self._statistics,
            step=step.step,
            total_steps=self.plan.total_steps,
        )

    def _losses(self, scores: PairScores, weights: torch.Tensor) -> torch.Tensor:
        """Return the losses of a micro-batch's pairs, (P,); in the first step look at what the loss does.

        ``weights`` (P,) are what each counts in the step's loss.
        """
        losses = pair_losses(self.loss, scores, self.pair_columns)
        check_gradients(self.loss, losses)
        if not self._looked_at_loss:
            check_apart(self.loss, scores)
            self._look_at(scores, losses, weights)
        return losses

    def _look_at(self, scores: PairScores, losses: torch.Tensor, weights: torch.Tensor) -> None:
        """Look whether losses and rewards are numbers where the scores are; a loss is named if the step is refused."""
        if self.first_loss is not None and scores.step == 1:
            self.first_loss.look(self.loss, scores, weights, self.pair_columns)
        self._loss_fault = self._loss_fault or loss_fault(scores, losses)
        check_rewards(self.loss, scores)

    def _passes(self, microbatches: Sequence[MicroBatch]) -> int:
        """Return how often a step scores its micro-batches under the policy."""
        # What the routers compute in the step is known before its first backward pass.
        alone = self.parallel.data_size == 1 and len(microbatches) == 1
        balanced = self.router_loss is not None and not alone
        return 2 if self.loss.couples_pairs or balanced else 1

    def _first_pass(
        self, step: StepPlan, microbatches: Sequence[MicroBatch], random_before: RandomState
    ) -> tuple[CoupledStep | None, RouterSums | None]:
        """Score all pairs of the step without gradients, for what must be known of all of them before there are any.

        Returns the loss where it couples pairs, and what the routers compute where they are to be balanced. Collective;
        random states are put back.
        """
        gathered = GatheredScores(step.pairs) if self.loss.couples_pairs else None
        routed: list[RouterSums] = []
        with torch.no_grad(), agreeing(self.parallel):
            for number, pairs in enumerate(microbatches):
                self._progress(step, number)
                batch = pack(self.data, pairs).to(self.parallel.device)
                reference = None if gathered is None else self.reference.scores(batch)
                with summing(self.router_loss, self.parallel.device) as rows:
                    if gathered is not None and reference is not None:
                        gathered.add(batch, self._score(step, batch, reference))
                    else:
                        self.scorer(batch)
                if rows is not None:
                    routed.append(rows)
                if self.interrupted():
                    raise Interrupted
        coupled = None
        if gathered is not None:
            scores = gathered.whole(
                self.parallel,
                columns=self.data.columns,
                statistics=self._statistics,
                step=step.step,
                total_steps=self.plan.total_steps,
            )
            coupled = CoupledStep.of(self.loss, gathered, scores, self.pair_columns)
            if not self._looked_at_loss:
                of_each = torch.full_like(coupled.losses, 1 / len(step.pairs))
                self._look_at(scores, coupled.losses, of_each)
        # The second pass draws the same dropout.
        random_before.restore()
        return coupled, RouterSums.over_ranks(routed, self.parallel) if routed else None

    def _progress(self, step: StepPlan, number: int, computed: int = 0) -> None:
        """Tell that a micro-batch begins, after ``computed`` of an earlier pass."""
        own = step.microbatches[self.parallel.data_rank]
        self.progress(step.step, computed + number, len(own) * self._passes(own))

    def _cut_smaller(self, step: StepPlan) -> StepPlan:
        """Halve the budget until the step is cut otherwise, for this step and those to come; the same on every rank."""
        plan = self.plan
        budget = smaller(_of_all_ranks(step), plan.costs, plan.tokens_per_microbatch)
        self.plan = replace(plan, tokens_per_microbatch=budget)
        return replace(step, microbatches=make_microbatches(step.pairs, plan.costs, plan.ranks, budget))

    def _set_learning_rate(self, step: int) -> float:
        """Set the rates of a step, and return the records'."""
        factor = self.schedule.factor(step, self.plan.total_steps)
        for group, peak in zip(self.optimizer.param_groups, self._peaks, strict=True):
            group["lr"] = peak * factor
        return self.peak_learning_rate * factor

    def _clip_and_sum(self, sums: torch.Tensor) -> tuple[torch.Tensor, float]:
        """Exchange and clip the gradients; return the sums over all ranks and the norm before, in one transfer.

        Both are on the CPU. The update waits for it: numbers that are not finite must not reach the weights.
        """
        trained = [weight for weight in self.scorer.parameters() if weight.requires_grad]
        self.parallel.exchange(trained)
        norm = self.parallel.clip(trained, math.inf if self.max_grad_norm is None else self.max_grad_norm)
        *own, grad_norm = torch.cat([sums, norm.to(sums).reshape(1)]).tolist()
        return self.parallel.sum(torch.tensor(own, dtype=torch.float64)), grad_norm


def _of_all_ranks(step: StepPlan) -> list[MicroBatch]:
    return [pairs for microbatches in step.microbatches for pairs in microbatches]
