"""What is saved after the last step is tried before the first, and nothing beside the weights stops it."""

import json
from pathlib import Path

import pytest
from transformers import AutoModelForCausalLM, GenerationConfig, LlamaConfig, PreTrainedTokenizerFast

from dpotrain.core.errors import RunError
from dpotrain.core.saving import save_model
from tests.run.recipes import LORA, RECIPE, Recording, project, run
from tests.support import tiny_model

#: As Llama 2's first one: it is loaded, and some versions of transformers do not save it.
CONTRADICTORY = {
    "do_sample": False,
    "temperature": 0.9,
    "top_p": 0.6,
    "eos_token_id": [3, 1],
    "pad_token_id": 0,
}


@pytest.fixture
def recipe(tmp_path):
    path = project(tmp_path)
    (tmp_path / "model/generation_config.json").write_text(json.dumps(CONTRADICTORY))
    return path


@pytest.fixture
def strict(monkeypatch):
    """transformers before 5.23: what contradicts itself is not saved, changed or not."""
    save = GenerationConfig.save_pretrained

    def refuse(self, *args, **kwargs):
        self.validate(strict=True)
        save(self, *args, **kwargs)

    monkeypatch.setattr(GenerationConfig, "save_pretrained", refuse)
    with pytest.raises(ValueError, match="temperature"):
        GenerationConfig(**CONTRADICTORY).save_pretrained("anywhere")


WAYS = {
    "all weights": ("", "final"),
    "merged": (LORA + "merge = true\n", "final"),
    "merge exporter": (LORA + '[[exporters]]\nuse = "merge"\n', "merged"),
}


@pytest.mark.usefixtures("strict")
@pytest.mark.parametrize("way", WAYS)
def test_a_generation_config_that_contradicts_itself_is_saved_as_it_was_loaded(recipe, way):
    tables, place = WAYS[way]
    recipe.write_text(RECIPE.format(folder=recipe.parent) + tables)
    outcome = run(recipe, "training.steps=1", into=recipe.parent / "run")
    assert outcome.status == "finished"
    saved = json.loads((recipe.parent / "run" / place / "generation_config.json").read_text())
    assert {key: saved[key] for key in CONTRADICTORY} == CONTRADICTORY
    model = AutoModelForCausalLM.from_pretrained(recipe.parent / "run" / place)
    assert model.generation_config.eos_token_id == [3, 1]


def test_a_sound_model_is_saved_as_transformers_saves_it(tmp_path):
    model = tiny_model()
    model.generation_config.temperature, model.generation_config.do_sample = 0.5, True
    model.save_pretrained(tmp_path / "theirs")
    save_model(model, tmp_path / "ours")
    theirs, ours = (
        {file.name: file.read_bytes() for file in (tmp_path / name).iterdir()} for name in ("theirs", "ours")
    )
    assert ours == theirs
    assert model.generation_config.temperature == 0.5
    save_model(model, tmp_path / "configurations", weights={})
    assert {file.name for file in (tmp_path / "configurations").iterdir()} == {
        "config.json",
        "generation_config.json",
    }


def cannot(*args, **kwargs):
    raise ValueError("it holds a set")


@pytest.mark.parametrize(
    ("broken", "tables", "named"),
    [
        (PreTrainedTokenizerFast, "", "the tokenizer cannot be saved"),
        (LlamaConfig, "", r"the model's configuration \(config.json"),
        (LlamaConfig, LORA + "merge = true\n", r"the model's configuration \(config.json"),
        ("peft.LoraConfig", LORA, r"adapter_config.json\) cannot be saved"),
    ],
    ids=["tokenizer", "config", "config of the merged model", "adapter"],
)
def test_what_cannot_be_saved_ends_the_run_before_its_first_step(recipe, monkeypatch, broken, tables, named):
    import peft

    recipe.write_text(RECIPE.format(folder=recipe.parent) + tables)
    owner = peft.LoraConfig if isinstance(broken, str) else broken
    monkeypatch.setattr(owner, "save_pretrained", cannot)
    with pytest.raises(
        RunError, match=rf"{named}.*after its last step: .*ValueError: it holds a set"
    ) as error:
        run(recipe, into=recipe.parent / "run")
    assert str(recipe.parent / "model") in str(error.value)
    assert not (recipe.parent / "run/metrics.jsonl").exists()


def test_an_adapter_alone_does_not_need_what_it_does_not_save(recipe, monkeypatch):
    recipe.write_text(RECIPE.format(folder=recipe.parent) + LORA)
    monkeypatch.setattr(LlamaConfig, "save_pretrained", cannot)
    assert run(recipe, "training.steps=1", into=recipe.parent / "run").status == "finished"


def test_a_tokenizer_that_fails_in_the_end_does_not_take_the_weights_with_it(recipe, monkeypatch):
    calls, save = [], PreTrainedTokenizerFast.save_pretrained

    def once(self, folder, **kwargs):
        calls.append(folder)
        return save(self, folder, **kwargs) if len(calls) == 1 else cannot()

    monkeypatch.setattr(PreTrainedTokenizerFast, "save_pretrained", once)
    reporter = Recording()
    outcome = run(recipe, "training.steps=1", into=recipe.parent / "run", reporter=reporter)
    assert outcome.status == "finished"
    AutoModelForCausalLM.from_pretrained(outcome.final)
    (text,) = [text for text in reporter.warnings if "tokenizer" in text]
    assert "final/ holds the weights alone: ValueError: it holds a set" in text


def test_the_rehearsal_leaves_nothing_behind(recipe, tmp_path, monkeypatch):
    place = tmp_path / "temporary"
    place.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(place))
    run(recipe, "training.steps=1", into=recipe.parent / "run")
    assert list(place.iterdir()) == []


def test_a_full_disk_for_temporary_files_does_not_end_the_run(recipe, monkeypatch):
    save = PreTrainedTokenizerFast.save_pretrained

    def full(self, folder, **kwargs):
        if "run" not in Path(folder).parts:
            raise OSError(28, "No space left on device")
        return save(self, folder, **kwargs)

    monkeypatch.setattr(PreTrainedTokenizerFast, "save_pretrained", full)
    monkeypatch.setattr("tempfile.tempdir", str(recipe.parent))
    assert run(recipe, "training.steps=1", into=recipe.parent / "run").status == "finished"
