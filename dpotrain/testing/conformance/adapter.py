"""The suite for adapters."""

from __future__ import annotations

import runpy
import shutil
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from dpotrain.core.errors import RunError
from dpotrain.plugin.api import InPlaceAdapter
from dpotrain.testing.conformance.component import ComponentConformance, Table
from dpotrain.testing.fixtures import RunRecipe

if TYPE_CHECKING:
    import torch

#: Files that can hold code; nobody should have to load one.
_PICKLES = {".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt"}


class AdapterConformance(ComponentConformance):
    """An adapter says what is trained, what the reference is, and what is saved."""

    def test_it_trains_some_weights_in_float32_and_they_all_get_a_gradient(
        self, part: Any, dpotrain_model: Path
    ) -> None:
        """Whatever the model's own dtype; small updates are lost in 16 bits. The rest gets none."""
        import torch

        policy = part.attach(load(dpotrain_model, torch.bfloat16))
        trained = {name for name, weight in policy.named_parameters() if weight.requires_grad}
        assert trained, "nothing is trained"
        assert {policy.get_parameter(name).dtype for name in trained} == {torch.float32}
        policy = part.attach(load(dpotrain_model))
        loss(policy).backward()  # type: ignore[no-untyped-call]
        with_gradient = {name for name, weight in policy.named_parameters() if weight.grad is not None}
        assert with_gradient == trained

    def test_training_moves_the_policy_and_not_the_reference(self, part: Any, dpotrain_model: Path) -> None:
        """Inside ``reference()`` the policy computes what it did right after ``attach()``, to the bit."""
        import torch

        policy = part.attach(load(dpotrain_model))
        reference = reference_of(part, policy)
        flags = [weight.requires_grad for weight in policy.parameters()]
        initial = logits(policy)
        train(policy)
        trained = logits(policy)
        assert not torch.equal(initial, trained), "training changes nothing"
        with reference():
            torch.testing.assert_close(logits(policy), initial, rtol=0, atol=1e-6)
        assert torch.equal(logits(policy), trained), "reference() leaves a trace"
        assert [weight.requires_grad for weight in policy.parameters()] == flags

    def test_the_reference_ends_with_an_error_too(self, part: Any, dpotrain_model: Path) -> None:
        """A run that goes on after an exception goes on with the policy."""
        policy = part.attach(load(dpotrain_model))
        reference = reference_of(part, policy)
        train(policy)
        trained = logits(policy)
        with pytest.raises(KeyError), reference():
            raise KeyError
        assert logits(policy).equal(trained)

    def test_a_fresh_one_is_the_model_where_it_says_so(self, part: Any, dpotrain_model: Path) -> None:
        """``starts_as_base`` lets stored reference log-probs be shared between adapters."""
        import torch

        if part.starts_as_base:
            base = logits(load(dpotrain_model))
            torch.testing.assert_close(logits(part.attach(load(dpotrain_model))), base, rtol=0, atol=1e-6)

    def test_its_state_is_the_trained_tensors_themselves(self, part: Any, dpotrain_model: Path) -> None:
        """No copies: a checkpoint is written from them."""
        policy = part.attach(load(dpotrain_model))
        places = {weight.data_ptr() for weight in policy.parameters() if weight.requires_grad}
        assert {tensor.data_ptr() for tensor in part.state(policy).values()} == places

    def test_what_was_saved_in_a_checkpoint_comes_back_to_the_bit(
        self, part: Any, dpotrain_model: Path
    ) -> None:
        """Into a policy that was loaded and attached anew, whose reference stays what it was."""
        import torch

        policy = part.attach(load(dpotrain_model))
        with reference_of(part, policy)():
            reference = logits(policy)
        train(policy)
        saved = {name: tensor.clone() for name, tensor in part.state(policy).items()}
        again = part.attach(load(dpotrain_model))
        reference_again = reference_of(part, again)
        with torch.no_grad():
            part.load_state(again, saved)
        assert torch.equal(logits(again), logits(policy))
        with reference_again():
            torch.testing.assert_close(logits(again), reference, rtol=0, atol=1e-6)

    def test_the_state_of_another_adapter_is_refused(self, part: Any, dpotrain_model: Path) -> None:
        """A tensor too few, and one too many."""
        import torch

        policy = part.attach(load(dpotrain_model))
        state = {name: tensor.clone() for name, tensor in part.state(policy).items()}
        for wrong in (dict(list(state.items())[1:]), {**state, "no.such.tensor": torch.zeros(1)}):
            with torch.no_grad(), pytest.raises(RunError):
                part.load_state(policy, wrong)

    def test_the_result_loads_as_it_says_and_computes_the_same(
        self, part: Any, dpotrain_model: Path, tmp_path: Path
    ) -> None:
        """``how_to_load`` is Python that works elsewhere; no file of the result can hold code."""
        import torch

        policy = part.attach(load(dpotrain_model))
        train(policy)
        trained = logits(policy)
        folder = tmp_path / "final"
        folder.mkdir()
        part.save(policy, folder)
        assert any(folder.iterdir()), "nothing was saved"
        assert not {path.suffix for path in folder.rglob("*")} & _PICKLES
        assert torch.equal(logits(policy), trained), "saving changes the policy"
        loaded = _loaded(part.how_to_load(folder), tmp_path)
        torch.testing.assert_close(logits(loaded), trained, rtol=1e-4, atol=1e-4)

    def test_it_attaches_to_a_model_without_weights(self, part: Any, dpotrain_model: Path) -> None:
        """``dpotrain plan`` counts memory on it."""
        import torch
        from transformers import AutoConfig, AutoModelForCausalLM

        with torch.device("meta"):
            policy = part.attach(AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(dpotrain_model)))
        trained = [weight for weight in policy.parameters() if weight.requires_grad]
        assert trained
        assert {weight.device.type for weight in policy.parameters()} == {"meta"}

    def test_a_resumed_run_ends_in_the_same_bits(self, dpotrain_run: RunRecipe, table: Table) -> None:
        """Four steps, and four steps of which the last two were lost and done again."""
        whole = dpotrain_run(self.recipe(table), overrides=["checkpoints.every=2"]).outcome
        final = whole.folder / "final"
        expected = _weights(final)
        for lost in (final, whole.folder / "checkpoints" / "step-00000004"):
            shutil.rmtree(lost)
        (whole.folder / "summary.json").unlink()
        dpotrain_run(self.recipe(table), overrides=["checkpoints.every=2"], resume=True)
        assert _weights(final) == expected


def load(folder: Path, dtype: torch.dtype | None = None) -> Any:
    """Return the tiny model as a loader would bring it."""
    import torch
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder, dtype=dtype or torch.float32).train()


def reference_of(part: Any, policy: Any) -> Callable[[], AbstractContextManager[None]]:
    """Return what makes a policy, as it was attached, the reference; the engine does it for one trained in place."""
    from dpotrain.engine.reference.second_copy import SecondCopy

    return (
        SecondCopy(policy).in_policy if isinstance(part, InPlaceAdapter) else partial(part.reference, policy)
    )


def logits(model: Any) -> torch.Tensor:
    """Return what the model computes for some tokens, without dropout."""
    import torch

    from dpotrain.engine.scoring.dropout import dropout_off

    with torch.no_grad(), dropout_off(model):
        return model(_tokens()).logits.float()  # type: ignore[no-any-return]


def loss(model: Any) -> torch.Tensor:
    """Return some loss of the model."""
    return model(_tokens(), labels=_tokens()).loss  # type: ignore[no-any-return]


def train(model: Any, steps: int = 3) -> None:
    """Move what is trained a good way."""
    import torch

    torch.manual_seed(0)
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=0.02)
    for _ in range(steps):
        loss(model).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        optimizer.zero_grad()


def _tokens() -> torch.Tensor:
    import torch

    return torch.arange(4, 24)[None]


def _loaded(said: str, folder: Path) -> Any:
    """Run the lines that load a model, as the summary of a run shows them, and return the model."""
    from dpotrain.run.how_to_load import loading_code

    script = folder / "loading_it.py"
    script.write_text(loading_code(said), "utf-8")
    return runpy.run_path(str(script))["model"]


def _weights(folder: Path) -> dict[Path, bytes]:
    found = {path: path.read_bytes() for path in folder.glob("*.safetensors")}
    assert found, f"{folder} holds no safetensors file"
    return found
