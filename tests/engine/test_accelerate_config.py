"""A configuration of accelerate in the terms of a recipe; the variables are those that its launcher exports."""

import json
from argparse import Namespace

import pytest

from dpotrain.core.errors import RecipeError
from dpotrain.engine.parallel.accelerate_config import (
    FsdpConfig,
    fsdp_config,
    refuse_engines,
    take_fsdp_config,
)
from dpotrain.recipe.sections.parallel import ParallelSection

RECIPE = ParallelSection(), "auto"


def exported(*options: str) -> dict[str, str]:
    """Return what ``accelerate launch`` adds to the environment for the options of a command line."""
    from accelerate.commands.launch import launch_command_parser
    from accelerate.utils.launch import prepare_multi_gpu_env

    words = ["--num_processes=8", "--num_machines=1", "--main_process_port=0", "--mixed_precision=bf16"]
    words.append("--dynamo_backend=no")
    arguments: Namespace = launch_command_parser().parse_args([*words, *options, "script.py"])
    return prepare_multi_gpu_env(arguments)


def config(*options: str) -> FsdpConfig:
    found = fsdp_config(exported("--use_fsdp", *options), local_size=4)
    assert found is not None
    return found


def test_without_fsdp_nothing_is_asked_for():
    assert fsdp_config(exported(), local_size=4) is None
    refuse_engines(exported())


@pytest.mark.parametrize(
    ("options", "shard", "group"),
    [
        ([], "all", None),
        (["--fsdp_sharding_strategy=FULL_SHARD"], "all", None),
        (["--fsdp_sharding_strategy=SHARD_GRAD_OP"], "all", None),
        (["--fsdp_sharding_strategy=3"], "none", None),
        (["--fsdp_sharding_strategy=HYBRID_SHARD"], "all", 4),
        (["--fsdp_sharding_strategy=hybrid_shard_zero2"], "all", 4),
        (["--fsdp_version=2"], "all", None),
        (["--fsdp_version=2", "--fsdp_reshard_after_forward=false"], "all", None),
    ],
)
def test_a_strategy_is_a_value_of_the_recipe(options, shard, group):
    found = config(*options)
    assert (found.shard, found.group) == (shard, group)
    more = [] if group is None else [f"parallel.group={group}"]
    assert found.with_recipe(*RECIPE) == [f'parallel.shard="{shard}"', *more]


def test_the_launcher_s_defaults_are_no_reason_for_a_note():
    assert config().notes == ()


def test_offloading_and_checkpointing_are_read():
    found = config(
        "--fsdp_version=2",
        "--fsdp_offload_params=true",
        "--fsdp_activation_checkpointing=true",
        "--fsdp_activation_checkpointing_offload=true",
    )
    assert (found.offload, found.checkpointing, found.offload_activations) == (True, True, True)
    assert found.with_recipe(*RECIPE) == [
        'parallel.shard="all"',
        'parallel.offload="cpu"',
        "training.activation_checkpointing=true",
        "training.activation_offload=true",
    ]
    assert config().with_recipe(ParallelSection(shard="all", offload="cpu"), False) == [
        'parallel.shard="all"'
    ]


HYBRID, CHECKPOINTING = "fsdp_sharding_strategy: HYBRID_SHARD", "fsdp_activation_checkpointing: true"


@pytest.mark.parametrize(
    ("recipe", "checkpointing", "said", "asked"),
    [
        (ParallelSection(shard="none"), "auto", 'parallel.shard = "none"', HYBRID),
        (ParallelSection(group=2), "auto", "parallel.group = 2", HYBRID),
        (
            ParallelSection(shard="all", group=4),
            False,
            "training.activation_checkpointing = false",
            CHECKPOINTING,
        ),
    ],
)
def test_a_contradiction_names_both(recipe, checkpointing, said, asked):
    found = config("--fsdp_sharding_strategy=HYBRID_SHARD", "--fsdp_activation_checkpointing=true")
    with pytest.raises(RecipeError) as caught:
        found.with_recipe(recipe, checkpointing)
    assert str(caught.value) == (
        f"the recipe has {said}, and the accelerate configuration {asked}.\n"
        "Remove one of the two, or let them say the same."
    )


def test_what_has_no_meaning_here_is_said_once_for_each_reason():
    notes = config(
        "--fsdp_auto_wrap_policy=TRANSFORMER_BASED_WRAP",
        "--fsdp_transformer_layer_cls_to_wrap=LlamaDecoderLayer",
        "--fsdp_sharding_strategy=SHARD_GRAD_OP",
        "--fsdp_cpu_ram_efficient_loading=false",
    ).notes
    assert "fsdp_sharding_strategy: SHARD_GRAD_OP: here layers are gathered again" in notes[0]
    assert (
        "fsdp_auto_wrap_policy, fsdp_transformer_layer_cls_to_wrap of the accelerate configuration: "
        "every decoder layer is gathered by itself"
    ) in notes
    assert any(note.startswith("fsdp_cpu_ram_efficient_loading of") for note in notes)


def test_a_strategy_that_fsdp_does_not_know():
    with pytest.raises(RecipeError, match="fsdp_sharding_strategy: HALF, which FSDP does not know"):
        config("--fsdp_sharding_strategy=half")


@pytest.mark.parametrize(
    ("stage", "device", "lines"),
    [
        ("0", "none", '[parallel]\nshard = "none"'),
        ("1", "none", '[parallel]\nshard = "all"'),
        ("2", "cpu", '[parallel]\nshard = "all"\noffload = "cpu"'),
        ("3", "none", '[parallel]\nshard = "all"'),
        ("3", "nvme", '[parallel]\nshard = "all"\noffload = "cpu"'),
    ],
)
def test_deepspeed_is_refused_with_the_lines_that_do_the_same(stage, device, lines, tmp_path):
    asked = {
        "ACCELERATE_USE_DEEPSPEED": "true",
        "ACCELERATE_DEEPSPEED_ZERO_STAGE": stage,
        "ACCELERATE_DEEPSPEED_OFFLOAD_OPTIMIZER_DEVICE": device,
        "ACCELERATE_DEEPSPEED_OFFLOAD_PARAM_DEVICE": "none",
    }
    file = tmp_path / "ds.json"
    zero = {"stage": int(stage), "offload_optimizer": {"device": device}}
    file.write_text(json.dumps({"zero_optimization": zero}))
    in_file = {"ACCELERATE_USE_DEEPSPEED": "true", "ACCELERATE_DEEPSPEED_CONFIG_FILE": str(file)}
    for environment in (asked, in_file):
        with pytest.raises(RecipeError) as caught:
            refuse_engines(environment)
        assert f"asks for DeepSpeed (ZeRO stage {stage}" in str(caught.value)
        assert str(caught.value).endswith(f"write in the recipe:\n{lines}")


def test_megatron_is_refused():
    with pytest.raises(RecipeError, match="asks for Megatron-LM"):
        refuse_engines({"ACCELERATE_USE_MEGATRON_LM": "true"})


def test_fsdp_is_refused_where_nobody_has_read_it():
    environment = exported("--use_fsdp")
    with pytest.raises(RecipeError, match="asks for FSDP, which only dpotrain run reads"):
        refuse_engines(environment)
    assert take_fsdp_config(environment).shard == "all"
    refuse_engines(environment)
    assert take_fsdp_config(environment) is None
