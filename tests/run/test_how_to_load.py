"""What the summary says of loading the result works as it is printed, and the result has a card that says it too."""

import json
import re
import subprocess
import sys
import tomllib

import pytest

from dpotrain.run.how_to_load import how_to_load, loading_code
from tests.run.recipes import project, run

CHAT = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}</s>{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def run_as_printed(code, folder):
    """Run a script where nothing of this process is known, and return what it prints."""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(
    scope="module",
    params=[
        "lora",
        *(pytest.param(way, marks=pytest.mark.soak) for way in ("merged", "all weights")),
    ],
)
def finished(request, tmp_path_factory):
    """The outcome of a run, with a folder whose name is awkward."""
    recipe = project(tmp_path_factory.mktemp("a 'result'"), adapter=request.param != "all weights")
    merge = ["adapter.merge=true"] if request.param == "merged" else []
    template = [f"model.chat_template={json.dumps(CHAT)}"] if request.param == "lora" else []
    return run(recipe, "training.steps=2", *merge, *template)


def test_it_loads_and_answers_as_printed(finished, tmp_path):
    assert str(finished.final) in finished.how_to_load
    assert run_as_printed(finished.how_to_load, tmp_path), "something is answered"
    assert "apply_chat_template" in finished.how_to_load  # the tokenizer has a template


def test_the_result_has_a_card_in_place_of_the_form_that_peft_leaves(finished):
    from huggingface_hub import ModelCard

    card = ModelCard.load(finished.final / "README.md")
    adapter = (finished.final / "adapter_config.json").exists()
    assert card.data.library_name == ("peft" if adapter else "transformers")
    assert "dpo" in card.data.tags
    assert "More Information Needed" not in card.text
    evaluation = finished.last_evaluation
    assert f"{evaluation['loss']:.4f} |" in card.text
    assert re.search(r"95 % interval after training is \d+\.\d to \d+\.\d %", card.text)
    assert "| `loss.beta` | 0.1 |" in card.text
    assert "| `optimizer.lr` | 0.001 |" in card.text
    recipe = tomllib.loads(card.text.partition("```toml\n")[2].partition("```")[0])
    assert recipe["training"]["steps"] == 2


def test_the_card_names_no_place_of_this_machine(finished):
    text = (finished.final / "README.md").read_text()
    assert str(finished.folder.parent) not in text
    assert '"final"' in text


def test_the_code_of_the_card_runs_beside_the_result(finished, tmp_path):
    """Where the base is a folder, the card has its name alone; here both are in one place."""
    code = (finished.final / "README.md").read_text().partition("```python\n")[2].partition("\n```")[0]
    (tmp_path / "final").symlink_to(finished.final)
    (tmp_path / "model").symlink_to(finished.folder.parent / "model")
    assert run_as_printed(code, tmp_path)


def test_an_adapter_may_say_it_in_an_expression():
    assert loading_code('AutoModelForCausalLM.from_pretrained("x")') == (
        "from transformers import AutoModelForCausalLM, AutoTokenizer\n\n"
        'model = AutoModelForCausalLM.from_pretrained("x")'
    )


def test_imports_come_first():
    code = loading_code("from peft import PeftModel\nmodel = PeftModel()\nmodel.eval()").splitlines()
    assert code[1:3] == ["from peft import PeftModel", ""]
    assert code[3:] == ["model = PeftModel()", "model.eval()"]


def test_a_model_without_a_template_continues_a_text(tmp_path):
    assert 'tokenizer("Once upon a time"' in how_to_load("f()", tmp_path, None)
