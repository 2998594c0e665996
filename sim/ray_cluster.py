"""Tasks on a Ray cluster. The only module that imports ray, which is an extra: `pip install pointsman[ray]`."""

import contextlib
import logging
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

from bandit.errors import InvalidInput

K = TypeVar("K")

LOCAL = "local"
"""The address of a cluster of this machine alone, which ends with the run."""
_RETRIES = 5
"""How often a task is run again whose worker was lost; it gives the same then."""


@contextlib.contextmanager
def connected(address: str, function: Callable[..., Any], given: object) -> Iterator["Cluster"]:
    """A cluster that works out ``function(given, *arguments)`` as tasks.

    `given` is sent once, and unpacked once by a worker. The function must be pure: where a worker dies, its tasks are
    run again elsewhere. `address`: ``local``, ``auto`` or as Ray has it; other machines need the same version of this
    package, and a path has to mean the same there.
    Raises InvalidInput naming `--ray` where ray is not installed, or no cluster is there.
    """
    try:
        import ray
    except ImportError:
        raise InvalidInput("--ray", "ray is not installed: pip install 'pointsman[ray]'") from None
    try:
        ray.init(
            address=None if address == LOCAL else address,
            include_dashboard=False if address == LOCAL else None,
            logging_level=logging.ERROR,
            log_to_driver=False,
        )
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise InvalidInput("--ray", f"no cluster at {address!r}: {error}") from error
    try:
        yield Cluster(ray, function, given)
    finally:
        ray.shutdown()


class Cluster:
    """What `connected` gives."""

    def __init__(self, ray: Any, function: Callable[..., Any], given: object) -> None:
        self._ray = ray
        self._task = ray.remote(num_cpus=1, max_retries=_RETRIES)(_call)
        # In a list: Ray leaves what it finds there as it is.
        self._sent = [ray.put((function, given))]

    def run(self, calls: Mapping[K, tuple[Any, ...]], *, on_result: Callable[[K], None]) -> dict[K, Any]:
        """The function at the arguments of each call, by the call's key; `on_result` is told of each that is done.
        Whatever the function raises is raised here."""
        of_reference = {self._task.remote(self._sent, *arguments): key for key, arguments in calls.items()}
        waiting, done = list(of_reference), {}
        while waiting:
            ready, waiting = self._ray.wait(waiting)
            for reference in ready:
                key = of_reference[reference]
                done[key] = self._result(reference)
                on_result(key)
        return done

    def _result(self, reference: object) -> Any:
        try:
            return self._ray.get(reference)
        except self._ray.exceptions.RayTaskError as error:
            # What the function raised, not what Ray made of it.
            raise error.cause from error


_unpacked: dict[object, Any] = {}
"""In a worker: what it was last given."""


def _call(sent: list[Any], *arguments: object) -> Any:
    import ray

    (reference,) = sent
    if reference not in _unpacked:
        _unpacked.clear()
        _unpacked[reference] = ray.get(reference)
    function, given = _unpacked[reference]
    return function(given, *arguments)
