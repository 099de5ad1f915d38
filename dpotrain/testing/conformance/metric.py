"""The suite for metrics."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from dpotrain.core.scores import PairScores
from dpotrain.testing.conformance.component import ComponentConformance, Table
from dpotrain.testing.conformance.scores import SUMS, of_pairs, random_scores
from dpotrain.testing.fixtures import RunRecipe

if TYPE_CHECKING:
    import torch


class MetricConformance(ComponentConformance):
    """A metric measures each pair by itself; the engine takes the means."""

    def measured(self, part: Any, of: PairScores) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
        """Return values and weights by measure, as the engine asks for them: without gradients."""
        import torch

        with torch.no_grad():
            found = part(of)
        pairs = [
            value if isinstance(value, tuple) else (value, torch.ones_like(value)) for value in found.values()
        ]
        return dict(zip(found, pairs, strict=True))

    def test_it_gives_every_pair_a_number_for_each_of_its_measures(self, part: Any) -> None:
        """Shape (pairs,), finite wherever the pair weighs anything."""
        assert part.measures
        assert len(set(part.measures)) == len(part.measures)
        for pairs in (1, 64):
            found = self.measured(part, random_scores(part, pairs))
            assert set(found) == set(part.measures)
            for values, shares in found.values():
                assert values.shape == shares.shape == (pairs,)
                assert values[shares != 0].isfinite().all()
                assert (shares >= 0).all()

    def test_a_pair_s_numbers_depend_on_its_own_scores_alone(self, part: Any) -> None:
        """The same pair in another micro-batch has the same numbers."""
        import torch

        made = random_scores(part, 16)
        together = self.measured(part, made)
        for pair in range(16):
            chosen = torch.tensor([pair])
            alone = self.measured(part, of_pairs(part, made, chosen))
            for name, (values, shares) in together.items():
                torch.testing.assert_close(
                    alone[name][0], values[chosen], rtol=1e-6, atol=1e-6, equal_nan=True
                )
                assert alone[name][1].equal(shares[chosen])

    def test_it_is_a_function(self, part: Any) -> None:
        """The same scores give the same bits, and are left as they were."""
        made, untouched = random_scores(part), random_scores(part)
        first, second = self.measured(part, made), self.measured(part, made)
        for name, (values, shares) in first.items():
            assert values.equal(second[name][0])
            assert shares.equal(second[name][1])
        assert all(getattr(made, name).equal(getattr(untouched, name)) for name in SUMS)

    def test_records_have_it_under_the_plugin_s_name(
        self, dpotrain_run: RunRecipe, part: Any, table: Table, tmp_path: Path
    ) -> None:
        """In train and in eval lines; a measure in which no pair weighs anything may be missing."""
        run = self.short_run(dpotrain_run, table, tmp_path)
        names = {f"{self.plugin().name}/{measure}" for measure in part.measures}
        for records in (run.train, run.evaluations):
            assert any(names & record.keys() for record in records)
