"""Bad input meets a message and an exit code, or is counted in the data report; never a traceback."""

import json

import pytest

from tests.plugin.fakes import install
from tests.run.recipes import project
from tests.support import dpotrain, tiny_tokenizer

GOOD = [{"prompt": f"{number} question", "chosen": " yes", "rejected": " no"} for number in range(8)]
CHAT = [
    {
        "prompt": [{"role": "user", "content": f"question {number}"}],
        "chosen": [{"role": "assistant", "content": "yes"}],
        "rejected": [{"role": "assistant", "content": "no"}],
    }
    for number in range(8)
]
THINKING = (
    "{% for message in messages %}{{ message.role }}: {{ message.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant: <think>{% endif %}"
)


@pytest.fixture
def recipe(tmp_path):
    return project(tmp_path)


def run(recipe, *overrides, command="run"):
    arguments = [command, str(recipe)]
    for override in ("training.steps=1", *overrides):
        arguments += ["--set", override]
    result = dpotrain(*arguments)
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    assert "Traceback" not in result.output
    return result


def rows(recipe, *items) -> str:
    path = recipe.parent / "rows.jsonl"
    path.write_text("".join(json.dumps(item) + "\n" for item in items), encoding="utf-8")
    return f"data.name={str(path)!r}"


@pytest.mark.parametrize("command", ["run", "check"])
@pytest.mark.parametrize(
    ("override", "code", "fragments"),
    [
        ("loss.betaa=1", 2, ["[loss] betaa", "dpo", 'did you mean "beta"?']),
        ("trainig.steps=1", 2, ["[trainig]", 'did you mean "training"?']),
        ('training.pairs_per_step="many"', 2, ["pairs_per_step", "integer", '"many"']),
        ("optimizer.lr=inf", 2, ["[optimizer] lr", "Infinity"]),
        ("optimizer.betas=[0.9, 1.5]", 2, ["betas", "1.5"]),
        ("loss.beta=nan", 2, ["beta"]),
        ('loss.use="hinje"', 2, ["[loss] use", '"hinje"', 'did you mean "hinge"?']),
        ('model.name="./missing"', 2, ["./missing", "no such folder"]),
        ('data.name="missing/pairs.jsonl"', 3, ["missing/pairs.jsonl", "does not exist"]),
        ('data.eval_split="test"', 2, ["eval_split", "eval_fraction"]),
        ("data.max_length=3", 3, ["prompt fills max_length", "raise data.max_length"]),
    ],
)
def test_wrong_recipes(recipe, command, override, code, fragments):
    result = run(recipe, override, command=command)
    assert result.exit_code == code, result.output
    for fragment in fragments:
        assert fragment in result.output
    assert not (recipe.parent / "run" / "metrics.jsonl").exists()


@pytest.mark.parametrize(
    ("overrides", "fragments"),
    [
        (["data.eval_fraction=false", "evaluation.every=2"], ["[evaluation] every", "no held-out pairs"]),
        (['reference.when="live"', 'reference.store="x"'], ["[reference] store", "nothing is stored"]),
        (
            ["reference.update={every=2, share=0.5}", 'reference.when="precomputed"'],
            ["[reference] when", "with update the log-probs change during training"],
        ),
        (
            ["reference.update={every=2, share=0.5}", 'reference.store="x"'],
            ["[reference] store", "none are stored; keep one of the two"],
        ),
        (
            ["reference.update={every=2, share=0.5}", 'reference.of="org/other"'],
            ["[reference] update", "begins as the initial policy"],
        ),
    ],
)
def test_no_option_is_silent(recipe, overrides, fragments):
    result = run(recipe, *overrides, command="check")
    assert result.exit_code == 2, result.output
    for fragment in fragments:
        assert fragment in result.output


@pytest.mark.parametrize("command", ["run", "check"])
@pytest.mark.parametrize(
    ("items", "text"),
    [
        ([], "rows.jsonl is empty"),
        (
            [{"prompt": "a", "chosen": "same", "rejected": "same"}],
            "1 dropped: chosen and rejected are identical",
        ),
    ],
)
def test_a_file_with_nothing_usable(recipe, command, items, text):
    result = run(recipe, rows(recipe, *items), command=command)
    assert result.exit_code == 3
    assert text in result.output


def test_rows_without_a_usable_pair_are_counted_and_the_rest_is_trained_on(recipe):
    """TRAPS: empty answers; chosen identical to rejected; None in columns; rows over length dropped without a count."""
    result = run(
        recipe,
        rows(
            recipe,
            {"prompt": "a", "chosen": "", "rejected": "b"},
            {"prompt": "a", "rejected": "b"},
            {"prompt": "a", "chosen": None, "rejected": "b"},
            {"prompt": "a", "chosen": "same", "rejected": "same"},
            {"prompt": "word " * 300, "chosen": "b", "rejected": "c"},
            *GOOD,
        ),
    )
    assert result.exit_code == 0, result.output
    report = json.loads((recipe.parent / "run" / "data_report.json").read_text())
    dropped = report["splits"]["train"]["dropped"]
    assert {reason: (entry["count"], entry["first_rows"]) for reason, entry in dropped.items()} == {
        "chosen is empty": (1, [0]),
        "chosen is missing": (2, [1, 2]),
        "chosen and rejected are identical": (1, [3]),
        "prompt fills max_length": (1, [4]),
    }
    assert "5 of 13 rows of train were dropped" in result.output


def test_conversations_without_a_chat_template(recipe):
    (recipe.parent / "model" / "chat_template.jinja").unlink()
    tiny_tokenizer(recipe.parent / "model", chat_template=False)
    result = run(recipe, rows(recipe, *CHAT), 'data.format="auto"')
    assert result.exit_code == 3
    assert "has no chat template.\nSet model.chat_template" in result.output


def test_a_prompt_that_is_no_prefix_and_a_tokenizer_without_bos_and_pad(recipe):
    """TRAPS: templates with thinking sections; bos_token that does not exist."""
    tiny_tokenizer(recipe.parent / "model", chat_template=THINKING, bos=None, pad=None)
    result = run(recipe, rows(recipe, *CHAT), 'data.format="auto"')
    assert result.exit_code == 0, result.output
    report = json.loads((recipe.parent / "run" / "data_report.json").read_text())
    assert report["splits"]["train"]["boundaries_moved"] == 8
    assert "boundary of prompt and answers moved back in 8 pairs" in result.output


def test_a_run_that_failed_before_its_first_step_can_be_begun_again(recipe):
    """Nothing is lost by it, so nobody needs --resume for it."""
    (recipe.parent / "model" / "model.safetensors").write_bytes(b"not a model")
    failed = run(recipe)
    assert failed.exit_code == 1, failed.output
    assert json.loads((recipe.parent / "run" / "summary.json").read_text())["status"] == "failed"
    from tests.support import tiny_checkpoint

    tiny_checkpoint(recipe.parent / "model")
    assert (run(recipe).exit_code, run(recipe).exit_code) == (0, 1)
    assert run(recipe, command="check").exit_code == 0


def test_a_plugin_that_breaks(recipe, site):
    """TRAPS: a plugin that fails to import is logged and training goes on without it."""
    install(site, "dpotrain-broken", "1.0", broken="raise RuntimeError('no such luck')")
    needed = run(recipe, 'loss.use="mypo"')
    assert needed.exit_code == 2
    assert "dpotrain-broken" in needed.output
    assert "no such luck" in needed.output
    spare = run(recipe)
    assert spare.exit_code == 0, spare.output
    assert "no such luck" in spare.output
