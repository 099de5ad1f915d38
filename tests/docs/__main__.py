"""``python -m tests.docs``: write the generated parts of the documents anew."""

from tests.docs.generated import DOCUMENTS, ROOT, fill

for path, sections in DOCUMENTS.items():
    text = path.read_text(encoding="utf-8")
    filled = fill(text, {name: make() for name, make in sections.items()})
    if filled != text:
        path.write_text(filled, encoding="utf-8")
    print(f"{path.relative_to(ROOT)}: {'as it was' if filled == text else 'written'}")
