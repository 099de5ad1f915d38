"""What a wheel holds: two packages, their entry points, and every file that they need at run time."""

import configparser
import json
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

#: Runs in the unpacked wheel, without the checkout: an editable install's finder must not help out.
IMPORT_ALL = """
import importlib, importlib.metadata, json, sys
site = sys.argv[1]
sys.meta_path[:] = [finder for finder in sys.meta_path if "ditable" not in repr(finder)]
sys.path[:] = [site, *(path for path in sys.path if path not in sys.argv[2:])]
(distribution,) = importlib.metadata.distributions(name="dpotrain", path=[site])
points = distribution.entry_points.select(group="dpotrain")
modules = {point.name: point.load() for point in points}
assert all(module.__file__.startswith(site) for module in modules.values()), modules
import dpotrain
from dpotrain.plugin.runtime.manager import PluginManager
manager = PluginManager.of(*modules.values())
print(json.dumps({
    "points": sorted(modules),
    "version": [dpotrain.__version__, distribution.version],
    "engine": dpotrain.__file__,
    "failed": [plugin.reason for plugin in manager.failed],
}))
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """A wheel, built by the backend itself: no network, no environment of its own."""
    folder = tmp_path_factory.mktemp("wheel")
    code = f"import hatchling.build; hatchling.build.build_wheel({str(folder)!r})"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def unpacked(wheel, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    return folder


def declared_points(group: str = "dpotrain") -> dict[str, str]:
    with (ROOT / "pyproject.toml").open("rb") as file:
        return tomllib.load(file)["project"]["entry-points"][group]


def test_two_top_level_packages_and_nothing_else(unpacked):
    names = {path.name for path in unpacked.iterdir()}
    (info,) = (name for name in names if name.endswith(".dist-info"))
    assert names == {"dpotrain", "dpotrain_plugins", info}


def test_every_source_file_is_in_it_and_no_document_or_leftover(unpacked):
    for package, source in {"dpotrain": "dpotrain", "dpotrain_plugins": "plugins/dpotrain_plugins"}.items():
        ours = {path.relative_to(ROOT / source) for path in (ROOT / source).rglob("*") if path.is_file()}
        ours = {path for path in ours if "__pycache__" not in path.parts and path.suffix != ".md"}
        theirs = {
            path.relative_to(unpacked / package) for path in (unpacked / package).rglob("*") if path.is_file()
        }
        assert theirs == ours


def test_both_packages_are_typed(unpacked):
    assert (unpacked / "dpotrain" / "py.typed").is_file()
    assert (unpacked / "dpotrain_plugins" / "py.typed").is_file()


def test_entry_points_are_the_declared_ones(unpacked):
    (info,) = unpacked.glob("*.dist-info")
    found = configparser.ConfigParser(delimiters="=")
    found.read(info / "entry_points.txt")
    assert dict(found["dpotrain"]) == declared_points()
    assert dict(found["dpotrain.commands"]) == declared_points("dpotrain.commands")
    assert dict(found["console_scripts"]) == {"dpotrain": "dpotrain.cli:main"}
    assert (info / "licenses" / "LICENSE").is_file()


def test_every_entry_point_is_imported_from_the_wheel_alone(unpacked, tmp_path):
    checkout = [str(ROOT), str(ROOT / "plugins")]
    command = [sys.executable, "-I", "-c", IMPORT_ALL, str(unpacked), *checkout]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert said["points"] == sorted(declared_points())
    assert len(set(said["version"])) == 1
    assert said["engine"].startswith(str(unpacked))
    assert said["failed"] == []


def test_every_plugin_of_the_package_has_an_entry_point():
    """A built-in without one would be found by nobody."""
    from dpotrain.plugin.api.hookspecs import HOOKS

    named = set(declared_points().values())
    for path in (ROOT / "plugins" / "dpotrain_plugins").rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        if any(f"\ndef {hook}(" in text for hook in HOOKS):
            module = ".".join(path.relative_to(ROOT / "plugins").with_suffix("").parts)
            assert module.removesuffix(".__init__") in named


def test_the_tested_versions_cover_every_dependency():
    """The README installs with them, so a dependency without one would be whatever is newest that day."""
    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name

    with (ROOT / "pyproject.toml").open("rb") as file:
        project = tomllib.load(file)["project"]
    wanted = [*project["dependencies"], *project["optional-dependencies"]["test"]]
    lines = (ROOT / "tests" / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pinned = {
        canonicalize_name(pin.name): pin.specifier
        for pin in (Requirement(line) for line in lines if line.strip() and not line.startswith("#"))
    }
    for text in wanted:
        requirement = Requirement(text)
        specifier = pinned[canonicalize_name(requirement.name)]
        (version,) = (each.version for each in specifier)
        assert requirement.specifier.contains(version), text
