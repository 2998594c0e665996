"""compose.yaml and the Dockerfile ask for what there is."""

import argparse
import json
import re
import shutil
import subprocess
import urllib.request
from pathlib import Path

import pytest

from pointsman.v1 import routing_pb2
from server.cli import _add_serve
from server.store.place import URL_VARIABLE, is_url

yaml = pytest.importorskip("yaml", reason="PyYAML is not installed")
ROOT = Path(__file__).resolve().parents[2]


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


def test_prometheus_finds_the_replicas_and_asks_for_figures_that_there_are(serving, tmp_path) -> None:
    compose = yaml.safe_load((ROOT / "compose.yaml").read_text())
    told = compose["services"]["prometheus"]
    assert told["ports"][0].startswith("127.0.0.1:")
    files = {Path(one["target"]).name: compose["configs"][one["source"]]["content"] for one in told["configs"]}
    (job,) = yaml.safe_load(files["prometheus.yml"])["scrape_configs"]
    (found,) = job["dns_sd_configs"]
    assert set(found["names"]) <= compose["services"].keys()
    command = compose["services"]["replica"]["command"]
    assert command[command.index("--http") + 1].endswith(f":{found['port']}")
    rules = [rule for group in yaml.safe_load(files["alerts.yml"])["groups"] for rule in group["rules"]]

    server = serving(tmp_path / "data")
    server.routing.Select(routing_pb2.SelectRequest())
    with urllib.request.urlopen(f"http://{server.http}/metrics", timeout=10) as page:
        families = set(re.findall(r"^# TYPE (\S+)", page.read().decode(), re.M))
    asked = {name for rule in rules for name in re.findall(r"pointsman_\w+", rule["expr"])}
    assert len(asked) > 5 and asked <= families
    assert server.stop() == 0


def test_prometheus_itself_takes_its_configuration(tmp_path) -> None:
    if (promtool := shutil.which("promtool")) is None:
        pytest.skip("no promtool: it comes with Prometheus")
    for name, one in yaml.safe_load((ROOT / "compose.yaml").read_text())["configs"].items():
        (tmp_path / f"{name}.yml").write_text(one["content"])
    checked = subprocess.run(
        [promtool, "check", "config", str(tmp_path / "prometheus.yml")], capture_output=True, text=True, check=False
    )
    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert "5 rules found" in checked.stdout
