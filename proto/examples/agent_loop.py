"""A coding agent in one file: Pointsman names the model; the agent works, moves on where that fails, says how it went.

It mends one file until a command is content with it, by any endpoint that speaks OpenAI's chat completions, where the
models are called as the arms are. Besides Pointsman's client (`pip install ./proto`) it needs nothing:

    export OPENAI_BASE_URL=http://127.0.0.1:4000/v1 OPENAI_API_KEY=...
    python proto/examples/agent_loop.py --file parser.py --check "python -m pytest -q" "Fix the failing test."
"""

import argparse
import http.client
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pointsman
from pointsman import EscalationReason, ProgressAction, ProgressSignals, Usage

TURNS = 4
"""Of the model, in one attempt; after each the command's complaints go back to it."""
ASK = "{task}\n\nThis is {file}:\n```\n{text}\n```\nAnswer with the whole file as it should be, in one block of code."
AGAIN = "`{check}` says:\n```\n{said}\n```\nAnswer with the whole file again."


class ProviderFailed(Exception):
    """The endpoint does not answer for this model now."""


@dataclass
class Attempt:
    """What one model did: whether the command is content, and what it took."""

    resolved: bool = False
    usage: Usage = field(default_factory=lambda: Usage(input_tokens=0, output_tokens=0))
    seconds: float = 0.0


def main() -> int:
    """Mends the file; 0 where the command is content with it in the end."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", help="what is to be done, in words")
    parser.add_argument("--file", type=Path, required=True, help="the file to mend")
    parser.add_argument("--check", required=True, metavar="COMMAND", help="exits with 0 where the file is right")
    parser.add_argument("--server", default="127.0.0.1:50051", metavar="HOST:PORT", help="Pointsman's")
    parser.add_argument("--baseline", metavar="ARM", help="the model to take while Pointsman is out of reach")
    asked = parser.parse_args()
    if not asked.file.is_file():
        parser.error(f"--file: there is no {asked.file}")
    if not (words := asked.check.split()) or shutil.which(words[0]) is None:
        parser.error(f"--check: there is no command {asked.check!r}")
    if not os.environ.get("OPENAI_BASE_URL", "").startswith(("http://", "https://")):
        parser.error("OPENAI_BASE_URL has to name the endpoint")
    with pointsman.Client(asked.server, baseline_arm=asked.baseline) as client:
        return 0 if mend(client, asked.task, asked.file, asked.check) else 1


def mend(client: pointsman.Client, task: str, file: Path, check: str) -> bool:
    """One session: attempts by one model after another, for as long as another is worth its price."""
    original = file.read_text()
    choice = client.select({"task": pointsman.Text(task), "suffix": file.suffix, "lines": original.count("\n")})
    while True:
        file.write_text(original)
        reason = EscalationReason.ESCALATION_REASON_VERIFIED_FAILURE
        attempt = Attempt()
        print(f"{choice.arm} is at work ({pointsman.SelectReason.Name(choice.reason)})", file=sys.stderr)
        try:
            for signals in work(attempt, choice.arm, task, file, check):
                if client.report_progress(choice, signals).action != ProgressAction.PROGRESS_ACTION_CONTINUE:
                    reason = EscalationReason.ESCALATION_REASON_STRUGGLING
                    break
        except ProviderFailed as error:
            print(f"{choice.arm}: {error}", file=sys.stderr)
            reason = EscalationReason.ESCALATION_REASON_UNAVAILABLE
        usage, seconds, resolved = attempt.usage, attempt.seconds, attempt.resolved
        following = None
        if not resolved:
            following = client.escalate(choice, reason=reason, usage=usage, latency_seconds=seconds)
        if following is None:
            if not resolved:
                file.write_text(original)
            client.reward(
                decision_id=choice.decision_id,
                success=float(resolved),
                usage=usage,
                latency_seconds=seconds,
                final=True,
            )
            return resolved
        choice = following


def work(attempt: Attempt, model: str, task: str, file: Path, check: str) -> Iterator[ProgressSignals]:
    """Lets a model try, turn by turn; tells after each that did not do it how it is going.

    Raises ProviderFailed.
    """
    began = time.monotonic()
    messages = [{"role": "user", "content": ASK.format(task=task, file=file.name, text=file.read_text())}]
    for turn in range(1, TURNS + 1):
        said, usage = complete(model, messages)
        attempt.usage.input_tokens += usage["prompt_tokens"]
        attempt.usage.output_tokens += usage["completion_tokens"]
        attempt.seconds = time.monotonic() - began
        if block := re.search(r"```\w*\n(.*?)```", said, re.DOTALL):
            file.write_text(block[1])
        ran = subprocess.run(shlex.split(check), cwd=file.parent, capture_output=True, text=True, check=False)
        attempt.resolved = ran.returncode == 0
        if attempt.resolved:
            return
        messages += [{"role": "assistant", "content": said}]
        messages += [{"role": "user", "content": AGAIN.format(check=check, said=(ran.stdout + ran.stderr)[-4000:])}]
        yield ProgressSignals(turns=turn, tool_calls=turn, failed_tests=turn, usage=attempt.usage)


def complete(model: str, messages: list[dict[str, str]]) -> tuple[str, dict[str, int]]:
    """What the model says, and the tokens that it took. Raises ProviderFailed where no such answer is to be had."""
    request = urllib.request.Request(
        f"{os.environ['OPENAI_BASE_URL']}/chat/completions",
        json.dumps({"model": model, "messages": messages}).encode(),
        {"Content-Type": "application/json", "Authorization": f"Bearer {os.environ.get('OPENAI_API_KEY', '')}"},
    )
    try:
        with urllib.request.urlopen(request, timeout=600) as reply:
            answer = json.load(reply)
        said = (answer["choices"][0]["message"]["content"] or "").encode(errors="replace").decode()
        return said, {name: int(answer["usage"][name]) for name in ("prompt_tokens", "completion_tokens")}
    except (OSError, http.client.HTTPException) as error:
        raise ProviderFailed(str(error)) from error
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise ProviderFailed(f"its answer is none of a chat completion: {error!r}") from error


if __name__ == "__main__":
    sys.exit(main())
