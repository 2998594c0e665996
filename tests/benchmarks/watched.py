"""The dashboard on a log of a million decisions: how soon it answers, and what being looked at costs a Select.

`python -m tests.benchmarks.watched [--decisions N]`. It needs chromium and the Python package `playwright`.
"""

import argparse
import asyncio
import json
import shutil
import time
import urllib.request
from collections.abc import Callable

import numpy as np
from playwright.async_api import Page, async_playwright

from tests.benchmarks import grown
from tests.benchmarks.serving import Driver, Server, process, serve

_DAYS = 30
_ROUNDS = 6
_SELECTS = 1000
_IN_FLIGHT = 8
_PAINTED = """() => performance.getEntriesByName("first-contentful-paint")[0]?.startTime ?? null"""


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--decisions", type=int, default=1_000_000)
    count = parser.parse_args().decisions
    begin_us = int((time.time() - _DAYS * 86_400) * 1e6)
    step_us = _DAYS * 86_400_000_000 // count
    with grown.log(count, count, begin_us=begin_us, step_us=step_us, final=True) as folder:
        with process(serve(folder, grown.POLICY)) as server:
            start = time.perf_counter()
            waited = _until(lambda: _overview(server)["totals"]["sessions"] >= count)
            print(f"read from nothing: {time.perf_counter() - start:.0f} s, {waited} looks meanwhile")
        with process(serve(folder, grown.POLICY)) as server:
            start = time.perf_counter()
            _until(lambda: _overview(server)["totals"]["sessions"] >= count)
            print(f"after a restart: all figures {time.perf_counter() - start:.2f} s after it was ready")
            took = [_seconds(lambda: _overview(server)) for _ in range(20)]
            print(f"overview of all: median {1e3 * np.median(took):.0f} ms, worst {1e3 * max(took):.0f} ms")
            asyncio.run(_watched(server))


async def _watched(server: Server) -> None:
    """Rounds of Selects, with and without a page that is open, in turn."""
    driver = Driver(server.address, "watched")
    await driver.round(_SELECTS, _IN_FLIGHT)
    latencies: dict[bool, list[float]] = {False: [], True: []}
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        for _ in range(_ROUNDS):
            for watched in (False, True):
                page = await browser.new_page() if watched else None
                if page is not None:
                    await _open(page, server)
                _, found = await driver.round(_SELECTS, _IN_FLIGHT)
                latencies[watched] += found
                if page is not None:
                    await page.close()
        await browser.close()
    await driver.close()
    for watched, found in latencies.items():
        p50, p99 = (float(np.quantile(found, at)) for at in (0.5, 0.99))
        print(f"Select {'with' if watched else 'without'} a page open: p50 {p50:.1f} ms, p99 {p99:.1f} ms")


async def _open(page: Page, server: Server) -> None:
    await page.goto(f"http://{server.http}/#/overview?range=month")
    await page.locator(".tile").first.wait_for()
    shown = await page.evaluate("performance.now()")
    print(f"first paint {await page.evaluate(_PAINTED):.0f} ms, figures after {shown:.0f} ms")


def _overview(server: Server) -> dict[str, dict[str, int]]:
    with urllib.request.urlopen(f"http://{server.http}/api/overview?router=default&range=all", timeout=60) as page:
        found: dict[str, dict[str, int]] = json.load(page)
        return found


def _seconds(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def _until(holds: Callable[[], bool]) -> int:
    """Asks again and again until it holds; how often."""
    for times in range(1, 100_000):
        try:
            if holds():
                return times
        except OSError:
            # Not told yet.
            pass
        time.sleep(0.1)
    raise TimeoutError


if __name__ == "__main__":
    main()
