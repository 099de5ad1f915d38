"""Triton kernels compile for a GPU, which needs none: down to its machine code, with nothing kept in slow memory."""

import importlib

import pytest

pytestmark = pytest.mark.soak
triton = pytest.importorskip("triton", reason="needs triton, which comes with the extra test on Linux")

#: Types of the kernels' arguments by name: pointers to 16-bit and 32-bit numbers, and numbers. Others are integers.
TYPES = {
    **dict.fromkeys(("hidden", "weight", "output", "gate", "up", "grad", "dgate", "dup", "dhidden"), "*bf16"),
    **dict.fromkeys(("query", "key", "rotated_query", "rotated_key", "raw", "bias"), "*bf16"),
    **dict.fromkeys(("scale", "parts", "cos", "sin"), "*fp32"),
    **dict.fromkeys(("largest", "total", "target", "shrink", "log_sum"), "*fp32"),
    **dict.fromkeys(("epsilon", "softcap"), "fp32"),
    "targets": "*i64",
}
HEAD = {"scale": "fp32", "grad": "*fp32"}
HEAD_CONSTANTS = [
    {"BIASED": each, "CAPPED": each, "SCALED": each, "KEEP": each, "BLOCK": 4096} for each in (False, True)
]
KERNELS = [
    ("triton_layers", "_norm_forward", [{"ROWS": 1, "BLOCK": 4096}, {"ROWS": 16, "BLOCK": 128}], {}),
    (
        "triton_layers",
        "_norm_backward",
        [{"TRAINED": each, "ROWS": 1, "BLOCK": 8192} for each in (False, True)],
        {},
    ),
    ("triton_layers", "_product_forward", [{"BLOCK": 2048}], {}),
    ("triton_layers", "_product_backward", [{"BLOCK": 2048}], {}),
    (
        "triton_layers",
        "_rotate_rows",
        [{"BACK": each, "NARROW": each, "HEADS": 8, "BLOCK": 64} for each in (False, True)],
        {},
    ),
    ("triton_head", "_add_tile", HEAD_CONSTANTS, HEAD),
    ("triton_head", "_tile_gradient", HEAD_CONSTANTS, HEAD),
]


@pytest.mark.parametrize(("module", "name", "variants", "types"), KERNELS)
def test_a_kernel_compiles_for_a_gpu(module, name, variants, types, tmp_path, monkeypatch):
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    kernel = getattr(importlib.import_module(f"dpotrain.engine.kernels.{module}"), name)
    for constants in variants:
        constants = {each: value for each, value in constants.items() if each in kernel.arg_names}
        signature = {
            each: "constexpr" if each in constants else {**TYPES, **types}.get(each, "i32")
            for each in kernel.arg_names
        }
        source = ASTSource(kernel, signature, constants)
        done = triton.compile(source, target=GPUTarget("cuda", 90, 32), options={"num_warps": 8})
        assert done.asm["cubin"]
        assert ".local" not in done.asm["ptx"]
