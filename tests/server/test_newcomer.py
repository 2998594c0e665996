"""A newcomer's first quarter of an hour: their own outcomes as the README says, through its commands, to a figure."""

import json
import os
import random
import re
import shlex
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
(SECTION,) = re.findall(r"^## From a clone to your own savings\n(.*?)(?=^## )", README, re.M | re.S)
MODELS = {"frontier-model": (0.8, 2.0), "small-model": (0.5, 0.1)}


def outcomes(tasks: int) -> str:
    """Lines under the README's header; hard tasks are hard for both models."""
    (header,) = re.findall(r"```csv\n(.+)\n", SECTION)
    draw = random.Random(7)
    lines = [header]
    for i in range(tasks):
        hardness = draw.random()
        lines += [f"fix-{i},{model},{int(hardness < skill)},{usd}" for model, (skill, usd) in MODELS.items()]
    return "\n".join(lines) + "\n"


def test_own_outcomes_give_a_savings_figure_and_a_report(tmp_path):
    make, simulate = re.findall(r"```\n(.+?) +#.+\n(.+)\n```", SECTION)[0]
    assert make == "make .venv/ready", "which made the environment that runs this"
    words = shlex.split(simulate)
    assert words[0] == ".venv/bin/pointsman"
    # One seed and one process, in place of what the README says: it is the way that is tried, not the figure.
    words[words.index("--seeds") + 1] = "1"
    (tmp_path / "my.csv").write_text(outcomes(120))
    ran = subprocess.run(
        [sys.executable, "-m", "server.cli", *words[1:], "--jobs", "1", "--json", "result.json"],
        cwd=tmp_path,
        env={**os.environ, "COLUMNS": "200"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    assert re.search(r"against always \S+-model, the best arm alone, .* at \d+ % (less|more) cost", ran.stdout)
    result = json.loads((tmp_path / "result.json").read_text())
    assert result["tasks"] == 120
    assert set(result["arms"]) == set(MODELS)
    (thompson,) = result["policies"]
    assert thompson["cost_usd_per_session"] < result["references"]["always"]["frontier-model"]["cost_usd_per_session"]
    assert (tmp_path / "report" / "report.html").read_text().startswith("<!doctype html>")


def test_the_sample_lines_are_what_simulate_reads(tmp_path):
    (sample,) = re.findall(r"```csv\n(.+?)```", SECTION, re.S)
    (tmp_path / "my.csv").write_text(sample)
    command = ["simulate", "--outcomes", "my.csv", "--policy", "uniform", "--seeds", "1", "--jobs", "1"]
    ran = subprocess.run([sys.executable, "-m", "server.cli", *command], cwd=tmp_path, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
