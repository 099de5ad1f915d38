"""The script that made the shipped model still makes one, and it is that script that made it."""

import json
import sys

import torch

from dpotrain_plugins.demo import pretrain
from dpotrain_plugins.demo.loader import MODEL_FOLDER


def test_the_script_writes_a_model_that_loads_and_reports_its_measure(tmp_path, monkeypatch, capsys):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    out = tmp_path / "model"
    small = ["--steps", "3", "--requests-per-step", "4", "--samples", "4", "--threads", "1"]
    monkeypatch.setattr(sys, "argv", ["pretrain", "--out", str(out), *small])
    pretrain.main()
    said = capsys.readouterr().out
    assert "step 3/3  loss" in said
    assert "courteous " in said.splitlines()[-1]
    assert {file.name for file in out.iterdir()} == {file.name for file in MODEL_FOLDER.iterdir()}
    assert sum(file.stat().st_size for file in out.iterdir()) <= 2 * 1024**2
    model = AutoModelForCausalLM.from_pretrained(out)
    tokenizer = AutoTokenizer.from_pretrained(out)
    assert model(**tokenizer("Nine.", return_tensors="pt")).logits.isfinite().all()


def test_the_shipped_tokenizer_and_architecture_are_the_scripts():
    """A grammar or script that has moved on without a new model fails here: run the script again."""
    tokenizer = pretrain.build_tokenizer(seed=0)
    shipped = json.loads((MODEL_FOLDER / "tokenizer.json").read_text("utf-8"))
    vocabulary = shipped["model"]["vocab"]
    assert tokenizer.get_vocab() == vocabulary | {t["content"]: t["id"] for t in shipped["added_tokens"]}
    assert (MODEL_FOLDER / "chat_template.jinja").read_text("utf-8") == pretrain.CHAT_TEMPLATE
    config = json.loads((MODEL_FOLDER / "config.json").read_text("utf-8"))
    made = json.loads(pretrain.build_model(tokenizer).config.to_json_string(use_diff=False))
    sizes = [name for name in config if name.endswith(("_size", "_layers", "_heads", "_token_id"))]
    assert len(sizes) >= 8
    assert {name: config[name] for name in sizes} == {name: made[name] for name in sizes}


def test_the_same_seed_gives_the_same_weights():
    tokenizer = pretrain.build_tokenizer(seed=0)

    def made(seed: int) -> list[torch.Tensor]:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = pretrain.build_model(tokenizer)
        pretrain.train(model, tokenizer, steps=3, requests_per_step=2, peak_lr=1e-2, seed=seed)
        return list(model.parameters())

    first, second, other = made(0), made(0), made(1)
    assert all(map(torch.equal, first, second))
    assert not all(map(torch.equal, first, other))
