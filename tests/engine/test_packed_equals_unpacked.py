"""The packed forward gives what the model's own forward gives, architecture by architecture."""

from dataclasses import replace

import pytest
import torch

from dpotrain.core.errors import RunError
from dpotrain.data.batches.packing import pack
from dpotrain.engine.attention import packed
from dpotrain.engine.scoring import scorer
from dpotrain.engine.scoring.logprobs import LogitTransform
from dpotrain.engine.scoring.probe import choose_scorer
from dpotrain.engine.scoring.scorer import PackedScorer, PaddedScorer
from tests.engine.pairs import random_pairs
from tests.support import tiny_model

PACKS = [
    "llama", "qwen2", "qwen3", "mistral", "gemma2", "gemma3", "phi3", "gpt2", "gpt_neox", "cohere", "granite",
    "mixtral", "qwen3_moe",
]  # fmt: skip
#: What each of these cannot do, as the run says it.
PADS = {
    "mamba2": "0 of its 2 layers",
    "jamba": "1 of its 2 layers",
    "bloom": "keeps its own attention",
    "gpt_oss": "sinks",
}
#: One pair longer than the tiny models' windows, one with a single-token answer, one with a long rejected answer.
SIZES = [(11, 9, 14), (3, 1, 2), (20, 5, 31)]


def build(kind: str, **config):
    model = tiny_model(kind, **config).train()
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
        if isinstance(getattr(module, "attention_dropout", None), float):
            module.attention_dropout = 0.0
    return model


def own_log_prob_sums(model, data) -> torch.Tensor:
    """One ordinary forward a sequence, full logits: the definition, as plainly as it can be written."""
    sums = []
    for index in range(len(data)):
        pair = data[index]
        for completion in (pair.chosen, pair.rejected):
            ids = torch.tensor([*pair.prompt.tolist(), *completion.tolist()])
            log_probs = model(input_ids=ids[None], use_cache=False).logits[0].float().log_softmax(-1)
            start = len(pair.prompt)
            sums.append(log_probs[range(start - 1, len(ids) - 1), ids[start:]].sum())
    return torch.stack(sums).view(-1, 2)


def gradients(model, total: torch.Tensor) -> dict[str, torch.Tensor]:
    named = dict(model.named_parameters())
    found = torch.autograd.grad(total, list(named.values()), allow_unused=True)
    return {name: grad for name, grad in zip(named, found, strict=True) if grad is not None}


@pytest.mark.parametrize("kind", PACKS)
def test_log_probs_and_gradients_are_the_models_own(kind):
    model = build(kind)
    data = random_pairs(SIZES)
    batch = pack(data, range(len(data)))
    expected = own_log_prob_sums(model, data)
    expected_gradients = gradients(model, expected.mean())

    chosen = choose_scorer(model, batch, packing="on", bf16=False)
    got = chosen.scorer(batch)

    assert isinstance(chosen.scorer, PackedScorer)
    torch.testing.assert_close(got, expected, atol=5e-5, rtol=1e-5)
    for name, gradient in gradients(model, got.mean()).items():
        torch.testing.assert_close(gradient, expected_gradients[name], atol=5e-5, rtol=1e-4, msg=name)


@pytest.mark.parametrize(
    "kind",
    [
        "llama",
        "mixtral",
        *(pytest.param(kind, marks=pytest.mark.soak) for kind in PACKS if kind not in ("llama", "mixtral")),
    ],
)
def test_rounding_to_bfloat16_is_no_reason_to_pad(kind):
    for scale in (0.02, 0.3):
        batch = pack(random_pairs(SIZES), range(len(SIZES)))
        assert not choose_scorer(
            build(kind, initializer_range=scale), batch, packing="auto", bf16=True
        ).reason


def test_a_fault_that_only_the_runs_own_precision_has_is_found(monkeypatch):
    """Float32 weights under bfloat16 autocast, as full training has them: on CUDA that is another kernel's business."""
    score = PackedScorer.log_probs

    def faulty(self, batch, *more):
        if torch.is_autocast_enabled(batch.input_ids.device.type):
            # As if a completion saw its prompt elsewhere.
            batch = replace(batch, position_ids=2 * batch.position_ids)
        return score(self, batch, *more)

    monkeypatch.setattr(PackedScorer, "log_probs", faulty)
    batch = pack(random_pairs(SIZES), range(len(SIZES)))
    model = build("llama", initializer_range=0.3)
    assert isinstance(choose_scorer(model, batch, packing="on", bf16=False).scorer, PackedScorer)
    chosen = choose_scorer(model, batch, packing="auto", bf16=True)
    assert isinstance(chosen.scorer, PaddedScorer)
    assert "its packed log-probs differ in bfloat16 from the ordinary ones by" in chosen.reason


@pytest.mark.parametrize("kind", PADS)
def test_a_model_that_cannot_be_packed_is_padded_and_says_why(kind):
    model = build(kind)
    data = random_pairs(SIZES)
    batch = pack(data, range(len(data)))
    expected = own_log_prob_sums(model, data)

    chosen = choose_scorer(model, batch, packing="auto", bf16=False)

    assert isinstance(chosen.scorer, PaddedScorer)
    assert PADS[kind] in chosen.reason
    torch.testing.assert_close(chosen.scorer(batch), expected, atol=2e-4, rtol=1e-5)


@pytest.mark.parametrize("decoder", [False, True], ids=["encoder", "decoder"])
def test_a_model_that_sees_what_follows_is_refused(decoder):
    from transformers import BertConfig, BertLMHeadModel

    torch.manual_seed(0)
    size = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
    model = BertLMHeadModel(
        BertConfig(vocab_size=1000, initializer_range=0.5, is_decoder=decoder, **size)
    ).train()
    sample = pack(random_pairs([(3, 9, 5), (2, 4, 8)]), [0, 1])
    if decoder:
        choose_scorer(model, sample, packing="auto", bf16=False)
        return
    with pytest.raises(
        RunError, match=r"BertLMHeadModel is no causal language model: another last token changes"
    ):
        choose_scorer(model, sample, packing="auto", bf16=False)


def test_insisting_on_packing_is_refused_where_it_cannot_be_proven():
    batch = pack(random_pairs(SIZES), range(3))
    with pytest.raises(RunError, match=r"Mamba2ForCausalLM cannot take packed pairs(.|\n)*training.packing"):
        choose_scorer(build("mamba2"), batch, packing="on", bf16=False)


@pytest.mark.parametrize("kind", ["llama", "gemma2", "granite"])
def test_the_padded_scorer_gives_the_same_numbers(kind):
    model = build(kind)
    data = random_pairs(SIZES)
    batch = pack(data, range(len(data)))
    padded = choose_scorer(model, batch, packing="off", bf16=False).scorer
    assert isinstance(padded, PaddedScorer)
    torch.testing.assert_close(padded(batch), own_log_prob_sums(model, data), atol=5e-5, rtol=1e-5)


def test_only_scored_tokens_count():
    model = build("llama")
    data = random_pairs([(5, 6, 7)])
    data.stores[0].scored[5:8] = False
    batch = pack(data, [0])
    pair = data[0]
    ids = torch.tensor([*pair.prompt.tolist(), *pair.chosen.tolist()])
    log_probs = model(input_ids=ids[None]).logits[0].log_softmax(-1)
    got = choose_scorer(model, batch, packing="on", bf16=False).scorer(batch)
    torch.testing.assert_close(got[0, 0], log_probs[range(7, 10), ids[8:]].sum(), atol=5e-5, rtol=1e-5)
    assert batch.scored_tokens.tolist() == [[3, 7]]


def test_pairs_in_a_row_do_not_see_each_other():
    """TRAPS: packing that miscounts boundaries."""
    model = build("llama")
    alone = random_pairs(SIZES)
    scorer = choose_scorer(model, pack(alone, range(3)), packing="on", bf16=False).scorer
    together = scorer(pack(alone, [0, 1, 2]))
    for index in range(3):
        torch.testing.assert_close(scorer(pack(alone, [index]))[0], together[index], atol=2e-5, rtol=1e-5)


def test_a_policy_with_packed_attention_still_generates_as_before():
    model = build("llama").eval()
    ids = torch.tensor([[1, 7, 9, 11], [1, 30, 31, 32]])
    settings = {
        "max_new_tokens": 6,
        "do_sample": False,
        "attention_mask": torch.ones_like(ids),
        "pad_token_id": 0,
    }
    before = model.generate(ids, **settings)
    packed.install(model)
    assert model.config._attn_implementation != "sdpa"
    assert torch.equal(model.generate(ids, **settings), before)
    packed.uninstall(model)
    assert model.config._attn_implementation == "sdpa"


def test_a_model_that_ignores_its_attention_implementation_is_found_out():
    """TRAPS: a falcon-style model ignored a custom attention implementation, wrong by 0.9 nats a sequence."""
    model = build("llama")
    deaf = model.model.layers[1].self_attn
    heard = deaf.forward
    deaf.forward = lambda *args, segments=None, **kwargs: heard(*args, **kwargs)
    chosen = choose_scorer(model, pack(random_pairs(SIZES), range(3)), packing="auto", bf16=False)
    assert chosen.reason == "1 of its 2 layers call the attention that packing needs"


def test_a_wrong_mask_is_found_out(monkeypatch):
    def everything_sees_everything(query, key, value, segments, shape):
        repeats = query.shape[1] // key.shape[1]
        key, value = key.repeat_interleave(repeats, 1), value.repeat_interleave(repeats, 1)
        scores = torch.einsum("qhd,khd->hqk", query, key) * shape.scale
        return torch.einsum("hqk,khd->qhd", scores.softmax(-1), value)

    monkeypatch.setattr("dpotrain.engine.attention.blockwise.attend", everything_sees_everything)
    chosen = choose_scorer(build("llama"), pack(random_pairs(SIZES), range(3)), packing="auto", bf16=False)
    assert "differ from the ordinary ones by" in chosen.reason


@pytest.mark.parametrize("kind", ["llama", "gemma2"])
def test_bf16_autocast_packs_too(kind):
    model = build(kind, initializer_range=0.05)
    data = random_pairs(SIZES)
    batch = pack(data, range(len(data)))
    chosen = choose_scorer(model, batch, packing="on", bf16=True)
    got = chosen.scorer(batch)
    assert got.dtype == torch.float32
    torch.testing.assert_close(got, own_log_prob_sums(model, data), atol=0.5, rtol=5e-3)


def test_long_padded_sequences_are_computed_by_length_without_a_mask(monkeypatch):
    """A mask of length times length would be most of the memory of a long pair."""
    model, data = build("llama"), random_pairs([(20, 30, 14), (2, 3, 1), (19, 15, 31)])
    batch = pack(data, range(3))
    padded = PaddedScorer(model, LogitTransform(), False)
    expected = padded(batch)
    seen, forward = [], model.model.forward

    def noting(**inputs):
        seen.append(tuple(inputs["input_ids"].shape))
        assert seen[-1][1] <= 8 or inputs["attention_mask"].all()
        return forward(**inputs)

    monkeypatch.setattr(scorer, "MASKED_TOKENS", 8)
    monkeypatch.setattr(scorer, "_UNPADDED", replace(scorer._UNPADDED, limit=8))
    monkeypatch.setattr(model.model, "forward", noting)
    torch.testing.assert_close(padded(batch), expected, atol=1e-5, rtol=1e-6)
    assert sorted(seen) == [(2, 5), (2, 34), (2, 50)]
