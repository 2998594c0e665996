"""The TypeScript client: its stubs are fresh, its types hold, and Node drives a real server with it."""

import os
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.server.auth.conftest import certificates  # noqa: F401 - a fixture
from tests.server.conftest import Serve, Tokens

PROTO = Path(__file__).resolve().parents[2] / "proto"
ARM = '[[arms]]\nid = "a"\n'
WRONG_TOOLS = 3


def run(*command: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, cwd=cwd, env=os.environ | environment, capture_output=True, text=True, check=False, timeout=240
    )


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The package in a copy of the protos' folder, with what it needs, and built."""
    if shutil.which("npm") is None or shutil.which("node") is None:
        pytest.skip("no node and npm to build the TypeScript client with")
    if int(run("node", "--version", cwd=PROTO).stdout.lstrip("v").split(".")[0]) < 20:
        pytest.skip("the TypeScript client needs Node 20")
    proto = tmp_path_factory.mktemp("typescript") / "proto"
    shutil.copytree(PROTO, proto, ignore=shutil.ignore_patterns("node_modules", "dist"))
    folder = proto / "typescript"
    done = run("npm", "ci", "--no-audit", "--no-fund", "--prefer-offline", "--ignore-scripts", cwd=folder)
    if done.returncode and any(code in done.stderr for code in ("ENOTFOUND", "EAI_AGAIN", "ECONNREFUSED")):
        pytest.skip(f"npm cannot install what the client needs: {done.stderr.strip()}")
    assert done.returncode == 0, done.stderr
    done = run("node", "node_modules/typescript/bin/tsc", cwd=folder)
    assert done.returncode == 0, done.stdout
    return folder


def test_stubs_are_fresh(package: Path) -> None:
    check = (sys.executable, str(package.parent / "generate.py"), "--typescript", "--check")
    done = run(*check, cwd=package)
    if done.returncode == WRONG_TOOLS:
        pytest.skip(done.stderr.strip())
    assert (done.returncode, done.stderr) == (0, "")
    stub = package / "src" / "gen" / "pointsman" / "v1" / "routing_pb.ts"
    stub.write_text(stub.read_text() + "\n")
    done = run(*check, cwd=package)
    assert (done.returncode, done.stderr) == (1, "stale: proto/typescript/src/gen/pointsman/v1/routing_pb.ts\n")


def test_node_drives_a_server(package: Path, serving: Serve, tmp_path: Path, certificates) -> None:  # noqa: F811
    server = serving(tmp_path / "plain")
    token = Tokens(tmp_path / "secure").create("route")
    certificate = certificates.server()
    flags = ("--tokens", "--tls-cert", str(certificate), "--tls-key", str(certificate.with_suffix(".key")))
    secure = serving(tmp_path / "secure", ARM, *flags)
    script = shutil.copy(Path(__file__).with_name("client.test.mjs"), package)
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        done = run(
            *("node", "--test", str(script)),
            cwd=package,
            SERVER=server.grpc,
            SERVER_PID=str(server.process.pid),
            SECURE=secure.grpc,
            TOKEN=token,
            CA=certificates.authority.read_text(),
            NOWHERE=f"127.0.0.1:{held.getsockname()[1]}",
        )
    assert done.returncode == 0, done.stdout
    assert server.reap() == -signal.SIGKILL, "the last of its tests kills it"
    assert secure.stop() == 0
