"""The report from outside: whole, self-contained, safe whatever names hold. A warning, of a letter say, is an error."""

import base64
import json
import re
import shlex
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

from server import cli

UGLY = ("<script>alert('1')</script>", "_$a_{b}$&amp;", "漢字😀\u202e", f"long-{'x' * 300}")
VOID = {"meta", "br", "img", "source", "wbr"}


class Page(HTMLParser):
    """Refuses what is not nested, and keeps what is looked for."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] != "style":
            self.text += data

    def pictures(self) -> list[bytes]:
        """Those for light pages."""
        found = [attrs["src"] or "" for tag, attrs in self.tags if tag == "img"]
        return [base64.b64decode(src.removeprefix("data:image/png;base64,"), validate=True) for src in found]


def outcomes(folder: Path, arms: tuple[str, ...], n_tasks: int = 12) -> str:
    quoted = ['"' + arm.replace('"', '""') + '"' for arm in arms]
    rows = [
        f"t{i},{arm},{int((i * 7 + k) % (k % 4 + 2) > 0)},{0.05 * (k + 1)}"
        for i in range(n_tasks)
        for k, arm in enumerate(quoted)
    ]
    path = folder / "outcomes.csv"
    path.write_text("\n".join(["task_id,model,success,cost_usd", *rows]), encoding="utf-8")
    return str(path)


def reported(folder: Path, words: list[str]) -> Page:
    """Runs it; the page, once what holds of every report has been looked at."""
    target = folder / "a" / "report"
    assert cli.main(["simulate", *words, "--jobs", "1", "--report", str(target)]) == 0
    document = (target / "report.html").read_text(encoding="utf-8")
    page = Page(document)
    assert not re.search("https?:", document, re.IGNORECASE)
    assert not re.search(r"url\(|@import|<script|<link|<iframe|javascript:", document, re.IGNORECASE)
    for _, attrs in page.tags:
        assert not any(name.startswith("on") for name in attrs)
    beside = sorted(path.read_bytes() for path in target.glob("*.png"))
    assert sorted(page.pictures()) == beside
    assert all(picture.startswith(b"\x89PNG\r\n") for picture in beside)
    assert len([tag for tag, _ in page.tags if tag == "source"]) == len(beside), "each has one for dark pages"
    assert {path.suffix for path in target.iterdir()} == {".png", ".html"}
    return page


def test_a_report_is_whole_and_no_name_can_harm_it(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "2000")
    words = ["--outcomes", outcomes(tmp_path, UGLY), "--seeds", "2", "--json", str(tmp_path / "result.json")]
    words += ["--policy", "thompson", "--policy", f"always:{UGLY[0]}"]
    page = reported(tmp_path, words)
    for name in UGLY:
        assert name in page.text
    assert f"always:{UGLY[0]} predicts nothing." in page.text
    headings = [attrs["id"] for tag, attrs in page.tags if tag == "section"]
    assert headings == ["policies", "paired", "references", "cost", "time", "shares", "calibration", "flows"]
    assert len(page.pictures()) == 3 + 4 + 2
    (verdict,) = [line for line in page.text.splitlines() if " won with a utility of $" in line]
    assert verdict in capfd.readouterr().out.splitlines()
    thompson, always = json.loads((tmp_path / "result.json").read_text())["policies"]
    assert always["calibration"] is None
    assert f"{thompson['calibration']['brier']:.4f}" in page.text
    assert f"{thompson['utility_per_session']:.3f} ± {thompson['stderr']['utility_per_session']:.3f}" in page.text
    before = {path.name: path.read_bytes() for path in (tmp_path / "a" / "report").iterdir()}
    reported(tmp_path, words)
    assert before == {path.name: path.read_bytes() for path in (tmp_path / "a" / "report").iterdir()}


@pytest.mark.parametrize(
    "words",
    [
        ["--arms", "a", "--sessions", "1", "--seeds", "1"],
        ["--sessions", "3", "--seeds", "2", "--delay", "2", "--max-attempts", "5", "--policy", "ladder:a>b>c>d>e"],
    ],
    ids=["one of everything", "few sessions, many attempts"],
)
def test_small_and_odd_runs_have_a_report(words: list[str], tmp_path: Path) -> None:
    reported(tmp_path, ["--outcomes", outcomes(tmp_path, tuple("abcdefghi")), *words])


@pytest.mark.long
def test_thirty_arms_have_a_report(tmp_path: Path) -> None:
    arms = tuple(f"arm number {k}" for k in range(30))
    page = reported(tmp_path, ["--outcomes", outcomes(tmp_path, arms, 40), "--seeds", "1"])
    assert "30 arms" in page.text


def test_a_world_that_changes_has_a_report(tmp_path: Path) -> None:
    page = reported(tmp_path, ["--world", "new-arm", "--sessions", "1040", "--seeds", "1", "--policy", "uniform"])
    assert "left out: novel." in page.text
    assert "From session 1000 on the best arm is" in page.text
    assert "One seed: there are no bands." in page.text


def test_the_command_of_the_readme_has_a_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    readme = (Path(__file__).resolve().parents[2] / "README.md").read_text(encoding="utf-8")
    (command,) = re.findall(r"^\.venv/bin/pointsman (simulate --outcomes outcomes.csv (?:.*\\\n)*.*)$", readme, re.M)
    words = shlex.split(command.replace("\\\n", " ").replace("--seeds 20", "--seeds 1"))
    outcomes(tmp_path, ("a", "b"))
    (tmp_path / "tasks.csv").write_text("task_id,size\n" + "".join(f"t{i},{i % 5}\n" for i in range(12)))
    (tmp_path / "prices.csv").write_text("model,input_price,output_price,cache_read_price\na,1,5,0.1\nb,2,9,0.2\n")
    monkeypatch.chdir(tmp_path)
    assert cli.main(words) == 0
    assert (tmp_path / "report" / "report.html").exists()


def test_a_refused_run_leaves_nothing_behind(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    given = outcomes(tmp_path, ("a", "b"))
    (tmp_path / "file").touch()
    target = tmp_path / "new.json"
    words = ["simulate", "--outcomes", given, "--json", str(target), "--report", str(tmp_path / "file" / "below")]
    assert cli.main(words) == 2
    out, err = capfd.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert "--report: " in err and "cannot be written" in err
    assert not target.exists()


def test_what_draws_is_loaded_for_a_report_only() -> None:
    code = "import sys, sim.cli, sim.study; sys.exit(bool({'matplotlib', 'PIL'} & set(sys.modules)))"
    subprocess.run([sys.executable, "-c", code], check=True)
