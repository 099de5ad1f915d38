"""The generated parts of the documents are what the code says today."""

import pytest

from dpotrain.plugin.api.kinds import CORE_KINDS
from dpotrain.recipe.sections.catalogue import CORE_SECTIONS
from tests.docs.generated import DOCUMENTS, ROOT, fill, stale
from tests.docs.recipe_reference import built_ins

documents = pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))


@documents
def test_the_generated_parts_are_up_to_date(path):
    parts = {name: make() for name, make in DOCUMENTS[path].items()}
    assert stale(path.read_text(encoding="utf-8"), parts) == [], "run `python -m tests.docs`"


@documents
def test_writing_anew_changes_nothing_but_the_parts(path):
    text = path.read_text(encoding="utf-8")
    parts = {name: make() for name, make in DOCUMENTS[path].items()}
    assert fill(fill(text, dict.fromkeys(parts, "gone")), parts) == fill(text, parts)
    other = fill(text, dict.fromkeys(parts, "gone"))
    assert stale(other, parts) == list(parts)


def test_markers_must_match():
    with pytest.raises(ValueError, match="has no <!-- end of a -->"):
        fill("<!-- generated: a -->", {"a": ""})
    with pytest.raises(ValueError, match=r"generated parts are \['b'\]"):
        fill("<!-- generated: b --><!-- end of b -->", {"a": ""})


def test_the_recipe_reference_has_every_table_component_and_key():
    text = (ROOT / "recipes" / "README.md").read_text(encoding="utf-8")
    for name, section in CORE_SECTIONS.items():
        assert f"### `[{name}]`" in text
        assert all(f"| `{key}` |" in text for key in section.model_fields)
    assert all(f"### `[[{name}]]`" in text for name in CORE_KINDS.listed)
    manager = built_ins()
    assert len(manager.plugins) >= 9
    assert not manager.failed
    for plugin in manager.plugins:
        for component in plugin.components:
            formatter = f'| `"{component.name}"` |' in text
            assert formatter or f'#### `use = "{component.name}"`' in text
            for key, field in component.Options.model_fields.items():
                assert f"| `{key}` |" in text
                assert field.description, f"{component.name}.{key} has no description"
