"""The map in dpotrain/README.md names what exists and all of it; so do the documents that are written around it."""

import re
import tomllib

from dpotrain.plugin.api.kinds import KINDS
from tests.docs.generated import ROOT

PACKAGE = ROOT / "dpotrain"
MAP = (PACKAGE / "README.md").read_text(encoding="utf-8")


def part(heading: str) -> str:
    """Return the text below a heading."""
    return MAP.partition(f"\n## {heading}")[2].partition("\n## ")[0]


ROOMS = part("Rooms")


def test_modules_and_folders_that_are_named_exist():
    modules = set(re.findall(r"[\w/]+\.py\b", MAP))
    assert sorted(path for path in modules if not (PACKAGE / path).is_file()) == []
    folders = set(re.findall(r"`([\w/]+/)`", ROOMS))
    assert sorted(path for path in folders if not (PACKAGE / path).is_dir()) == []


def test_the_guide_and_the_decisions_name_what_exists():
    for document in (ROOT / ".github" / "CONTRIBUTING.md", *(PACKAGE / "decisions").glob("*.md")):
        text = document.read_text(encoding="utf-8")
        paths = re.findall(r"`((?:dpotrain|plugins|tests)/[\w./-]+|[\w./-]+(?:\.py|/))`", text)
        missing = [path for path in paths if not ((PACKAGE / path).exists() or (ROOT / path).exists())]
        assert missing == [], document.name


def test_every_package_is_named():
    packages = {path.parent.relative_to(PACKAGE).as_posix() for path in PACKAGE.rglob("__init__.py")} - {"."}
    assert [package for package in sorted(packages) if f"`{package}/`" not in ROOMS] == []


def test_the_rooms_stand_in_the_order_of_the_import_contract():
    with (ROOT / "pyproject.toml").open("rb") as file:
        contracts = tomllib.load(file)["tool"]["importlinter"]["contracts"]
    (layers,) = (contract["layers"] for contract in contracts if contract["type"] == "layers")
    assert re.findall(r"^\| `(\w+)/` \|", ROOMS, re.MULTILINE) == layers[::-1]


def test_the_glossary_has_every_kind_of_component():
    terms = re.findall(r"^\| (.+?) \|", part("Glossary"), re.MULTILINE)
    known = {term.strip() for row in terms for term in row.split(",")}
    assert [kind.component.kind for kind in KINDS if kind.component.kind.split()[-1] not in known] == []


def test_it_is_short_enough_to_read():
    assert len(MAP.splitlines()) <= 110
