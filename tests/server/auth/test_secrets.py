"""With everything on, a real server writes no token, key or text anywhere: not in its output, events or archive."""

import base64
import signal
import subprocess
import time

import grpc
import pytest

from pointsman import Client, Text
from pointsman.v1 import admin_pb2
from server.cli import main

CONFIG = """
[service]
archive_seconds = 0.2
[security]
certificate = "{certificate}"
key = "{key}"
client_ca = "{authority}"
tokens = true
[[arms]]
id = "a"
[[arms]]
id = "b"
"""


def test_no_secret_is_written_anywhere(serving, tmp_path, certificates, tokens_of, capfd):
    data_dir, certificate = tmp_path / "data", certificates.server()
    agent = certificates.make("secretive", "/CN=secretive", signed=True)
    key = certificate.with_suffix(".key")
    tokens = tokens_of(data_dir)
    given = {"whole": tokens.create("route", "reward", "read", "admin"), "revoked": tokens.create("route")}
    wrong = f"{given['whole'].rsplit('_', 1)[0]}_{'wrong-secret-' * 3}"
    text = "the quick wombat jumps over seventeen refactorings"
    config = CONFIG.format(certificate=certificate, key=key, authority=certificates.authority)
    capfd.readouterr()
    server = serving(data_dir, config)
    files = (certificates.authority, agent.with_suffix(".key"), agent)
    credentials = grpc.ssl_channel_credentials(*(file.read_bytes() for file in files))
    with Client(server.grpc, token=given["whole"], credentials=credentials, timeout_seconds=20.0) as client:
        for i in range(20):
            choice = client.select({"issue": Text(text), "category": "bugfix"}, session_id=f"s{i}")
            client.reward(decision_id=choice.decision_id, success=1.0, cost_usd=0.1, final=True)
        client.put_arm(admin_pb2.Arm(id="c"))
        client.get_session("s1")
        confirmed = client.get_decision(choice.decision_id)
        assert confirmed.confirmed and confirmed.features["issue"].WhichOneof("value") != "text"
    tokens.revoke(given["revoked"])
    deadline = time.monotonic() + 20
    for token in (wrong, given["revoked"]):
        with Client(server.grpc, token=token, credentials=credentials, timeout_seconds=20.0) as client:
            with pytest.raises(grpc.RpcError, match="the bearer token is not valid") as refused:
                while time.monotonic() < deadline:
                    client.select()
            assert token not in str(refused.value)
    status = ["status", "--server", server.grpc, "--token", wrong, "--tls-ca", str(certificates.authority)]
    assert main([*status, "--tls-cert", str(agent), "--tls-key", str(agent.with_suffix(".key"))]) == 1
    deadline = time.monotonic() + 20
    while not list((data_dir / "archive").rglob("*.parquet")):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    server.process.send_signal(signal.SIGTERM)
    assert server.process.stdout is not None
    said = server.process.stdout.read()
    assert server.reap() == 0
    out, err = capfd.readouterr()
    assert "tokens were read again" in err, "the log is looked at"

    searched = {"output": (said + out + err).encode()}
    searched |= {str(path): path.read_bytes() for path in data_dir.rglob("*") if path.is_file()}
    assert any(path.endswith(".parquet") for path in searched)
    assert any(b"bugfix" in content for content in searched.values()), "features would be found"
    for place, content in searched.items():
        for name, secret in fragments(given, wrong, key, agent.with_suffix(".key")):
            assert secret not in content, f"{name} in {place}"
        for word in (b"wombat", b"seventeen"):
            assert word not in content, place


def fragments(given, wrong, *keys) -> list[tuple[str, bytes]]:
    """Parts of each secret, as it is written and as its bytes are."""
    found = []
    for name, token in {**given, "wrong": wrong}.items():
        secret = token.split("_", 2)[2].encode()
        found += [(name, secret[i : i + 16]) for i in (0, 16, 27)]
    for name, token in given.items():
        raw = base64.urlsafe_b64decode(token.split("_", 2)[2] + "=")
        found += [(name, raw[:16]), (name, raw.hex().encode()[:32])]
    for key in keys:
        lines = key.read_text().splitlines()[1:-1]
        der = subprocess.run(["openssl", "ec", "-in", str(key), "-outform", "DER"], capture_output=True, check=True)
        found += [(key.name, lines[1].encode()[:32]), (key.name, der.stdout[7:23])]
    return found
