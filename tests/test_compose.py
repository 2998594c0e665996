"""compose.yaml and the Dockerfile ask for what there is."""

import argparse
import json
from pathlib import Path

import pytest

from server.cli import _add_serve
from server.store.place import URL_VARIABLE, is_url

yaml = pytest.importorskip("yaml", reason="PyYAML is not installed")
ROOT = Path(__file__).resolve().parent.parent


def test_replicas_serve_from_a_database_that_is_ready() -> None:
    services = yaml.safe_load((ROOT / "compose.yaml").read_text())["services"]
    replica = services["replica"]
    assert replica["image"] == "pointsman"
    assert replica["deploy"]["replicas"] == 3
    assert services.keys() >= replica["depends_on"].keys()
    assert all("healthcheck" in services[name] for name in replica["depends_on"])
    assert is_url(replica["environment"][URL_VARIABLE])
    assert "@database:" in replica["environment"][URL_VARIABLE], "the service is its host's name"

    parser = argparse.ArgumentParser(exit_on_error=False)
    _add_serve(parser.add_subparsers())
    asked = parser.parse_args([*replica["command"]])
    assert str(asked.data_dir) in replica["volumes"]
    for address, published in zip((asked.listen, asked.http), replica["ports"], strict=True):
        assert published.startswith("127.0.0.1:")
        assert address.rpartition(":")[2] == published.rpartition(":")[2]


def test_the_image_is_made_of_what_there_is_and_serves_where_it_is_looked_for() -> None:
    lines = (ROOT / "Dockerfile").read_text().splitlines()
    told = {word: rest.strip() for word, _, rest in (line.partition(" ") for line in lines)}
    copied = [line.split()[1:-1] for line in lines if line.startswith("COPY") and "--from" not in line]
    assert all((ROOT / source).exists() for sources in copied for source in sources)

    parser = argparse.ArgumentParser(exit_on_error=False)
    _add_serve(parser.add_subparsers())
    asked = parser.parse_args(json.loads(told["CMD"]))
    assert str(asked.data_dir) == told["VOLUME"]
    assert [address.rpartition(":")[2] for address in (asked.listen, asked.http)] == told["EXPOSE"].split()
    assert f"{told['EXPOSE'].split()[1]}/healthz" in told["HEALTHCHECK"]
