"""How long the page takes with a million lines, and how much memory: figures, nothing asserted.

    python -m tests.browser.measure [--lines 1000000]

A hub keeps so many lines of a program; a page is opened afterwards. Then it is scrolled and
searched, and asked for its memory. Run it alone: other work on the machine shows.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import time
from pathlib import Path
from typing import Any

from tests.browser.chromium import Browser, Page, find_chromium
from ws_hub.config import ChannelRule, HubConfig
from ws_hub.hub.hub import Hub
from ws_hub.server.server import serve
from ws_hub.server.viewer import page_app

__all__: list[str] = []

VIEW = "document.getElementById('log').logView"
WORDS = "compiling module_%d/file_%d.c with the options -O2 -Wall -g and -fPIC [%d]"
# When the end of the log was first painted, in milliseconds after the navigation.
WATCH = """
    window.first = 0;
    const look = () => {
        const view = document.getElementById("log")?.logView;
        const last = document.querySelector(".row:last-child .text");
        if (view?.following && last?.textContent.endsWith(END)) {
            requestAnimationFrame(() => (first ||= performance.now()));
        } else requestAnimationFrame(look);
    };
    look();
"""
JUMPS = """(async () => {
    const view = %s, {scroller} = view, times = [];
    const frame = () => new Promise((done) => requestAnimationFrame(() => setTimeout(done)));
    view.follow(false);
    await frame();
    for (let n = 0; n < 20; n++) {
        const start = performance.now();
        scroller.scrollTop = ((n * 0.37) %% 1) * (scroller.scrollHeight - scroller.clientHeight);
        await frame();
        times.push(performance.now() - start);
    }
    return times.sort((a, b) => a - b);
})()"""
SEARCH = """(async () => {
    const view = %s;
    let frames = 0, last = performance.now(), longest = 0, going = true;
    const count = () => {
        const now = performance.now();
        [longest, last, frames] = [Math.max(longest, now - last), now, frames + 1];
        if (going) requestAnimationFrame(count);
    };
    requestAnimationFrame(count);
    const start = performance.now();
    view.search(...%s);
    while (view.searching) await new Promise((done) => setTimeout(done));
    going = false;
    return [performance.now() - start, view.matches, longest];
})()"""


def print_lines(hub: Hub, lines: int) -> None:
    hub.send_process_status("build", "running")
    for start in range(1, lines + 1, 500):
        numbers = range(start, min(start + 500, lines + 1))
        texts = [WORDS % (n % 977, n % 131, n) for n in numbers]
        hub.send_process_lines("build", texts, numbers=numbers)


class Renderer:
    """The process of the page: its processor time and memory."""

    def __init__(self, browser: Browser) -> None:
        self._browser = browser

    def _info(self) -> dict[str, Any]:
        found = self._browser.call("SystemInfo.getProcessInfo")["processInfo"]
        pages = [each for each in found if each["type"] == "renderer"]
        return max(pages, key=lambda each: float(each["cpuTime"]))

    @property
    def seconds(self) -> float:
        return float(self._info()["cpuTime"])

    @property
    def megabytes(self) -> float:
        """What is resident and its own, without files that it has in common with others."""
        status = Path(f"/proc/{self._info()['id']}/status").read_text(encoding="ascii")
        return int(status.split("RssAnon:")[1].split()[0]) / 1e3


def measure(page: Page, browser: Browser, url: str, lines: int) -> None:
    renderer = Renderer(browser)
    page.open(f"{url}?channel=nothing")
    page.wait_for(f"!!{VIEW}")
    empty = renderer.megabytes
    end = json.dumps(WORDS[-4:] % lines)
    page.call("Page.addScriptToEvaluateOnNewDocument", source=f"const END = {end}; {WATCH}")
    started, used = time.monotonic(), renderer.seconds
    page.open(url)
    print(f"the end is seen after {page.wait_for('first'):.0f} ms")
    print(f"  processor time of the page until then: {renderer.seconds - used:.2f} s")
    times = page.eval(JUMPS % VIEW)
    print(f"  a place far away meanwhile: median {times[len(times) // 2]:.0f} ms, ", end="")
    print(f"longest {times[-1]:.0f} ms; {page.eval(f'{VIEW}.count'):,} lines are there then")
    page.wait_for(f"{VIEW}.count >= {lines}", 300)
    took, used = time.monotonic() - started, renderer.seconds - used
    print(f"all {lines:,} lines are there after {took:.1f} s; processor time {used:.1f} s")
    used = renderer.seconds
    times = page.eval(JUMPS % VIEW)
    used = (renderer.seconds - used) / len(times) * 1e3
    print(f"a place far away: median {times[len(times) // 2]:.0f} ms, longest {times[-1]:.0f} ms")
    print(f"  processor time {used:.0f} ms each")
    for query in (
        '["module_976"]',
        '["no such text"]',
        '["compiling"]',
        '["module_9\\\\d6/.*5\\\\]$", {regex: true}]',
    ):
        used = renderer.seconds
        took, found, longest = page.eval(SEARCH % (VIEW, query))
        used = renderer.seconds - used
        print(f"search {query}: {took:.0f} ms, {found:,.0f} lines; longest frame {longest:.0f} ms")
        print(f"  processor time {used:.2f} s")
    page.eval(f"{VIEW}.search('')")
    page.call("HeapProfiler.collectGarbage")
    usage: dict[str, Any] = page.call("Runtime.getHeapUsage")
    script, arrays = usage["usedSize"] / 1e6, usage["backingStorageSize"] / 1e6
    nodes = page.eval("document.querySelectorAll('*').length")
    print(f"memory: {script:.1f} MB objects, {arrays:.1f} MB arrays; {nodes} elements")
    full = renderer.megabytes
    print(f"the page's process has {full:.0f} MB of its own, of an empty log {empty:.0f} MB")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--lines", type=int, default=1_000_000)
    lines = parser.parse_args().lines
    rule = ChannelRule("process:*", history_messages=2 * lines, history_bytes=2**30)
    binary = find_chromium()
    assert binary, "no Chromium on this machine (CHROMIUM=/path/to/chromium names one)"
    with contextlib.ExitStack() as stack:
        hub = stack.enter_context(Hub(HubConfig(rules=[rule], outbox_messages=200_000)))
        app = page_app(hub, channel="process:build")
        server = stack.enter_context(serve(hub, port=0, app=app))
        with hub.unpaced():
            print_lines(hub, lines)
        browser = Browser(binary)
        stack.callback(browser.close)
        with Page(browser) as page:
            measure(page, browser, f"http://127.0.0.1:{server.port}/", lines)


if __name__ == "__main__":
    main()
