"""compose.yaml asks for what there is."""

import argparse
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
