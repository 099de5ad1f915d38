"""Adding up tensors over ranks, many at a time and without a second copy of them."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence

import torch
import torch.distributed

#: Bytes that are added up at once: enough for the full rate of a network, and little beside the weights.
BUCKET_BYTES = 64 << 20
#: Buckets on their way at once, so that one is filled while another is sent.
_AT_ONCE = 2


def sum_over_ranks(tensors: Sequence[torch.Tensor]) -> None:
    """Replace tensors of the same shapes on every rank by their sums over ranks. Collective.

    16-bit tensors are added in float32 and rounded once. The device is not waited for.
    """
    # With what is sent, and the tensors that it was copied from.
    sent: deque[tuple[torch.distributed.Work, torch.Tensor, list[torch.Tensor]]] = deque()

    def receive() -> None:
        work, flat, bucket = sent.popleft()
        work.wait()
        if bucket:
            torch._foreach_copy_(bucket, _parts(flat, bucket))

    for dtype, bucket in _buckets(tensors):
        if len(bucket) == 1 and bucket[0].dtype == dtype and bucket[0].is_contiguous():
            flat, bucket = bucket[0], []
        else:
            flat = bucket[0].new_empty(sum(each.numel() for each in bucket), dtype=dtype)
            torch._foreach_copy_(_parts(flat, bucket), bucket)
        sent.append((torch.distributed.all_reduce(flat, async_op=True), flat, bucket))
        if len(sent) == _AT_ONCE:
            receive()
    while sent:
        receive()


def _buckets(tensors: Iterable[torch.Tensor]) -> Iterator[tuple[torch.dtype, list[torch.Tensor]]]:
    """Yield tensors in order, in buckets with the dtype in which each is added up; a large one is alone."""
    bucket: list[torch.Tensor] = []
    dtype, size = torch.float32, 0
    for tensor in tensors:
        own = torch.promote_types(tensor.dtype, torch.float32)
        more = tensor.numel() * own.itemsize
        if bucket and (own != dtype or size + more > BUCKET_BYTES):
            yield dtype, bucket
            bucket, size = [], 0
        bucket.append(tensor)
        dtype, size = own, size + more
    if bucket:
        yield dtype, bucket


def _parts(flat: torch.Tensor, like: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """Return views of a flat tensor with the shapes of others."""
    parts = torch.split(flat, [each.numel() for each in like])
    return [part.view_as(each) for part, each in zip(parts, like, strict=True)]
