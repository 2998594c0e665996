"""The direction of dependencies, read from the imports: who may import whom, and each outside thing in one place."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
ROOMS = ("pointsman", "bandit", "server", "sim")

MAY_IMPORT = {
    "pointsman": {"pointsman"},
    "bandit": {"bandit"},
    "server": {"server", "bandit", "pointsman"},
    "sim": {"sim", "bandit", "pointsman"},
}
COMPOSES = {"server/cli.py": {"sim"}}
"""The command line is the one place where server and sim meet."""

ONE_PLACE = {
    "vowpalwabbit": {"bandit/vw.py"},
    "litellm": {"proto/pointsman/litellm.py"},
    "sqlite3": {"server/store/database.py"},
    "psycopg": {"server/store/postgres/connection.py"},
    "matplotlib": {"sim/canvas.py", "sim/plots.py", "sim/flow_plot.py", "sim/replay_plots.py"},
    "PIL": {"sim/canvas.py"},
    "prometheus_client": {"server/telemetry/families.py", "server/telemetry/page.py"},
    "opentelemetry": {"server/telemetry/evaluations.py", "server/telemetry/otlp.py", "server/telemetry/traces.py"},
    "duckdb": {"sim/duck.py", "server/archive.py"},
}
"""Outside things and the modules that may import them."""

IMPURE = {"grpc", "sqlite3", "duckdb", "asyncio", "socket", "time", "datetime", "random", "os", "pathlib", "subprocess"}
"""What the mathematics may not touch: services, storage, clocks, I/O, hidden randomness."""
IMPURE_ALLOWED = {"bandit/vw.py"}
"""Vowpal Wabbit saves its models to files only."""

CLIENT_NEEDS = {"grpc", "google", "pointsman"}
"""Outside the standard library, all that an agent has to install."""
CLIENT_EXTRAS = {"proto/pointsman/litellm.py": {"litellm"}}
"""What only those have to install who import the module; no other module of ours does."""


def modules() -> Iterator[tuple[str, str, ast.Module]]:
    for room in ROOMS:
        folder = ROOT / ("proto/pointsman" if room == "pointsman" else room)
        for path in sorted(folder.rglob("*.py")):
            yield room, path.relative_to(ROOT).as_posix(), ast.parse(path.read_text())


def imported(tree: ast.Module) -> set[str]:
    """Top-level names of everything imported, wherever in the module."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"relative import of {node.module}"
            names.add((node.module or "").partition(".")[0])
    return names


ALL = list(modules())
assert len(ALL) > 40, "the rooms have moved"


@pytest.mark.parametrize(("room", "path", "tree"), ALL, ids=[path for _, path, _ in ALL])
def test_dependencies_point_one_way(room: str, path: str, tree: ast.Module) -> None:
    ours = imported(tree) & set(ROOMS)
    assert ours <= MAY_IMPORT[room] | COMPOSES.get(path, set())


@pytest.mark.parametrize("outside", ONE_PLACE)
def test_each_outside_thing_is_in_one_place(outside: str) -> None:
    found = {path for _, path, tree in ALL if outside in imported(tree)}
    assert found, f"nothing imports {outside}: is the rule still needed?"
    assert found <= ONE_PLACE[outside]


def test_the_mathematics_is_pure() -> None:
    touched = {path: names for room, path, tree in ALL if room == "bandit" and (names := imported(tree) & IMPURE)}
    assert set(touched) <= IMPURE_ALLOWED, touched


def test_the_client_needs_little() -> None:
    import sys

    needed: set[str] = set()
    for room, path, tree in ALL:
        if room == "pointsman" and "_pb2" not in path:
            needed |= imported(tree) - set(sys.stdlib_module_names) - CLIENT_EXTRAS.get(path, set())
    assert needed <= CLIENT_NEEDS


def test_nobody_has_to_install_what_is_an_extra() -> None:
    extras = {path.removeprefix("proto/").removesuffix(".py").replace("/", ".") for path in CLIENT_EXTRAS}
    for _, path, tree in ALL:
        whole = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
        whole |= {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
        assert not whole & extras, path


def test_the_root_holds_only_what_is_expected() -> None:
    import subprocess

    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    if tracked.returncode:
        pytest.skip("not a git checkout")
    top = {line.partition("/")[0] for line in tracked.stdout.splitlines()}
    expected = {"pyproject.toml", "README.md", "proto", "bandit", "server", "sim", "tests", "LICENSE", "CHANGELOG.md"}
    expected |= {
        "Makefile",
        "Dockerfile",
        "compose.yaml",
        "buf.yaml",
        ".ci",
        "requirements.lock",
        ".gitignore",
        ".dockerignore",
    }
    assert top <= expected
