"""What the README tells people to type works, and what it points at is there."""

import itertools
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from dpotrain import load_recipe
from dpotrain.cli import main
from dpotrain.core import errors
from dpotrain.core.errors import INTERRUPTED
from dpotrain.run.folder.run_folder import RunFolder
from tests.docs.blocks import blocks
from tests.engine.test_packed_equals_unpacked import PACKS

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"
RUNS = ROOT / "recipes" / "runs.md"
CLUSTERS = ROOT / "recipes" / "clusters" / "README.md"
PROMISES = ROOT / "dpotrain" / "promises.md"
DOCUMENTS = [
    README,
    *(ROOT / folder / "README.md" for folder in ("dpotrain", "recipes", "plugins", "tests")),
    ROOT / "CHANGELOG.md",
    RUNS,
    PROMISES,
    CLUSTERS,
    ROOT / "recipes" / "security.md",
    ROOT / "recipes" / "inspect.md",
    ROOT / "plugins" / "reference.md",
    ROOT / ".github" / "CONTRIBUTING.md",
    *sorted((ROOT / "dpotrain" / "decisions").glob("*.md")),
]

INSTALL = "python3 -m venv .venv && .venv/bin/pip install -c tests/constraints.txt -e"


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """A folder with what the README's examples assume: the recipes, ``mine.toml`` and ``pairs.jsonl``."""
    (tmp_path / "recipes").symlink_to(ROOT / "recipes")
    (tmp_path / "pairs.jsonl").write_text('{"prompt": "a", "chosen": "b", "rejected": "c"}\n')
    (recipe,) = blocks(README, "toml")
    (tmp_path / "mine.toml").write_text(recipe.text)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_it_opens_with_two_commands_for_a_fresh_machine():
    job, tests = blocks(README, "sh")
    assert job.text == f"{INSTALL} . && .venv/bin/dpotrain run recipes/quickstart.toml\n"
    assert tests.text == f'{INSTALL} ".[test]" && .venv/bin/python -m pytest -n auto --dist loadfile\n'
    assert tests.mark == "test command"
    assert README.read_text(encoding="utf-8").index(tests.text) < 2000


def test_the_check_script_finds_the_test_command():
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    (line,) = (line for line in script.splitlines() if line.startswith("test_command="))
    found = subprocess.run(
        ["bash", "-c", f'{line}\nprintf %s "$test_command"'],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert found.stdout == blocks(README, "sh")[1].text.rstrip()


def test_a_newcomer_s_tests_hold_every_promise_to_account(forked):
    """A file or folder of tests that stands beside a promise is not all for the long tests."""
    links = re.findall(r"\]\(\.\./(tests/[^)]+)\)", PROMISES.read_text(encoding="utf-8"))
    named = sorted(set(links) - {"tests/README.md"})
    assert len(named) > 20
    found = forked.pytest("--collect-only", "-q", "-p", "pytest_timeout", *named, folder=ROOT)
    assert found.code == 0, found.output
    assert [name for name in named if f"\n{name}" not in f"\n{found.out}"] == []


def given() -> list[str]:
    """Return the commands of dpotrain that README and runs.md show."""
    shown = [
        each
        for path in (README, RUNS, CLUSTERS)
        for block in blocks(path, "console")
        for each in block.commands
    ]
    return [each for each in shown if re.search(r"\bdpotrain\b", each)]


@pytest.mark.parametrize("command", given())
def test_a_command_is_understood(command, folder):
    words = shlex.split(command)
    words = words[words.index("dpotrain") :]
    _, name, *arguments = words
    assert name in main.list_commands(click.Context(main))
    main.get_command(click.Context(main), name).make_context(name, list(arguments))
    recipe, *options = arguments
    if recipe.endswith(".toml"):
        overrides = [value for flag, value in itertools.pairwise(options) if flag == "--set"]
        assert load_recipe(recipe, overrides).adapter.name == "lora"


def test_launchers_can_start_the_module():
    done = subprocess.run([sys.executable, "-m", "dpotrain", "--version"], capture_output=True, text=True)
    assert done.stdout.startswith("dpotrain, version")


def test_the_python_example_runs(folder, capsys):
    (example,) = blocks(README, "python")
    exec(compile(example.text, "README.md", "exec"), {})
    status, final, _ = capsys.readouterr().out.splitlines()[-1].split()
    assert (status, final) == ("finished", "runs/from-python/final")
    assert (folder / final).is_dir()


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(path):
    for target in re.findall(r"\]\(([^)\s]+)\)", path.read_text(encoding="utf-8")):
        if "://" in target:
            continue
        name, _, heading = target.partition("#")
        leads_to = path.parent / name if name else path
        assert leads_to.exists(), target
        assert not heading or heading in headings(leads_to), target


def headings(path: Path) -> set[str]:
    """Return a document's headings as links have them."""
    found = re.findall(r"^#+ (.*)$", path.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in found}


def commands(command: click.Command) -> Iterator[click.Command]:
    """Yield a command and all below it."""
    yield command
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            yield from commands(command.get_command(context, name))


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_options_and_files_that_are_named_exist(path):
    text = path.read_text(encoding="utf-8")
    known = {
        option for command in commands(main) for parameter in command.params for option in parameter.opts
    }
    known |= {
        "--help", "--nproc-per-node", "--num_processes", "--write-snapshots", "--record-durations",
        "--dist", "--torch-backend", "--nnodes", "--rdzv-endpoint",
    }  # fmt: skip
    # Of a command that the document itself shows.
    known |= set(re.findall(r'click\.option\("(--[\w-]+)"', text))
    for option in re.findall(r"(?<![\w-])--[a-z][\w-]*", text):
        assert option in known, option
    for name in re.findall(r"\b(?:recipes|tests)/[\w/]+\.(?:toml|py|txt|md)\b", text):
        assert (ROOT / name).exists(), name


def test_the_run_folder_is_shown_whole():
    (tree,) = (block.text for block in blocks(RUNS, "text"))
    shown = {line.split()[0].rstrip("/") for line in tree.splitlines()[1:]}
    paths = vars(RunFolder(Path("runs/mine"))).values()
    assert shown == {path.name for path in paths} - {"mine"}


def test_the_exit_codes_are_the_errors_own():
    listed = {
        int(code) for code in re.findall(r"^\| (\d+) \|", RUNS.read_text(encoding="utf-8"), re.MULTILINE)
    }
    kinds = (value for value in vars(errors).values() if isinstance(value, type))
    classes = [kind for kind in kinds if issubclass(kind, errors.DpotrainError)]
    assert listed == {0, INTERRUPTED, *(each.exit_code for each in classes)}


def test_the_troubleshooting_table_quotes_what_is_said():
    table = RUNS.read_text(encoding="utf-8").partition("## If something goes wrong")[2].partition("\n## ")[0]
    quoted = re.findall(r"^\| `([^`]+)` \|", table, re.MULTILINE)
    assert len(quoted) >= 5
    files = [*(ROOT / "dpotrain").rglob("*.py"), *(ROOT / "plugins").rglob("*.py")]
    code = "\n".join(path.read_text(encoding="utf-8") for path in files)
    for text in quoted:
        assert text in code, text


def test_it_counts_the_architectures_that_are_tested():
    assert f"for {len(PACKS)} architectures" in PROMISES.read_text(encoding="utf-8")


def test_it_is_read_in_three_minutes():
    """At 230 words a minute, what is run and shown in blocks included; the lines of a table are no words."""
    words = [each for each in README.read_text(encoding="utf-8").split() if re.search(r"\w", each)]
    assert len(words) <= 3 * 230 + 100
