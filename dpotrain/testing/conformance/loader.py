"""The suite for model loaders."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from dpotrain.core.errors import DpotrainError
from dpotrain.plugin.api import LoadRequest
from dpotrain.testing.conformance.adapter import logits
from dpotrain.testing.conformance.component import ComponentConformance


class ModelLoaderConformance(ComponentConformance):
    """A model loader brings a causal language model, ready to be trained, and the tokenizer that belongs to it."""

    def test_the_tokenizer_pads_and_gives_text_back(self, part: Any) -> None:
        """Every loaded tokenizer has a pad token, and its tokens are those of the text."""
        tokenizer = part.load_tokenizer()
        assert tokenizer.pad_token is not None
        text = "May I have some tea?"
        tokens = tokenizer(text, add_special_tokens=False)["input_ids"]
        assert tokenizer.decode(tokens).strip() == text

    def test_tokenizer_and_model_belong_together(self, part: Any) -> None:
        """The embedding has a row for every token."""
        rows = part.load_model(LoadRequest()).get_input_embeddings().weight.shape[0]
        assert len(part.load_tokenizer()) <= rows

    def test_the_model_is_ready_to_be_trained(self, part: Any) -> None:
        """In ``train()``, since ``eval()`` makes 4-bit layers forget their gradients, and without dropout."""
        from dpotrain.engine.scoring.dropout import drops_out

        model = part.load_model(LoadRequest(device="cpu"))
        assert model.training
        assert not drops_out(model)
        assert {weight.device.type for weight in model.parameters()} == {"cpu"}
        assert logits(model).shape[:2] == (1, 20)
        assert any(weight.requires_grad for weight in model.parameters())

    def test_the_same_model_comes_every_time(self, part: Any) -> None:
        """Policy and reference, and the processes of a run, load it independently."""
        first, second = (part.load_model(LoadRequest()) for _ in range(2))
        assert logits(first).equal(logits(second))

    def test_another_model_can_be_asked_for(self, part: Any, dpotrain_model: Path, tmp_path: Path) -> None:
        """``reference.of`` names it; the fingerprint tells the two apart."""
        other = _changed(dpotrain_model, tmp_path / "other")
        first, second = (
            part.load_model(LoadRequest(source=str(folder))) for folder in (dpotrain_model, other)
        )
        assert not logits(first).equal(logits(second))
        assert part.fingerprint(str(dpotrain_model)) != part.fingerprint(str(other))

    def test_the_fingerprint_is_the_same_every_time(self, part: Any) -> None:
        """Stored reference log-probs are found again by it."""
        assert part.fingerprint()
        assert part.fingerprint() == part.fingerprint()

    def test_the_blueprint_is_the_model_without_weights(self, part: Any) -> None:
        """The same names, shapes and dtypes, on the meta device."""
        blueprint = part.blueprint(LoadRequest())
        if blueprint is None:
            pytest.skip("it says that it cannot tell")
        model = part.load_model(LoadRequest())

        def shapes(of: Any) -> dict[str, Any]:
            return {name: (weight.shape, weight.dtype) for name, weight in of.named_parameters()}

        assert shapes(blueprint) == shapes(model)
        assert {weight.device.type for weight in blueprint.parameters()} == {"meta"}

    def test_an_opened_model_is_the_model_once_its_weights_are_read(self, part: Any) -> None:
        """To the bit, so that a run with sharded weights trains the same model."""
        opened = part.open_model(LoadRequest())
        if opened is None:
            pytest.skip("it says that it cannot open one")
        model, lazy = part.load_model(LoadRequest(device="cpu")), opened.model
        assert lazy.training
        assert {weight.device.type for weight in lazy.parameters()} == {"meta"}
        empty = dict(lazy.named_parameters(remove_duplicate=False))
        read = {id(weight): name for name, weight in empty.items() if name in opened.weights}
        for name, weight in model.named_parameters(remove_duplicate=False):
            found, whole = empty[name], opened.weights[read[id(empty[name])]]
            assert (found.shape, found.dtype) == (weight.shape, weight.dtype), name
            assert whole[...].to(weight.dtype).equal(weight), name
            assert whole[1:2].to(weight.dtype).equal(weight[1:2]), name
        for name, buffer in model.named_buffers(remove_duplicate=False):
            assert lazy.get_buffer(name).equal(buffer), name

    def test_a_model_that_is_not_there_is_named(self, part: Any, tmp_path: Path) -> None:
        """With an error that was written for people."""
        missing = str(tmp_path / "no-such-model")
        with pytest.raises(DpotrainError) as caught:
            part.load_model(LoadRequest(source=missing))
        assert missing in str(caught.value)


def _changed(model: Path, folder: Path) -> Path:
    """Return a copy of a model's folder with other weights."""
    from safetensors.torch import load_file, save_file

    shutil.copytree(model, folder)
    weights = folder / "model.safetensors"
    changed = {name: tensor * 1.5 for name, tensor in load_file(weights).items()}
    save_file(changed, weights, metadata={"format": "pt"})
    return folder
