"""``layers``: the named weights are trained, and nothing else moves; the engine keeps what the reference needs."""

import json
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file

from dpotrain import load_recipe
from dpotrain.core.errors import RecipeError, RunError, RunWarning
from dpotrain.core.reporter import SilentReporter
from dpotrain.data.batches.packing import pack
from dpotrain.data.prepare import prepare_data
from dpotrain.engine.generation import Decoding
from dpotrain.engine.memory.activations import record
from dpotrain.engine.scoring.logprobs import LogitTransform
from dpotrain.engine.scoring.scorer import PackedScorer
from dpotrain.run.answering import load_answerers
from dpotrain.run.planning.plan import make_plan
from dpotrain_plugins.layers import Layers
from tests.engine.pairs import random_pairs
from tests.run.recipes import Recording, losses, project, records, run, weights
from tests.support import dpotrain, tiny_model

LAYERS = """
[adapter]
use = "layers"
last = 1
match = ["*.layers.1.self_attn.*", "model.norm.weight"]
"""


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    path = project(tmp_path_factory.mktemp("layers"), num_hidden_layers=4)
    path.write_text(path.read_text() + LAYERS)
    return path


def attached(model, **options):
    return Layers(Layers.Options(**options)).attach(model)


def trained(model):
    return {name for name, weight in model.named_parameters() if weight.requires_grad}


def is_named(name):
    return name.startswith(("model.layers.3.", "model.layers.1.self_attn.")) or name == "model.norm.weight"


@pytest.mark.parametrize(("kind", "layers"), [("llama", "model.layers"), ("gpt2", "transformer.h")])
def test_the_last_layers_are_decoder_layers_without_norm_and_head(kind, layers):
    model = tiny_model(kind)
    assert trained(attached(model, last=1)) == {
        name for name, _ in model.named_parameters() if name.startswith(f"{layers}.1.")
    }


def test_names_are_patterns_or_regular_expressions():
    assert trained(attached(tiny_model(), match=["model.layers.*.input_layernorm.*", "lm_head.*"])) == {
        "model.layers.0.input_layernorm.weight", "model.layers.1.input_layernorm.weight", "lm_head.weight",
    }  # fmt: skip
    assert trained(attached(tiny_model(), match=[r"re:.*\.[1-9]\.mlp\.(up|down)_proj\.weight"])) == {
        "model.layers.1.mlp.up_proj.weight", "model.layers.1.mlp.down_proj.weight",
    }  # fmt: skip


def test_more_layers_than_there_are():
    with pytest.raises(RunError) as caught:
        attached(tiny_model(), last=3)
    assert str(caught.value) == (
        "adapter.last = 3, but LlamaForCausalLM has 2 decoder layers.\n"
        "Set a number up to 2, or leave out [adapter] to train all weights"
    )


def test_a_pattern_that_matches_nothing_shows_the_names():
    with pytest.raises(RunError) as caught:
        attached(tiny_model(), match=["model.layers.*.mlp.up.weight"])
    first, second = str(caught.value).splitlines()
    assert first == (
        'adapter.match: "model.layers.*.mlp.up.weight" matches no weight of LlamaForCausalLM; did you mean '
        '"model.layers.*.mlp.up_proj.weight"?'
    )
    assert second.startswith(
        "its weights are model.embed_tokens.weight, model.layers.*.self_attn.q_proj.weight, "
    )
    assert second.endswith("model.norm.weight, lm_head.weight")


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["adapter.last=false", "adapter.match=[]"], "nothing would be trained: set last, match or both"),
        (['adapter.match=["re:("]'], '"re:(" is not a regular expression: missing )'),
        (
            ['quantizer.use="bnb-4bit"'],
            'bnb-4bit weights cannot be trained themselves, and the "layers" adapter trains weights of the model\n'
            "either remove [quantizer] (quantizer = false), or take an adapter that trains beside them: "
            'adapter.use = "lora"',
        ),
        (
            ['exporters=[{use="merge"}]'],
            'final/ of the "layers" adapter is a whole model already; leave merge out',
        ),
    ],
)
def test_what_a_recipe_says_that_cannot_be(recipe, overrides, said):
    with pytest.raises(RecipeError) as caught:
        load_recipe(recipe, overrides)
    assert said in str(caught.value).replace("\n    ", "\n").replace("\n  ", "\n")


def test_quantized_weights_are_refused_by_name():
    model = tiny_model()
    packed = torch.nn.Parameter(torch.zeros(8, 1, dtype=torch.uint8), requires_grad=False)
    model.model.layers[1].mlp.up_proj.weight = packed
    with pytest.raises(RunError, match=r"would train model\.layers\.1\.mlp\.up_proj\.weight, and quantized"):
        attached(model, last=1)


def test_training_a_tied_head_says_that_it_trains_the_embedding():
    model = tiny_model(tie_word_embeddings=True)
    with pytest.warns(RunWarning, match=r"training lm_head\.weight trains model\.embed_tokens\.weight, too"):
        attached(model, match=["lm_head.*"])
    assert trained(model) == {"model.embed_tokens.weight"}


def test_only_the_named_weights_move_and_no_other_changes_by_a_bit(recipe, tmp_path):
    reporter = Recording()
    outcome = run(recipe, into=tmp_path / "run", reporter=reporter)
    before = load_file(recipe.parent / "model" / "model.safetensors")
    after = load_file(outcome.final / "model.safetensors")
    assert before.keys() == after.keys()
    assert {name for name in before if not before[name].equal(after[name])} == set(filter(is_named, before))
    numbers = {name: tensor.numel() for name, tensor in before.items()}
    moved = sum(number for name, number in numbers.items() if is_named(name))
    assert reporter.facts["training"] == f"layers: {moved:,} of {sum(numbers.values()):,} parameters"
    assert losses(tmp_path / "run")[-1] < losses(tmp_path / "run")[0]
    (checkpoint,) = (tmp_path / "run" / "checkpoints").iterdir()
    assert load_file(checkpoint / "trained.safetensors").keys() == set(filter(is_named, before))
    assert 'library_name: "transformers"' in (outcome.final / "README.md").read_text()
    assert 'AutoModelForCausalLM.from_pretrained("final")' in (outcome.final / "README.md").read_text()


def test_a_run_imports_no_peft(recipe, tmp_path):
    script = (
        "import sys\nfrom dpotrain import load_recipe, train\n"
        "train(load_recipe(sys.argv[1], ['training.steps=1', f'run.output_dir={sys.argv[2]!r}']))\n"
        "print('peft' in sys.modules)"
    )
    command = [sys.executable, "-c", script, str(recipe), str(tmp_path / "run")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "False"


@pytest.mark.parametrize("precision", ["bf16", pytest.param("fp32", marks=pytest.mark.soak)])
def test_16_bit_weights_are_trained_in_float32_and_saved_as_they_were_loaded(
    recipe, precision, tmp_path, processor
):
    """Beside trained float32 weights and without autocast, frozen 16-bit ones would have products of two dtypes."""
    processor("with bfloat16")
    overrides = ['model.dtype="bfloat16"', f'training.precision="{precision}"', "optimizer.lr=5e-3"]
    outcome = run(recipe, *overrides, into=tmp_path / "run")
    (checkpoint,) = (tmp_path / "run" / "checkpoints").iterdir()
    kept = load_file(checkpoint / "trained.safetensors")
    assert {tensor.dtype for tensor in kept.values()} == {torch.float32}
    before = load_file(recipe.parent / "model" / "model.safetensors")
    after = load_file(outcome.final / "model.safetensors")
    assert {tensor.dtype for tensor in after.values()} == {torch.bfloat16}
    for name, tensor in after.items():
        assert tensor.equal((kept if is_named(name) else before)[name].bfloat16())


def test_the_reference_is_the_same_live_and_precomputed_and_needs_a_copy_only_live(recipe, tmp_path):
    for when in ("live", "auto"):
        run(recipe, f'reference.when="{when}"', into=tmp_path / when)
    assert losses(tmp_path / "auto") == pytest.approx(losses(tmp_path / "live"), abs=1e-6)
    plans = {}
    for when in ("live", "auto"):
        loaded = load_recipe(recipe, [f'reference.when="{when}"', "training.epochs=1"])
        data = prepare_data(loaded, loaded.model.load_tokenizer(), SilentReporter())
        plans[when] = make_plan(loaded, data)
    assert plans["live"].parts["reference model"] == 4 * plans["live"].trained_parameters
    assert "reference model" not in plans["auto"].parts
    whole = 4 * plans["auto"].parameters
    assert whole <= plans["auto"].disk["final"] < 1.01 * whole
    assert not [remedy for remedy in plans["auto"].remedies if "adapter" in remedy.what]


def test_a_moving_reference_moves_with_the_trained_weights(recipe, tmp_path):
    run(recipe, "reference.update={every=2, share=0.5}", into=tmp_path / "run")
    (checkpoint,) = (tmp_path / "run" / "checkpoints").iterdir()
    moved, policy = (load_file(checkpoint / f"{name}.safetensors") for name in ("reference", "trained"))
    assert moved.keys() == policy.keys()
    assert any(not moved[name].equal(policy[name]) for name in moved)


def test_layers_before_the_first_trained_one_keep_nothing():
    model = attached(tiny_model(num_hidden_layers=4).train(), last=2)
    scorer = PackedScorer(model, LogitTransform(), False)
    kept = record(model, pack(random_pairs([(3, 9, 5), (2, 4, 8)]), [0, 1]), scorer)
    assert (
        [bool(size) for size in kept.layers]
        == [bool(size) for size in kept.inputs]
        == [False, False, True, True]
    )


def test_with_checkpointed_layers_the_same_is_trained(recipe, tmp_path):
    """TRAPS: checkpointing without input gradients on a frozen embedding: nothing is trained."""
    results = [
        run(recipe, f"training.activation_checkpointing={wanted}", into=tmp_path / wanted)
        for wanted in ("true", "false")
    ]
    assert weights(results[0].final) == weights(results[1].final)


def test_chat_compares_a_checkpoint_with_the_model_before_training(recipe, tmp_path):
    run(recipe, "optimizer.lr=0.05", into=tmp_path / "run")
    loaded = load_answerers(tmp_path / "run", SilentReporter(), checkpoint="last", compare=True)
    answers = []
    for answerer in (loaded.trained, loaded.untrained):
        written = []
        answerer.answer("the quick", Decoding(max_tokens=12, temperature=0.0), written.append)
        answers.append("".join(written))
        before = load_file(recipe.parent / "model" / "model.safetensors")
        same = answerer.policy.model.layers[3].mlp.up_proj.weight.equal(
            before["model.layers.3.mlp.up_proj.weight"]
        )
        assert same == (answerer is loaded.untrained)
    assert answers[0] != answers[1]


def test_a_model_with_an_adapter_arrives_with_it_merged(recipe, tmp_path):
    overrides = ["adapter=false", 'adapter={use="lora", rank=4}', "optimizer.lr=1e-2"]
    sft = run(recipe, *overrides, into=tmp_path / "first").final
    outcome = run(recipe, f"model.name={str(sft)!r}", into=tmp_path / "run")
    assert (outcome.final / "model.safetensors").exists()
    begun = records(tmp_path / "run", "eval")[0]["logps/chosen"]
    assert begun == pytest.approx(records(tmp_path / "first", "eval")[-1]["logps/chosen"], abs=1e-3)


def test_check_reports_a_pattern_before_any_weights_are_loaded(recipe):
    done = dpotrain("check", str(recipe), "--set", 'adapter.match=["nothing.*"]')
    assert done.exit_code == 1
    assert 'adapter.match: "nothing.*" matches no weight of LlamaForCausalLM' in done.output
    assert json.dumps("layers") not in done.output
