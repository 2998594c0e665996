"""How the server and its child processes write their log on standard error."""

import json
import logging
import os
import sys
import time
from datetime import UTC, datetime

from server.telemetry import tracing

_VARIABLE = "POINTSMAN_LOG_FORMAT"
"""Set by the server for its child processes."""

_QUIET_SECONDS = 60.0


def write(part: str = "") -> None:
    """Begins to write what is logged, in words or, where the environment says `json`, as a JSON object a line.

    `part`: which child process this is; empty: the server.
    """
    handler = logging.StreamHandler(sys.stderr)
    if os.environ.get(_VARIABLE) == "json":
        handler.setFormatter(_Json(part))
    else:
        said = f"{part}: " if part else ""
        handler.setFormatter(logging.Formatter(f"%(asctime)s %(levelname)s {said}%(message)s"))
    handler.addFilter(_Seldom())
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)


def write_as(form: str) -> None:
    """Goes on in a form, `json` or `text`, and has child processes that begin from now on do the same."""
    os.environ[_VARIABLE] = form
    write()


class _Json(logging.Formatter):
    def __init__(self, part: str) -> None:
        super().__init__()
        self._part = part or "server"

    def format(self, record: logging.LogRecord) -> str:
        told = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "part": self._part,
            "logger": record.name,
            "message": record.getMessage(),
        }
        if (call := tracing.current.get()) is not None:
            told["trace_id"] = call.trace_id
        if record.exc_info:
            told["exception"] = self.formatException(record.exc_info)
        return json.dumps(told, ensure_ascii=False)


class _Seldom(logging.Filter):
    """Lets OpenTelemetry complain once a minute: of a collector that is away it would at each try."""

    def __init__(self) -> None:
        super().__init__()
        self._next = 0.0

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether it is written."""
        if not record.name.startswith("opentelemetry."):
            return True
        now = time.monotonic()
        if now < self._next:
            return False
        self._next = now + _QUIET_SECONDS
        return True
