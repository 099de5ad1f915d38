"""Adapters: what is trained, and how the reference is reached."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING

from dpotrain.core.errors import RunError
from dpotrain.core.saving import save_model
from dpotrain.plugin.api.component import Component, hookspec
from dpotrain.plugin.api.returns import by_name, is_a, is_bool, is_model, is_text, returns

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel


class Adapter(Component):
    """Says what is trained, how the reference is reached, and what is saved; selected by ``[adapter]``.

    Without an ``[adapter]`` table the engine trains all weights.
    """

    kind = "adapter"

    @property
    @returns("True or False", is_bool)
    def starts_as_base(self) -> bool:
        """Whether a fresh adapter computes exactly what the model does without it, whatever its options.

        Where so, stored reference log-probs are shared between adapters.
        """
        return False

    @property
    @returns("True or False", is_bool)
    def saves_whole_model(self) -> bool:
        """Whether :meth:`save` writes a whole model (here True), and not only what is trained.

        Weights that are sharded over processes are brought together in the main process's host memory for it; where
        this is False, those that are not trained stay where they are.
        """
        return True

    @abstractmethod
    @returns("the policy with what is trained, a causal language model or a wrapper of one", is_model)
    def attach(self, policy: PreTrainedModel) -> PreTrainedModel:
        """Wrap the policy and set ``requires_grad`` on exactly what is to be trained, in float32.

        A policy that arrives with an adapter (see ``LoadRequest.keep_adapter``) is trained on from it, and
        its initial state is kept for :meth:`reference`. ``dpotrain plan``, and processes that shard the
        weights, call this on a model on the meta device, and as torch's default device, where tensors have
        shapes and no numbers.
        """

    @abstractmethod
    @returns("a context manager", lambda value: hasattr(value, "__enter__") and hasattr(value, "__exit__"))
    def reference(self, policy: PreTrainedModel) -> AbstractContextManager[None]:
        """Return a context inside which the policy computes what it computed right after :meth:`attach`."""

    @returns("the trained tensors by name", by_name(is_a("torch", "Tensor")))
    def state(self, policy: PreTrainedModel) -> dict[str, torch.Tensor]:
        """Return the trained tensors by name, for a checkpoint (no copies). Here: those that require gradients.

        With ``reference.update``, the reference's weights stand in the place of those that require gradients while it
        computes, and while a checkpoint takes them from this method and gives them back to :meth:`load_state`.
        """
        return {name: weight.data for name, weight in policy.named_parameters() if weight.requires_grad}

    def load_state(self, policy: PreTrainedModel, state: Mapping[str, torch.Tensor]) -> None:
        """Copy a checkpoint's tensors into those of :meth:`state`.

        Raises:
            RunError: names or shapes are not the same.
        """
        present = self.state(policy)
        odd = sorted(present.keys() ^ state.keys())
        odd += [name for name in present.keys() & state.keys() if present[name].shape != state[name].shape]
        if odd:
            raise RunError(
                f"the checkpoint is of another model, or of other trained weights: {len(odd)} tensors differ in name "
                f"or shape ({', '.join(odd[:3])}). Resume with the [model] and [adapter] tables that it was made with"
            )
        for name, weight in present.items():
            weight.copy_(state[name])

    @abstractmethod
    def save(self, policy: PreTrainedModel, folder: Path) -> None:
        """Write the result a user takes away into an existing, empty folder (without the tokenizer).

        Called on the main process alone, where weights that are sharded over processes are whole, in host memory.
        """

    def rehearse_saving(self, policy: PreTrainedModel, folder: Path) -> None:
        """Write what :meth:`save` writes, but for the weights, into an existing folder that is then thrown away.

        Called before training, so that a configuration that cannot be saved is found before the first step. Here
        nothing is written.
        """
        return

    @abstractmethod
    @returns("lines of Python that load the result", is_text)
    def how_to_load(self, folder: Path) -> str:
        """Return Python that assigns what :meth:`save` wrote to ``model``, for the closing summary and the model card.

        AutoModelForCausalLM is imported already; imports of anything else stand at the top. A single expression is the
        model.
        """


class InPlaceAdapter(Adapter):
    """Trains weights of the model itself and adds none; a subclass needs :meth:`attach` alone.

    That sets ``requires_grad`` on what is to be trained, makes it float32, and freezes the rest.

    The engine keeps a second copy of the trained weights where the reference is computed in every step, and none where
    it is computed before training; :meth:`reference` is not called. A model that comes with an adapter arrives with
    that merged (see ``LoadRequest.keep_adapter``). ``final/`` holds a whole model, each weight in the dtype in which it
    was loaded.
    """

    @property
    def starts_as_base(self) -> bool:
        """True: before the first step every weight is as it was loaded."""
        return True

    def reference(self, policy: PreTrainedModel) -> AbstractContextManager[None]:
        """Raise a RunError: the initial weights are the engine's to keep."""
        raise RunError(f'the "{self.name}" adapter keeps no initial weights beside the trained ones')

    def save(self, policy: PreTrainedModel, folder: Path) -> None:
        """Write a model folder that transformers loads."""
        save_model(policy, folder)

    def rehearse_saving(self, policy: PreTrainedModel, folder: Path) -> None:
        """Write the configurations."""
        save_model(policy, folder, weights={})

    def how_to_load(self, folder: Path) -> str:
        """Return the call that loads a model folder."""
        return f'model = AutoModelForCausalLM.from_pretrained("{folder}")'


@hookspec
def dpotrain_adapters() -> Iterable[type[Adapter]]:  # type: ignore[empty-body]
    """Offer adapters, which say what is trained, how the reference is reached, and what is saved.

    Called: while the recipe is read, and by ``dpotrain plugins`` and ``dpotrain schema``.

    Rank: every process.

    Must not import: torch, transformers or peft at the top of its module.

    Result: classes. ``[adapter] use`` picks one by ``name``; without ``[adapter]`` all weights are trained.

    Example:
        from contextlib import contextmanager

        from dpotrain import hookimpl
        from dpotrain.plugin.api import Adapter


        class BitFit(Adapter):
            name = "bitfit"

            def attach(self, policy):
                for name, weight in policy.named_parameters():
                    weight.requires_grad_(name.endswith("bias"))
                    if weight.requires_grad:
                        weight.data = weight.data.float()
                self._initial = self._copies(policy)
                return policy

            @contextmanager
            def reference(self, policy):
                trained = self._copies(policy)
                self.load_state(policy, self._initial)
                try:
                    yield
                finally:
                    self.load_state(policy, trained)

            def save(self, policy, folder):
                policy.save_pretrained(folder)

            def how_to_load(self, folder):
                return f'model = AutoModelForCausalLM.from_pretrained("{folder}")'

            def _copies(self, policy):
                return {name: bias.clone() for name, bias in self.state(policy).items()}


        @hookimpl
        def dpotrain_adapters():
            return [BitFit]
    """
