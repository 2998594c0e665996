"""The server's own log, as JSON for machines."""

import json
import logging
import sys
import time

import pytest

from pointsman.v1 import routing_pb2 as pb
from server.telemetry import logs, tracing
from tests.server.conftest import UNIFORM

JSON = f'[service]\nlog_format = "json"\narchive_seconds = 0.1\n{UNIFORM}'


def test_every_line_of_a_server_and_its_children_is_json(serving, tmp_path, capfd):
    server = serving(tmp_path / "data", JSON)
    (archive := tmp_path / "data" / "archive").mkdir(exist_ok=True)
    server.routing.Select(pb.SelectRequest())
    deadline = time.monotonic() + 60
    while not (archive / "upto").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    # A child that cannot write says so.
    upto = archive / "upto"
    upto.unlink()
    upto.mkdir()
    err = ""
    while '"archive"' not in err and time.monotonic() < deadline:
        server.routing.Select(pb.SelectRequest())
        time.sleep(0.1)
        err += capfd.readouterr().err
    assert server.stop() == 0
    err += capfd.readouterr().err
    lines = [json.loads(line) for line in err.splitlines() if line.startswith("{")]
    assert "draining" in [line["message"] for line in lines]
    assert {"server", "archive"} <= {line["part"] for line in lines}
    assert all(line["time"].endswith("+00:00") and line["level"] and line["logger"] for line in lines)


class Ending:
    trace_id = "ab" * 16


def test_a_line_tells_of_which_trace_it_is_and_what_went_wrong(monkeypatch):
    monkeypatch.setenv("POINTSMAN_LOG_FORMAT", "json")
    form = logs._Json("fitter")
    held = tracing.current.set(Ending())  # type: ignore[arg-type]
    try:
        raise ValueError("two\nlines")
    except ValueError:
        record = logging.LogRecord("n", logging.ERROR, "f", 1, "said %s", ("it\n",), sys.exc_info())
        line = form.format(record)
    finally:
        tracing.current.reset(held)
    assert "\n" not in line
    told = json.loads(line)
    assert (told["trace_id"], told["message"], told["part"], told["level"]) == (
        "ab" * 16,
        "said it\n",
        "fitter",
        "ERROR",
    )
    assert "ValueError: two" in told["exception"]
    assert "trace_id" not in json.loads(form.format(record))


@pytest.mark.parametrize("name", ["opentelemetry.exporter.otlp", "server.app"])
def test_opentelemetry_may_complain_once_a_minute(name):
    seldom = logs._Seldom()
    record = logging.LogRecord(name, logging.ERROR, "f", 1, "away", (), None)
    assert sum(seldom.filter(record) for _ in range(100)) == (1 if name.startswith("opentelemetry") else 100)
