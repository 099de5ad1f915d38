"""The figures and errors of a stage, written to a file at once: a stage that is killed loses none of them."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

Figure = float | int | str | bool | None


@dataclass
class Report:
    """Where a stage works, and where it writes figures and errors."""

    file: Path
    """JSON lines, read by :meth:`Result.of`."""
    folder: Path
    """For the stage's recipes and runs; deleted when the check ends."""
    out: Path
    """For files to keep."""
    dry: bool
    """Whether to run on a CPU with tiny shapes."""

    @property
    def device(self) -> str:
        return "cpu" if self.dry else "cuda"

    def figure(self, name: str, value: Figure) -> None:
        """Write a measured value."""
        if isinstance(value, float) and math.isfinite(value):
            value = float(f"{value:.4g}")
        self._write({"figure": name, "value": value if value == value else "nan"})

    def expect(self, holds: bool, what: str) -> None:
        """Mark the stage as failed, and continue, unless ``holds``; ``what`` is the error."""
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
        """Collect what a stage wrote; ``ended`` says why it did not finish, empty if it did."""
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
