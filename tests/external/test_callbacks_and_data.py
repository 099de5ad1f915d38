"""Early stopping, samples, a mixture of sources, and a margin from a column, with one and with two processes."""

import json
from pathlib import Path

import pytest

from tests.environments import run
from tests.external.packages import HERE, dpotrain, lines
from tests.plugin.fakes import install
from tests.run.recipes import losses, records

NAMES = ("answers", "mixture", "offset", "patience")

#: Appends every text that it is given to a file of the run folder.
HEARING = """
import json
from dpotrain import hookimpl
from dpotrain.plugin.api import Logger


class Hearing(Logger):
    name = "hearing"

    def start(self, run):
        self.file = run.folder / "heard.jsonl"

    def log(self, record):
        pass

    def log_text(self, record):
        with self.file.open("a") as file:
            file.write(json.dumps(record.as_json()) + "\\n")

    def finish(self, outcome):
        pass


@hookimpl
def dpotrain_loggers():
    return [Hearing]
"""

#: A source of rows that needs a secret.
VAULT = """
from pydantic import Field, SecretStr
from dpotrain import hookimpl
from dpotrain.plugin.api import DatasetSource
from dpotrain.testing import example_pairs


class Rows(list):
    columns = ["prompt", "chosen", "rejected"]
    fingerprint = "of the vault"


class Vault(DatasetSource):
    name = "vault"

    class Options(DatasetSource.Options):
        token: SecretStr = Field(description="Opens it.")

    def splits(self):
        return ["train"]

    def load(self, split):
        assert self.options.token.get_secret_value() == "open-sesame"
        return Rows(example_pairs(20))


@hookimpl
def dpotrain_dataset_sources():
    return [Vault]
"""

#: Prints the fingerprint of the mixture, and its rows, for the overrides of each argument.
MIXED = """
import json, sys
from dpotrain.recipe.load import load_recipe
for overrides in sys.argv[1:]:
    rows = load_recipe("recipe.toml", overrides.split()).sources[0].load("train")
    print(json.dumps([rows.fingerprint, rows.columns, [rows[number] for number in range(len(rows))]]))
"""


def run_in(installed, folder: Path, name: str, *sets: str, ranks: int, code: int = 0, **more) -> Path:
    """Run a package's recipe in so many processes into a run folder of its own, and return that."""
    place = folder / "runs" / name
    overrides = [*sets, f"run.output_dir={str(place)!r}"]
    ended = installed.ranks(folder / "recipe.toml", overrides, ranks=ranks, folder=folder, **more)
    assert [each.code for each in ended] == [code] * ranks, ended[0].output
    return place


@pytest.mark.parametrize("name", NAMES)
def test_each_is_a_module_of_60_lines_at_most(name):
    (module,) = (HERE / f"dpotrain-{name}").glob("dpotrain_*.py")
    assert len(module.read_text().splitlines()) <= 60


def test_each_is_listed_without_a_note(packages, installed):
    listed = {info["name"]: info for info in json.loads(dpotrain(installed, "plugins", "--json"))}
    assert [(listed[name]["status"], listed[name]["notes"]) for name in NAMES] == [("unused", [])] * 4
    assert listed["offset"]["offers"] == {"loss": ["offset-dpo"], "metric": ["gap"]}


@pytest.mark.soak
@pytest.mark.parametrize("name", NAMES)
def test_each_passes_its_own_tests(packages, installed, name):
    ended = installed.pytest("-q", f"test_{name}.py", folder=packages[name])
    assert ended.code == 0, ended.output


@pytest.mark.parametrize("ranks", [1, pytest.param(2, marks=pytest.mark.soak)])
def test_a_resumed_run_runs_out_of_patience_at_the_same_step(packages, installed, ranks):
    folder = packages["patience"]
    whole = run_in(installed, folder, f"whole-{ranks}", ranks=ranks)
    summary = json.loads((whole / "summary.json").read_text())
    assert (summary["status"], summary["ended early"]["after step"]) == ("finished", 4)
    name, signal = f"stopped-{ranks}", [[ranks - 1, "signal_after", 3, "SIGTERM"]]
    run_in(installed, folder, name, ranks=ranks, acts=signal, code=75)
    stopped = run_in(installed, folder, name, ranks=ranks)
    left = [record["patience/left"] for record in records(whole, "eval")]
    assert left == [3, 3, 2, 1, 0]
    assert [record["patience/left"] for record in records(stopped, "eval")] == left
    assert losses(stopped) == losses(whole)


def greedy(model, tokenizer, prompt: str) -> str:
    """Return what transformers answers by itself."""
    inputs = tokenizer(prompt, return_tensors="pt")
    found = model.generate(**inputs, max_new_tokens=12, do_sample=False, pad_token_id=0)
    return tokenizer.decode(found[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)


@pytest.mark.soak
def test_answers_are_those_of_transformers_and_reach_file_loggers_and_sync(packages, installed, tmp_path):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    install(site := tmp_path / "site", "dpotrain-hearing", "1.0", hearing=HEARING)
    folder, hearing = packages["answers"], ["loggers=[{use='hearing'}]"]
    one = run_in(installed, folder, "one", *hearing, ranks=1, path=[site])
    two = run_in(
        installed, folder, "two", *hearing, "training.activation_checkpointing=true", ranks=2, path=[site]
    )
    texts, heard = lines(one / "texts.jsonl"), one / "heard.jsonl"
    assert [text["step"] for text in texts] == [0, 4, 8]
    for text, place in ((texts[0], folder / "model"), (texts[-1], one / "final")):
        model, tokenizer = (each.from_pretrained(place) for each in (AutoModelForCausalLM, AutoTokenizer))
        held_out = lines(folder / "held-out.jsonl")[:3]
        assert [row["prompt"] for row in text["rows"]] == [row["prompt"] for row in held_out]
        assert [row["answer"] for row in text["rows"]] == [
            greedy(model.eval(), tokenizer, row["prompt"]) for row in held_out
        ]
    assert lines(two / "texts.jsonl") == lines(heard) == texts
    assert [record["answers/tokens"] for record in records(two, "eval")] == [12.0] * 3
    heard.unlink()
    ended = installed.dpotrain("sync", "runs/one", folder=folder, path=[site])
    assert ended.code == 0, ended.output
    assert lines(heard) == texts


@pytest.mark.soak
def test_a_mixture_is_the_same_in_two_processes(packages, installed):
    folder = packages["mixture"]
    one, two = (run_in(installed, folder, str(ranks), ranks=ranks) for ranks in (1, 2))
    assert losses(two) == pytest.approx(losses(one), abs=1e-5)
    reports = [json.loads((each / "data_report.json").read_text()) for each in (one, two)]
    assert reports[0] == reports[1]
    assert reports[0]["splits"]["train"]["rows_read"] == 42


@pytest.mark.soak
def test_a_mixture_has_so_many_rows_of_each_part_and_another_fingerprint_for_each_change(
    packages, python, tmp_path
):
    folder = packages["mixture"]
    changed = tmp_path / "changed.jsonl"
    changed.write_text((folder / "scored.jsonl").read_text().replace("number 3?", "number 33?"))
    sets = [
        "data.seed=3",
        "data.seed=3 data.shuffle=false",
        "data.seed=4",
        "data.parts.1.weight=2",
        f"data.parts.1.source.name={str(changed)!r}",
    ]
    mixtures = [json.loads(line) for line in run(python, "-c", MIXED, *sets, cwd=folder).splitlines()]
    first, again, *others = mixtures
    assert again == first
    assert len({fingerprint for fingerprint, _, _ in mixtures}) == 4
    assert first[1] == ["prompt", "chosen", "rejected", "rating_difference"]
    of_second = [row["prompt"].startswith("Please: ") for row in first[2]]
    assert (of_second.count(False), of_second.count(True)) == (32, 10)
    assert [row["rating_difference"] is None for row in first[2]] == [not each for each in of_second]
    assert len(others[1][2]) == 32 + 21


@pytest.mark.soak
def test_a_pair_of_a_part_without_the_column_is_dropped_and_counted(packages, installed):
    words = ["check", "recipe.toml", "--set", "loss.use='offset-dpo'", "--set", "requires=[]"]
    words += ["--set", "data.columns.score_gap='rating_difference'"]
    said = dpotrain(installed, *words, folder=packages["mixture"])
    assert "42 rows, 10 pairs kept, 32 dropped" in said
    assert "32 dropped: score_gap is missing" in said


@pytest.mark.parametrize(
    ("override", "code", "said"),
    [
        ("source.nam='x'", 2, "[data.parts.1.source] nam: hf-datasets (dpotrain 0.1.0) has no option"),
        (
            "source.use='hf-dataset'",
            2,
            'there is no dataset source "hf-dataset"; did you mean "hf-datasets"?',
        ),
        ("weight=-1", 2, "parts.1.weight: mixture (dpotrain-mixture 0.1.0) expects a number > 0"),
        (
            "source.name='score.jsonl'",
            3,
            '[data.parts.1.source]: data.name: there is no file "score.jsonl"',
        ),
    ],
)
def test_an_error_of_a_part_has_the_address_of_its_table(packages, installed, override, code, said):
    words = ["check", "recipe.toml", "--set", f"data.parts.1.{override}"]
    assert said in dpotrain(installed, *words, folder=packages["mixture"], code=code)


def test_a_secret_of_a_part_is_in_no_file_of_the_run(packages, installed, tmp_path):
    install(site := tmp_path / "site", "dpotrain-vault", "1.0", vault=VAULT)
    folder, secret = packages["mixture"], "open-sesame"
    sets = [f"data.parts=[{{ source = {{ use = 'vault', token = '{secret}' }} }}]", "checkpoints.every=2"]
    signal = [[0, "signal_after", 2, "SIGTERM"]]
    run_in(installed, folder, "secret", *sets, ranks=1, path=[site], acts=signal, code=75)
    place = run_in(installed, folder, "secret", *sets, ranks=1, path=[site])
    files = [file for file in place.rglob("*") if file.is_file()]
    assert {"recipe.toml", "state.json", "summary.json"} <= {file.name for file in files}
    assert not [file for file in files if secret.encode() in file.read_bytes()]
    assert 'use = "vault"' in (place / "recipe.toml").read_text()


@pytest.mark.soak
def test_offsets_from_a_column_give_the_same_losses_however_steps_are_cut(packages, installed):
    folder = packages["offset"]
    one, two = (run_in(installed, folder, str(ranks), ranks=ranks) for ranks in (1, 2))
    cut = run_in(installed, folder, "cut", "training.tokens_per_microbatch=160", ranks=1)
    for other in (two, cut):
        for kind in ("train", "eval"):
            for theirs, ours in zip(records(other, kind), records(one, kind), strict=True):
                for name in ("loss", "offset/gap", "offset/accuracies"):
                    assert theirs[name] == pytest.approx(ours[name], abs=1e-5)
    held_out = records(one, "eval")[0]
    gaps = sum(row["rating_difference"] for row in lines(folder / "scored.jsonl"))
    trained = sum(4 * record["offset/gap"] for record in records(one))
    assert trained + held_out["pairs"] * held_out["offset/gap"] == pytest.approx(gaps)
