"""The index generator of EST B.3: masks drawn by a thread that runs beside training, so that they cost a step nothing.

A mask is a pure function of its step, so running ahead cannot change it. The thread also moves the indices to the
training device. It draws several masks each time it wakes: where training keeps every core busy, it is the waking that
costs.
"""

import queue
import threading
from collections.abc import Iterator

from est_analysis.methods import Method
from est_analysis.subnet.mask import SubnetMask

_POLL_SECONDS = 0.1


class IndexGenerator:
    """Iterates over the masks of steps `first`..`last`, drawn in blocks of `ahead` (0: inline, one by one).

    At most three blocks exist: the one in use, one waiting and one being drawn. Use it as a context manager: leaving
    the `with`, by whatever way, ends the thread. An error while drawing is raised in the consumer, at its own step.
    """

    def __init__(self, method: Method, first: int, last: int, *, ahead: int, device: str = "cpu") -> None:
        self._method, self._device, self._ahead = method, device, ahead
        self._steps = range(first, last + 1)
        self._blocks: queue.Queue[list[SubnetMask | Exception | None]] = queue.Queue(maxsize=1)
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
        if self._thread is None:
            yield from map(self._draw, self._steps)
            return
        for _ in range(0, len(self._steps), self._ahead):
            for item in self._blocks.get():
                if isinstance(item, Exception):
                    raise item
                yield item

    def _draw(self, step: int) -> SubnetMask | None:
        mask = self._method.mask(step)
        return mask and mask.to(self._device)

    def _draw_block(self, steps: range) -> list[SubnetMask | Exception | None]:
        """The masks of `steps`, cut short by the error of the first that cannot be drawn."""
        block: list[SubnetMask | Exception | None] = []
        for step in steps:
            try:
                block.append(self._draw(step))
            except Exception as error:
                return [*block, error]
        return block

    def _work(self) -> None:
        for start in range(0, len(self._steps), self._ahead):
            block = self._draw_block(self._steps[start : start + self._ahead])
            while not self._stop.is_set():
                try:
                    self._blocks.put(block, timeout=_POLL_SECONDS)
                    break
                except queue.Full:
                    continue
            if self._stop.is_set() or isinstance(block[-1], Exception):
                return
