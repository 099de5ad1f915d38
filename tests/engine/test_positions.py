"""Models that read positions from a table: what is longer is refused before the first step, by name and row."""

import pytest
import torch

from dpotrain.core.errors import RunError
from dpotrain.engine.scoring.positions import table_positions
from tests.run.recipes import Recording, project, run
from tests.support import dpotrain, tiny_model

POSITIONS = 40
_SIZE = {"vocab_size": 64, "pad_token_id": 1, "bos_token_id": 2, "eos_token_id": 3}
_BERT = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "is_decoder": True,
}
#: A table of positions in every form: from row 0, behind rows for padding, as sines, in a buffer, and made anew.
MODELS = {
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": POSITIONS},
    "gpt_neo": {
        "hidden_size": 32, "num_layers": 2, "num_heads": 4, "max_position_embeddings": POSITIONS,
        "attention_types": [[["global", "local"], 1]],
    },
    "opt": {
        "hidden_size": 32, "word_embed_proj_dim": 32, "ffn_dim": 64, "num_hidden_layers": 2,
        "num_attention_heads": 4, "max_position_embeddings": POSITIONS,
    },
    "roberta": {**_BERT, "max_position_embeddings": POSITIONS},
    "bert": {**_BERT, "max_position_embeddings": POSITIONS},
    "marian": {
        "d_model": 32, "decoder_layers": 2, "decoder_attention_heads": 4, "decoder_ffn_dim": 64,
        "max_position_embeddings": POSITIONS, "is_decoder": True,
    },
    "gptj": {"n_embd": 32, "n_layer": 2, "n_head": 4, "rotary_dim": 4, "n_positions": POSITIONS},
    "ctrl": {"n_embd": 32, "dff": 64, "n_layer": 2, "n_head": 4, "n_positions": POSITIONS},
    "mpt": {"d_model": 32, "n_layers": 2, "n_heads": 4, "max_seq_len": POSITIONS},
}  # fmt: skip


@pytest.mark.parametrize("kind", MODELS)
def test_the_number_is_the_longest_sequence_that_the_model_takes(kind):
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.for_model(kind, **_SIZE, **MODELS[kind])
    with torch.device("meta"):
        found = table_positions(AutoModelForCausalLM.from_config(config))
    model = AutoModelForCausalLM.from_config(config).eval()
    assert table_positions(model) == found == {"roberta": POSITIONS - 2}.get(kind, POSITIONS)
    ids = torch.randint(4, 60, (1, found + 1))
    with torch.no_grad():
        model(input_ids=ids[:, :found])
        with pytest.raises((IndexError, RuntimeError)):
            model(input_ids=ids)


@pytest.mark.parametrize("kind", ["llama", "gemma3", "bloom", "mamba2"])
def test_others_have_no_table(kind):
    assert table_positions(tiny_model(kind)) is None


def about_lengths(reporter: Recording) -> list[str]:
    return [text for text in reporter.warnings if "the policy" in text]


def gpt2(folder, **options):
    return project(folder, adapter=True, kind="gpt2", n_positions=POSITIONS, **options)


@pytest.mark.parametrize("where", ["train", "eval", "reference"])
def test_a_longer_pair_is_refused_before_the_first_step(where, tmp_path):
    recipe = gpt2(tmp_path)
    reporter, rows = Recording(), (tmp_path / "pairs.jsonl").read_text().splitlines()
    long = '{"prompt": "a b", "chosen": " fox", "rejected": "' + " fox" * 30 + '"}'
    short = [row for row in rows if len(row) < 120]
    (tmp_path / "train.jsonl").write_text("\n".join([*short, long][: len(short) + (where == "train")]))
    (tmp_path / "eval.jsonl").write_text("\n".join([short[0], long][: 1 + (where == "eval")]))
    files = f'{{ train = "{tmp_path}/train.jsonl", test = "{tmp_path}/eval.jsonl" }}'
    data = [f"data.name={files}", "data.eval_fraction=false", "data.eval_split=test", "data.max_length=512"]
    if where == "reference":
        tiny_model("gpt2", n_positions=8).save_pretrained(tmp_path / "smaller")
        data.append(f"reference.of={str(tmp_path / 'smaller')!r}")
    with pytest.raises(RunError) as caught:
        run(recipe, *data, into=tmp_path / "run", reporter=reporter)
    text = str(caught.value)
    if where == "reference":
        assert "the reference has 8 positions" in text
        return
    row = len(short) if where == "train" else 1
    assert f"the policy has {POSITIONS} positions, and data.max_length = 512 leaves sequences" in text
    assert f"in 1 of {len(short) + 2} pairs (row {row} has " in text
    assert f"--set data.max_length={POSITIONS}" in text
    assert not (tmp_path / "run" / "metrics.jsonl").exists()
    for command in ("check", "plan"):
        result = dpotrain(command, str(recipe), *[word for override in data for word in ("--set", override)])
        assert result.exit_code != 0
        assert f"the policy has {POSITIONS} positions" in result.stderr
    run(recipe, *data, f"data.max_length={POSITIONS}", into=tmp_path / "cut", reporter=reporter)


@pytest.mark.parametrize("command", ["check", "plan"])
def test_a_reference_that_the_run_would_refuse_is_refused_before_it(command, tmp_path):
    recipe = gpt2(tmp_path)
    tiny_model("gpt2", n_positions=8).save_pretrained(tmp_path / "smaller")
    overrides = [f"reference.of={str(tmp_path / 'smaller')!r}", f"data.max_length={POSITIONS}"]
    result = dpotrain(command, str(recipe), *[word for override in overrides for word in ("--set", override)])
    assert result.exit_code == 1
    assert "the reference has 8 positions" in result.stderr


def test_shorter_data_is_trained_on_whatever_max_length_is(tmp_path):
    recipe = project(tmp_path, adapter=True, kind="gpt2", n_positions=96)
    reporter = Recording()
    outcome = run(recipe, "data.max_length=4096", into=tmp_path / "run", reporter=reporter)
    assert outcome.status == "finished"
    assert not about_lengths(reporter)


def test_beyond_what_a_rotary_model_is_made_for_is_a_warning(tmp_path):
    told = []
    for rope_type in ("linear", "dynamic"):
        scaling = {"rope_type": rope_type, "rope_theta": 1e4, "factor": 4.0}
        (tmp_path / rope_type).mkdir()
        recipe = project(
            tmp_path / rope_type,
            adapter=True,
            kind="llama",
            max_position_embeddings=16,
            rope_parameters=scaling,
        )
        reporter = Recording()
        assert run(recipe, into=tmp_path / rope_type / "run", reporter=reporter).status == "finished"
        told.append(about_lengths(reporter))
    (told,), (about_packing,) = told
    # Dynamic NTK is made for longer sequences.
    assert "padded instead of packed" in about_packing
    assert "the policy is made for 16 tokens (max_position_embeddings), and the longest sequence has" in told
