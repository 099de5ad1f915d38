"""Why a process of the run ended, as the others are told."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass

from dpotrain.core.errors import INTERRUPTED, DataError, ProcessLostError, RecipeError, RunError, RunStopped

#: The errors that have an exit code of their own; all others are RunErrors.
_BY_CODE = {each.exit_code: each for each in (RecipeError, DataError, RunStopped, ProcessLostError)}


@dataclass(frozen=True, slots=True)
class RankFailure:
    """One process's end before the run's."""

    rank: int
    """Its world rank."""
    host: str
    """The machine that it ran on; "" where it is not known."""
    text: str
    """Its error, as a person is shown it."""
    code: int
    """Its exit code, which every process of the run then has."""

    def error(self) -> BaseException:
        """Return what the other processes raise."""
        if self.code == INTERRUPTED:
            return KeyboardInterrupt()
        return _BY_CODE.get(self.code, RunError)(str(self))

    def __str__(self) -> str:
        return f"process {self.rank}{f' on {self.host}' if self.host else ''}: {self.text}"

    def as_json(self) -> str:
        """Return it as a text that :meth:`from_json` reads."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str | bytes) -> RankFailure:
        """Return what :meth:`as_json` wrote."""
        return cls(**json.loads(text))
