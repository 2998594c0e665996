"""The README's commands, each run as it stands there, on a real server with the configuration that stands there."""

import re
import shlex
import time
from pathlib import Path

import pytest

from pointsman import Client, EscalationReason
from pointsman.v1 import admin_pb2
from server.cli import main

README = (Path(__file__).resolve().parents[2] / "README.md").read_text(encoding="utf-8")
FAILED = EscalationReason.ESCALATION_REASON_VERIFIED_FAILURE
ANSWERS = ("The command line", "Questions people ask")


def section(title: str) -> str:
    (found,) = re.findall(rf"^## {re.escape(title)}\n(.*?)(?=^## |\Z)", README, re.M | re.S)
    return found


def commands(title: str) -> list[tuple[str, str, list[str]]]:
    """By command line: the configuration that stands before it (empty: the one above), the command without what may be
    left out, and what its comment quotes, to be found in the answer."""
    found, config = [], ""
    for kind, block in re.findall(r"^```(toml)?\n(.*?)^```", section(title), re.M | re.S):
        if kind:
            config = block
            continue
        for line in block.splitlines():
            command, _, comment = line.partition(" # ")
            if command.startswith("pointsman "):
                command = re.sub(r"\[[^\]]*\]", "", command).strip()
                found.append((config, command, re.findall(r'"([^"]+)"', comment)))
        config = ""
    return found


@pytest.fixture(scope="module")
def server(serving, tmp_path_factory):
    """A server with the README's configuration that has learned that another attempt is worth its price."""
    (config,) = re.findall(r"^```toml\n(.*?)^```", section("The service"), re.M | re.S)
    server = serving(tmp_path_factory.mktemp("readme") / "data", config)
    with Client(server.grpc) as client:
        for i in range(150):
            pinned = "frontier-model" if i % 4 < 2 else "small-model"
            choice = client.select({"category": "bugfix"}, pinned_arm=pinned)
            resolved = bool(i % 8)
            if i % 2:
                moved = client.escalate(choice, reason=FAILED, cost_usd=0.1)
                choice, resolved = moved or choice, moved is not None
            client.reward(decision_id=choice.decision_id, success=float(resolved), cost_usd=0.1, final=True)
        half = learned(client).last_sequence // 2
        for _ in range(1000):
            if learned(client).learned_sequence >= half:
                break
            time.sleep(0.05)
    return server


def learned(client: Client) -> admin_pb2.Router:
    return client.call(client.admin.GetRouter, admin_pb2.GetRouterRequest()).router


def test_every_command_answers_what_it_is_said_to(server, serving, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "200")
    for title in ANSWERS:
        found = commands(title)
        assert len(found) >= 5, title
        for config, command, words in found:
            address = serving(tmp_path / "data", config).grpc if config else server.grpc
            monkeypatch.setenv("POINTSMAN_SERVER", address)
            status = main(shlex.split(command)[1:])
            out, err = capsys.readouterr()
            assert status == 0, (command, err)
            for said in words:
                assert said in out, (command, said, out)


def test_every_question_has_an_answer():
    asked = re.findall(r"^\*\*(.+?)\*\*", section("Questions people ask"), re.M)
    about = "sticky, key, restart, why, budget, preset, latency, pick, probabilities, learning, two arms"
    for word in about.split(", "):
        assert any(word in question.lower() for question in asked), word


def test_what_was_learned_survives_kill_9(server, serving):
    with Client(server.grpc) as client:
        before = learned(client)
    assert before.epoch
    server.kill()
    again = serving(server.data_dir, None, "--config", str(server.data_dir.with_suffix(".toml")))
    with Client(again.grpc) as client:
        after = learned(client)
    assert (after.epoch, after.epoch_hash) == (before.epoch, before.epoch_hash)
