"""Where work is done: in this process, in several, or on a Ray cluster. The results are the same whatever their number.

Every worker is given the same things once, and runs with one BLAS thread, since the last bits of a fit depend on the
number of threads.
"""

import contextlib
import multiprocessing
import os
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from typing import Any, Protocol, TypeVar

import threadpoolctl  # type: ignore[import-untyped]

K = TypeVar("K")

_THREADS = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS")


class Workers(Protocol):
    """Whoever works out a function of what they were given, and of arguments."""

    def run(self, calls: Mapping[K, tuple[Any, ...]], *, on_result: Callable[[K], None]) -> dict[K, Any]:
        """The function at the arguments of each call, by the call's key; `on_result` is told of each that is done.
        Whatever the function raises is raised here."""
        ...


def cores() -> int:
    """Processor cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextlib.contextmanager
def working(function: Callable[..., Any], given: object, *, jobs: int, ray: str | None = None) -> Iterator[Workers]:
    """Workers for ``function(given, *arguments)``: with one job this process itself; with `ray`, the address of a
    cluster, that. The function must be pure. Raises InvalidInput where there is no such cluster."""
    if ray is not None:
        from sim import ray_cluster  # ray is an extra, and takes long to import

        with ray_cluster.connected(ray, _alone, (function, given)) as cluster:
            yield cluster
        return
    with threadpoolctl.threadpool_limits(limits=1):
        here = _Here(function, given)
        if jobs == 1:
            yield here
            return
        # Spawned, not forked: a fork copies the locks of threads that it does not copy.
        spawned = multiprocessing.get_context("spawn")
        pool = ProcessPoolExecutor(jobs, mp_context=spawned, initializer=_start, initargs=(function, given))
        try:
            yield _Processes(pool, here)
        finally:
            pool.shutdown(cancel_futures=True)


class _Here:
    """This process."""

    def __init__(self, function: Callable[..., Any], given: object) -> None:
        self._function, self._given = function, given

    def run(self, calls: Mapping[K, tuple[Any, ...]], *, on_result: Callable[[K], None]) -> dict[K, Any]:
        done = {}
        for key, arguments in calls.items():
            done[key] = self._function(self._given, *arguments)
            on_result(key)
        return done


class _Processes:
    """Processes of this machine, which start when there is work for several."""

    def __init__(self, pool: ProcessPoolExecutor, here: _Here) -> None:
        self._pool, self._here = pool, here

    def run(self, calls: Mapping[K, tuple[Any, ...]], *, on_result: Callable[[K], None]) -> dict[K, Any]:
        if len(calls) == 1:
            return self._here.run(calls, on_result=on_result)
        futures: dict[Future[Any], K] = {self._pool.submit(_call, *arguments): key for key, arguments in calls.items()}
        done = {}
        for future in as_completed(futures):
            done[futures[future]] = future.result()
            on_result(futures[future])
        return done


class _Given:
    """What a worker process was given when it started."""

    function: Callable[..., Any]
    value: object


def _start(function: Callable[..., Any], given: object) -> None:
    # Libraries that are loaded already obey the first, those to come the second.
    threadpoolctl.threadpool_limits(limits=1)
    os.environ.update(dict.fromkeys(_THREADS, "1"))
    _Given.function, _Given.value = function, given


def _call(*arguments: object) -> Any:
    return _Given.function(_Given.value, *arguments)


def _alone(given: tuple[Callable[..., Any], object], *arguments: object) -> Any:
    function, value = given
    with threadpoolctl.threadpool_limits(limits=1):
        return function(value, *arguments)
