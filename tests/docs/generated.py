"""Which documents have generated parts, and putting them between their markers.

A part begins after ``<!-- generated: NAME -->`` and ends before ``<!-- end of NAME -->``.
"""

import re
from collections.abc import Callable, Mapping
from pathlib import Path

from tests.docs import interface_reference, plugin_reference, recipe_reference, testing_reference
from tests.plugin.faults import fault_tables
from tests.run.faults import fault_table

ROOT = Path(__file__).parent.parent.parent

DOCUMENTS: dict[Path, dict[str, Callable[[], str]]] = {
    ROOT / "recipes" / "README.md": {"tables": recipe_reference.tables},
    ROOT / "plugins" / "README.md": {
        "kinds": plugin_reference.scaffolds,
        "life of a run": plugin_reference.life_of_a_run,
        "processes": interface_reference.processes,
    },
    ROOT / "plugins" / "reference.md": {
        "addresses": interface_reference.addresses,
        "components": plugin_reference.components,
        "hooks": plugin_reference.hooks,
        "objects": plugin_reference.objects,
        "errors": interface_reference.errors,
        "functions": interface_reference.functions,
        "records": interface_reference.records,
        "files": interface_reference.files,
        "programs": interface_reference.programs,
        "testing": testing_reference.testing_page,
    },
    ROOT / "plugins" / "faults.md": {"faults": fault_tables},
    ROOT / "tests" / "README.md": {"faults": fault_table},
}


def fill(text: str, parts: Mapping[str, str]) -> str:
    """Return a document with its generated parts replaced.

    Raises ValueError if its markers are not exactly those of ``parts``.
    """
    marked = re.findall(r"<!-- generated: (.*?) -->", text)
    if sorted(marked) != sorted(parts):
        raise ValueError(f"the document's generated parts are {marked}, not {list(parts)}")
    for name, part in parts.items():
        begin, end = f"<!-- generated: {name} -->", f"<!-- end of {name} -->"
        before, _, rest = text.partition(begin)
        _, found, after = rest.partition(end)
        if not found:
            raise ValueError(f"{begin} has no {end}")
        text = f"{before}{begin}\n\n{part.strip()}\n\n{end}{after}"
    return text


def stale(text: str, parts: Mapping[str, str]) -> list[str]:
    """Return the names of the parts that a document holds in another version."""
    return [
        name for name, part in parts.items() if f"-->\n\n{part.strip()}\n\n<!-- end of {name} -->" not in text
    ]
