"""What a stage finds out, written down at once: a stage that is killed has still said what it knew."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

Figure = float | int | str | bool | None


@dataclass
class Report:
    """A stage's pen, and where it works."""

    file: Path
    """JSON lines, read again by :meth:`Result.of`."""
    folder: Path
    """The stage's own, for its recipes and runs; goes when the check ends."""
    out: Path
    """For files that are worth keeping."""
    dry: bool
    """Whether to do everything on a CPU, as small as it can be."""

    @property
    def device(self) -> str:
        return "cpu" if self.dry else "cuda"

    def figure(self, name: str, value: Figure) -> None:
        """Write a number or a word down."""
        if isinstance(value, float) and math.isfinite(value):
            value = float(f"{value:.4g}")
        self._write({"figure": name, "value": value if value == value else "nan"})

    def expect(self, holds: bool, what: str) -> None:
        """Let the stage fail, and go on, where ``what`` does not hold."""
        if not holds:
            self.fail(what)

    def fail(self, error: str) -> None:
        self._write({"error": error})

    def _write(self, line: dict[str, Any]) -> None:
        with self.file.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")


@dataclass
class Result:
    """One line of results.jsonl."""

    stage: int
    name: str
    passed: bool
    seconds: float
    figures: dict[str, Figure] = field(default_factory=dict)
    error: str = ""

    @classmethod
    def of(cls, stage: int, name: str, seconds: float, file: Path, ended: str) -> Result:
        """Collect what a stage wrote; ``ended`` says why it did not come to its end, if it did not."""
        figures: dict[str, Figure] = {}
        errors = []
        for line in file.read_text(encoding="utf-8").splitlines() if file.exists() else []:
            said = json.loads(line)
            if "error" in said:
                errors.append(said["error"])
            else:
                figures[said["figure"]] = said["value"]
        errors += [ended] if ended else []
        return cls(stage, name, not errors, round(seconds, 1), figures, "; ".join(errors))
