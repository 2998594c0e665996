"""`pointsman doctor`: each usual mistake, made on purpose, is found; where none is made there is nothing to find."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from concurrent import futures
from pathlib import Path

import grpc
import msgspec
import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from pointsman import Client, EscalationReason
from pointsman.v1 import admin_pb2
from server.cli import main
from server.doctor import directory, environment, filesystem, running
from server.doctor.environment import Environment
from server.release import RELEASE
from server.store.sqlite import SqliteStore
from tests.server.test_archive import new

FAILED = EscalationReason.ESCALATION_REASON_VERIFIED_FAILURE
SOUND = """
[service]
fitter = "inline"
[router]
policy = "thompson"
baseline_arm = "large"
[router.objective]
preset = "balanced"
budget_usd = 1000.0
budget_period_seconds = 86400.0
[[arms]]
id = "small"
input_usd_per_million = 0.3
output_usd_per_million = 1.2
figures = [{ success_rate = 0.6, cost_usd = 0.2 }]
[[arms]]
id = "large"
input_usd_per_million = 5.0
output_usd_per_million = 25.0
figures = [{ success_rate = 0.8, cost_usd = 1.0 }]
"""
ARMS = SOUND[SOUND.index("[[arms]]") :]
SMALL, LARGE = ("[[arms]]" + arm for arm in ARMS.split("[[arms]]")[1:])


@pytest.fixture
def doctor(capsys):
    """Runs the command: its exit status, and its findings by their codes."""

    def doctor(*arguments: str) -> tuple[int, dict[str, dict[str, str]]]:
        capsys.readouterr()
        status = main(["doctor", *arguments, "--json", "-"])
        out, err = capsys.readouterr()
        answer = json.loads(out)
        assert answer["environment"]["release"] == RELEASE
        found = {finding["code"]: finding for finding in answer["findings"]}
        for finding in found.values():
            assert all(finding.values()) and finding["code"] in err, finding
        assert status == any(finding["severity"] == "error" for finding in found.values())
        return status, found

    return doctor


# --- configuration --------------------------------------------------------------------------------------------------


def written(folder: Path, text: str) -> str:
    path = folder / "pointsman.toml"
    path.write_text(text)
    return str(path)


def test_a_sound_configuration_has_no_finding(doctor, tmp_path):
    assert doctor("--config", written(tmp_path, SOUND)) == (0, {})


@pytest.mark.parametrize(
    ("edit", "by", "code", "severity", "says"),
    [
        ('policy = "thompson"', 'polcy = "thompson"', "config-invalid", "error", "pointsman.toml:5: router.polcy"),
        ('baseline_arm = "large"', 'baseline_arm = "nobody"', "config-invalid", "error", "no arm 'nobody'"),
        ('policy = "thompson"', 'policy = "ladder:small>nobody"', "config-invalid", "error", "pointsman.toml:5"),
        ("[router]", "[router", "config-invalid", "error", "at line 4"),
        ('baseline_arm = "large"\n', "", "no-baseline", "warning", "no baseline_arm"),
        ('preset = "balanced"\n', "", "value-unsaid", "warning", "$5 is taken"),
        (LARGE, LARGE[: LARGE.index("figures")], "arms-without-figures", "warning", "1 of 2 arms (large)"),
        ("input_usd_per_million = 5.0\noutput_usd_per_million = 25.0\n", "", "arms-unpriced", "warning", "(large)"),
        (LARGE, SMALL.replace("small", "large"), "arms-alike", "warning", "small and large"),
        (SMALL, "", "single-arm", "warning", "large is its only arm"),
        ('baseline_arm = "large"\n', "arms = []\n", "no-arms", "error", "every Select is refused"),
        ("[service]\n", '[service]\nlisten = "0.0.0.0:50051"\n', "address-unguarded", "error", "pointsman.toml:3"),
        ("[service]\n", '[service]\nhttp = "[::]:80"\n', "address-unguarded", "error", "without TLS"),
        ("[router]", '[security]\ntokens = true\ntokens_file = "/nowhere/t"\n[router]', "no-tokens", "warning", "none"),
    ],
    ids=lambda value: value if re.fullmatch("[a-z-]+", value) else "",
)
def test_a_mistake_in_a_configuration_is_found(doctor, tmp_path, edit, by, code, severity, says):
    assert SOUND.count(edit) == 1
    _, found = doctor("--config", written(tmp_path, SOUND.replace(edit, by)))
    assert list(found) == [code]
    assert found[code]["severity"] == severity
    assert says in f"{found[code]['where']} {found[code]['found']}"


def test_a_configuration_that_is_not_there_is_a_finding(doctor, tmp_path):
    assert list(doctor("--config", str(tmp_path / "none.toml"))[1]) == ["config-invalid"]


def test_each_of_several_routers_is_looked_at(doctor, tmp_path):
    text = SOUND.replace("[router]", '[[routers]]\nid = "one"\n[routers.objective]\nvalue_usd = 2.0\n[[routers]]\n')
    _, found = doctor("--config", written(tmp_path, text.replace("[router.", "[routers.")))
    assert list(found) == ["no-baseline"] and found["no-baseline"]["where"].endswith("router one")


# --- data directory -------------------------------------------------------------------------------------------------


@pytest.fixture
def data_dir(tmp_path) -> Path:
    path = tmp_path / "data"
    path.mkdir(0o700)
    store = SqliteStore.open(path)
    store.append([new(n, 1_700_000_000_000_000 + n) for n in range(50)])
    store.close()
    return path


def of_log(found: dict) -> dict:
    """Without what is said of the file system that the tests run on."""
    return {code: found[code] for code in found if code not in ("volatile-filesystem", "disk-low")}


def test_a_whole_log_has_no_finding(doctor, data_dir):
    assert of_log(doctor("--data-dir", str(data_dir))[1]) == {}


def test_a_directory_that_is_not_there_and_one_that_is_a_file(doctor, tmp_path):
    status, found = doctor("--data-dir", str(tmp_path / "none"))
    assert (status, list(found)) == (0, ["data-dir-missing"])
    (tmp_path / "file").touch()
    assert doctor("--data-dir", str(tmp_path / "file"))[0] == 1


def test_a_directory_that_others_can_look_into(doctor, data_dir):
    data_dir.chmod(0o750)
    assert list(of_log(doctor("--data-dir", str(data_dir))[1])) == ["data-dir-open"]


def test_a_directory_that_cannot_be_written(doctor):
    if not Path("/proc/self").is_dir():
        pytest.skip("no directory here that even root cannot write")
    assert "data-dir-unwritable" in doctor("--data-dir", "/proc/self")[1]


def test_a_directory_in_memory(doctor):
    if filesystem.kind(Path("/dev/shm")) != "tmpfs":
        pytest.skip("no tmpfs here")
    assert "volatile-filesystem" in doctor("--data-dir", "/dev/shm")[1]


def test_the_file_system_of_a_directory_is_that_of_the_nearest_mount_around_it():
    mounts = (
        "22 1 8:1 / / rw - ext4 /dev/sda1 rw\n"
        "30 22 0:40 / /mnt/my\\040share rw shared:1 - nfs4 server:/x rw\n"
        "31 22 0:41 / /mnt/over rw - xfs /dev/sdb rw\n"
        "32 22 0:42 / /mnt/over rw - cifs //s/x rw\n"
    )
    kinds = {path: filesystem.kind(Path(path), mounts) for path in ("/a", "/mnt/my share/a", "/mnt/over", "/mnt/overt")}
    assert kinds == {"/a": "ext4", "/mnt/my share/a": "nfs4", "/mnt/over": "cifs", "/mnt/overt": "ext4"}


def test_a_network_file_system_and_little_room(data_dir):
    room = 1 << 40

    def codes(kind: str, free: int) -> list[tuple[str, str]]:
        return [(finding.code, finding.severity.value) for finding in directory.fit(data_dir, kind, free)]

    assert codes("ext4", room) == []
    assert codes("nfs4", room) == [("network-filesystem", "error")]
    assert codes("ext4", 1 << 20) == [("disk-low", "error")]
    os.truncate(data_dir / "events.db", 3 << 30)
    assert codes("ext4", 2 << 30) == [("disk-low", "warning")]


def test_a_damaged_log_and_a_missing_head(doctor, data_dir):
    head = (data_dir / "head").read_bytes()
    (data_dir / "head").unlink()
    assert "head file is missing" in doctor("--data-dir", str(data_dir))[1]["log-damaged"]["found"]
    (data_dir / "head").write_bytes(head)
    assert of_log(doctor("--data-dir", str(data_dir))[1]) == {}
    content = (data_dir / "events.db").read_bytes()
    at = content.rindex(b'"d40"')
    (data_dir / "events.db").write_bytes(content[:at] + b'"d99"' + content[at + 5 :])
    status, found = doctor("--data-dir", str(data_dir))
    assert status == 1 and found["log-damaged"]["found"].startswith("event 41")


def test_a_head_and_an_archive_that_cannot_be_read(doctor, data_dir):
    head = (data_dir / "head").read_bytes()
    (data_dir / "archive").mkdir(exist_ok=True)
    (data_dir / "archive" / "upto").write_text("nonsense")
    assert "archive-unreadable" in doctor("--data-dir", str(data_dir))[1]
    (data_dir / "head").unlink()
    (data_dir / "head").mkdir()
    assert "log-unreadable" in doctor("--data-dir", str(data_dir))[1]
    (data_dir / "head").rmdir()
    (data_dir / "head").write_bytes(head)


def test_a_log_of_another_schema(doctor, data_dir):
    (data_dir / "events.db").unlink()
    assert "log-unreadable" in doctor("--data-dir", str(data_dir))[1]


def test_an_archive_that_has_fallen_behind(doctor, data_dir):
    (data_dir / "archive").mkdir()
    (data_dir / "archive" / "upto").write_text("50\n")
    store = SqliteStore.open(data_dir)
    store.append([new(n, 1_700_000_000_000_000 + n * 60_000_000) for n in range(50, 60)])
    store.close()
    assert of_log(doctor("--data-dir", str(data_dir))[1]) == {}
    store = SqliteStore.open(data_dir)
    store.append([new(n, 1_700_000_000_000_000 + n * 60_000_000) for n in range(60, 120)])
    store.close()
    (finding,) = of_log(doctor("--data-dir", str(data_dir))[1]).values()
    assert finding["code"] == "archive-behind" and "70 before" in finding["found"]


# --- a running server -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def idle(serving, tmp_path_factory):
    """A server that nobody has called."""
    data_dir = tmp_path_factory.mktemp("idle") / "data"
    data_dir.mkdir(0o700)
    return serving(data_dir, SOUND)


def test_a_server_that_nobody_has_called_has_no_finding(doctor, idle):
    assert doctor("--server", idle.grpc) == (0, {})


def test_the_server_of_the_environment_is_looked_at(doctor, idle, monkeypatch):
    monkeypatch.setenv("POINTSMAN_SERVER", idle.grpc)
    assert doctor() == (0, {})


def test_a_directory_is_held_by_its_server(doctor, idle):
    status, found = doctor("--data-dir", str(idle.data_dir))
    assert status == ("disk-low" in found or "volatile-filesystem" in found)
    assert f"process {idle.process.pid} " in found["data-dir-held"]["found"]
    assert of_log(doctor("--data-dir", str(idle.data_dir), "--server", idle.grpc)[1]) == {}


def habits(server, router: str, sessions: int = 40, **leaving: bool) -> None:
    """Sessions of an agent that does everything right, or leaves something out."""

    def does(what: str) -> bool:
        return not leaving.get(what)

    with Client(server.grpc, router=router) as client:
        settings = admin_pb2.RouterSettings(baseline_arm="large")
        client.call(client.admin.CreateRouter, admin_pb2.CreateRouterRequest(router=router, policy="uniform"))
        for arm in client.call(client.admin.ListArms, admin_pb2.ListArmsRequest(router="default")).arms:
            client.put_arm(arm)
        client.call(client.admin.UpdateRouter, admin_pb2.UpdateRouterRequest(router=router, settings=settings))
        for i in range(sessions):
            choice = client.select({"category": "bugfix"} if does("features") else {})
            failed = bool(i % 3) or leaving.get("succeeding", False)
            if failed and does("escalating"):
                choice = client.escalate(choice, reason=FAILED) or choice
            if does("rewarding") and not (leaving.get("often") and i % 4):
                client.reward(
                    session_id=choice.session_id,
                    success=float(not failed),
                    cost_usd=0.1 if does("costs") else None,
                    final=does("ending"),
                )


@pytest.mark.parametrize(
    ("leaving", "code", "severity"),
    [
        ((), "", ""),
        (("rewarding",), "no-rewards", "error"),
        (("often",), "few-rewards", "warning"),
        (("features",), "no-features", "warning"),
        (("costs",), "no-costs", "warning"),
        (("ending",), "never-final", "warning"),
        (("escalating",), "never-escalates", "warning"),
        (("succeeding",), "success-always-same", "warning"),
    ],
    ids=lambda value: "" if isinstance(value, str) else "-".join(value) or "nothing",
)
def test_what_agents_leave_out_is_found(doctor, idle, leaving, code, severity):
    router = f"leaving-{'-'.join(leaving) or 'nothing'}"
    habits(idle, router, **dict.fromkeys(leaving, True))
    _, found = doctor("--server", idle.grpc, "--router", router)
    assert list(found) == ([code] if code else [])
    if code:
        assert found[code]["severity"] == severity and found[code]["where"].endswith(f"router {router}")


def test_arms_that_are_down(doctor, serving, tmp_path):
    server = serving(tmp_path / "data", SOUND)
    for arm, code, status in (("small", "arm-down", 0), ("large", "no-arm-up", 1)):
        server.admin.SetAvailability(admin_pb2.SetAvailabilityRequest(arm=arm, down_seconds=600, why="limits"))
        found = doctor("--server", server.grpc)
        assert (found[0], list(found[1])) == (status, [code])


def test_a_budget_that_is_overspent_and_a_canary_that_waits(doctor, serving, tmp_path):
    server = serving(tmp_path / "data", SOUND.replace("1000.0", "1.0"))
    with Client(server.grpc) as client:
        client.reward(decision_id=client.select({"x": 1}).decision_id, success=1, cost_usd=3.0, final=True)
        made = client.call(client.admin.CreatePolicy, admin_pb2.CreatePolicyRequest(policy="uniform")).policy
        start = admin_pb2.StartCanaryRequest(policy_version=made.policy_version, share=0.5)
        client.call(client.admin.StartCanary, start)
        for _ in range(200):
            (listed,) = client.call(client.admin.ListRouters, admin_pb2.ListRoutersRequest()).routers
            if listed.candidates[0].HasField("evidence"):
                break
            time.sleep(0.05)
    status, found = doctor("--server", server.grpc)
    assert status == 1 and set(found) == {"budget-overspent", "canary-without-sessions"}
    assert "$3" in found["budget-overspent"]["found"]


def test_a_learner_that_does_not_learn(doctor, serving, tmp_path):
    server = serving(tmp_path / "data", SOUND.replace('"inline"', '"beside"'))
    with Client(server.grpc) as client:

        def session(i: int) -> None:
            choice = client.select({"x": float(i)})
            for revision in range(9):
                client.reward(decision_id=choice.decision_id, success=float(i % 3 > 0), cost_usd=0.1, revision=revision)

        child = fitter_of(server.process.pid)
        os.kill(child, signal.SIGSTOP)
        try:
            with futures.ThreadPoolExecutor(16) as agents:
                list(agents.map(session, range(220)))
            status, found = doctor("--server", server.grpc)
        finally:
            os.kill(child, signal.SIGCONT)
    assert status == 1 and set(found) >= {"epoch-still", "learner-behind"}


def fitter_of(pid: int) -> int:
    for task in Path(f"/proc/{pid}/task").iterdir():
        for child in (task / "children").read_text().split():
            if b"server.fitter" in Path(f"/proc/{child}/cmdline").read_bytes():
                return int(child)
    raise AssertionError("the server has no fitter")


def test_a_server_that_is_out_of_reach(doctor, serving, tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        status, found = doctor("--server", address, "--timeout", "0.5")
    assert status == 1 and "tried plaintext, without a token: UNAVAILABLE" in found["out-of-reach"]["found"]
    server = serving(tmp_path / "data", None)
    assert list(doctor("--server", server.http, "--timeout", "0.5")[1]) == ["out-of-reach"]
    assert list(doctor("--server", server.grpc, "--router", "nobody")[1]) == ["no-such-router"]


def test_a_server_that_does_not_know_the_caller(doctor, serving, tmp_path, tokens_of):
    tokens = tokens_of(tmp_path / "data")
    reads, routes = tokens.create("read"), tokens.create("route")
    server = serving(tmp_path / "data", SOUND, "--tokens")
    assert list(doctor("--server", server.grpc)[1]) == ["not-known"]
    assert list(doctor("--server", server.grpc, "--token", routes)[1]) == ["not-allowed"]
    assert doctor("--server", server.grpc, "--token", reads) == (0, {})


def test_another_service_is_not_taken_for_this_one(doctor):
    other = grpc.server(futures.ThreadPoolExecutor(1))
    port = other.add_insecure_port("127.0.0.1:0")
    other.start()
    try:
        assert list(doctor("--server", f"127.0.0.1:{port}")[1]) == ["not-pointsman"]
    finally:
        other.stop(None)


def test_a_server_whose_log_is_damaged_does_not_serve(doctor, serving, tmp_path):
    answered = admin_pb2.ListRoutersResponse(version=RELEASE, routers=[admin_pb2.Router()])
    said = {"pointsman.v1.Routing": "NOT_SERVING", "pointsman.v1.Admin": "SERVING"}
    (finding,) = running.service("s", answered, said, before=0.0, after=0.1)
    assert (finding.code, finding.severity.value) == ("not-serving", "error")


def test_another_release_another_clock_and_no_routers():
    def codes(version: str, at: float, routers: int = 1) -> list[str]:
        answered = admin_pb2.ListRoutersResponse(
            version=version,
            at=Timestamp(seconds=int(at), nanos=int(at % 1 * 1e9)),
            routers=[admin_pb2.Router()] * routers,
        )
        return [finding.code for finding in running.service("s", answered, {}, before=1000.0, after=1010.0)]

    assert codes(RELEASE, 1005.0) == codes(RELEASE, 999.0) == codes(RELEASE, 1011.5) == []
    assert codes(RELEASE, 997.0) == codes(RELEASE, 1013.0) == ["clock-differs"]
    assert codes("0.0.1", 1005.0) == ["release-differs"]
    assert codes(RELEASE, 1005.0, routers=0) == ["no-routers"]


# --- environment, and the command -----------------------------------------------------------------------------------


def test_what_this_runs_on_has_no_finding():
    assert list(environment.check(Environment.here())) == []


def test_what_is_wrong_with_what_it_runs_on():
    def codes(**changes: object) -> list[str]:
        return [finding.code for finding in environment.check(msgspec.structs.replace(Environment.here(), **changes))]

    assert codes(python=(3, 99, 0)) == ["python-untried"]
    assert codes(blas_threads={"libopenblas.so": 4}) == codes(blas_threads={}) == ["blas-threads"]
    without = dict.fromkeys(Environment.here().extras, False)
    assert codes(extras=without) == []
    assert codes(extras=without, store_url=True) == ["extra-missing"]
    assert codes(extras=without, traces_asked_by="OTEL_TRACES_EXPORTER") == ["extra-missing"]
    assert codes(store_url=True, traces_asked_by="OTEL_TRACES_EXPORTER") == []


def test_extras_that_are_not_installed_are_seen():
    hidden = "import sys; sys.modules.update(psycopg=None, opentelemetry=None, litellm=None, ray=None)"
    code = (
        f"{hidden}; from server.doctor.environment import Environment; print(any(Environment.here().extras.values()))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "False\n"


def test_people_get_words_and_bad_usage_is_one_line(capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("COLUMNS", "60")
    assert main(["doctor", "--config", written(tmp_path, SOUND.replace('preset = "balanced"\n', ""))]) == 0
    out = capsys.readouterr().out
    assert "warning value-unsaid" in out and "0 to be done, 1 to be looked at" in out and "extra postgres" in out
    assert max(map(len, out.splitlines())) <= 60
    assert main(["doctor", "--config", written(tmp_path, SOUND)]) == 0
    assert "nothing found" in capsys.readouterr().out
    assert main(["doctor", "--json", "/nowhere/at/all.json"]) == 2
    assert main(["doctor", "--server", "127.0.0.1:1", "--tls-cert", "x"]) == 2
    assert capsys.readouterr().err.startswith("pointsman doctor: ")
