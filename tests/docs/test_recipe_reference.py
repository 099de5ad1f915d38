"""What recipes/README.md says of recipes is so: its examples load, its commands are understood."""

import itertools
import re
import shlex
import tomllib
from pathlib import Path

import pytest

from dpotrain import load_recipe
from dpotrain.engine.training.weight_groups import assign
from dpotrain.plugin.api import Trained
from dpotrain.recipe.sections.catalogue import required_tables
from dpotrain_plugins.losses import COUPLED, LOSSES
from dpotrain_plugins.optimizers import dpotrain_optimizers
from tests.docs.blocks import blocks
from tests.docs.generated import ROOT
from tests.support import dpotrain

GUIDE = ROOT / "recipes" / "README.md"
TOML = [block.text for block in blocks(GUIDE, "toml")]
COMMANDS = [command for block in blocks(GUIDE, "console") for command in block.commands]


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """A folder like the repository's root, with a file of pairs."""
    (tmp_path / "recipes").symlink_to(ROOT / "recipes")
    (tmp_path / "pairs.jsonl").write_text('{"prompt": "a", "chosen": "b", "rejected": "c"}\n')
    configurations = ROOT / "tests" / "convert" / "configurations"
    (tmp_path / "config_full.yaml").symlink_to(configurations / "zephyr_full.yaml")
    (tmp_path / "train.sh").symlink_to(configurations / "trl_lora.sh")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_least_recipe_is_one_and_the_least(folder):
    (least,) = (text for text in TOML if text.startswith("[run]"))
    path = folder / "least.toml"
    path.write_text(least)
    assert load_recipe(path).sources[0].options.name == "pairs.jsonl"
    assert tomllib.loads(least).keys() == required_tables()


def test_extending_does_what_it_says(folder):
    (text,) = (text for text in TOML if text.startswith("extends"))
    path = folder / "mine.toml"
    path.write_text(text.replace("llama2_lora.toml", "recipes/llama2_lora.toml"))
    with pytest.raises(Exception, match=re.escape("there is no [adapter] to train")):
        load_recipe(path)
    recipe = load_recipe(path, ["quantizer=false"])
    assert recipe.adapter is None
    assert recipe.model.options.name == "my-org/my-model"
    assert recipe.model.options.dtype == "bfloat16"
    assert [logger.name for logger in recipe.loggers] == ["tensorboard"]


def test_requires_and_block_are_understood(folder):
    (text,) = (text for text in TOML if text.startswith("requires"))
    path = folder / "mine.toml"
    path.write_text(f'extends = "recipes/smollm2_lora.toml"\n{text}')
    with pytest.raises(
        Exception, match=re.escape('dpotrain-foo is not installed; pip install "dpotrain-foo>=0.2"')
    ):
        load_recipe(path)
    recipe = load_recipe(path, ["requires=[]"])
    assert [plugin.name for plugin in recipe.plugins.plugins if plugin.blocked] == ["wandb"]


def test_layers_and_weights_by_name_are_understood(folder):
    (text,) = (text for text in TOML if text.startswith("[adapter]"))
    path = folder / "mine.toml"
    path.write_text(f"{next(text for text in TOML if text.startswith('[run]'))}\n{text}")
    adapter = load_recipe(path).adapter
    assert (adapter.options.last, adapter.options.match) == (4, ["model.norm.*", "lm_head.*"])


def test_groups_of_weights_are_of_the_model_s_with_an_adapter(folder):
    (text,) = (text for text in TOML if "optimizer.groups" in text)
    path = folder / "mine.toml"
    path.write_text(f'extends = "recipes/smollm2_lora.toml"\n{text}')
    embeddings, second = load_recipe(path).optimizer.options.groups
    layer = "base_model.model.model.layers.3.mlp.up_proj"
    assert assign([second], [f"{layer}.lora_A.default.weight", f"{layer}.lora_B.default.weight"]) == {
        f"{layer}.lora_B.default.weight": 0
    }
    assert assign([embeddings], ["model.embed_tokens.weight", "model.norm.weight"]) == {
        "model.embed_tokens.weight": 0
    }
    # What the comments say.
    assert (embeddings.lr, embeddings.weight_decay) == (5e-7, 0.0)
    assert (second.lr, load_recipe(path).optimizer.options.lr) == (16 * 5e-6, 5e-6)


def test_the_table_of_optimizers_has_every_one_and_what_its_state_takes():
    table = GUIDE.read_text(encoding="utf-8").partition("## Choosing an optimizer\n")[2].partition("\n\nW")[0]
    rows = dict(re.findall(r"^\| `([^`]+)` \|.*\| ([0-9.]+)[;,]?[^|]* \|[^|]*\|$", table, re.MULTILINE))
    optimizers = {each.name: each(each.Options(lr=0.1)) for each in dpotrain_optimizers()}
    assert rows.keys() == optimizers.keys()
    weight = Trained(2**20, 4, "model.layers.0.mlp.up_proj.weight", (2**10, 2**10))
    for name, optimizer in optimizers.items():
        assert float(rows[name]) == pytest.approx(
            optimizer.state_bytes([weight]) / 2**20, rel=0.05, abs=0.005
        )


def test_a_mixture_is_what_its_comments_say(folder):
    (text,) = (text for text in TOML if "[[data.sources]]" in text)
    (least,) = (text for text in TOML if text.startswith("[run]"))
    path = folder / "mixture.toml"
    path.write_text(re.sub(r"(?s)\[data\]\n.*?\n\n", text + "\n", least, count=1))
    helpful, mine, maths = load_recipe(path).data_sets
    assert [each.label for each in (helpful, mine, maths)] == ["helpful", "pairs", "maths"]
    assert (helpful.amount.weight, mine.columns) == (2, {"prompt": "question"})
    assert (maths.eval_split, maths.amount.pairs, maths.amount.repeat) == ("test", 5000, True)


def test_every_toml_block_is_tested():
    assert len(TOML) == 6
    assert "loggers" in tomllib.loads(TOML[1])


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_is_understood(command, folder):
    words = shlex.split(command.partition(" > ")[0])
    assert words[0] == "dpotrain"
    overrides = [value for flag, value in itertools.pairwise(words) if flag == "--set"]
    if words[1] in {"run", "check", "inspect"}:
        recipe = load_recipe(words[2], overrides)
        assert recipe.path == Path(words[2])
        assert len(words) == 3 + 2 * len(overrides)
    elif words[1:] == ["init", "mine.toml"]:  # asks
        assert "--model and --data must be given where nobody can be asked" in dpotrain(*words[1:]).stderr
    else:
        assert dpotrain(*words[1:]).exit_code in ({0, 1} if words[1] == "convert" else {0})


def test_every_recipe_is_in_the_table():
    text = GUIDE.read_text(encoding="utf-8")
    linked = set(re.findall(r"\]\((\w+\.toml)\)", text))
    assert linked == {path.name for path in (ROOT / "recipes").glob("*.toml")}


def test_the_table_of_losses_has_every_loss_and_says_which_need_a_reference():
    table = GUIDE.read_text(encoding="utf-8").partition("## Choosing a loss\n")[2].partition("\n\n- ")[0]
    rows = dict(re.findall(r"^\| `([^`]+)` \|.*\| (yes|no) \|.*\|$", table, re.MULTILINE))
    assert rows == {loss.name: "yes" if loss.needs_reference else "no" for loss in (*LOSSES, *COUPLED)}
