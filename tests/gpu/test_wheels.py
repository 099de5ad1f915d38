"""The wheels for a bare machine: the pinned versions, and bitsandbytes without the libraries of other devices."""

from __future__ import annotations

import zipfile

from tests.gpu import wheels


def test_versions_are_those_of_the_constraints_where_they_have_one():
    pins = wheels.pinned(["tomli-w", "annotated-types", "dill<0.4.2"])
    assert pins[0].startswith("tomli_w==")
    assert pins[1:] == ["annotated-types", "dill<0.4.2"]


def test_one_cuda_library_stays_and_the_record_says_so(tmp_path):
    libraries = ("cpu", "cuda124", "cuda130", "cuda132", "rocm72", "xpu2026")
    names = [f"bitsandbytes/libbitsandbytes_{library}.so" for library in libraries]
    others = ["bitsandbytes/__init__.py", "bitsandbytes-1.dist-info/METADATA"]
    record = "bitsandbytes-1.dist-info/RECORD"
    path = tmp_path / "bitsandbytes-1-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as wheel:
        for name in (*names, *others):
            wheel.writestr(name, b"content")
        wheel.writestr(
            record, "".join(f"{name},sha256=x,7\n" for name in (*names, *others)) + f"{record},,\n"
        )
    wheels.strip_libraries(path)
    kept = [names[0], names[2], *others, record]
    with zipfile.ZipFile(path) as wheel:
        assert wheel.namelist() == kept
        assert [line.partition(",")[0] for line in wheel.read(record).decode().splitlines()] == kept
    assert [each.name for each in tmp_path.iterdir()] == [path.name]
