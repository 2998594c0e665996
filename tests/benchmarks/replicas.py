"""Selects of replicas on PostgreSQL against those of a server on SQLite, in interleaved rounds of one run.

The database lies on the same disk as the data directory and takes the same two cores: what is compared is the price of
sharing, not what more machines would give.
"""

import asyncio
import tempfile
from collections import defaultdict
from contextlib import ExitStack
from pathlib import Path

import numpy as np

from tests.benchmarks.serving import IN_FLIGHT, Driver, Server, process, serve, teach
from tests.postgres import Cluster

KINDS = {"sqlite": 1, "one_replica": 1, "three_replicas": 3}
"""How many servers of each kind."""


def compare(policy: str, *, rounds: int = 4, count: int = 600) -> dict[str, dict[str, float]]:
    """By kind: Selects a second with `IN_FLIGHT` in flight over all its servers, their processor time for each, and
    the latency of one in flight. Medians over rounds. Raises NoPostgres."""
    with ExitStack() as ending:
        cluster = Cluster(on_disk=True)
        ending.callback(cluster.remove)
        servers: dict[str, list[Server]] = {}
        for kind, number in KINDS.items():
            flags = [] if kind == "sqlite" else ["--store", cluster.database()]
            servers[kind] = []
            for _ in range(number):
                folder = Path(ending.enter_context(tempfile.TemporaryDirectory()))
                servers[kind].append(ending.enter_context(process([*serve(folder, policy), *flags])))
            asyncio.run(teach(servers[kind][0].address, 300))
        return asyncio.run(_measure(servers, rounds, count))


async def _measure(servers: dict[str, list[Server]], rounds: int, count: int) -> dict[str, dict[str, float]]:
    drivers = {
        kind: [Driver(server.address, f"{kind}-{i}") for i, server in enumerate(there)]
        for kind, there in servers.items()
    }
    found: dict[str, dict[str, list[float]]] = {kind: defaultdict(list) for kind in servers}
    for number in range(rounds + 1):
        for kind, there in drivers.items():
            before = sum(server.seconds() for server in servers[kind])
            began = asyncio.get_running_loop().time()
            share = count // len(there)
            await asyncio.gather(*(driver.round(share, IN_FLIGHT // len(there)) for driver in there))
            seconds = asyncio.get_running_loop().time() - began
            cpu_seconds = sum(server.seconds() for server in servers[kind]) - before
            _, alone = await there[0].round(count // 8, 1)
            if number == 0:
                continue  # warming up
            found[kind]["selects_per_second"].append(share * len(there) / seconds)
            found[kind]["cpu_us"].append(1e6 * cpu_seconds / (share * len(there)))
            found[kind]["alone_p50_ms"].append(float(np.percentile(alone, 50)))
            found[kind]["alone_p99_ms"].append(float(np.percentile(alone, 99)))
    for there in drivers.values():
        for driver in there:
            await driver.close()
    return {kind: {name: float(np.median(values)) for name, values in of.items()} for kind, of in found.items()}
