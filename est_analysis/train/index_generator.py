"""The index generator of EST B.3: masks drawn by a thread that runs beside training, so that they cost a step nothing.

A mask is a pure function of its step, so running ahead cannot change it. The thread also moves the indices to the
training device.
"""

import queue
import threading
from collections.abc import Iterator

from est_analysis.methods import Method
from est_analysis.subnet.mask import SubnetMask

_POLL_SECONDS = 0.1


class IndexGenerator:
    """Iterates over the masks of steps `first`..`last`, at most `ahead` of them drawn in advance (0: inline).

    Use it as a context manager: leaving the block, by whatever way, ends the thread. An error while drawing is raised
    in the consumer, at the step it belongs to.
    """

    def __init__(self, method: Method, first: int, last: int, *, ahead: int, device: str = "cpu") -> None:
        self._method, self._device = method, device
        self._steps = range(first, last + 1)
        self._queue: queue.Queue[SubnetMask | None | Exception] = queue.Queue(maxsize=max(ahead, 1))
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._work, name="index-generator", daemon=True) if ahead else None

    def __enter__(self) -> "IndexGenerator":
        if self._thread:
            self._thread.start()
        return self

    def __exit__(self, *_) -> None:
        self._stop.set()
        if self._thread:
            self._thread.join()

    def __iter__(self) -> Iterator[SubnetMask | None]:
        for step in self._steps:
            if self._thread is None:
                yield self._draw(step)
                continue
            item = self._queue.get()
            if isinstance(item, Exception):
                raise item
            yield item

    def _draw(self, step: int) -> SubnetMask | None:
        mask = self._method.mask(step)
        return mask and mask.to(self._device)

    def _put(self, item: SubnetMask | None | Exception) -> None:
        while not self._stop.is_set():
            try:
                return self._queue.put(item, timeout=_POLL_SECONDS)
            except queue.Full:
                continue

    def _work(self) -> None:
        for step in self._steps:
            if self._stop.is_set():
                return
            try:
                self._put(self._draw(step))
            except Exception as error:
                return self._put(error)
