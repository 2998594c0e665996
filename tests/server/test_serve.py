"""The command `pointsman serve`: flags, the ready line, health, draining, exit codes."""

import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor, as_completed
from itertools import islice
from pathlib import Path

import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

from pointsman.v1 import admin_pb2
from pointsman.v1 import routing_pb2 as pb
from server.cli import main
from tests.server.conftest import UNIFORM


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "server.cli", *arguments], capture_output=True, text=True, timeout=30, check=False
    )


def test_bad_usage_is_one_line_and_exit_2(tmp_path, monkeypatch, capfd):
    # It is set by --store, for children.
    monkeypatch.setenv("POINTSMAN_STORE", "")

    def refused(*arguments: str) -> str:
        try:
            assert main(arguments) == 2
        except SystemExit as ended:
            assert ended.code == 2
        out, err = capfd.readouterr()
        assert (out, err.count("\n")) == ("", 1)
        return err

    assert "COMMAND" in refused()
    assert "nonsense" in refused("nonsense")
    assert "--frobnicate" in refused("serve", "--frobnicate")
    assert "--store" in refused("serve", "--store", "mysql://x")
    assert "--listen" in refused("serve", "--listen", "nowhere")
    assert "--http" in refused("serve", "--http", "127.0.0.1:99999")
    assert "--insecure" in refused("serve", "--listen", "0.0.0.0:0")
    assert "--insecure" in refused("serve", "--http", "example.org:0")
    assert "missing.toml" in refused("serve", "--config", str(tmp_path / "missing.toml"))


def test_a_data_directory_or_port_in_use_is_refused(server, tmp_path):
    free = ("--http", "127.0.0.1:0")
    config = ("--config", str(server.data_dir.with_suffix(".toml")))
    in_use = run("serve", *config, *free, "--listen", "127.0.0.1:0", "--data-dir", str(server.data_dir))
    assert in_use.returncode == 2 and "in use" in in_use.stderr
    taken = run("serve", *config, *free, "--listen", server.grpc, "--data-dir", str(tmp_path / "other"))
    assert taken.returncode == 2 and server.grpc in taken.stderr.splitlines()[-1]


def test_the_bundled_catalogue_serves_without_a_configuration(serving, tmp_path):
    server = serving(tmp_path / "data", None)
    arms = server.admin.ListArms(admin_pb2.ListArmsRequest()).arms
    assert len(arms) == 10
    assert all(arm.prices.output_usd_per_million > 0 and len(arm.figures) == 5 for arm in arms)
    assert server.routing.Select(pb.SelectRequest()).arm in {arm.id for arm in arms}
    assert server.stop() == 0


def test_health_is_told_by_grpc_and_http(server):
    health = health_pb2_grpc.HealthStub(server.channel)
    for service in ("", "pointsman.v1.Routing", "pointsman.v1.Admin", "pointsman.v1.Events"):
        answer = health.Check(health_pb2.HealthCheckRequest(service=service), timeout=10)
        assert answer.status == health_pb2.HealthCheckResponse.SERVING
    with urllib.request.urlopen(f"http://{server.http}/healthz", timeout=10) as page:
        assert page.status == 200
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(f"http://{server.http}/etc/passwd", timeout=10)
    assert caught.value.code == 404
    caught.value.close()


def test_reflection_says_what_there_is(server):
    services = ProtoReflectionDescriptorDatabase(server.channel).get_services()
    assert {"pointsman.v1.Routing", "pointsman.v1.Admin", "pointsman.v1.Events"} <= set(services)


def test_sigterm_drains_what_is_under_way(serving, tmp_path):
    server = serving(tmp_path / "data")
    with ThreadPoolExecutor(32) as pool:
        calls = [
            pool.submit(server.routing.Select, pb.SelectRequest(session_id=f"drain-{i}"), timeout=10)
            for i in range(200)
        ]
        for call in islice(as_completed(calls), 20):
            call.result()
        server.process.send_signal(signal.SIGTERM)
        answered = [call.result() for call in calls if call.exception() is None]
    assert server.reap() == 0
    assert len(answered) >= 20
    again = serving(tmp_path / "data")
    for choice in answered:
        stands = again.routing.Select(pb.SelectRequest(session_id=choice.session_id))
        assert stands.decision_id == choice.decision_id
    assert again.stop() == 0


def test_an_arm_that_is_put_is_offered_and_stays(serving, tmp_path):
    server = serving(tmp_path / "data")
    arm = admin_pb2.Arm(id="new", prices=admin_pb2.Prices(input_usd_per_million=1.5), capabilities=["only-new"])
    server.admin.PutArm(admin_pb2.PutArmRequest(arm=arm), timeout=20)
    request = pb.SelectRequest(required_capabilities=["only-new"])
    assert server.routing.Select(request).arm == "new"
    server.kill()
    server = serving(tmp_path / "data")
    assert server.admin.ListArms(admin_pb2.ListArmsRequest()).arms[-1] == arm
    assert server.routing.Select(request).arm == "new"
    before = server.last_sequence()
    assert server.stop() == 0
    # Nothing is appended where log and configuration agree.
    server = serving(tmp_path / "data")
    assert server.last_sequence() == before
    assert server.stop() == 0


def test_inline_learning_is_done_before_the_next_select(serving, tmp_path):
    config = '[service]\nfitter = "inline"\n[router]\ndraws = 16\n[[arms]]\nid = "a"\n[[arms]]\nid = "b"\n'

    def one_run(name: str) -> list[bytes]:
        server = serving(tmp_path / name, config)
        seen = []
        for i in range(20):
            choice = server.routing.Select(pb.SelectRequest(session_id=f"s{i}"))
            seen.append((choice.arm, choice.propensity, choice.epoch))
            server.routing.Reward(pb.RewardRequest(session_id=f"s{i}", success=i % 2, cost_usd=0.1))
        seen.append(server.admin.GetRouter(admin_pb2.GetRouterRequest()).router.epoch_hash)
        assert server.stop() == 0
        return seen

    first = one_run("first")
    assert first == one_run("second")
    assert [epoch for _, _, epoch in first[:-1]] == list(range(20))


@pytest.mark.skipif(sys.platform != "linux", reason="asks the kernel to end the child with its parent")
def test_children_die_with_a_killed_server_and_the_fitter_is_replaced_when_it_dies(serving, tmp_path):
    server = serving(tmp_path / "data", f"[service]\narchive_seconds = 1\n{UNIFORM}")
    (child,) = wait_for(lambda: children(server.process.pid, "server.fitter"))
    (archiving,) = wait_for(lambda: children(server.process.pid, "server.archive"))
    os.kill(child, signal.SIGKILL)
    replaced = wait_for(lambda: [pid for pid in children(server.process.pid, "server.fitter") if pid != child])
    server.routing.Reward(
        pb.RewardRequest(decision_id=server.routing.Select(pb.SelectRequest()).decision_id, success=1)
    )
    wait_for(lambda: server.admin.GetRouter(admin_pb2.GetRouterRequest()).router.epoch >= 1)
    server.kill()
    wait_for(lambda: not any(Path(f"/proc/{pid}/cmdline").exists() and alive(pid) for pid in [*replaced, archiving]))


def children(parent: int, module: str) -> list[int]:
    """The child processes that run a module."""
    pids = [int(pid) for pid in Path(f"/proc/{parent}/task/{parent}/children").read_text().split()]
    return [pid for pid in pids if runs(pid, module)]


def runs(pid: int, module: str) -> bool:
    try:
        return module.encode() in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def wait_for(holds):
    """Asks until it holds, at most 20 seconds."""
    deadline = time.monotonic() + 20
    while not (found := holds()):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return found
