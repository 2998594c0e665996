"""What hostile input broke once, and must not break again."""

import math
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import grpc
import pytest

from pointsman.v1 import admin_pb2
from pointsman.v1 import routing_pb2 as pb
from tests.server.conftest import UNIFORM, Serve, Server

THOMPSON = UNIFORM.replace('"uniform"', '"thompson"')
FAILURE = pb.ESCALATION_REASON_VERIFIED_FAILURE


def _serve_once(data_dir: Path, config: str) -> int | None:
    """Exit status of a server given a moment to come up, or None where it came up (and was ended)."""
    file = data_dir.with_suffix(".toml")
    file.write_text(config)
    flags = ["--listen", "127.0.0.1:0", "--http", "127.0.0.1:0", "--config", str(file), "--data-dir", str(data_dir)]
    process = subprocess.Popen(
        [sys.executable, "-m", "server.cli", "serve", *flags], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    assert process.stdout is not None
    ready = bool(process.stdout.readline())
    if ready:
        process.send_signal(signal.SIGTERM)
    status = process.wait(30)
    process.stdout.close()
    return None if ready else status


def test_a_seed_that_cannot_be_kept_is_refused_as_configuration(tmp_path: Path) -> None:
    data_dir = tmp_path / "data"
    refused = _serve_once(data_dir, THOMPSON.replace("seed = 7", "seed = 18446744073709551616"))
    assert (refused, _serve_once(data_dir, THOMPSON)) == (2, None)


def test_a_negative_seed_is_refused_or_works(tmp_path: Path, serving: Serve) -> None:
    config = THOMPSON.replace("seed = 7", "seed = -1")
    if _serve_once(tmp_path / "data", config) != 2:
        serving(tmp_path / "other", config).routing.Select(pb.SelectRequest())


def test_a_long_reason_keeps_its_status(server: Server) -> None:
    lacking = [f"{i:03}".ljust(240, "x") for i in range(12)]
    with pytest.raises(grpc.RpcError) as refused:
        server.routing.Select(pb.SelectRequest(required_capabilities=lacking))
    assert refused.value.code() is grpc.StatusCode.FAILED_PRECONDITION


@pytest.mark.parametrize(
    "rules", [{"deny": ["b", "c"]}, {"allow": ["a"]}, {"required_capabilities": ["vision"], "deny": ["c"]}]
)
def test_escalating_keeps_to_the_rules_of_the_session(server: Server, rules: dict[str, list[str]]) -> None:
    begun = server.routing.Select(pb.SelectRequest(**rules))  # type: ignore[arg-type]
    assert begun.arm == "a"
    moved = server.routing.Escalate(pb.EscalateRequest(decision_id=begun.decision_id, reason=FAILURE))
    assert moved.WhichOneof("outcome") == "exhausted"


def test_no_arm_above_the_cap_is_eligible(tmp_path: Path, serving: Serve) -> None:
    thompson = serving(tmp_path / "data", THOMPSON)
    with pytest.raises(grpc.RpcError) as refused:
        thompson.routing.Select(pb.SelectRequest(max_cost_usd=0.0))
    assert refused.value.code() is grpc.StatusCode.FAILED_PRECONDITION


def test_learning_goes_on_after_a_backup_was_put_back(tmp_path: Path, serving: Serve) -> None:
    data_dir, backup = tmp_path / "data", tmp_path / "backup"

    def teach(server: Server, name: str, arm: str, success: float) -> None:
        for i in range(4):
            server.routing.Select(pb.SelectRequest(session_id=f"{name}{i}", pinned_arm=arm))
            server.routing.Reward(pb.RewardRequest(session_id=f"{name}{i}", success=success))
        server.admin.PutArm(admin_pb2.PutArmRequest(arm=admin_pb2.Arm(id=name)), timeout=20)

    first = serving(data_dir, THOMPSON)
    teach(first, "before", "a", 1.0)
    first.stop()
    shutil.copytree(data_dir, backup)
    second = serving(data_dir, THOMPSON)
    teach(second, "lost", "a", 1.0)
    second.stop()
    shutil.copytree(backup, data_dir, dirs_exist_ok=True)
    third = serving(data_dir, THOMPSON)
    time.sleep(0.1)
    teach(third, "again", "b", 0.0)


def test_prices_and_costs_beyond_any_real_one_stop_neither_learning_nor_the_next_start(
    tmp_path: Path, serving: Serve
) -> None:
    server = serving(tmp_path / "data", THOMPSON)
    prices = admin_pb2.Prices(input_usd_per_million=5e-324)
    figures = [admin_pb2.PriorFigure(success_rate=0.5, cost_usd_mean=1e12)]
    server.admin.PutArm(admin_pb2.PutArmRequest(arm=admin_pb2.Arm(id="a", prices=prices, figures=figures)))
    for i, cost_usd in enumerate([1e12, 5e-324, 1e-300, 1e12]):
        server.routing.Select(pb.SelectRequest(session_id=f"{i}", pinned_arm="ab"[i % 2]))
        server.routing.Reward(pb.RewardRequest(session_id=f"{i}", success=1.0, cost_usd=cost_usd))
    server.admin.PutArm(admin_pb2.PutArmRequest(arm=admin_pb2.Arm(id="d")), timeout=20)
    server.stop()
    again = serving(tmp_path / "data", THOMPSON)
    answer = again.routing.Select(pb.SelectRequest(session_id="after"))
    assert all(math.isfinite(score.cost_usd) for score in answer.scores)
    shown = again.routing.GetDecision(pb.GetDecisionRequest(decision_id=answer.decision_id))
    assert shown.confirmed, shown.unconfirmed_reason


def test_a_log_with_the_greatest_numbers_that_are_taken_comes_in_elsewhere(tmp_path: Path, serving: Serve) -> None:
    server = serving(tmp_path / "data", THOMPSON)
    prices = admin_pb2.Prices(input_usd_per_million=1e12, output_usd_per_million=1e12)
    server.admin.PutArm(admin_pb2.PutArmRequest(arm=admin_pb2.Arm(id="a", prices=prices)))
    begun = server.routing.Select(pb.SelectRequest(pinned_arm="a"))
    usage = pb.Usage(input_tokens=2**53, output_tokens=2**53)
    server.routing.Reward(pb.RewardRequest(decision_id=begun.decision_id, usage=usage, revision=2**53))
    server.routing.Reward(pb.RewardRequest(decision_id=begun.decision_id, success=1.0))
    server.routing.Select(pb.SelectRequest())
    out = subprocess.run(
        [sys.executable, "-m", "server.cli", "export", "--server", server.grpc, str(tmp_path / "out")], check=False
    )
    into = [sys.executable, "-m", "server.cli", "import", str(tmp_path / "out"), "--data-dir", str(tmp_path / "new")]
    assert (out.returncode, subprocess.run(into, check=False).returncode) == (0, 0)
