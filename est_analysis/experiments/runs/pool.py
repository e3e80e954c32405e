"""A pool of worker processes that saves what it has when it is stopped."""

import os
import signal
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from ctypes import c_bool
from functools import partial
from multiprocessing import get_context
from typing import Any

from est_analysis.errors import InputError
from est_analysis.train.loop import Stopped

_POLL_SECONDS = 0.5
_LINE_SECONDS = 30.0


def run_in_pool(
    chains: Sequence[Sequence[Callable[..., Any]]], *, workers: int, show: Callable[[], None], saved: str
) -> list[Any]:
    """Every call of every chain, `workers` at once, in fresh processes; the chains' last results in order.

    A chain's next call is given the result of the one before, and waits behind all calls that wait already.

    Args:
        chains: calls, the first of each without arguments, of functions that are importable by name, save their state
            and raise on SIGTERM.
        workers: processes at once.
        show: called twice a second while it runs.
        saved: where the unfinished work is, for the message.

    Raises:
        Stopped: interrupted; every unfinished call has had the time to save its state.
        InputError: a call failed for a reason the user can mend; finished ones are kept.
    """
    context = get_context("spawn")
    # Two flags, no Event: its lock would stay locked if a process died with it.
    stopping, given_up = context.RawValue(c_bool, False), context.RawValue(c_bool, False)
    prepare = {"initializer": _prepare_worker, "initargs": (stopping, given_up, os.getpid())}
    with ProcessPoolExecutor(workers, mp_context=context, **prepare) as pool:
        try:
            return _run_chains(chains, partial(pool.submit, _call), show)
        except BaseException as error:
            stopping.value = True  # the pool hands out calls ahead of time: those must not start
            given_up.value = True  # and every worker must end, whatever it does with the signal
            processes = list((pool._processes or {}).values())  # shutdown forgets them
            pool.shutdown(wait=False, cancel_futures=True)
            for process in processes:
                process.terminate()  # SIGTERM: the worker saves and ends
            if isinstance(error, BrokenProcessPool):
                raise InputError(
                    f"a worker process was killed, perhaps for want of memory; runs are saved in {saved}, run again "
                    "with fewer --workers to go on"
                ) from error
            if not isinstance(error, KeyboardInterrupt | Stopped):
                raise
            raise Stopped(
                f"stopped; finished and unfinished runs are saved in {saved}, run the same command to resume"
            ) from None


def progress_line(text: Callable[[], str], say: Callable[[str], object]) -> Callable[[], None]:
    """A `show` that says the seconds since now, and `text()`, twice a minute."""
    start = last = time.monotonic()

    def show() -> None:
        nonlocal last
        if time.monotonic() - last > _LINE_SECONDS:
            last = time.monotonic()
            say(f"{last - start:5.0f} s  {text()}")

    return show


def _run_chains(
    chains: Sequence[Sequence[Callable[..., Any]]], submit: Callable[..., Future], show: Callable[[], None]
) -> list[Any]:
    """The last result of every chain, while progress is shown; the first error of any call is raised."""
    results = [None] * len(chains)
    pending = {submit(call): (index, rest) for index, (call, *rest) in enumerate(chains)}
    while pending:
        done, _ = wait(pending, timeout=_POLL_SECONDS)
        for future in done:
            index, rest = pending.pop(future)
            results[index] = future.result()
            if rest:
                pending[submit(partial(rest[0], results[index]))] = (index, rest[1:])
        show()
    return results


_stopping: c_bool | None = None  # in a worker: true when no call is to begin any more
_working = threading.Lock()  # in a worker: held while a call runs


def _call(function: Callable[[], Any]) -> Any:
    if _stopping is not None and _stopping.value:
        raise Stopped("not started")
    with _working:
        try:
            return function()
        except Stopped:
            if _stopping is not None:
                _stopping.value = True  # now: the parent looks now and then, and this process would begin the next
            raise


def _prepare_worker(stopping: c_bool, given_up: c_bool, parent: int) -> None:
    """In a worker: know when to start nothing more, and end, saving, when the parent gives up or dies (kill -9).

    One that saved when the parent's signal came has spent it: it would wait for another call, for good where a process
    died with the lock of the queue. The parent says who it is: it may be gone before the worker could ask.
    """
    global _stopping
    _stopping = stopping
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches every process: the parent passes it on

    def watch() -> None:
        while os.getppid() == parent and not given_up.value:
            time.sleep(_POLL_SECONDS)
        stopping.value = True
        if not given_up.value:  # else the parent has sent it
            os.kill(os.getpid(), signal.SIGTERM)
        with _working:  # the call has saved; nobody will give this process another
            os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
