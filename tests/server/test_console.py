"""The commands that talk to a server, against a real one: what people read, what machines read, and how they fail."""

import json
import os
import socket
import subprocess
import sys
import uuid

import pytest
from google.protobuf import json_format
from google.protobuf.timestamp_pb2 import Timestamp

from pointsman import Client
from pointsman.v1 import admin_pb2
from pointsman.v1 import routing_pb2 as pb
from server.cli import main
from server.console import story, tables
from server.console.learning import Evidence, Prediction
from server.console.output import Output
from server.console.state import RouterState, State
from server.words import dollars, exact, plain


@pytest.fixture
def run(server, capsys, monkeypatch):
    """Runs a command in this process: its status, standard output and standard error."""

    def run(*arguments: str, columns: int = 80) -> tuple[int, str, str]:
        monkeypatch.setenv("POINTSMAN_SERVER", server.grpc)
        monkeypatch.setenv("COLUMNS", str(columns))
        capsys.readouterr()
        try:
            status = main(list(arguments))
        except SystemExit as end:  # argparse ends the program itself
            status = end.code
        out, err = capsys.readouterr()
        return status, out, err

    return run


@pytest.fixture
def answer(run):
    """Runs a command that succeeds: its JSON."""

    def answer(*arguments: str):
        status, out, err = run(*arguments, "--json", "-")
        assert status == 0, err
        return json.loads(out)

    return answer


def fresh() -> str:
    return f"session-{uuid.uuid4().hex}"


def one_line(err: str) -> str:
    assert err.endswith("\n") and err.count("\n") == 1, err
    return err


# --- select ---------------------------------------------------------------------------------------------------------


def test_the_first_line_of_a_selection_is_the_arm(run, server):
    session = fresh()
    status, out, err = run("select", "--session", session, "--allow", "a,b", "--allow", "c", "--deny", "b")
    assert (status, err) == (0, "")
    chosen = Client(channel=server.channel).get_session(session).attempts[0]
    assert out.splitlines()[0] == chosen.arm and chosen.arm in ("a", "c")
    assert chosen.decision_id in out and "denied by the request" in out and "50.0 %" in out


def test_json_alone_is_on_standard_output_and_the_tables_beside_it(run):
    status, out, err = run("select", "--session", fresh(), "--json", "-")
    assert status == 0
    answered = json_format.Parse(out, pb.SelectResponse())
    assert err.splitlines()[0] == answered.arm
    # What is 0 or empty is told too; what is unknown is not.
    score = json.loads(out)["scores"][0]
    assert score["ineligible_reason"] == "" and "success_mean" not in score


def test_json_goes_to_a_file_and_the_tables_to_standard_output(run, tmp_path):
    file = tmp_path / "answer.json"
    status, out, _ = run("select", "--session", fresh(), "--json", str(file))
    assert status == 0
    assert json.loads(file.read_text())["arm"] == out.splitlines()[0]


def test_features_arrive_as_the_kind_they_are(run, answer, server):
    given = {
        "files=3": {"number": 3.0},
        "share=-1.5e-3": {"number": -0.0015},
        "new=true": {"flag": True},
        "category=bugfix": {"category": "bugfix"},
        "empty=": {"category": ""},
        "formula=a=b": {"category": "a=b"},
        "build:category=12": {"category": "12"},
        "weight:number=7": {"number": 7.0},
        "old:flag=false": {"flag": False},
        "git:branch:category=main": {"category": "main"},
        "vector:embedding=1,2.5, -3": {"embedding": {"values": [1.0, 2.5, -3.0]}},
        "nan=nan": {"category": "nan"},
    }
    flags = [part for feature in given for part in ("--feature", feature)]
    chosen = answer("select", "--session", fresh(), *flags)
    stored = Client(channel=server.channel).get_decision(chosen["decision_id"])
    found = {name: json_format.MessageToDict(value) for name, value in stored.features.items()}
    assert found == {
        name.partition("=")[0] if name.count(":") == 0 else name.partition("=")[0].rpartition(":")[0]: value
        for name, value in given.items()
    }


@pytest.mark.parametrize(
    "feature",
    [
        "files",
        "=3",
        ":text=x",
        "title:txt=x",
        "old:flag=yes",
        "n:number=many",
        "n=1e999",
        "v:embedding=1,,2",
        "s=\udce9",
    ],
)
def test_a_bad_feature_is_one_line_and_status_2(run, feature):
    session = fresh()
    status, out, err = run("select", "--session", session, "--feature", feature)
    assert (status, out) == (2, "")
    assert one_line(err).startswith("pointsman select: argument --feature: ")


def test_a_feature_given_twice_is_refused(run):
    status, _, err = run("select", "--feature", "n=1", "--feature", "n:category=x")
    assert status == 2 and one_line(err) == "pointsman select: --feature: 'n' is given 2 times\n"


def test_demands_are_obeyed(answer):
    session = fresh()
    assert answer("select", "--session", session, "--require", "vision,browser")["arm"] == "c"
    pinned = answer("select", "--session", session, "--pin", "b")
    assert (pinned["arm"], pinned["reason"], pinned["attempt"]) == ("b", "SELECT_REASON_PINNED", 2)
    assert answer("select", "--session", session)["reason"] == "SELECT_REASON_STICKY"


def test_a_request_id_makes_a_selection_repeatable(answer):
    key = fresh()
    assert answer("select", "--request-id", key) == answer("select", "--request-id", key)


# --- escalate and reward --------------------------------------------------------------------------------------------


def test_a_session_is_escalated_rewarded_and_explained(run, answer):
    session = fresh()
    first = answer("select", "--session", session, "--pin", "a", "--feature", "category=bugfix")
    flags = ("--cost", "0.25", "--input-tokens", "1000", "--output-tokens", "10", "--latency", "3.5")
    moved = answer("escalate", "--session", session, "--reason", "verified-failure", *flags)["next"]
    assert moved["attempt"] == 2 and moved["arm"] != "a"
    assert answer("reward", "--decision", moved["decision_id"], "--success", "1", "--cost", "1.5")
    status, out, _ = run("reward", "--session", session, "--metric", "turns=12", "--final")
    assert status == 0 and "the session is closed" in out
    told = answer("explain", session)
    assert told["final"] and told["success"] == 1.0 and told["cost_usd"] == 1.75
    assert [decision["decision_id"] for decision in told["decisions"]] == [first["decision_id"], moved["decision_id"]]
    assert told["attempts"][0]["outcome"]["usage"]["input_tokens"] == "1000"
    status, out, _ = run("explain", session)
    assert status == 0
    for words in (
        "2 attempts, closed, success 100.0 %, $1.750",
        "found wrong",
        "Why a?",
        "The caller named it",
        "bugfix",
    ):
        assert words in " ".join(out.split())


def test_an_attempt_is_left_by_its_decision(answer):
    first = answer("select", "--session", fresh(), "--allow", "a,b")
    moved = answer("escalate", "--decision", first["decision_id"], "--reason", "user-request")
    assert moved["next"]["arm"] == ({"a", "b"} - {first["arm"]}).pop()
    told = answer("explain", first["session_id"])
    assert told["attempts"][0]["left_reason"] == "ESCALATION_REASON_USER_REQUEST"


def test_an_exhausted_session_says_so(run, answer):
    first = answer("select", "--session", fresh(), "--allow", "a")
    status, out, _ = run("escalate", "--decision", first["decision_id"], "--reason", "struggling")
    assert status == 0 and out.startswith("exhausted\n")


def test_revisions_are_told(answer):
    session = answer("select", "--session", fresh())["session_id"]
    assert answer("reward", "--session", session, "--success", "0", "--revision", "5")["accepted_revision"] == "5"
    assert answer("reward", "--session", session, "--success", "1")["accepted_revision"] == "6"
    assert answer("explain", session)["success"] == 1.0


# --- explain, arms, status ------------------------------------------------------------------------------------------


def test_the_json_of_a_decision_is_the_whole_response(run, answer, server):
    chosen = answer("select", "--session", fresh(), "--feature", "category=docs")
    status, out, _ = run("explain", chosen["decision_id"], "--json", "-")
    assert status == 0
    told = Client(channel=server.channel).get_decision(chosen["decision_id"])
    assert json_format.Parse(out, pb.GetDecisionResponse()) == told and told.confirmed


@pytest.mark.parametrize("columns", [80, 40])
def test_answers_fit_the_terminal(run, answer, columns):
    session = fresh()
    features = ("--feature", "category=docs", "--feature", f"repository={'x' * 90}")
    decision = answer("select", "--session", session, *features, "--deny", "b")["decision_id"]
    for command in (("explain", decision), ("explain", session), ("arms", "--all"), ("arms", "a"), ("status",)):
        status, out, _ = run(*command, columns=columns)
        assert status == 0 and out
        assert max(len(line) for line in out.splitlines()) <= columns, command


def test_what_a_terminal_would_obey_is_spelt_out(run, answer):
    session = fresh()
    answer("select", "--session", session, "--feature", "category=\x1b[2Jgone\u202e\r\n[red]x[/red]")
    status, out, _ = run("explain", session)
    assert status == 0
    assert r"\x1b[2Jgone\u202e\r\n[red]x[/red]" in out
    assert not set(out) & {"\x1b", "\r", "\u202e"}


def test_arms_are_listed_with_their_prices(run, answer):
    status, out, _ = run("arms")
    assert status == 0 and "browser, vision" in out
    listed = {arm["id"]: arm for arm in answer("arms")["arms"]}
    assert list(listed) == ["a", "b", "c"]
    assert listed["a"]["prices"]["output_usd_per_million"] == 4.0 and "prices" not in listed["b"]
    assert answer("arms", "a") == listed["a"]
    status, out, _ = run("arms", "a")
    assert status == 0 and "$1 in, $4 out" in out


def test_putting_an_arm_changes_only_what_is_given(serving, tmp_path, run):
    other = serving(tmp_path / "data")
    at = ("--server", other.grpc)
    assert run("arms", "d", "--put", "--can", "vision", "--provider", "acme", *at)[0] == 0
    flags = ("--input-price", "0", "--output-price", "2.5", "--context-window", "200000")
    status, out, _ = run("arms", "d", "--put", *flags, "--json", "-", *at)
    assert status == 0
    put = json.loads(out)
    assert (put["id"], put["provider"], put["capabilities"]) == ("d", "acme", ["vision"])
    assert put["prices"] == {"input_usd_per_million": 0.0, "output_usd_per_million": 2.5}
    assert run("select", "--allow", "d", *at)[1].splitlines()[0] == "d"


def test_an_arm_goes_down_comes_back_and_is_retired(serving, tmp_path, run):
    other = serving(tmp_path / "data")
    at = ("--server", other.grpc)
    assert run("select", "--session", "s", "--pin", "a", *at)[0] == 0
    status, out, _ = run("arms", "a", "--down", "3600", "--why", "rate limited", *at)
    assert status == 0 and "rate limited" in out and "down until" in out
    assert "2 up, 1 down, 0 retired" in run("status", *at)[1]
    status, out, _ = run("select", "--session", "s", *at)
    assert status == 0 and out.splitlines()[0] != "a" and "the arm before went down" in out
    status, _, err = run("select", "--pin", "a", *at)
    assert status == 1 and "FAILED_PRECONDITION" in one_line(err)
    assert "3 up" in run("arms", "a", "--up", *at)[1] + run("status", *at)[1]
    assert run("select", "--pin", "a", *at)[1].splitlines()[0] == "a"
    assert "retired" in run("arms", "a", "--retire", *at)[1]
    listed = [run("arms", *more, *at)[1] for more in ([], ["--all"])]
    assert "retired" not in listed[0] and "retired" in listed[1]
    status, _, err = run("arms", "a", "--put", "--provider", "x", *at)
    assert status == 1 and "never reused" in one_line(err)
    status, _, err = run("arms", "nobody", "--down", "1", *at)
    assert status == 1 and "NOT_FOUND" in one_line(err)
    status, _, err = run("arms", "b", "--down", "1", "--endpoint", "east", *at)
    assert status == 1 and "endpoint" in one_line(err)


def test_status_tells_what_every_router_has_learned(run, answer, server):
    answer("select", "--session", fresh())
    told = answer("status")
    assert set(told["services"].values()) == {"SERVING"}
    (router,) = told["routers"]
    assert (router["id"], router["mode"], router["policy"]) == ("default", "MODE_LIVE", "uniform")
    assert int(router["last_sequence"]) == server.last_sequence()
    assert [arm["id"] for arm in router["arms"]] == ["a", "b", "c"]
    status, out, _ = run("status", "--router", "default")
    assert status == 0
    assert "all services up" in out and "3 up, 0 down, 0 retired" in out and "learning?" in out


def said(capsys, show, *values) -> str:
    """What a table says, on one line."""
    capsys.readouterr()
    show(*values, Output(None))
    return " ".join(capsys.readouterr().out.split())


def test_status_tells_of_budgets_arms_that_are_down_and_services_that_are_not_serving(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    objective = admin_pb2.Objective(
        value_usd=25.0,
        latency_usd_per_second=0.001,
        quality_floor=0.9,
        quality_floor_relative=True,
        budget_usd=500.0,
        budget_period_seconds=86_400.0,
        session_cap_usd=2.5,
    )
    router = admin_pb2.Router(
        id="fixes",
        settings=admin_pb2.RouterSettings(objective=objective, max_attempts=1),
        mode=admin_pb2.MODE_FROZEN,
        policy="thompson",
        policy_version="7",
        epoch=1234,
        epoch_hash="abcdef0123456789",
        last_sequence=5000,
        learned_sequence=4999,
        budget_price=0.25,
        budget_spent_usd=123.456,
    )
    arms = (
        admin_pb2.Arm(id="up"),
        admin_pb2.Arm(id="down", down_until=Timestamp(seconds=4_000_000_000), down_why="rate limited"),
        admin_pb2.Arm(id="old", retired=True),
    )
    evidence = Evidence(
        attempts=400,
        success=Prediction(attempts=400, predicted=0.5, realised=0.4),
        success_error=0.2,
        constant_error=0.24,
        cost_usd=None,
        width_before=0.5,
        width_now=0.25,
    )
    shown = State(
        services={"pointsman.v1.Routing": "NOT_SERVING"},
        routers=(RouterState(message=router, arms=arms, evidence=evidence),),
    )
    words = said(capsys, tables.status, "host:1", shown)
    for expected in (
        "host:1: not serving: pointsman.v1.Routing NOT_SERVING",
        "frozen: the policy decides and does not learn",
        "thompson, version 7",
        "a success is worth $25; a second costs $0.001; "
        "the cheapest arm whose success reaches 90.0 % of the best arm's; "
        "at most $2.5 a session; at most 1 attempt a session",
        "1 up, 1 down, 1 retired",
        "down: down until 2096-10-02 07:06:40 UTC",
        "rate limited",
        "$500 per day, $123.46 of it spent or expected; a dollar counts as $1.250",
        "1,234 (abcdef012345)",
        "no, it is frozen; behind the log by 1 event",
        "success of 400 recent attempts: 50.0 % predicted, 40.0 % realised",
        "0.200; 0.240 had it told no session or arm from another",
        "50 points in the older half of them, 25 in the newer",
    ):
        assert expected in words, words
    router.mode = admin_pb2.MODE_LIVE
    assert "yes, 1,234 epochs so far, but success is below what it predicts by 4.0 standard errors" in said(
        capsys, tables.status, "host:1", shown
    )


def test_an_arm_tells_which_of_its_endpoints_are_down(capsys):
    out = admin_pb2.EndpointDown(endpoint="east", until=Timestamp(seconds=4_000_000_000), why="times out")
    arm = admin_pb2.Arm(id="m", endpoints=["east", "west"], endpoints_down=[out], context_window_tokens=200_000)
    words = said(capsys, tables.arm, arm)
    assert "east: down until 2096-10-02 07:06:40 UTC: times out" in words and "west: up" in words
    assert "up, but 1 of 2 endpoints down" in words and "200,000 tokens" in words
    assert "200k" in said(capsys, tables.arms, [arm])


def test_a_decision_of_a_server_that_tells_no_words_is_told_by_its_numbers(capsys):
    found = pb.GetDecisionResponse(arm="a", attempt=1, scores=[pb.ArmScore(arm="a", propensity=1.0, eligible=True)])
    assert "100.0 %" in said(capsys, story.decision, found)


# --- failures -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments",
    [
        ("reward", "--success", "1"),
        ("reward", "--session", "s", "--decision", "d"),
        ("reward", "--session", "s", "--success", "1.5"),
        ("reward", "--session", "s", "--cost", "-1"),
        ("reward", "--session", "s", "--cost", "inf"),
        ("reward", "--session", "s", "--cost", "1e300"),
        ("reward", "--session", "s", "--input-tokens", "1.5"),
        ("reward", "--session", "s", "--input-tokens", "9" * 5000),
        ("reward", "--session", "s", "--revision", str(2**63)),
        ("reward", "--session", "s", "--metric", "turns"),
        ("reward", "--session", "s", "--metric", "turns=nan"),
        ("escalate", "--session", "s"),
        ("escalate", "--session", "s", "--reason", "boredom"),
        ("escalate", "--session", "s", "--reason", "unspecified"),
        ("select", "--server", "nowhere"),
        ("select", "--server", "localhost:0"),
        ("select", "--server", "localhost:99999"),
        ("select", "--session", ""),
        ("select", "--session", "\udce9"),
        ("select", "--allow", "a,,b"),
        ("select", "--timeout", "0"),
        ("select", "--json", "/nowhere/at/all.json"),
        ("select", "--json", "nul\0.json"),
        ("explain",),
        ("status", "--unheard-of"),
        ("status", "--unheard-of", "\x1b[2J\n"),
        ("arms", "--put"),
        ("arms", "--down", "60"),
        ("arms", "a", "--down", "-1"),
        ("arms", "a", "--up", "--retire"),
        ("arms", "a", "--can", "vision"),
        ("arms", "a", "--up", "--why", "x"),
        ("arms", "a", "--retire", "--endpoint", "east"),
    ],
    ids=lambda arguments: " ".join(arguments)[:40].encode("ascii", "backslashreplace").decode(),
)
def test_bad_usage_is_one_line_and_status_2(run, arguments):
    status, out, err = run(*arguments)
    assert (status, out) == (2, "")
    assert one_line(err).startswith("pointsman") and "\x1b" not in err


def test_a_bad_address_in_the_environment_is_named(capsys, monkeypatch):
    monkeypatch.setenv("POINTSMAN_SERVER", "nonsense")
    assert main(["status"]) == 2
    assert one_line(capsys.readouterr().err) == "pointsman status: POINTSMAN_SERVER: 'nonsense' is not HOST:PORT\n"


@pytest.mark.parametrize(
    ("arguments", "status", "field"),
    [
        (("explain", "nobody"), "NOT_FOUND", "ID"),
        (("explain", "bell\x07"), "INVALID_ARGUMENT", "decision_id"),
        (("explain", "x" * 5000), "INVALID_ARGUMENT", "decision_id"),
        (("reward", "--session", "nobody", "--success", "1"), "NOT_FOUND", "session_id"),
        (("reward", "--decision", "nobody", "--success", "1"), "NOT_FOUND", "decision_id"),
        (("escalate", "--session", "nobody", "--reason", "policy"), "NOT_FOUND", "session_id"),
        (("select", "--allow", "nobody"), "NOT_FOUND", "allow"),
        (("select", "--pin", "nobody"), "NOT_FOUND", "pinned_arm"),
        (("select", "--router", "nobody"), "NOT_FOUND", "router"),
        (("select", "--feature", f"{'n' * 5000}=1"), "INVALID_ARGUMENT", "features"),
        (("arms", "--router", "nobody"), "NOT_FOUND", "router"),
        (("arms", "nobody"), "NOT_FOUND", "ARM"),
        (("status", "--router", "nobody"), "NOT_FOUND", "router"),
    ],
    ids=lambda value: " ".join(value)[:30].replace("\x07", "") if isinstance(value, tuple) else value,
)
def test_a_refusal_is_one_line_with_status_and_field_and_status_1(run, arguments, status, field):
    code, out, err = run(*arguments)
    assert (code, out) == (1, "")
    assert one_line(err).startswith(f"pointsman {arguments[0]}: {status}: ")
    assert field in err and "\x07" not in err


def test_no_eligible_arm_says_why_for_each(run):
    status, _, err = run("select", "--allow", "a", "--deny", "a")
    assert status == 1 and "FAILED_PRECONDITION" in one_line(err) and "denied by the request" in err


def test_a_server_that_is_not_there_is_one_line_and_status_1(run):
    for command in (("status",), ("select",), ("explain", "x")):
        status, out, err = run(*command, "--server", "127.0.0.1:1")
        assert (status, out) == (1, "")
        assert "UNAVAILABLE" in one_line(err) and "127.0.0.1:1" in err


def test_a_server_that_never_answers_is_one_line_and_status_1(run):
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        status, out, err = run("status", "--server", f"127.0.0.1:{listening.getsockname()[1]}", "--timeout", "0.2")
    assert (status, out) == (1, "") and "DEADLINE_EXCEEDED" in one_line(err)


def test_nothing_is_asked_of_the_server_when_the_answer_cannot_be_written(run):
    session = fresh()
    assert run("select", "--session", session, "--json", "/nowhere/at/all.json")[0] == 2
    assert run("explain", session)[0] == 1


def test_a_reader_that_went_away_is_no_traceback(server):
    reading, writing = os.pipe()
    os.close(reading)
    for more in ([], ["--json", "-"]):
        command = [sys.executable, "-m", "server.cli", "arms", "--server", server.grpc, *more]
        ended = subprocess.run(command, stdout=writing, stderr=subprocess.PIPE, text=True, timeout=30)
        assert ended.returncode == 141
        assert "Traceback" not in ended.stderr and "Broken" not in ended.stderr
    os.close(writing)


def test_a_terminal_without_unicode_gets_other_characters(server):
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    command = [sys.executable, "-m", "server.cli", "arms", "--server", server.grpc]
    ended = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=30)
    assert (ended.returncode, ended.stderr) == (0, "")


def test_words_for_people():
    assert plain("a\tb\x9bc\u2028d") == r"a\tb\x9bc\u2028d"
    assert plain("naïve – 漢") == "naïve – 漢"
    assert [dollars(amount) for amount in (0.0, 0.00012, 1.5, -2.0, 1234.5)] == [
        "$0.000",
        "$0.00012",
        "$1.500",
        "-$2.000",
        "$1,234.50",
    ]
    assert exact(5.0) == "$5" and exact(0.25) == "$0.25"


def test_help_names_every_flag_without_a_server(capsys):
    for command in ("status", "arms", "select", "reward", "escalate", "explain"):
        with pytest.raises(SystemExit) as end:
            main([command, "--help"])
        assert end.value.code == 0
        assert "--json" in capsys.readouterr().out


@pytest.mark.parametrize("command", ["status", "doctor"])
def test_a_token_that_cannot_be_one_is_not_quoted(command, capsys, monkeypatch):
    monkeypatch.setenv("POINTSMAN_TOKEN", "SECRET\r")
    assert main([command, "--server", "127.0.0.1:1"]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "--token" in said and "SECRET" not in said
    with pytest.raises(ValueError, match="token holds") as caught:
        Client("127.0.0.1:1", token="SECRET\r")
    assert "SECRET" not in str(caught.value)
