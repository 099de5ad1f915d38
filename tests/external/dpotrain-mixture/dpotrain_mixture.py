"""A weighted mixture of dataset sources."""

from hashlib import sha256
from random import Random

from pydantic import Field

from dpotrain import hookimpl
from dpotrain.plugin.api import DatasetSource, Options, Rows, Use

dpotrain_interface = 2


class Part(Options):
    source: Use[DatasetSource] = Field(description="Where its rows come from.")
    weight: float = Field(1.0, gt=0, description="Its share of the rows, relative to the other weights.")


class Mixed:
    """Rows of several sources in one random order; None in the columns that a row's own source lacks."""

    def __init__(self, sources: list[Part], split: str, draw: Random) -> None:
        parts = [(part.source.load(split), part.weight) for part in sources]
        scale = min(len(rows) / weight for rows, weight in parts)  # one part is used up
        counted = [(rows, int(scale * weight + 1e-6)) for rows, weight in parts]
        self._rows = [(rows, i) for rows, count in counted for i in draw.sample(range(len(rows)), count)]
        draw.shuffle(self._rows)
        self.columns = list(dict.fromkeys(column for rows, _ in parts for column in rows.columns))
        self.fingerprint = sha256(repr([(r.fingerprint, i) for r, i in self._rows]).encode()).hexdigest()

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, number: int, /) -> dict[str, object]:
        rows, index = self._rows[number]
        return dict.fromkeys(self.columns) | dict(rows[index])


class Mixture(DatasetSource):
    """Draws rows from its sources by weight, none twice, until one of them is used up."""

    name = "mixture"

    class Options(DatasetSource.Options):
        parts: list[Part] = Field(min_length=1, description="What is mixed.")
        seed: int = Field(0, description="Decides which rows are drawn, and their order.")

    options: Options

    def splits(self) -> list[str]:
        first, *others = (part.source.splits() for part in self.options.parts)
        return [split for split in first if all(split in other for other in others)]

    def load(self, split: str) -> Rows:
        return Mixed(self.options.parts, split, Random(self.options.seed))


@hookimpl
def dpotrain_dataset_sources() -> list[type[DatasetSource]]:
    return [Mixture]
