"""Map-style torch datasets, loaded by the worker processes of torch's DataLoader."""

import signal
import threading
from collections.abc import Iterator, Sized
from time import monotonic
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, get_worker_info

from project.engine.loading.crop import Crop
from project.engine.loading.images import Fetched, Request
from project.engine.loading.workers import LoadingError, Workers

_SEEDS = 2**63
_POLL_S = 1
_SHARED = "</torch_"
"""Start of the names of torch's files in shared memory, in errors about them."""
_RAISED_AGAIN = ("in DataLoader worker process", "in pin memory thread")
"""Parts of errors that torch raises again, with the place where they were raised first."""
_REMEDIES = (
    "for less memory use a smaller --data.workers.num, --data.workers.prefetch_factor or --data.batch_size, or in a "
    "container a larger --shm-size; for a slow dataset a larger --data.workers.timeout_s; --data.workers.num 0 shows "
    "what the dataset does"
)


class TorchDataset:
    """Samples of `dataset[i] -> (image (C, H, W) uint8, target)`, all images of the same size.

    A target is an integer, or a tensor, such as a mask (H, W).

    Random draws from torch's generator, such as those of torchvision's transforms, depend only on seed, epoch and
    sample: they are reproducible for any number of workers and after a resume. Draws from numpy's or Python's
    generators are not.

    Args:
        dataset: N samples.
        targets: (N, ...), the targets of all samples; a checksum of them identifies the data in `--resume`.
        places: Indices of the samples in use, in their order; None uses all, and checks the first.

    Raises:
        ValueError: The first sample has another form, or the numbers of targets and samples differ.
    """

    advice: ClassVar[str] = "try more loading processes: --data.workers.num N"

    def __init__(self, dataset: Dataset[tuple[Tensor, Any]], targets: Tensor, places: Tensor | None = None) -> None:
        self.dataset, self.targets = dataset, targets
        self.places = torch.arange(len(targets)) if places is None else places
        if places is None:
            if isinstance(dataset, Sized) and len(dataset) != len(targets):
                raise ValueError(f"TorchDataset: got {len(targets):,} targets for {len(dataset):,} samples")
            _Samples(dataset, self.places)[[0], None]  # raises
        self._requests: Iterator[Request] = iter(())
        self._loader: DataLoader[Fetched] | None = None

    def __len__(self) -> int:
        return len(self.targets)

    def subset(self, indices: Tensor) -> "TorchDataset":
        """Return the samples at these positions."""
        return TorchDataset(self.dataset, self.targets[indices], self.places[indices])

    def close(self) -> None:
        """End the worker processes, which may outlive an epoch."""
        self._loader = None

    def stream(self, requests: Iterator[Request], workers: Workers, crop: Crop) -> Iterator[Fetched]:
        """Yield the batches of the requests; meanwhile, processes work on the next ones.

        Raises:
            LoadingError: A process died, hangs, or ran out of shared memory.
        """
        self._requests = requests
        if self._loader is None or not workers.persistent:
            self._loader = self._new_loader(workers)
        batches = _started(self._loader)
        finished = False
        try:
            while (batch := _next(batches, workers)) is not None:
                yield batch._replace(crop=crop)
            finished = True
        finally:
            if not finished:  # The processes are dead, or busy with batches that are not needed.
                self._loader = None

    def _new_loader(self, workers: Workers) -> DataLoader[Fetched]:
        processes = workers.count()
        return DataLoader(
            _Samples(self.dataset, self.places),
            sampler=_Latest(self),
            batch_size=None,  # a request is a whole batch
            num_workers=processes,
            prefetch_factor=workers.prefetch_factor if processes else None,
            persistent_workers=workers.persistent and processes > 0,
            pin_memory=workers.pin_memory,
            timeout=_POLL_S if processes else 0,
        )


class _Latest:
    """The requests of the current epoch. A DataLoader keeps one sampler while its processes live."""

    def __init__(self, store: TorchDataset) -> None:
        self._store = store

    def __iter__(self) -> Iterator[tuple[list[int], list[int] | None]]:
        for indices, keys in self._store._requests:
            # Lists, because tensors would be sent through shared memory.
            yield indices.tolist(), None if keys is None else keys.tolist()


class _Samples(Dataset[Fetched]):
    """Batches of samples by their indices and keys."""

    def __init__(self, dataset: Dataset[tuple[Tensor, Any]], places: Tensor) -> None:
        self._dataset, self._places = dataset, places

    def __getitem__(self, request: tuple[list[int], list[int] | None]) -> Fetched:
        indices, keys = request
        samples: list[tuple[Any, Any]] = []
        with torch.random.fork_rng(devices=[]):  # Without processes, this generator is also used by training.
            for number, index in enumerate(indices):
                if keys is not None:
                    torch.manual_seed(keys[number] % _SEEDS)
                samples.append(self._dataset[int(self._places[index])])
        images, targets = zip(*samples, strict=True)
        for index, image in zip(indices, images, strict=True):
            _check(image, images[0], int(self._places[index]))
        stacked = torch.stack(targets) if isinstance(targets[0], Tensor) else torch.tensor(targets)
        fetched = Fetched(torch.stack(images), stacked, None if keys is None else torch.tensor(keys))
        if get_worker_info() is not None:
            for part in fetched:
                if isinstance(part, Tensor):
                    # torch would do so later, in a thread whose errors are lost.
                    part.share_memory_()  # type: ignore[no-untyped-call]
        return fetched


def _check(image: Any, first: Any, place: int) -> None:
    wanted = "TorchDataset takes uint8 tensors (C, H, W); the model makes them floats with mean 0"
    if not isinstance(image, Tensor):
        raise ValueError(f"sample {place} is a {type(image).__name__}; {wanted}, as torchvision's pil_to_tensor gives")
    if image.dtype != torch.uint8 or image.ndim != 3:
        raise ValueError(f"sample {place} is {image.dtype} of shape {tuple(image.shape)}; {wanted}")
    if image.shape != first.shape:
        raise ValueError(
            f"sample {place} has the shape {tuple(image.shape)}, and another of its batch {tuple(first.shape)}; "
            "TorchDataset takes images of one size"
        )


def _started(loader: DataLoader[Fetched]) -> Iterator[Fetched]:
    # torch's signal handler reports a dead process by raising in any code. It is not needed: `_next` notices it too.
    before = signal.getsignal(signal.SIGCHLD)
    batches = iter(loader)
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGCHLD, before)
    return batches


def _next(batches: Iterator[Fetched], workers: Workers) -> Fetched | None:
    deadline = monotonic() + workers.timeout_s
    while True:
        try:
            return next(batches, None)
        except (RuntimeError, OSError, EOFError) as error:  # EOFError: a process died while it sent a batch.
            text = str(error)
            if not workers.count() or (any(place in text for place in _RAISED_AGAIN) and _SHARED not in text):
                raise  # an error of the dataset, or of the GPU
            if not text.startswith("DataLoader timed out"):
                raise LoadingError(f"a loading process died, or lacks shared memory; {_REMEDIES}") from error
            if monotonic() >= deadline:
                raise LoadingError(f"no batch in {workers.timeout_s} s; {_REMEDIES}") from error
