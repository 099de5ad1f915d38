"""Wheels for a GPU machine without a network.

    python -m tests.gpu.wheels FOLDER [--add pyarrow --add pandas …]

Downloads what dpotrain and the check import and a machine with torch, transformers, accelerate, peft, pyarrow, pandas
and pytest may lack, for CPython 3.12 on x86-64 Linux, and prints how to install it there. Nothing is installed here.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import zipfile
from collections.abc import Sequence
from pathlib import Path

CONSTRAINTS = Path(__file__).parent.parent / "constraints.txt"
#: What is downloaded, with what it needs itself. wandb is not among it: only a recipe with that logger imports it.
NEEDED = (
    *("pydantic", "pydantic_core", "annotated-types", "typing-inspection"),
    *("datasets", "dill<0.4.2", "multiprocess<0.70.20", "tomli_w", "bitsandbytes"),
)
#: The CUDA version whose library is kept of bitsandbytes, which has one for each, and its library for processors.
CUDA = "130"
_LIBRARY = re.compile(r"bitsandbytes/libbitsandbytes_(?!cuda" + CUDA + r"\.|cpu\.)\w+\.so")
PLATFORMS = (
    "manylinux_2_28",
    "manylinux_2_27",
    "manylinux_2_24",
    "manylinux_2_17",
    "manylinux2014",
    "manylinux1",
)
#: Bytes that all wheels together may take.
MOST = 60 * 2**20


def pinned(names: Sequence[str]) -> list[str]:
    """Return each name with its version of ``constraints.txt``, where that has one."""
    lines = CONSTRAINTS.read_text(encoding="utf-8").split()
    versions = {_normal(line.partition("==")[0]): line for line in lines}
    return [versions.get(_normal(name), name) for name in names]


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def download(wanted: Sequence[str], folder: Path) -> None:
    """Have pip put the wheels into ``folder``, none of which needs to fit this machine."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
    command += ["--python-version", "3.12", "--implementation", "cp", "--dest", str(folder)]
    command += [word for name in PLATFORMS for word in ("--platform", f"{name}_x86_64")]
    subprocess.run([*command, *wanted], check=True)


def strip_libraries(wheel: Path) -> None:
    """Take the libraries for other devices out of a bitsandbytes wheel, and their lines out of its RECORD."""
    stripped = wheel.with_suffix(".tmp")
    with zipfile.ZipFile(wheel) as old, zipfile.ZipFile(stripped, "w", zipfile.ZIP_DEFLATED) as new:
        for item in old.infolist():
            if _LIBRARY.fullmatch(item.filename):
                continue
            data = old.read(item)
            if item.filename.endswith(".dist-info/RECORD"):
                lines = data.decode().splitlines(keepends=True)
                data = "".join(line for line in lines if not _LIBRARY.match(line)).encode()
            new.writestr(item, data, zipfile.ZIP_DEFLATED)
    stripped.replace(wheel)


def main(given: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.gpu.wheels", description="Fetch wheels.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--add", action="append", default=[], metavar="NAME", help="a further package")
    options = parser.parse_args(given)
    options.folder.mkdir(parents=True, exist_ok=True)
    if old := sorted(options.folder.glob("*.whl")):
        parser.error(
            f"{options.folder} already has wheels ({old[0].name}, …); two versions of one cannot be installed"
        )
    download(pinned([*NEEDED, *options.add]), options.folder)
    for wheel in options.folder.glob("bitsandbytes-*.whl"):
        strip_libraries(wheel)
    size = 0
    for wheel in sorted(options.folder.glob("*.whl")):
        size += wheel.stat().st_size
        print(f"{wheel.stat().st_size / 2**20:6.2f} MiB  {wheel.name}")
    print(f"{size / 2**20:6.2f} MiB  in all\n\nOn the other machine:\n")
    print(f"    python -m pip install --no-index --no-deps --target DIR {options.folder}/*.whl")
    print("    PYTHONPATH=DIR python -m tests.gpu OUT")
    if size > MOST:
        print(f"\nThat is more than {MOST // 2**20} MiB.", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
