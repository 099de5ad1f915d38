"""Fresh environments with packages installed from wheels, which see what dpotrain needs, without a network."""

import os
import subprocess
import sys
import sysconfig
from collections.abc import Iterable, Mapping
from pathlib import Path

ROOT = Path(__file__).parent.parent
#: Builds a wheel of each folder, as pip would, but without a network and an environment for each.
_BUILD = "import hatchling.build, os, sys\nfor f in sys.argv[2:]: os.chdir(f); hatchling.build.build_wheel(sys.argv[1])"


def environment_with(packages: Iterable[Path], folder: Path) -> str:
    """Make an environment in ``folder`` with a wheel of each package installed, and return its interpreter."""
    wheels, place = folder / "wheels", folder / "environment"
    wheels.mkdir()
    run(sys.executable, "-c", _BUILD, str(wheels), *map(str, packages))
    run(sys.executable, "-m", "venv", "--without-pip", str(place))
    python = str(place / "bin" / "python")
    (site,) = place.glob("lib/python*/site-packages")
    # This checkout's source, whichever one is installed, then what is installed. A .pth file in a folder that a .pth
    # file names is not read; this reads dpotrain's own, if it is editable.
    sites = f"import site; site.addsitedir({sysconfig.get_path('purelib')!r})"
    (site / "ours.pth").write_text("\n".join([str(ROOT), str(ROOT / "plugins"), sites]) + "\n")
    pip = [sys.executable, "-m", "pip", "--python", python, "install", "--no-deps", "--no-index", "-q"]
    run(*pip, *map(str, wheels.glob("*.whl")))
    return python


def run(*command: str, cwd: Path | None = None, code: int = 0) -> str:
    """Run a command in its own process, look at its exit code, and return what it said: stderr where it failed."""
    done = subprocess.run(command, cwd=cwd, env=plain_environ(), capture_output=True, text=True)
    assert done.returncode == code, done.stdout + done.stderr
    return done.stderr if code else done.stdout


def plain_environ() -> Mapping[str, str]:
    """Return this process's variables without a path that would let packages be found that are not installed."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return {**environment, "OMP_NUM_THREADS": "1"}
