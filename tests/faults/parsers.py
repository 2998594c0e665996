"""Malformed input to everything that reads what others wrote: taken, or refused on purpose, never by accident.

`hostile.py` sends messages to a server; here the readers are called themselves, many times as fast: checks of requests,
events of the log, rows of its tables, epochs, configuration, policy files, gates, and other projects' formats. And the
HTTP port of a server gets what is no HTTP.
"""

import json
import random
import socket
import sqlite3
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from bandit import epoch_file, gate, policy, policy_file, record
from bandit.epoch_file import EpochId
from bandit.errors import InvalidInput
from pointsman.v1 import admin_pb2, routing_pb2
from server import config
from server.convert.admin import Changes
from server.convert.requests import Requests
from server.limits import Limits
from server.store.errors import StoreError
from server.store.sqlite import SqliteStore
from sim.formats import dsjson, obp_csv
from sim.formats.rounds import Range
from tests.faults.appender import event
from tests.faults.messages import Hostility
from tests.faults.processes import UNIFORM, start
from tests.faults.trial import Broken, Figures, Trial, require

AIM = "malformed input to every reader, in process: 2 M inputs, each taken or refused on purpose"

_TOML = """
[service]
listen = "127.0.0.1:50051"
fitter = "inline"
[limits]
features = 256
[[routers]]
id = "x"
policy = "ladder:a>b"
mode = "live"
seed = 0
[routers.objective]
preset = "balanced"
budget_usd = 500.0
budget_period_seconds = 86400
[routers.failover]
errors = 3
[[routers.rules]]
organisation = "acme"
allow = ["a"]
[[arms]]
id = "a"
input_usd_per_million = 0.3
endpoints = ["eu", "us"]
figures = [{ success_rate = 0.6, cost_usd = 0.2 }, { category = "bugfix", success_rate = 0.5 }]
[[arms]]
id = "b"
predecessor = "a"
"""
_POLICY = 'policy = "threshold:0.7"\nalpha = 0.5\ndraws = 64\n[objective]\npreset = "best"\nsession_cap_usd = 10.0\n'
_GATE = "success >= baseline - 0.02 and cost <= 0.8 * baseline and utility >= 1e2 * baseline + .5"
_SPECS = "thompson threshold:0.7 always:a ladder:a>b>c vw:squarecb epsilon linucb uniform"
_DSJSON = {
    "_label_cost": -0.25,
    "_label_probability": 0.8,
    "_label_Action": 2,
    "_labelIndex": 1,
    "o": [{"v": 1.0, "EventId": "e1"}],
    "Timestamp": "2021-02-04T16:31:29.2460001Z",
    "EventId": "e1",
    "a": [2, 1],
    "c": {
        "FromUrl": [{"hour": "night", "visits": 3}],
        "note": {"_text": "two"},
        "_multi": [{"_tag": "n"}, {"i": {"id": 7}}],
    },
    "p": [0.8, 0.2],
}
_CSV = (
    b"timestamp,item_id,position,click,propensity_score,user_feature_0\n2019-11-24,7,1,0,0.5,81ce\n2019,9,2,1,0.25,\n"
)
_TOKENS = (
    *"[]{}=\"'\\#\n.,:>*+-~ \0\u202e\ud7ff",
    "nan",
    "inf",
    "1e999",
    "-1",
    "0x",
    "true",
    "null",
    "baseline",
)


class _Reader:
    """One reader, its inputs, and what it may raise."""

    def __init__(self, read: Callable[[], object], refused: type[Exception] | tuple[type[Exception], ...]) -> None:
        self.read = read
        self.refused = refused


def _text(rng: random.Random, whole: str) -> str:
    """A text, with some characters other ones."""
    made = whole
    for _ in range(rng.choice((1, 1, 2, 5))):
        at = rng.randrange(len(made) + 1)
        made = made[:at] + rng.choice(("", rng.choice(_TOKENS))) + made[at + rng.choice((0, 1, 1, 5)) :]
    return made


def _readers(rng: random.Random, folder: Path) -> dict[str, _Reader]:
    made = Hostility(rng)
    limits = Limits()
    requests, changes = Requests(limits), Changes(limits)
    methods = [
        (routing_pb2.SelectRequest, requests.select),
        (routing_pb2.EscalateRequest, requests.escalate),
        (routing_pb2.ReportProgressRequest, requests.report_progress),
        (routing_pb2.RewardRequest, requests.reward),
        (admin_pb2.CreateRouterRequest, changes.create_router),
        (admin_pb2.UpdateRouterRequest, changes.update_router),
        (admin_pb2.PutArmRequest, changes.put_arm),
        (admin_pb2.CreatePolicyRequest, changes.create_policy),
    ]

    def message() -> object:
        kind, convert = rng.choice(methods)
        return convert(made.message(kind.DESCRIPTOR))  # type: ignore[arg-type]

    stored = [(one.kind, one.body, one.private) for one in _events(folder)]

    def logged() -> object:
        kind, body, private = rng.choice(stored)
        return record.decode(kind, made.damaged(body), made.damaged(private) if rng.random() < 0.3 else private)

    epoch = epoch_file.pack(EpochId("r", "v", 1), 7, rng.randbytes(300))

    def formats(name: str, content: bytes, read: Callable[..., Callable[[], Iterator[object]]]) -> Callable[[], object]:
        path = folder / name

        def one() -> object:
            path.write_bytes(made.damaged(content))
            return list(read(path, Range())())

        return one

    line = json.dumps(_DSJSON).encode() + b"\n"
    return {
        "requests": _Reader(message, InvalidInput),
        "events": _Reader(logged, ValueError),
        "epochs": _Reader(lambda: epoch_file.unpack(EpochId("r", "v", 1), made.damaged(epoch)), ()),
        "configuration": _Reader(lambda: config.parse(_text(rng, _TOML), "x"), config.ConfigError),
        "policy_files": _Reader(lambda: policy_file.parse(_text(rng, _POLICY)), InvalidInput),
        "policies": _Reader(lambda: policy.parse(_text(rng, rng.choice(_SPECS.split()))), InvalidInput),
        "gates": _Reader(lambda: gate.parse(_text(rng, _GATE)), InvalidInput),
        "dsjson": _Reader(formats("in.dsjson", line * 2, dsjson.read), InvalidInput),
        "obp_csv": _Reader(formats("in.csv", _CSV, obp_csv.read), InvalidInput),
    }


_SHARES = {"requests": 10, "events": 10, "epochs": 2, "configuration": 3, "policies": 2, "gates": 3}
"""How many inputs each gets, as parts; one where it is not said."""


def _events(folder: Path) -> list[record.Recorded]:
    """Events of every kind that a session has, as a server logged them."""
    server = start(folder / "server", UNIFORM)
    try:
        features = {"kind": routing_pb2.FeatureValue(category="x"), "size": routing_pb2.FeatureValue(number=1.5)}
        chosen = server.routing.Select(routing_pb2.SelectRequest(session_id="s", request_id="s", features=features))
        report = {"decision_id": chosen.decision_id, "signals": {"turns": 3}}
        server.routing.ReportProgress(routing_pb2.ReportProgressRequest(**report))
        server.routing.Escalate(routing_pb2.EscalateRequest(session_id="s", reason=1, features=features))
        server.routing.Reward(routing_pb2.RewardRequest(session_id="s", success=1.0, metrics={"m": 1.0}, final=True))
        _http(server.http, random.Random(1))
    finally:
        server.kill()
    reader = SqliteStore.open_reader(folder / "server")
    try:
        return [record.Recorded(one.kind, one.body, one.private) for one in reader.read(0, 100)]
    finally:
        reader.close()


def _http(address: str, rng: random.Random) -> None:
    """What is no HTTP, and too much of it; afterwards the port answers."""
    host, port = address.rsplit(":", 1)
    requests = (
        *(b"", b"\r\n\r\n", b"GET\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n", b"G" * 20_000, b"GET /" + b"x" * 20_000),
        *(b"GET /healthz HTTP/1.1\r\nHost: " + b"h" * 9000 + b"\r\n\r\n", b"GET /../../etc/passwd HTTP/1.1\r\n\r\n"),
        *(
            b"POST /healthz HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
            b"GET /%00%ff HTTP/1.1\r\nHost: x\r\n\r\n",
        ),
        *(
            b"GET / HTTP/1.1\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\nzz\r\n",
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        ),
        *(rng.randbytes(200) for _ in range(20)),
    )
    for request in requests:
        with socket.create_connection((host, int(port)), timeout=10) as connection:
            connection.sendall(request)
            connection.shutdown(socket.SHUT_WR)
            answer = b""
            try:
                while more := connection.recv(65536):
                    answer += more
            except OSError:
                pass  # it may hang up on nonsense
            require(b" 500 " not in answer[:20], f"HTTP {request[:60]!r}: {answer[:200]!r}")
    with urllib.request.urlopen(f"http://{address}/healthz", timeout=10) as answer:
        require(answer.status == 200, "the HTTP port is not what it was")


@contextmanager
def _on_purpose(what: str, refused: type[Exception] | tuple[type[Exception], ...]) -> Iterator[None]:
    try:
        yield
    except refused:
        pass
    except Exception as error:
        raise Broken(f"{what}: {type(error).__name__}: {error}") from error


def _rows(trial: Trial, rng: random.Random, changes: int) -> None:
    """Values of any type in any column of the tables: the store is opened, verified and read."""
    data_dir = trial.folder / "rows"
    store = SqliteStore.open(data_dir)
    store.append([event(seq) for seq in range(1, 30)])
    store.close()
    whole = {path.name: path.read_bytes() for path in data_dir.iterdir()}
    columns = (
        "seq at_us kind router session_id decision_id request_key request_digest private_digest digest body private"
    )
    values = ("x", b"\xff", 7, -1, 1.5, 2**62, "", b"", "decided", "\0", "9" * 40)
    for number in range(changes):
        for name, content in whole.items():
            (data_dir / name).write_bytes(content)
        column, value = rng.choice(columns.split()), rng.choice(values)
        with closing(sqlite3.connect(data_dir / "events.db")) as connection:
            connection.text_factory = bytes
            try:
                connection.execute(
                    f"UPDATE OR IGNORE events SET {column} = ? WHERE seq = ?", (value, rng.randrange(1, 30))
                )
                connection.commit()
            except sqlite3.Error:
                continue  # the tables themselves do not take it
        with _on_purpose(f"{value!r} in column {column}", StoreError):
            store = SqliteStore.open(data_dir, verify_tail=rng.choice((2, 100)))
            try:
                store.verify()
                store.read(0, 100)
                store.session("", "session-3")
                store.requests([bytes(16), (3).to_bytes(16, "big")])
            finally:
                store.close()
        trial.tell(number, changes)


def run(trial: Trial) -> Figures:
    """Reads."""
    rng = random.Random(trial.seed)
    inputs = trial.size(full=2_000_000, quick=2000)
    readers = _readers(rng, trial.folder)
    parts = sum(_SHARES.get(name, 1) for name in readers)
    counts: dict[str, float | str] = {}
    for name, reader in readers.items():
        count = inputs * _SHARES.get(name, 1) // parts
        taken = 0
        for number in range(count):
            with _on_purpose(f"{name}, seed {trial.seed}, input {number}", reader.refused):
                reader.read()
                taken += 1
            if number % 1000 == 0:
                trial.tell(number, count)
        counts[name] = count
        require(name == "epochs" or taken > 0, f"{name}: nothing was taken")
    changes = trial.size(full=5000, quick=40)
    _rows(trial, rng, changes)
    return {"inputs": sum(int(count) for count in counts.values()) + changes, **counts, "rows": changes, "accidents": 0}
