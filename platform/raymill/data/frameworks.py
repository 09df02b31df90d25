"""Batches as tensors of torch and TensorFlow; on a GPU, copied on a stream of their own while it computes."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from raymill.errors import needs_extra

if TYPE_CHECKING:
    import torch

    from raymill.data.loader import Batch

COPIES_AHEAD = 2  # one being copied while one waits; more only takes GPU memory


@dataclass(frozen=True)
class TensorBatch:
    """A batch as tensors of one framework, on one device."""

    numeric: Any
    """float32 [rows, numeric inputs]."""
    codes: Any
    """int32 [rows, categorical columns]."""
    labels: Any
    """float32 or int64 [rows]."""
    weights: Any
    """float32 [rows], or None where all rows stand for equally many."""
    step: int
    global_rows: int

    def __len__(self) -> int:
        return int(self.labels.shape[0])


def to_torch(batch: Batch) -> TensorBatch:
    """Return the batch as torch tensors that share its memory."""
    with needs_extra("torch"):
        import torch
    weights = None if batch.weights_N is None else torch.from_numpy(batch.weights_N)
    return TensorBatch(
        torch.from_numpy(batch.features.numeric_NF),
        torch.from_numpy(batch.features.codes_NC),
        torch.from_numpy(batch.labels_N),
        weights,
        batch.step,
        batch.global_rows,
    )


def to_tensorflow(batch: Batch) -> TensorBatch:
    """Return the batch as TensorFlow tensors; TensorFlow copies them where it cannot share."""
    with needs_extra("tensorflow"):
        import tensorflow as tf  # type: ignore[import-untyped,import-not-found,unused-ignore]
    weights = None if batch.weights_N is None else tf.convert_to_tensor(batch.weights_N)
    return TensorBatch(
        tf.convert_to_tensor(batch.features.numeric_NF),
        tf.convert_to_tensor(batch.features.codes_NC),
        tf.convert_to_tensor(batch.labels_N),
        weights,
        batch.step,
        batch.global_rows,
    )


def on_device(batches: Iterable[Batch], device: str | torch.device) -> Iterator[TensorBatch]:
    """Yield the batches as torch tensors on `device`.

    For a GPU each batch goes through pinned memory and is copied on a side stream, ahead of its use;
    the yielded tensors are ready for the current stream.
    """
    with needs_extra("torch"):
        import torch
    target = torch.device(device)
    if target.type != "cuda":
        for batch in batches:
            yield _map(to_torch(batch), lambda tensor: tensor.to(target))
        return
    stream = torch.cuda.Stream(target)  # type: ignore[no-untyped-call]
    copied: deque[tuple[TensorBatch, torch.cuda.Event]] = deque()
    for batch in batches:
        copied.append(_copy(to_torch(batch), target, stream))
        if len(copied) == COPIES_AHEAD:
            yield _receive(*copied.popleft())
    while copied:
        yield _receive(*copied.popleft())


def _copy(
    batch: TensorBatch, device: torch.device, stream: torch.cuda.Stream
) -> tuple[TensorBatch, torch.cuda.Event]:
    """Begin to copy a batch; the event says when it has arrived.

    torch's pinned allocator keeps a block until the copies out of it are done, and hands it out
    again, so nothing is pinned anew after the first batches.
    """
    import torch

    with torch.cuda.stream(stream):
        moved = _map(batch, lambda tensor: tensor.pin_memory().to(device, non_blocking=True))
    return moved, stream.record_event()


def _receive(batch: TensorBatch, arrived: torch.cuda.Event) -> TensorBatch:
    import torch

    current = torch.cuda.current_stream(batch.numeric.device)
    current.wait_event(arrived)
    for tensor in (batch.numeric, batch.codes, batch.labels, batch.weights):
        if tensor is not None:
            tensor.record_stream(current)  # its memory is not given away while this stream uses it
    return batch


def _map(batch: TensorBatch, change: Any) -> TensorBatch:
    weights = None if batch.weights is None else change(batch.weights)
    return TensorBatch(
        change(batch.numeric),
        change(batch.codes),
        change(batch.labels),
        weights,
        batch.step,
        batch.global_rows,
    )
