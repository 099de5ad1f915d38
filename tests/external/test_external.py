"""The packages that were written for version 1 of the plugin interface, and still import from its addresses."""

import json
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from tests.environments import run
from tests.external.packages import HERE, dpotrain
from tests.run.recipes import records

NAMES = ("simpo", "sqlite", "tally")

#: Prints the fingerprint of the table as the source has it.
FINGERPRINT = """
from dpotrain_sqlite import Sqlite
print(Sqlite(Sqlite.Options(file="votes.db")).load("votes").fingerprint)
"""


#: Prints what the source says of files that are missing or something else.
NO_DATABASES = """
from dpotrain.core.errors import DataError
from dpotrain_sqlite import Sqlite
for file in ("vote.db", "votes.sql"):
    try:
        Sqlite(Sqlite.Options(file=file)).load("votes")
    except DataError as error:
        print(error)
"""


@pytest.mark.parametrize("name", NAMES)
def test_each_is_a_module_of_80_lines_at_most(name):
    (module,) = (HERE / f"dpotrain-{name}").rglob("*.py")
    assert len(module.read_text().splitlines()) <= 80


def test_each_is_listed_with_its_distribution_and_version(packages, python):
    # A process of its own: addresses are noted as a plugin is imported, and the server has imported it already.
    listed = {info["name"]: info for info in json.loads(run(python, "-m", "dpotrain", "plugins", "--json"))}
    for name in NAMES:
        info = listed[name]
        assert (info["status"], info["reason"]) == ("unused", "")
        (note,) = info["notes"]  # they are written against the addresses of dpotrain 0.1
        assert note.startswith("deprecated imports: dpotrain.")
        assert note.endswith("; import from dpotrain.plugin.api")
        assert (info["distribution"], info["version"]) == (f"dpotrain-{name}", "0.1.0")
        assert Path(info["file"]).is_relative_to(Path(python).parent.parent)
    assert listed["simpo"]["offers"] == {"loss": ["my-simpo"], "metric": ["per-token"]}
    assert listed["sqlite"]["offers"] == {"dataset source": ["sqlite"], "dataset formatter": ["votes"]}
    assert listed["tally"]["offers"] == {"logger": ["tally"]}


@pytest.mark.parametrize(
    ("name", "line", "misspelt", "said"),
    [
        ("simpo", "gamma = 0.5", "gama = 0.5", 'my-simpo (dpotrain-simpo 0.1.0) has no option "gama"'),
        (
            "sqlite",
            'file = "votes.db"',
            'fle = "votes.db"',
            'sqlite (dpotrain-sqlite 0.1.0) has no option "fle"',
        ),
        ("tally", 'best_of = "eval"', 'best = "eval"', 'tally (dpotrain-tally 0.1.0) has no option "best"'),
    ],
)
def test_a_misspelt_option_is_answered_with_the_package_that_owns_it(
    packages, installed, name, line, misspelt, said
):
    recipe = (packages[name] / "recipe.toml").read_text()
    assert line in recipe
    (packages[name] / "misspelt.toml").write_text(recipe.replace(line, misspelt))
    assert said in dpotrain(installed, "check", "misspelt.toml", folder=packages[name], code=2)


def log_prob_per_token(model, tokenizer, prompt: str, answer: str) -> float:
    """By an ordinary forward pass of transformers: the mean over the answer's tokens and the EOS."""
    import torch

    start = tokenizer(prompt)["input_ids"]
    scored = [*tokenizer(answer, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
    with torch.no_grad():
        logits = model(torch.tensor([start + scored])).logits[0, len(start) - 1 : -1]
    return logits.log_softmax(-1)[range(len(scored)), scored].mean().item()


def test_simpo_trains_and_its_metric_is_what_transformers_computes(packages, installed):
    from math import exp, log1p

    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = packages["simpo"]
    dpotrain(installed, "run", "recipe.toml", folder=folder)
    evaluations, trained = (records(folder / "runs" / "simpo", kind) for kind in ("eval", "train"))
    tokenizer = AutoTokenizer.from_pretrained(folder / "model")
    rows = [json.loads(line) for line in (folder / "held-out.jsonl").read_text().splitlines()]
    for record, place in ((evaluations[0], "model"), (evaluations[-1], "runs/simpo/final")):
        model = AutoModelForCausalLM.from_pretrained(folder / place).eval()
        margins = [
            log_prob_per_token(model, tokenizer, row["prompt"], row["chosen"])
            - log_prob_per_token(model, tokenizer, row["prompt"], row["rejected"])
            for row in rows
        ]
        losses = [log1p(exp(0.5 - 2 * margin)) for margin in margins]
        assert record["simpo/margins"] == pytest.approx(sum(margins) / len(rows), abs=1e-4)
        assert record["simpo/accuracies"] == sum(margin > 0 for margin in margins) / len(rows)
        assert record["loss"] == pytest.approx(sum(losses) / len(rows), abs=1e-4)
    assert evaluations[-1]["loss"] < evaluations[0]["loss"] - 0.01
    assert all("simpo/margins" in record for record in trained)


def test_votes_in_a_database_become_pairs_and_ties_are_counted(packages, installed):
    folder = packages["sqlite"]
    dpotrain(installed, "run", "recipe.toml", folder=folder)
    summary = json.loads((folder / "runs" / "sqlite" / "summary.json").read_text())
    assert summary["status"] == "finished"
    report = json.loads((folder / "runs" / "sqlite" / "data_report.json").read_text())
    assert "vote is neither a nor b" in json.dumps(report)


def test_a_source_of_a_package_is_one_of_several(packages, installed):
    """The package has no line for it: sources know nothing of mixtures."""
    folder = packages["sqlite"]
    own = 'use = "sqlite"\nfile = "votes.db"\ntrain_split = "votes"\nformat = "votes"\n'
    text = (folder / "recipe.toml").read_text()
    assert own in text
    other = 'use = "hf-datasets"\nname = "pairs.jsonl"\nformat = "standard"\nweight = 2.0\n'
    votes = own.replace("train_split", "split") + 'label = "votes"\nweight = 1.0\n'
    sources = f"[[data.sources]]\n{other}[[data.sources]]\n{votes}"
    (folder / "mixed.toml").write_text(text.replace(own, "") + sources)
    sets = ["run.output_dir='runs/mixed'", "training.steps=3", "evaluation.every=3"]
    dpotrain(
        installed, "run", "mixed.toml", *(word for each in sets for word in ("--set", each)), folder=folder
    )
    run_folder = folder / "runs" / "mixed"
    mixture = json.loads((run_folder / "data_report.json").read_text())["mixture"]
    assert mixture["votes"]["of_an_epoch"] == mixture["pairs"]["pairs"] // 2 > 0
    assert {"votes/loss", "pairs/loss"} <= records(run_folder, "eval")[-1].keys()


def test_the_fingerprint_changes_with_a_row(packages, python, tmp_path):
    shutil.copy(packages["sqlite"] / "votes.db", tmp_path)
    before = run(python, "-c", FINGERPRINT, cwd=tmp_path)
    assert run(python, "-c", FINGERPRINT, cwd=tmp_path) == before
    with closing(sqlite3.connect(tmp_path / "votes.db")) as database, database:
        database.execute("UPDATE votes SET vote = 'b' WHERE rowid = 1")
    assert run(python, "-c", FINGERPRINT, cwd=tmp_path) != before


def test_a_table_that_is_not_there_is_a_data_error(packages, installed):
    words = ["check", "recipe.toml", "--set", "data.train_split='vote'"]
    said = dpotrain(installed, *words, folder=packages["sqlite"], code=3)
    assert 'votes.db has no table "vote"; it has votes.' in said


def test_a_file_that_is_no_database_is_a_data_error(packages, python):
    """Nor is one that is missing made, as SQLite would by itself."""
    said = run(python, "-c", NO_DATABASES, cwd=packages["sqlite"])
    assert "data.file: vote.db: unable to open database file" in said
    assert "data.file: votes.sql: file is not a database" in said
    assert not (packages["sqlite"] / "vote.db").exists()


def test_a_tally_counts_over_a_stop(packages, installed):
    """Stopped by SIGTERM in the middle and resumed, it ends as in a run that nobody stopped."""
    folder = packages["tally"]
    dpotrain(installed, "run", "recipe.toml", folder=folder)
    whole = json.loads((folder / "runs" / "tally" / "tally.json").read_text())

    stopped = folder / "runs" / "stopped"
    words = ["run", "recipe.toml", "--set", "run.output_dir='runs/stopped'"]
    assert installed.dpotrain(*words, folder=folder, acts=[["signal_after", 2, "SIGTERM"]]).code == 75
    partly = json.loads((stopped / "tally.json").read_text())
    assert 0 < partly["records"]["train"] < whole["records"]["train"]

    dpotrain(installed, *words, "--resume", folder=folder)
    assert json.loads((stopped / "tally.json").read_text()) == whole
    evaluations = records(stopped, "eval")
    assert whole["records"] == {"train": len(records(stopped, "train")), "eval": len(evaluations)}
    best = min(evaluations, key=lambda record: record["loss"])
    assert whole["best"] == {"step": best["step"], "loss": best["loss"]}
