"""Tasks on a Ray cluster. The only module that imports ray, which is an extra: `pip install pointsman[ray]`."""

import logging
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from bandit.errors import InvalidInput

K = TypeVar("K")
R = TypeVar("R")

LOCAL = "local"
"""The address of a cluster of this machine alone, which ends with the run."""
_RETRIES = 5
"""How often a task is run again whose worker was lost; it gives the same then."""


def run(
    address: str,
    function: Callable[..., R],
    given: object,
    calls: Mapping[K, tuple[Any, ...]],
    *,
    on_result: Callable[[], None],
) -> dict[K, R]:
    """`function(given, *arguments)` for each of the calls, as tasks on the cluster at `address`; its results by key.

    `given` is sent once. The function must be pure: where a worker dies, its tasks are run again elsewhere. Whatever
    it raises is raised here. `on_result` is called after each. `address`: ``local``, ``auto`` or as Ray has it; other
    machines need the same version of this package, and a path has to mean the same there.
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
        sent = ray.put(given)
        task = ray.remote(num_cpus=1, max_retries=_RETRIES)(function)
        of_reference = {task.remote(sent, *arguments): key for key, arguments in calls.items()}
        waiting, done = list(of_reference), {}
        while waiting:
            ready, waiting = ray.wait(waiting)
            for reference in ready:
                done[of_reference[reference]] = _result(ray, reference)
                on_result()
        return done
    finally:
        ray.shutdown()


def _result(ray: Any, reference: object) -> Any:
    try:
        return ray.get(reference)
    except ray.exceptions.RayTaskError as error:
        # What the function raised, not what Ray made of it.
        raise error.cause from error
