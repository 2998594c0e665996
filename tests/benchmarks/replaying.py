"""`pointsman replay` on large logs: seconds, and the memory of the process, for two sizes of the same log."""

import multiprocessing
import re
import resource
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import duckdb

from sim.logged import Log
from sim.replay import Asked, replay
from sim.workers import cores

ARMS = 8
CANDIDATE = "ladder:arm-1>arm-5"


def measure(sessions: int) -> dict[str, float]:
    """Scores a ladder on a log of so many sessions, in processes of its own: decisions, seconds, seconds of processors,
    and MiB at most of all of them together."""
    with tempfile.TemporaryDirectory() as folder:
        _write(Path(folder), sessions)
        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
            replaying, mib = pool.submit(_replay, folder), 0.0
            while not replaying.done():
                mib = max(mib, sum(_mib(process.pid) for process in multiprocessing.active_children() if process.pid))
                time.sleep(0.2)
            return {**replaying.result(), "mib": mib}


def on_three_nodes(sessions: int) -> dict[str, float] | None:
    """Scores the ladder on a log of so many sessions by this process alone, then on a Ray cluster of three nodes, one
    of which is killed midway: decisions, seconds of both. Without Ray: None.

    Raises AssertionError where the two do not give the same figures to the bit, or no node was killed.
    """
    try:
        from ray.cluster_utils import Cluster
    except ImportError:
        return None
    with tempfile.TemporaryDirectory() as folder:
        _write(Path(folder), sessions)
        with Log(Path(folder), threads=1) as log:
            began = time.perf_counter()
            alone = replay(log, Asked(candidates=[CANDIDATE]))
            alone_seconds = time.perf_counter() - began
            nodes = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
            try:
                spare = [nodes.add_node(num_cpus=1) for _ in range(2)]
                nodes.wait_for_nodes()

                def kill(_done: int) -> None:
                    if len(spare) == 2:
                        nodes.remove_node(spare.pop(), allow_graceful=False)

                began = time.perf_counter()
                spread = replay(log, Asked(candidates=[CANDIDATE]), ray=nodes.address, on_sessions=kill)
                seconds = time.perf_counter() - began
            finally:
                nodes.shutdown()
            assert len(spare) == 1, "it was over before a node was killed"
            assert spread == alone, "lost nodes change figures"
            return {"decisions": log.decisions, "alone_seconds": alone_seconds, "nodes_seconds": seconds}


def _mib(pid: int) -> float:
    """Memory of a process and its children, what they share counted once."""
    try:
        rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:  # it has ended meanwhile
        return 0.0
    (kilobytes,) = re.findall(r"^Pss: +(\d+)", rollup, re.M)
    return int(kilobytes) / 1024 + sum(map(_mib, map(int, children)))


def _replay(folder: str) -> dict[str, float]:
    began, jobs = time.perf_counter(), cores()
    with Log(Path(folder), threads=jobs) as log:
        replay(log, Asked(candidates=[CANDIDATE]), jobs=jobs)
        decisions = log.decisions
    seconds = time.perf_counter() - began
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return {
        "decisions": decisions,
        "seconds": seconds,
        "processor_seconds": sum(one.ru_utime + one.ru_stime for one in used),
    }


def _write(folder: Path, sessions: int) -> None:
    """A log as an archive has it, but with bodies that hold only what replay reads: arms drawn evenly, two attempts."""
    arms = "[" + ", ".join(f"'arm-{k}'" for k in range(ARMS)) + "]"
    first = "[" + ", ".join(["0.125"] * ARMS) + "]"
    second = "[" + ", ".join(f"CASE WHEN a1 = {k} THEN 0.0 ELSE 1.0 / {ARMS - 1} END" for k in range(ARMS)) + "]"
    nothing = "NULL::DOUBLE AS input_tokens, NULL::DOUBLE AS output_tokens, NULL::DOUBLE AS cached_tokens"
    blank = "'' AS private, '' AS private_digest, '' AS request_key, '' AS request_digest, '' AS digest"
    connection = duckdb.connect(
        config={"threads": cores(), "memory_limit": "1500MB", "temp_directory": str(folder / "spilled")}
    )
    connection.execute(f"""
CREATE VIEW drawn AS
SELECT i, hash(i) % {ARMS} AS a1, hash(i * 7 + 1) % 1000 < 650 AS good,
    (hash(i) + 1 + hash(i * 13) % {ARMS - 1}) % {ARMS} AS a2, hash(i * 17 + 3) % 1000 < 500 AS better,
    '{{"category":"c' || hash(i * 3 + 1) % 5 || '","repository":"r' || hash(i * 5 + 2) % 12 || '"}}' AS features
FROM range({sessions}) AS t(i)""")
    connection.execute(f"""
COPY (
    SELECT *, make_timestamptz(1700000000000000 + seq * 250000) AS at, 'default' AS router, 's' || i AS session_id,
        {nothing}, {blank}
    FROM (
        SELECT i, i * 5 + 1 AS seq, 'decided' AS kind, 's' || i || '-1' AS decision_id, 1 AS attempt,
            'arm-' || a1 AS arm, 0.125 AS propensity, 'sampled' AS reason, {arms} AS arms,
            {first} AS propensities, features,
            NULL::DOUBLE AS success, NULL::DOUBLE AS cost_usd, NULL::BIGINT AS revision, NULL::BOOLEAN AS final,
            '{{}}' AS body
        FROM drawn
        UNION ALL
        SELECT i, i * 5 + 2, 'escalated', 's' || i || '-1', NULL, NULL, NULL, 'verified_failure', NULL, NULL, NULL,
            NULL, 0.1 * (1 + a1), NULL, NULL,
            '{{"event":{{"next_decision_id":"s' || i || '-2","stop_propensity":0.0}}}}'
        FROM drawn WHERE NOT good
        UNION ALL
        SELECT i, i * 5 + 3, 'decided', 's' || i || '-2', 2, 'arm-' || a2, 1.0 / {ARMS - 1}, 'escalated', {arms},
            {second}, features, NULL, NULL, NULL, NULL, '{{}}'
        FROM drawn WHERE NOT good
        UNION ALL
        SELECT i, i * 5 + 4, 'rewarded', 's' || i || CASE WHEN good THEN '-1' ELSE '-2' END, NULL, NULL, NULL, NULL,
            NULL, NULL, NULL, (good OR better)::DOUBLE, 0.1 * (1 + CASE WHEN good THEN a1 ELSE a2 END), 1, true, '{{}}'
        FROM drawn
    ) ORDER BY seq
) TO '{folder}/log.parquet' (FORMAT parquet, COMPRESSION zstd)""")
    connection.close()
