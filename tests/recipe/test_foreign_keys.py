"""Names of TRL, axolotl, LLaMA-Factory and ms-swift in a recipe: the error says what they are called here."""

import re

import pytest

from dpotrain.core.errors import RecipeError
from dpotrain.plugin.api.kinds import CORE_KINDS
from dpotrain.plugin.runtime.manager import PluginManager
from dpotrain.recipe.files import read_layers
from dpotrain.recipe.foreign import FOREIGN_TABLES, Gap
from dpotrain.recipe.foreign_keys import FOREIGN_KEYS
from dpotrain.recipe.sections.catalogue import CORE_SECTIONS
from dpotrain.recipe.sections.run import TopLevel
from tests.docs.generated import ROOT
from tests.recipe.writing import MINIMAL, refused

#: What people type first, having used another trainer.
COMMON = tuple(
    """
    model_name_or_path base_model torch_dtype attn_implementation flash_attention use_peft r lora_r lora_rank lora_alpha
    lora_dropout lora_target_modules lora_target_linear load_in_4bit load_in_8bit quantization_bit
    bnb_4bit_compute_dtype dataset_name datasets val_set_size cutoff_len sequence_len max_prompt_len template
    neat_packing sample_packing pref_beta rl_beta pref_loss loss_type rpo_alpha pref_ftx ref_model learning_rate optim
    lr_scheduler_type lr_scheduler warmup_ratio per_device_train_batch_size micro_batch_size
    gradient_accumulation_steps num_train_epochs num_epochs max_steps bf16 fp16 gradient_checkpointing deepspeed fsdp
    logging_steps eval_steps save_steps save_total_limit report_to wandb_project dataset_mixer interleave_probs
    eval_dataset
    """.split()  # noqa: SIM905 - sixty names
)


def test_the_fifty_most_common_names_are_known():
    assert len(COMMON) >= 50
    assert [name for name in COMMON if name not in FOREIGN_KEYS] == []


@pytest.mark.parametrize("name", COMMON)
def test_each_gets_a_hint_in_a_table_at_the_top_and_from_set(name, plugins):
    hint = FOREIGN_KEYS[name].hint()
    text = f"  [training] {name}: there is no such key; {hint}"
    assert text in refused(MINIMAL + f"[training]\n{name} = 1\n", plugins=plugins)
    assert text in refused(MINIMAL, f"training.{name}=1", plugins=plugins)
    assert f"  {name}: there is no such key; {hint}" in refused(f"{name} = 1\n{MINIMAL}", plugins=plugins)


def test_every_key_that_is_named_exists():
    plugins = PluginManager.from_entry_points()
    known = set(TopLevel.model_fields)
    for table, section in CORE_SECTIONS.items():
        known |= {f"{table}.{key}" for key in section.model_fields}
    for table, kind in CORE_KINDS.tables.items():
        keys = {"use"}.union(*(each.Options.model_fields for each in plugins.components(kind.component)))
        known |= {f"{table}.{key}" for key in keys} | {f"[{table}]"}
    known |= {f"[[{table}]]" for table in (*CORE_KINDS.listed, *known)}
    assert {
        key: found.here for key, found in FOREIGN_KEYS.items() if found.here and found.here not in known
    } == {}


def test_the_table_of_the_recipes_readme_says_the_same():
    text = (ROOT / "recipes" / "README.md").read_text(encoding="utf-8")
    table = text.partition("| there | here |\n| --- | --- |\n")[2].partition("\n\n")[0]
    rows = [re.findall(r"`([^`]+)`", line) for line in table.splitlines()]
    assert len(rows) == 27
    for *names, here in rows:
        assert {FOREIGN_KEYS[name].here for name in names} == {here}


def test_a_key_has_a_counterpart_or_a_reason_why_there_is_none():
    for key, found in FOREIGN_KEYS.items():
        assert bool(found.here) != bool(found.gap), key
        assert found.here or (found.note and isinstance(found.gap, Gap)), key


def test_a_key_of_the_same_name_in_the_wrong_place_is_sent_to_its_table(plugins):
    assert "  beta: there is no such key; it belongs to [loss]" in refused(
        f"beta = 1\n{MINIMAL}", plugins=plugins
    )
    assert "  max_length: there is no such key; it belongs to [data]" in refused(
        MINIMAL, "max_length=5", plugins=plugins
    )
    assert "  epochs: there is no such key; it belongs to [training]" in refused(
        MINIMAL, "epochs=5", plugins=plugins
    )
    assert "  [training] max_length: there is no such key; it belongs to [data]" in refused(
        MINIMAL, "training.max_length=5", plugins=plugins
    )


def test_variables_of_the_chat_template_are_sent_from_the_model_to_the_data():
    text = MINIMAL
    for fake, built_in in (("fake-model", "transformers"), ("fake-rows", "hf-datasets"), ("fake-dpo", "dpo")):
        text = text.replace(fake, built_in)
    said = refused(
        text, "model.chat_template_arguments.thinks=false", plugins=PluginManager.from_entry_points()
    )
    assert "[model] chat_template_arguments: " in said
    assert "; it is called data.template_arguments here" in said


@pytest.mark.parametrize("name", FOREIGN_TABLES)
def test_tables_of_other_tools_are_known(name, plugins):
    assert f"  [{name}]: there is no such table; {FOREIGN_TABLES[name]}" in refused(
        MINIMAL, f"{name}.x=1", plugins=plugins
    )


@pytest.mark.parametrize("name", ["config.yaml", "config.yml", "config.json", "train.sh"])
def test_a_file_of_another_tool_is_not_read_as_toml(name, folder):
    (folder / name).write_text("beta: 0.1\n")
    with pytest.raises(RecipeError) as caught:
        read_layers(folder.joinpath(name).relative_to(folder))
    assert str(caught.value) == (
        f"{name} is not a recipe: recipes are TOML files\n"
        f"if it is a configuration of TRL, axolotl, LLaMA-Factory or ms-swift: dpotrain convert {name}"
    )


@pytest.mark.parametrize(
    ("override", "text"),
    [
        ("model=org/name", '[model]: expected a table [model]; did you mean model.name = "org/name"?'),
        ("data=pairs.jsonl", '[data]: expected a table [data]; did you mean data.name = "pairs.jsonl"?'),
        ("loss=fake-dpo", '[loss]: expected a table [loss]; did you mean loss.use = "fake-dpo"?'),
        ("loss=ppo", "[loss]: expected a table [loss]; use picks the loss: "),
        ("adapter=fake-lora", "did you mean adapter.use = "),
        ("lr=3", "lr: there is no such key; it belongs to [optimizer]"),
    ],
)
def test_a_value_in_a_tables_place_is_sent_to_its_key(override, text, plugins):
    assert text in refused(MINIMAL, override, plugins=plugins)
