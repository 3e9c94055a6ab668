"""Lines that the history has let go and the log on disk has, loaded where they are missing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.browser import rows
from tests.browser.chromium import Page
from tests.browser.conftest import Site
from tests.programs import python
from tests.support import TIMEOUT, wait_until
from ws_hub.process.log_file import ProcessLog
from ws_hub.process.process import Process
from ws_hub.protocol.message import Message
from ws_hub.testing import FaultProxy

pytestmark = pytest.mark.browser

LOG = "document.getElementById('log')"
VIEW = f"{LOG}.logView"
LINES = rows.lines(LOG)
NOTES = rows.notes(LOG)
BUTTON = "document.querySelector('.load')"
GAP = f"[...{VIEW}.store.all()].find((row) => row.gap).id"
# Prints as many lines as it is told to, each time.
PRINTS = """
    import sys
    printed = 0
    for told in sys.stdin:
        for number in range(printed + 1, printed + int(told) + 1):
            print(f"\\x1b[32mline\\x1b[0m {number}")
        printed += int(told)
        sys.stdout.flush()
"""
RULE = {"pattern": "process:*", "history_messages": 300, "replay": True}
Make = Callable[..., Site]


def newest(site: Site) -> Message | None:
    messages = site.hub.history("process:build", last=1).messages
    return messages[-1] if messages else None


def gap_in(page: Page, site: Site, proxy: FaultProxy, process: Process, lines: int) -> None:
    """Have a page miss lines that the history does not keep, and show what is behind them."""
    process.write("100\n")
    page.open(f"http://127.0.0.1:{proxy.port}/")
    page.wait_for(f"{LINES}.at(-1) === 'line 100'")
    proxy.refuse()
    proxy.reset()
    page.wait_for("!document.getElementById('banner').hidden")
    process.write(f"{lines}\n")
    wait_until(lambda: getattr(newest(site), "line", 0) == 100 + lines)
    proxy.accept()
    page.eval("document.getElementById('retry').click()")
    page.wait_for(f"{LINES}.at(-1) === 'line {100 + lines}'")


def go_to_gap(page: Page) -> None:
    """Show the note of what is missing, beside which the log is offered."""
    page.eval(f"{VIEW}.reveal({GAP})")
    page.wait_for(f"{BUTTON}?.textContent === 'load them'")


def open_at_start(page: Page, url: str) -> None:
    """Open a page whose first lines are missing, and go to where the log of them is offered."""
    page.open(url)
    page.wait_for(f"{NOTES}[0]?.endsWith('no longer kept by the server')")
    page.eval(f"{VIEW}.toStart()")
    page.wait_for(f"{BUTTON}?.textContent === 'load them'")


@pytest.mark.parametrize("log", ["build.log", "build.log.gz"])
def test_lines_that_are_missing_are_loaded_from_the_log(
    page: Page, make_site: Make, tmp_path: Path, log: str
) -> None:
    site = make_site("process:build", rules=[RULE])
    path = tmp_path / log
    process = site.hub.run_process(python(PRINTS), "build", stdin=True, log=path)
    with FaultProxy("127.0.0.1", site.server.port) as proxy:
        gap_in(page, site, proxy, process, 25_000)
        (note,) = page.eval(NOTES)
        assert note.startswith("24,700 lines")
        gone = "document.getElementById('cut').textContent"
        go_to_gap(page)
        page.wait_for(f"{gone} === '24,700 lines in between are not shown'")
        process.close_stdin()
        process.wait(TIMEOUT)  # the log is whole then
        page.eval(f"{BUTTON}.click()")
        page.wait_for(f"{VIEW}.count === 25_100 && {gone} === ''")
    assert page.eval(LINES) == [f"line {number}" for number in range(1, 25_101)]
    assert page.eval(f"{VIEW}.total") == 25_100
    found = f"(() => {{ const row = {VIEW}.store.row({VIEW}.store.find(12345));"
    style: Any = page.eval(f"{found} return [row.text, row.runs[0].style.fg]; }})()")
    assert style == ["line 12345", 2]


def test_the_beginning_is_loaded_from_the_log_as_far_as_there_is_room(
    page: Page, make_site: Make, tmp_path: Path
) -> None:
    site = make_site("process:build", rules=[RULE])
    code = "for number in range(1, 25_001): print('line', number)"
    process = site.hub.run_process(python(code), "build", log=tmp_path / "build.log")
    process.wait(TIMEOUT)
    page.open(site.url)
    page.wait_for(f"{NOTES}[0]?.startsWith('24,701 earlier lines')")
    page.eval(f"{VIEW}.store.maxLines = 15_000")
    page.eval(f"{VIEW}.toStart()")
    page.wait_for(f"{BUTTON}?.textContent === 'load them'")
    page.eval(f"{BUTTON}.click()")
    page.wait_for(f"{NOTES}[0].startsWith('14,702 lines')")
    expected = [f"line {number}" for number in range(14_703, 25_001)]
    assert page.eval(LINES) == expected
    page.wait_for(f"{BUTTON} === null")


@pytest.mark.parametrize("kept", [1000, 1600])  # of 1600 the last page begins behind the middle
def test_the_middle_is_told_in_lines_and_loaded_from_the_log(
    page: Page, make_site: Make, tmp_path: Path, kept: int
) -> None:
    """Also where it lies between two pages of the history."""
    rule = {"history_messages": kept, "history_bytes": 2**20, "history_head_bytes": 2**18}
    site = make_site("process:build", rules=[{"pattern": "process:*", "replay": True, **rule}])
    code = "for number in range(1, 25_001): print('line', number)"
    process = site.hub.run_process(python(code), "build", log=tmp_path / "build.log")
    process.wait(TIMEOUT)
    wait_until(lambda: getattr(newest(site), "type", "") == "process_status")
    middle = site.hub.history("process:build", limit=1).middle
    assert middle is not None
    there = 25_000 - middle.messages  # lines, and two statuses
    page.open(site.url)
    page.wait_for(f"{VIEW}?.count === {there}")
    (note, end) = page.eval(NOTES)
    assert note.startswith(f"{middle.messages:,} lines")
    assert end.startswith("exited 0")
    assert page.eval(f"{VIEW}.total") == 25_000
    go_to_gap(page)
    page.eval(f"{BUTTON}.focus()")
    page.key("Enter")
    page.wait_for(f"{VIEW}.count === 25_000")
    assert page.eval("document.activeElement.id") == "log"  # the button is gone
    assert page.eval(LINES) == [f"line {number}" for number in range(1, 25_001)]
    page.wait_for("document.getElementById('cut').textContent === ''")


def test_nothing_is_offered_where_no_log_has_the_lines(page: Page, make_site: Make) -> None:
    site = make_site("process:build", rules=[RULE])
    process = site.hub.run_process(python(PRINTS), "build", stdin=True)
    asked = "performance.getEntriesByType('resource').filter(({name}) => name.includes('/log?'))"
    with FaultProxy("127.0.0.1", site.server.port) as proxy:
        gap_in(page, site, proxy, process, 2_000)
        page.eval(f"{VIEW}.reveal({GAP})")
        page.wait_for(f"{asked}.length === 1 && {asked}[0].responseEnd > 0")
        page.eval("new Promise((done) => requestAnimationFrame(() => setTimeout(done)))")
        assert page.eval(f"{BUTTON} === null")
        # Nor of a run before the newest.
        process.close_stdin()
        process.wait(TIMEOUT)
        site.hub.run_process(python("print('again')"), "build").wait(TIMEOUT)
        page.wait_for(f"{LINES}.at(-1) === 'again'")
    assert page.eval(f"{VIEW}.store.rises({GAP})") is False


def test_lines_of_another_run_are_not_loaded(page: Page, make_site: Make, tmp_path: Path) -> None:
    """The program is run again between the look into the log and the press of the button."""
    site = make_site("process:build", rules=[RULE])
    path = tmp_path / "build.log"
    process = site.hub.run_process(python(PRINTS), "build", stdin=True, log=path)
    with FaultProxy("127.0.0.1", site.server.port) as proxy:
        gap_in(page, site, proxy, process, 2_000)
        process.close_stdin()
        process.wait(TIMEOUT)
        go_to_gap(page)
        code = "for number in range(1, 3_001): print('other', number)"
        log = ProcessLog(path, overwrite=True)
        site.hub.run_process(python(code), "build", log=log).wait(TIMEOUT)
        wait_until(lambda: getattr(newest(site), "type", "") == "process_status")
        page.eval(f"{BUTTON}.click()")
        page.wait_for(f"{BUTTON}?.textContent !== 'loading…'")
        page.wait_for(f"{LINES}.at(-1) === 'other 3000'")
    found = page.eval(LINES)
    last = found.index("line 2100")
    assert found[: last + 1] == [
        f"line {number}" for number in (*range(1, 101), *range(1_801, 2_101))
    ]


def test_lines_that_come_when_another_channel_is_shown_are_not_for_it(
    page: Page, make_site: Make, tmp_path: Path
) -> None:
    site = make_site(rules=[RULE])
    code = "for number in range(1, 2_001): print('line', number)"
    site.hub.run_process(python(code), "build", log=tmp_path / "build.log").wait(TIMEOUT)
    site.hub.send_process_lines("other", [f"other {number}" for number in range(1, 11)])
    open_at_start(page, f"{site.url}?channel=process:build")
    other = "document.querySelector('a[data-channel=\"process:other\"]')"
    page.wait_for(f"!!{other}")
    # The answer of the log is there when the other channel is.
    page.eval(
        "window.answers = []; window.go = null;"
        "const own = window.fetch; window.fetch = async (...all) => {"
        " const answer = await own(...all);"
        " if (String(all[0]).includes('/log?')) {"
        " await new Promise((done) => (go = done)); answers.push(answer); }"
        " return answer; };"
        f"{BUTTON}.click(); {other}.click()"
    )
    page.wait_for(f"{LINES}.at(-1) === 'other 10' && go !== null")
    page.eval("go()")
    page.wait_for("answers.length === 1 && answers[0].bodyUsed")
    page.eval("new Promise((done) => setTimeout(() => requestAnimationFrame(done), 50))")
    assert page.eval(LINES) == [f"other {number}" for number in range(1, 11)]


def test_nothing_is_offered_beside_other_lines_that_are_missing(
    page: Page, make_site: Make, tmp_path: Path
) -> None:
    """Which lines are missing at which of the notes is not known."""
    site = make_site("process:build", rules=[RULE])
    code = "for number in range(1, 101): print('line', number)"
    site.hub.run_process(python(code), "build", log=tmp_path / "build.log").wait(TIMEOUT)
    page.open(site.url)
    offered = page.eval(
        "Promise.all(['log', 'feed', 'log_gap'].map((name) => import(`/static/${name}.js`)))"
        ".then(async ([{LogView}, {Feed}, {findLogGap}]) => {"
        " const view = new LogView(document.createElement('div'));"
        " const feed = new Feed(view);"
        " const line = (number) =>"
        "  feed.received({type: 'process_output', line: number, data: `line ${number}`});"
        " const found = [];"
        " const look = async () => {"
        "  const note = [...view.store.all()].findLast((row) => row.gap).id;"
        "  found.push((await findLogGap(view, 'build', note))?.lines ?? null); };"
        " line(1); line(2); feed.missing(3); line(10); await look();"
        " line(11); feed.missing(3); feed.missing(4); line(20); await look();"
        " return found; })"
    )
    assert offered == [7, None]


def test_lines_are_loaded_in_front_of_the_end_of_a_long_one(
    page: Page, make_site: Make, tmp_path: Path
) -> None:
    """A long line comes in pieces, of which the history may have the last only."""
    site = make_site("process:build", rules=[RULE])
    code = "for number in range(1, 601): print(number, 'x' * 30_000)"
    site.hub.run_process(python(code), "build", log=tmp_path / "build.log").wait(TIMEOUT)
    open_at_start(page, site.url)
    page.eval(f"{BUTTON}.click()")
    page.wait_for(f"{VIEW}.count === 600")
    assert page.eval(f"{NOTES}[0]") == ""
