"""What Pointsman runs on: Python, the optional packages, linear algebra."""

import os
import platform
import sys
from collections.abc import Iterator
from importlib.util import find_spec

import msgspec
from threadpoolctl import threadpool_info  # type: ignore[import-untyped]

from server import fold
from server.doctor.finding import Finding, Severity
from server.release import RELEASE
from server.store.place import URL_VARIABLE
from server.telemetry import tracing

_NEWEST_TRIED = (3, 14)

_EXTRAS = {
    "litellm": ("litellm", "the routing strategy for LiteLLM"),
    "otel": ("opentelemetry.exporter.otlp", "traces, and rewards from OpenTelemetry's evaluations"),
    "postgres": ("psycopg", "a log in PostgreSQL, for several replicas"),
    "ray": ("ray", "replay and simulate on a cluster"),
}
"""By the names of the extras: a module that only they bring, and what it is for."""


class Environment(msgspec.Struct, frozen=True, kw_only=True):
    """What this process runs on."""

    release: str
    python: tuple[int, int, int]
    extras: dict[str, bool]
    """Whether each is installed."""
    blas_threads: dict[str, int]
    """By the path of each library of linear algebra, when it is held as the service holds it."""
    store_url: bool
    """Whether the environment names a database to keep the log in."""
    traces_asked_by: str
    """The variable that asks for traces; empty: none does."""

    @classmethod
    def here(cls) -> "Environment":
        """Of this process."""
        fold.one_blas_thread()
        return cls(
            release=RELEASE,
            python=(sys.version_info.major, sys.version_info.minor, sys.version_info.micro),
            extras={name: _is_installed(module) for name, (module, _) in _EXTRAS.items()},
            blas_threads={
                library["filepath"]: library["num_threads"]
                for library in threadpool_info()
                if library["user_api"] == "blas"
            },
            store_url=bool(os.environ.get(URL_VARIABLE)),
            traces_asked_by=tracing.asked_by(),
        )

    def facts(self) -> list[tuple[str, str]]:
        """For people."""
        version = ".".join(map(str, self.python))
        facts = [("pointsman", self.release or "not installed"), ("python", f"{version} on {platform.system()}")]
        for name, there in self.extras.items():
            facts.append((f"extra {name}", f"{'installed' if there else 'not installed'}: {_EXTRAS[name][1]}"))
        return facts


def check(environment: Environment) -> Iterator[Finding]:
    """What is wrong with it."""
    if environment.python[:2] > _NEWEST_TRIED:
        yield Finding(
            code="python-untried",
            severity=Severity.WARNING,
            where="this machine",
            found=f"Python {environment.python[0]}.{environment.python[1]}; tried are 3.11 to "
            f"{_NEWEST_TRIED[0]}.{_NEWEST_TRIED[1]}",
            remedy="run it with one of these",
        )
    if environment.store_url and not environment.extras["postgres"]:
        yield Finding(
            code="extra-missing",
            severity=Severity.ERROR,
            where="this machine",
            found=f"{URL_VARIABLE} names a database, and psycopg is not installed",
            remedy="pip install 'pointsman[postgres]'",
        )
    if environment.traces_asked_by and not environment.extras["otel"]:
        yield Finding(
            code="extra-missing",
            severity=Severity.ERROR,
            where="this machine",
            found=f"{environment.traces_asked_by} asks for traces, and OpenTelemetry is not installed: there are none",
            remedy="pip install 'pointsman[otel]', or set OTEL_TRACES_EXPORTER=none",
        )
    many = max(environment.blas_threads.values(), default=0)
    if many != 1:
        yield Finding(
            code="blas-threads",
            severity=Severity.WARNING,
            where="this machine",
            found=f"linear algebra takes {many} threads and cannot be held to one: what is learned may differ in the "
            "last bits from machine to machine"
            if many
            else "linear algebra cannot be held to one thread, for its library is not known",
            remedy="install numpy and scipy from PyPI, or set OPENBLAS_NUM_THREADS=1",
        )


def _is_installed(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:
        return False
