"""The fenced blocks of a Markdown document."""

import re
from dataclasses import dataclass
from pathlib import Path

_BLOCK = re.compile(
    r"^(?:<!-- (?P<mark>[^\n]*?) -->\n)?```(?P<kind>\w+)\n(?P<text>.*?)^```$", re.DOTALL | re.MULTILINE
)


@dataclass(frozen=True, slots=True)
class Block:
    """A fenced block, and the comment right above it if there is one."""

    kind: str
    text: str
    mark: str

    @property
    def commands(self) -> list[str]:
        """The commands of a ``console`` block, without prompt and comment."""
        return [
            line[2:].partition("  #")[0].strip() for line in self.text.splitlines() if line.startswith("$ ")
        ]


def blocks(path: Path, *kinds: str) -> list[Block]:
    """Return a document's fenced blocks of these kinds (all unless given), in order."""
    found = [
        Block(match["kind"], match["text"], match["mark"] or "")
        for match in _BLOCK.finditer(path.read_text(encoding="utf-8"))
    ]
    return [block for block in found if not kinds or block.kind in kinds]
