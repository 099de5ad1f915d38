"""``metrics.jsonl``: one JSON object a line, the core's own record of the run."""

from __future__ import annotations

import json
import math
from pathlib import Path

from dpotrain.run.atomic import write_text
from dpotrain.run.records import Record


class MetricsFile:
    """Appends records; each line is complete once written."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def write(self, record: Record) -> None:
        """Append one line. A number that is not finite becomes null, since JSON has none."""
        values = {
            name: None if isinstance(value, float) and not math.isfinite(value) else value
            for name, value in record.as_json().items()
        }
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(values, allow_nan=False) + "\n")

    def rewind(self, step: int) -> None:
        """Drop what was written after ``step``, and a line that was cut short, before a resumed run goes on."""
        if not self.path.exists():
            return
        kept = []
        for line in self.path.read_text(encoding="utf-8", errors="replace").split("\n"):
            try:
                if json.loads(line)["step"] <= step:
                    kept.append(line + "\n")
            except (ValueError, KeyError, TypeError, RecursionError):
                continue
        write_text(self.path, "".join(kept))
