"""``[samples]``: what the policy answers, at which steps, once each; and that the training does not notice."""

import json
import signal
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from dpotrain import load_recipe
from dpotrain.core.errors import DataError, RecipeError
from dpotrain.core.reporter import SilentReporter
from dpotrain.evaluation import sampler
from dpotrain.run.answering import load_answerers
from tests.plugin.conftest import site
from tests.run.crashing import facts
from tests.run.noting import install_noting, noted, table
from tests.run.recipes import Recording, project, records, run, weights, write_pairs
from tests.support import CHAT_TEMPLATE, dpotrain, tiny_tokenizer

__all__ = ["site"]

PROMPTS = ["the quick brown", "help", "bake bread today"]
DRAWN = [
    f"samples.prompts={PROMPTS}",
    "samples.max_tokens=10",
    "samples.temperature=1.0",
    "samples.top_p=0.9",
    "samples.seed=5",
]
#: Evaluations at 0, 4, 8 and 10.
EVERY = ["evaluation.every=4", "checkpoints.every=5"]


def into(folder: Path) -> str:
    return f"run.output_dir={str(folder)!r}"


def lines(run: Path) -> list[dict]:
    return [json.loads(line) for line in (run / "samples.jsonl").read_text("utf-8").splitlines()]


def steps(run: Path) -> list[int]:
    return [line["step"] for line in lines(run)]


@pytest.fixture(scope="module")
def recipe(tmp_path_factory) -> Path:
    """With dropout, so that random states matter, and with two sizes of metric windows."""
    recipe = project(tmp_path_factory.mktemp("samples"), adapter=True)
    recipe.write_text(recipe.read_text().replace("every = 1", "every = 3") + "dropout = 0.2\n")
    return recipe


WAYS = {
    "lora": [],
    "all weights, padded": ["adapter=false", "training.packing=off"],
    "checkpointed": ["training.activation_checkpointing=true"],
    "4 bits": ['quantizer.use="bnb-4bit"', 'reference.when="live"'],
    "bf16": ["training.precision=bf16"],
}


@pytest.mark.parametrize(
    "way",
    [
        pytest.param(way, id=name, marks=[] if name in ("lora", "4 bits") else pytest.mark.soak)
        for name, way in WAYS.items()
    ],
)
def test_no_number_of_the_training_changes(recipe, tmp_path, way):
    for name, more in {"without": [], "with": DRAWN}.items():
        run(recipe, *way, *EVERY, *more, into=tmp_path / name)
    assert facts(tmp_path / "with") == facts(tmp_path / "without")
    assert steps(tmp_path / "with") == [0, 4, 8, 10]
    assert not (tmp_path / "without" / "samples.jsonl").exists()
    first = lines(tmp_path / "with")[0]["samples"]
    assert [each["prompt"] for each in first] == PROMPTS
    assert all(each["answer"] for each in first)


@pytest.mark.soak
def test_nor_in_two_processes_which_share_the_prompts(forked, recipe, tmp_path):
    for name, more in {"without": [], "with": DRAWN}.items():
        ended = forked.ranks(recipe, [*EVERY, *more, into(tmp_path / name)])
        assert [each.code for each in ended] == [0, 0], ended
    assert facts(tmp_path / "with") == facts(tmp_path / "without")
    run(recipe, *EVERY, *DRAWN, "training.steps=1", into=tmp_path / "alone")
    assert lines(tmp_path / "with")[0] == lines(tmp_path / "alone")[0]
    assert steps(tmp_path / "with") == [0, 4, 8, 10]


def test_stopped_killed_and_resumed_it_is_the_run_that_nobody_stopped(forked, recipe, tmp_path):
    run(recipe, *EVERY, *DRAWN, into=tmp_path / "whole")
    broken = into(tmp_path / "broken")
    overrides = [*EVERY, *DRAWN, broken]
    assert forked.run(recipe, overrides, acts=[["signal_after", 4, "SIGTERM"]]).code == 75
    assert forked.run(recipe, overrides, acts=[["signal_after", 9, "SIGKILL"]]).code == -signal.SIGKILL
    assert steps(tmp_path / "broken") == [0, 4, 8]
    assert forked.run(recipe, overrides).code == 0
    assert lines(tmp_path / "broken") == lines(tmp_path / "whole")
    same = ("final", "metrics")
    both = [facts(tmp_path / name) for name in ("broken", "whole")]
    assert [both[0][name] for name in same] == [both[1][name] for name in same]


class StopsIn(Recording):
    """Asks the run to stop as a phase begins."""

    def __init__(self, name: str, number: int = 1) -> None:
        super().__init__()
        self.name, self.number = name, number

    def phase(self, name, total):
        import os

        if name == self.name:
            self.number -= 1
            if not self.number:
                os.kill(os.getpid(), signal.SIGTERM)
        return super().phase(name, total)


def test_stopped_while_it_samples_it_samples_when_it_is_resumed_and_evaluates_once(recipe, tmp_path):
    outcome = run(recipe, *EVERY, *DRAWN, into=tmp_path / "run", reporter=StopsIn("sampling", 2))
    assert (outcome.status, outcome.steps) == ("stopped", 4)
    assert steps(tmp_path / "run") == [0]
    assert run(recipe, *EVERY, *DRAWN, into=tmp_path / "run", resume=True).status == "finished"
    assert steps(tmp_path / "run") == [0, 4, 8, 10]
    assert [line["step"] for line in records(tmp_path / "run", "eval")] == [0, 4, 8, 10]
    run(recipe, *EVERY, into=tmp_path / "whole")
    assert weights(tmp_path / "run" / "final") == weights(tmp_path / "whole" / "final")


def test_a_step_is_never_there_twice_where_its_evaluation_is_repeated_and_killed(forked, recipe, tmp_path):
    """Stopped in the evaluation of step 4, then killed after that step has been evaluated and sampled."""
    place = into(tmp_path / "run")
    run(recipe, *EVERY, *DRAWN, into=tmp_path / "run", reporter=StopsIn("evaluating", 2))
    assert (steps(tmp_path / "run"), len(records(tmp_path / "run", "eval"))) == ([0], 1)
    for _ in range(2):
        ended = forked.run(recipe, [*EVERY, *DRAWN, place], acts=[["signal_after", 5, "SIGKILL"]])
        assert ended.code == -signal.SIGKILL, ended.output
        assert steps(tmp_path / "run") == [0, 4]
        assert [line["step"] for line in records(tmp_path / "run", "eval")] == [0, 4]


def test_every_so_many_evaluations_and_always_first_and_last(recipe, tmp_path):
    overrides = [*DRAWN, "samples.every=2", "evaluation.every=2", "evaluation.first=false"]
    run(recipe, *overrides, "training.steps=7", into=tmp_path / "run")
    assert steps(tmp_path / "run") == [0, 4, 7]
    assert [line["step"] for line in records(tmp_path / "run", "eval")] == [2, 4, 6, 7]


def test_without_held_out_pairs_it_samples_at_the_same_steps(recipe, tmp_path):
    overrides = [*DRAWN, "data.eval_fraction=0", "evaluation.every=4"]
    run(recipe, *overrides, "training.steps=6", into=tmp_path / "run")
    assert steps(tmp_path / "run") == [0, 4, 6]
    assert records(tmp_path / "run", "eval") == []


def test_held_out_prompts_are_different_ones_of_the_evaluation_set_as_the_source_has_them(tmp_path):
    recipe = project(tmp_path)
    pairs = [json.loads(line) for line in write_pairs(tmp_path / "pairs.jsonl", 40).read_text().splitlines()]
    # Each prompt twice, with other answers.
    doubled = pairs + [pair | {"chosen": f" other{pair['chosen']}"} for pair in pairs]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(pair) + "\n" for pair in doubled))
    overrides = ["samples.prompts=held-out", "samples.max_tokens=4", "training.steps=2"]
    run(recipe, *overrides, "samples.count=3")
    asked = [each["prompt"] for each in lines(tmp_path / "run")[0]["samples"]]
    evaluated = (tmp_path / "run" / "evaluations" / "pairs.jsonl").read_text().splitlines()
    held_out = {json.loads(line)["prompt"] for line in evaluated}
    assert len(set(asked)) == 3
    assert set(asked) <= held_out < {pair["prompt"] for pair in pairs}
    run(recipe, *overrides, into=tmp_path / "again")
    assert len(lines(tmp_path / "again")[0]["samples"]) == 4


@pytest.fixture
def chat(tmp_path) -> Path:
    recipe = project(tmp_path)
    tiny_tokenizer(tmp_path / "model")
    pairs = [json.loads(line) for line in (tmp_path / "pairs.jsonl").read_text().splitlines()]
    rows = [
        {
            name: [{"role": "user" if name == "prompt" else "assistant", "content": text}]
            for name, text in pair.items()
        }
        for pair in pairs
    ]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return recipe


#: Of every prompt that is answered: the ids.
@pytest.fixture
def asked(monkeypatch) -> list[list[int]]:
    found: list[list[int]] = []
    answered = sampler.answer

    def answer(policy, prompt, *rest, **more):
        found.append(list(prompt))
        return answered(policy, prompt, *rest, **more)

    monkeypatch.setattr(sampler, "answer", answer)
    return found


CHAT = ['data.format="conversational"', "data.max_length=200", "training.steps=1", "samples.max_tokens=4"]


def test_a_text_is_a_user_s_turn_of_a_chat_and_messages_are_taken_as_they_are(chat, asked, tmp_path):
    messages = [
        {"role": "system", "content": "salt"},
        {"role": "user", "content": "bake bread"},
        {"role": "assistant", "content": "water"},
        {"role": "user", "content": "<|im_end|> flour"},
        {"role": "assistant", "content": "an answer, which is not asked"},
    ]
    prompts = [{"prompt": "help"}, "quick", messages, {"messages": messages[1:2]}]
    (tmp_path / "prompts.jsonl").write_text("\n".join(map(json.dumps, prompts)) + "\n\n")
    run(chat, *CHAT, f"samples.prompts={tmp_path / 'prompts.jsonl'}")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "model")

    def rendered(*turns: dict) -> list[int]:
        text = tokenizer.apply_chat_template([*turns], add_generation_prompt=True, tokenize=False)
        return tokenizer(text, add_special_tokens=False)["input_ids"]

    help_, quick = ({"role": "user", "content": text} for text in ("help", "quick"))
    assert [asked[0], asked[1], asked[3]] == [rendered(help_), rendered(quick), rendered(messages[1])]
    # A control token that the user writes is text.
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert asked[2].count(end) == rendered(*messages[:4]).count(end) - 1
    assert "user\n<|im_end|> flour" in tokenizer.decode([token for token in asked[2] if token != end])
    shown = [each["prompt"] for each in lines(tmp_path / "run")[0]["samples"]]
    assert shown == [
        "help",
        "quick",
        "system: salt\nuser: bake bread\nassistant: water\nuser: <|im_end|> flour",
        "bake bread",
    ]


def test_prompts_are_written_with_the_data_s_template_arguments_and_held_out_ones_with_the_row_s(
    chat, asked, tmp_path
):
    tokenizer = tiny_tokenizer(tmp_path / "model", chat_template="{{ mood }} " + CHAT_TEMPLATE)
    rows = list(map(json.loads, (tmp_path / "pairs.jsonl").read_text().splitlines()))
    rows = [row | {"chat_template_kwargs": {"mood": f"mood {number}"}} for number, row in enumerate(rows)]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    arguments = [*CHAT, "data.template_arguments.mood=sad"]
    run(chat, *arguments, 'samples.prompts=["help"]')
    text = tokenizer.apply_chat_template(
        [{"role": "user", "content": "help"}], add_generation_prompt=True, tokenize=False, mood="sad"
    )
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    assert asked[0] == ids
    assert load_answerers(tmp_path / "run", SilentReporter()).trained.tokenize("help") == ids
    with pytest.raises(RecipeError, match=r'mod: the chat template does not read it; did you mean "mood"'):
        load_answerers(tmp_path / "run", SilentReporter(), overrides=["data.template_arguments.mod=1"])
    asked.clear()
    run(chat, *arguments, 'samples.prompts="held-out"', into=tmp_path / "other")
    assert asked
    assert all(tokenizer.decode(ids).startswith("mood ") for ids in asked)


def test_of_plain_pairs_a_text_is_taken_as_it_is(recipe, asked, tmp_path):
    (tmp_path / "prompts.txt").write_text("help\n\nquick bread\n")
    run(recipe, f"samples.prompts={tmp_path / 'prompts.txt'}", "training.steps=1", into=tmp_path / "run")
    tokenizer = AutoTokenizer.from_pretrained(recipe.parent / "model")
    assert asked[:2] == [tokenizer(text)["input_ids"] for text in ("help", "quick bread")]


def test_a_model_that_cannot_generate_costs_the_samples_and_one_warning(recipe, tmp_path, monkeypatch):
    def fails(*given, **more):
        raise NotImplementedError("no cache")

    monkeypatch.setattr(sampler, "answer", fails)
    reporter = Recording()
    assert run(recipe, *EVERY, *DRAWN, into=tmp_path / "run", reporter=reporter).status == "finished"
    (warning,) = reporter.warnings
    assert "prompts of [samples] cannot be answered, there are no samples: NotImplementedError" in warning
    assert not (tmp_path / "run" / "samples.jsonl").exists()


def test_a_prompt_that_is_too_long_costs_its_own_answer(tmp_path):
    recipe = project(tmp_path, kind="gpt2", n_positions=128)
    reporter = Recording()
    long = " ".join(["bread"] * 200)
    overrides = [f'samples.prompts=["help", "{long}"]', "samples.max_tokens=3", "training.steps=1"]
    run(recipe, *overrides, "evaluation.every=1", reporter=reporter)
    good, bad = lines(tmp_path / "run")[0]["samples"]
    assert (bool(good["answer"]), bad["answer"]) == (True, "")
    (warning,) = [text for text in reporter.warnings if "samples" in text]
    assert "their answers are left empty" in warning
    assert "the model 128 positions" in warning


@pytest.mark.parametrize(
    ("file", "content", "why"),
    [
        ("p.jsonl", '{"question": "a"}\n', "p.jsonl:1 has neither prompt nor messages"),
        ("p.jsonl", '{"prompt": "a"}\n{"prompt"\n', "p.jsonl:2 is not JSON"),
        ("p.jsonl", "\n\n", "p.jsonl has no prompt"),
        ("p.jsonl", '[{"role": "nobody", "content": "a"}]\n', "unknown role"),
        ("p.jsonl", '[{"role": "assistant", "content": "a"}]\n', "p.jsonl:1 has no turn before the answer"),
        ("p.jsonl", '"\\ud800"\n', "p.jsonl:1 holds half a character"),
        ("p.json", '{"prompt": "a"}', "p.json is not a list of prompts"),
        ("p.json", '["a", ""]', "p.json, prompt 2 is empty"),
        ("p.txt", "", "p.txt has no prompt"),
        ("p.csv", "a", "none of the endings .txt, .jsonl and .json"),
    ],
)
def test_prompts_that_cannot_be_asked_are_refused_with_the_recipe(recipe, tmp_path, file, content, why):
    (tmp_path / file).write_text(content)
    with pytest.raises(RecipeError) as caught:
        load_recipe(recipe, [f"samples.prompts={tmp_path / file}"])
    assert "[samples] prompts" in str(caught.value)
    assert why in str(caught.value)


@pytest.mark.parametrize(
    ("overrides", "why"),
    [
        (["samples.prompts=nowhere.txt"], "there is no file nowhere.txt"),
        (["samples.prompts=[]"], "the list has no prompt"),
        (["samples.prompts=held-out", "data.eval_fraction=0"], "there are no held-out pairs"),
        (["samples.count=3"], '[samples] prompts: missing; expected "held-out" or a list of texts or a path'),
        (["samples=3"], "[samples]: expected a table [samples], or false for none"),
    ],
)
def test_a_table_that_makes_no_sense_is_refused(recipe, overrides, why):
    with pytest.raises(RecipeError) as caught:
        load_recipe(recipe, overrides)
    assert why in str(caught.value)


def test_false_is_none_and_samples_may_change_when_a_run_is_resumed(recipe, tmp_path):
    assert load_recipe(recipe, ["samples=false"]).samples is None
    run(recipe, *EVERY, into=tmp_path / "run", reporter=Recording(stop_at=4))
    run(recipe, *EVERY, *DRAWN, into=tmp_path / "run", resume=True)
    assert steps(tmp_path / "run") == [4, 8, 10]


def test_a_conversation_for_a_model_without_template_is_refused_before_the_model_is_loaded(tmp_path):
    recipe = project(tmp_path)
    tiny_tokenizer(tmp_path / "model", chat_template=False)
    for file in (tmp_path / "model").glob("chat_template*"):
        file.unlink()
    (tmp_path / "prompts.json").write_text('[[{"role": "user", "content": "help"}]]')
    reporter = Recording()
    with pytest.raises(DataError, match="prompt 1: the prompt is a conversation"):
        run(recipe, f"samples.prompts={tmp_path / 'prompts.json'}", reporter=reporter)
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


def test_loggers_get_samples_after_the_records_of_their_step_and_sync_sends_the_same(recipe, tmp_path, site):
    install_noting(site)
    live, again = tmp_path / "live.jsonl", tmp_path / "again.jsonl"
    run(recipe, *EVERY, *DRAWN, "evaluation.pairs=1", f"loggers=[{table(live)}]", into=tmp_path / "run")
    said = noted(live)
    order = [(entry[0], entry[1] if entry[0] == "log_text" else entry[2]) for entry in said[1:-1]]
    assert [step for name, step in order if name == "log_text"] == [0, 4, 8, 10]
    assert [step for _, step in order] == sorted(step for _, step in order)
    assert all(order[at - 1][1] == step for at, (name, step) in enumerate(order) if name == "log_text" and at)
    assert next(entry[2] for entry in said if entry[0] == "log_text") == [
        [each["prompt"], each["answer"]] for each in lines(tmp_path / "run")[0]["samples"]
    ]
    with (tmp_path / "run" / "samples.jsonl").open("a") as file:
        file.write('{"step": 12, "sam')
    ended = dpotrain("sync", str(tmp_path / "run"), "--set", f"loggers=[{table(again)}]")
    assert ended.exit_code == 1
    assert "samples.jsonl:5 is no record of samples" in ended.output
    assert noted(again)[0][1]["eval_pairs"] == said[0][1]["eval_pairs"] == 1
    assert [entry[:2] for entry in noted(again)[1:]] == [entry[:2] for entry in said[1:]]
