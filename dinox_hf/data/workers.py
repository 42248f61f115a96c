"""`map` over processes that gives results in order, whatever the number of workers."""

import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import forkserver, get_context, parent_process, resource_tracker
from signal import SIG_BLOCK, SIG_SETMASK, SIGINT, pthread_sigmask
from threading import Thread


@contextmanager
def worker_map(workers: int) -> Iterator[Callable[..., Iterable]]:
    """Yield a function like `map(function, items, chunksize=1)` that runs in `workers` processes; 1 runs in this one.

    Raises:
        ValueError: if `workers` is below 1.
    """
    if workers < 1:
        raise ValueError(f"workers should be 1 or more; found {workers}. Pass the number of cores to use.")
    if workers == 1:
        yield lambda function, items, chunksize=1: map(function, items)
        return
    # No plain fork: Arrow and SimpleITK keep threads here, and a forked copy of their locks may never open. The fork
    # server is a fresh process that imports the readers once for all workers, before any thread has started.
    context = get_context("forkserver")
    context.set_forkserver_preload(["dinox_hf.data.builder"])
    _start_deaf_to_ctrl_c()
    pool = ProcessPoolExecutor(workers, context, _end_with_parent)
    try:
        yield pool.map
    finally:
        pool.shutdown(cancel_futures=True)


def _start_deaf_to_ctrl_c() -> None:
    """Start the fork server so that Ctrl-C, which a terminal sends to all processes, reaches this one alone.

    Workers inherit it, finish the series they are at, and end with the pool: no traceback per worker.
    """
    # The server starts this first, if nobody has, and unblocks SIGINT on the way.
    resource_tracker.ensure_running()
    mask = pthread_sigmask(SIG_BLOCK, {SIGINT})
    try:
        forkserver.ensure_running()
    finally:
        pthread_sigmask(SIG_SETMASK, mask)


def _end_with_parent() -> None:
    """A worker whose parent was killed would wait for work for ever; this thread ends it."""

    def watch() -> None:
        parent_process().join()
        os._exit(1)

    Thread(target=watch, daemon=True).start()
