"""Which rows of a sharded weight each process holds.

A sharded weight is a :class:`torch.distributed.tensor.DTensor` that is split along its first dimension: over all
processes, with the placements ``[Shard(0)]``, or over those of a group, each of which has a whole copy, with
``[Replicate(), Shard(0)]`` (hybrid sharding). ``torch.distributed.fsdp.fully_shard`` makes both.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch.distributed.tensor import DTensor, Replicate, Shard


def rows_of(rows: int, parts: int, part: int) -> slice:
    """Return which of so many rows a part has, by its number from 0.

    The rows are cut as ``torch.chunk`` cuts them: all parts are of one size, but the last ones, which are smaller or
    empty where the rows do not divide.
    """
    each = -(-rows // parts)
    start = min(part * each, rows)
    return slice(start, min(start + each, rows))


@dataclass(frozen=True, slots=True)
class RowParts:
    """Where the rows of one weight are."""

    rows: int
    """Of the whole weight."""
    copies: tuple[tuple[int, ...], ...]
    """For each copy of the weight, the world ranks that hold it together, in the order of its rows."""
    part: int
    """Which part this process holds, of the copy that it belongs to."""

    @classmethod
    def of(cls, weight: DTensor) -> RowParts:
        """Return where the rows of a sharded weight are.

        Raises:
            NotImplementedError: it is placed in another way than this module says.
        """
        *copied, split = weight.placements
        if split != Shard(0) or len(copied) > 1 or any(each != Replicate() for each in copied):
            raise NotImplementedError(f"a weight with the placements {weight.placements}")
        mesh = weight.device_mesh
        ranks = mesh.mesh.view(-1, mesh.size(mesh.ndim - 1)).tolist()
        return cls(weight.shape[0], tuple(map(tuple, ranks)), mesh.get_local_rank(mesh.ndim - 1))

    @property
    def own(self) -> slice:
        """The rows that this process holds."""
        return self._slices()[self.part]

    def holders(self, rank: int) -> list[tuple[int, slice]]:
        """Return who holds which rows of the copy that ``rank`` has a part of, by world rank; empty parts left out."""
        copy = next(copy for copy in self.copies if rank in copy)
        return [
            (holder, rows)
            for holder, rows in zip(copy, self._slices(), strict=True)
            if rows.start < rows.stop
        ]

    def everyone(self) -> list[tuple[int, slice]]:
        """Return who holds which rows of any copy, by world rank; empty parts left out."""
        return [each for copy in self.copies for each in self.holders(copy[0])]

    def _slices(self) -> list[slice]:
        parts = len(self.copies[0])
        return [rows_of(self.rows, parts, part) for part in range(parts)]
