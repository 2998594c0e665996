"""The committed stubs are those that the protos give."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

PROTO = Path(__file__).resolve().parents[2] / "proto"
WRONG_TOOLS = 3


def check(folder: Path) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, str(folder / "generate.py"), "--check"], capture_output=True, text=True, check=False
    )
    if done.returncode == WRONG_TOOLS:
        pytest.skip(done.stderr.strip().replace("\n", "; "))
    return done


def test_stubs_are_fresh() -> None:
    done = check(PROTO)
    assert (done.returncode, done.stderr) == (0, "")


def test_stale_stubs_are_named(tmp_path: Path) -> None:
    folder = shutil.copytree(PROTO, tmp_path / "proto")
    v1 = folder / "pointsman" / "v1"
    (v1 / "routing.proto").write_text((v1 / "routing.proto").read_text() + "message Late {}\n")
    (v1 / "admin_pb2_grpc.py").unlink()
    (v1 / "gone_pb2.py").touch()
    done = check(folder)
    stale = ["admin_pb2_grpc.py", "gone_pb2.py", "routing_pb2.py", "routing_pb2.pyi"]
    assert done.returncode == 1
    assert done.stderr.splitlines() == [f"stale: proto/pointsman/v1/{name}" for name in stale]
