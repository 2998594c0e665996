"""The example agent, as a process: against a real server, and an endpoint that speaks OpenAI's chat completions."""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from pointsman.v1 import events_pb2
from pointsman.v1 import routing_pb2 as pb

AGENT = Path(__file__).resolve().parents[2] / "proto/examples/agent_loop.py"
CONFIG = """
[router]
policy = "ladder:broken>small>big"
max_attempts = 3
""" + "".join(
    f'[[arms]]\nid = "{arm}"\ninput_usd_per_million = {price}\noutput_usd_per_million = {price}\n'
    for arm, price in (("broken", 1.0), ("small", 1_000.0), ("big", 10_000.0))
)
WRONG, RIGHT = "def double(n):\n    return n + 2\n", "def double(n):\n    return n * 2\n"
CHECK = f'{sys.executable} -c "import calc; assert calc.double(5) == 10, calc.double(5)"'


class Endpoint(BaseHTTPRequestHandler):
    """`broken` is away, `odd` answers nonsense, `small` is wrong, `big` is right once it has seen the complaint."""

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        model, turns = asked["model"], len(asked["messages"]) // 2
        status = 503 if model == "broken" else 200
        code = RIGHT if model == "big" and turns and "AssertionError: 7" in asked["messages"][-1]["content"] else WRONG
        message = {"role": "assistant", "content": f"Here it is:\n```python\n{code}```"}
        answer = {"choices": [{"message": message}], "usage": {"prompt_tokens": 100, "completion_tokens": 20}}
        self.send_response(status)
        self.end_headers()
        self.wfile.write(b'{"choices": []}' if model == "odd" else json.dumps(answer).encode())

    def log_message(self, format: str, *arguments: object) -> None:
        pass


@pytest.fixture
def endpoint() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Endpoint) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/v1"
        server.shutdown()
        thread.join()


def agent(folder: Path, endpoint: str, *flags: str) -> subprocess.CompletedProcess[str]:
    (folder / "calc.py").write_text(WRONG)
    return subprocess.run(
        [sys.executable, AGENT, "--file", str(folder / "calc.py"), "--check", CHECK, *flags, "double() is wrong."],
        env={**os.environ, "OPENAI_BASE_URL": endpoint, "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_it_moves_on_until_the_tests_pass_and_all_of_it_is_logged(serving, endpoint, tmp_path):
    server = serving(tmp_path / "data", CONFIG)
    ended = agent(tmp_path, endpoint, "--server", server.grpc)
    assert ended.returncode == 0, ended.stderr
    assert (tmp_path / "calc.py").read_text() == RIGHT
    exported = server.events.ExportEvents(events_pb2.ExportEventsRequest())
    (session,) = {event.session_id for chunk in exported for event in chunk.events if event.kind == "decided"}
    told = server.routing.GetSession(pb.GetSessionRequest(session_id=session))
    assert [attempt.arm for attempt in told.attempts] == ["broken", "small", "big"]
    assert [attempt.left_reason for attempt in told.attempts[:2]] == [
        pb.ESCALATION_REASON_UNAVAILABLE,
        pb.ESCALATION_REASON_VERIFIED_FAILURE,
    ]
    # Small took four turns of 120 tokens, big two.
    assert [round(attempt.outcome.cost_usd, 6) for attempt in told.attempts[1:]] == [0.48, 2.4]
    assert (told.success, told.final) == (1.0, True)
    assert server.stop() == 0


def test_without_pointsman_the_baseline_does_the_work(endpoint, tmp_path):
    ended = agent(tmp_path, endpoint, "--server", "127.0.0.1:1", "--baseline", "big")
    assert ended.returncode == 0, ended.stderr
    assert "BASELINE" in ended.stderr
    assert (tmp_path / "calc.py").read_text() == RIGHT


def test_what_nobody_can_do_is_said(serving, endpoint, tmp_path):
    server = serving(tmp_path / "data", CONFIG.replace("broken>small>big", "odd>small") + '[[arms]]\nid = "odd"\n')
    ended = agent(tmp_path, endpoint, "--server", server.grpc)
    assert ended.returncode == 1 and "odd: its answer is none" in ended.stderr
    assert (tmp_path / "calc.py").read_text() == WRONG, "nobody's try is left behind"
    assert server.stop() == 0


def test_bad_usage_begins_no_session(tmp_path):
    for flags in (("--file", "nothing"), ("--check", "no-such-command"), ("--check", "")):
        ended = agent(tmp_path, "http://127.0.0.1:1/v1", *flags)
        assert ended.returncode == 2 and flags[0] in ended.stderr
    assert agent(tmp_path, "nonsense").returncode == 2
