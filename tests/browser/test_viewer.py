"""The page in a real browser: what a reader sees of a process, and what cannot happen to it."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.browser import rows
from tests.browser.chromium import Browser, Page
from tests.browser.conftest import Site
from tests.nginx import arguments
from tests.support import free_port, wait_until
from ws_hub.config import ChannelRule
from ws_hub.protocol.message import Message, timestamp
from ws_hub.server.server import serve
from ws_hub.server.viewer import page_app
from ws_hub.testing import FaultProxy

pytestmark = pytest.mark.browser

LOG = "document.getElementById('log')"
LINES, NOTES = rows.lines(LOG), rows.notes(LOG)
VIEW = f"{LOG}.logView"
SHOWN = "[...document.querySelectorAll('.row:not(.note)')].map((row) => row.textContent)"
SAID = "document.getElementById('banner-text').textContent"  # also when its time is over
BANNER = f"document.getElementById('banner').hidden ? '' : {SAID}"
LIVE = "document.getElementById('link').dataset.state === 'connected'"
EMPTY = (
    "document.getElementById('empty').hidden ? '' : document.getElementById('empty').textContent"
)
FOUND = "document.getElementById('found').textContent"
FOLLOWS = "document.getElementById('follow').getAttribute('aria-pressed') === 'true'"
COUNT = "document.getElementById('count').textContent"


def count_is(text: str) -> str:
    return f"{COUNT} === {json.dumps(text)}"


def has(number: int) -> str:
    """So many are there, and the last one is in view."""
    return f"{rows.number(LOG)} === {number} && {SHOWN}.at(-1) === {LINES}.at(-1)"


# --- what a process says -------------------------------------------------------------------


def test_a_late_viewer_sees_every_line_and_the_exit_code(page: Page, site: Site) -> None:
    script = "import sys\nfor i in range(300): print('line', i)\nsys.exit(3)"
    site.hub.run_process([sys.executable, "-c", script], "build").wait()
    page.open(site.url)
    page.wait_for("document.title === '✗ build · exited 3'")
    page.wait_for(has(300))
    assert page.eval(LINES) == [f"line {number}" for number in range(300)]
    assert page.eval("document.getElementById('status').textContent") == "exited 3"
    assert page.eval("document.querySelector('link[rel=icon]').href").endswith("icon-failed.svg")
    page.wait_for(f"{NOTES}.at(-1)?.startsWith('exited 3 after ')")


def test_nothing_printed_yet_is_not_said_of_a_log_that_is_still_coming(
    page: Page, site: Site
) -> None:
    """The status of a program comes before its first line."""
    page.call(
        "Page.addScriptToEvaluateOnNewDocument",
        source="""
            window.said = [];
            new MutationObserver(() => {
                const empty = document.getElementById("empty");
                if (empty && !empty.hidden) window.said.push(empty.textContent);
            }).observe(document, {subtree: true, childList: true, attributes: true});
        """,
    )
    site.hub.send_process_status("build", "running")
    for number in range(300):
        site.hub.send_process_output("build", f"line {number}")
    page.open(site.url)
    page.wait_for(has(300))
    assert "Running; it has printed nothing yet." not in page.eval("window.said")


def test_lines_and_status_come_live(page: Page, site: Site) -> None:
    page.open(site.url)
    page.wait_for(LIVE)
    assert page.eval("document.title") == "build · waiting"
    site.hub.send_process_status("build", "running")
    page.wait_for("document.title === '● build · running'")
    page.wait_for(f"({EMPTY}) === 'Running; it has printed nothing yet.'")
    site.hub.send_process_output("build", "compiling")
    page.wait_for(has(1))
    site.hub.send_process_status("build", "exited", 0)
    page.wait_for("document.title === '✓ build · exited 0'")
    assert page.eval("document.getElementById('say').textContent") == "build exited 0"


def test_a_browser_takes_compressed_messages(page: Page, make_site: Callable[..., Site]) -> None:
    site = make_site("process:build", compression=True)
    page.open(site.url)
    page.wait_for(LIVE)
    lines = [f"{number} " + "the same again " * 100 for number in range(50)]
    site.hub.send_process_output("build", lines[0])
    site.hub.send_process_lines("build", lines[1:])
    page.wait_for(has(50))
    assert page.eval(LINES) == lines
    (client,) = site.hub.all_clients()
    assert client.compression
    agreed = page.eval(
        "new Promise((tell) => {"
        " const socket = new WebSocket(location.href.replace('http', 'ws') + 'ws');"
        " socket.onopen = () => { tell(socket.extensions); socket.close(); }; })"
    )
    assert agreed.startswith("permessage-deflate; server_no_context_takeover")


@pytest.mark.parametrize(
    ("status", "code", "extra", "shown"),
    [
        ("exited", -9, {"signal": "SIGKILL"}, "killed by SIGKILL"),
        ("exited", -9, {}, "killed by signal 9"),
        ("failed", None, {"error": "no such file"}, "failed"),
    ],
)
def test_an_end_is_shown_as_what_it_was(
    page: Page, site: Site, status: str, code: int | None, extra: dict[str, str], shown: str
) -> None:
    site.hub.send_process_status("build", status, code, extra=extra)
    page.open(site.url)
    page.wait_for(f"document.getElementById('status').textContent === {json.dumps(shown)}")
    assert page.eval("document.body.dataset.status") == "failed"


def test_colours_and_styles_are_those_of_the_program(page: Page, site: Site) -> None:
    site.hub.send_process_output("build", "\x1b[1;31mbad\x1b[0m \x1b[3;4;38;5;208mwarm\x1b[0m")
    site.hub.send_process_output("build", "\x1b[42;30m PASS \x1b[0m\x1b[7mturned\x1b[27m\x1b[?25l")
    page.open(site.url)
    page.wait_for(has(2))
    assert page.eval(LINES) == ["bad warm", " PASS turned"]
    spans = page.eval(
        "[...document.querySelectorAll('.row span')].map((s) => [s.textContent, s.className])"
    )
    assert spans == [
        ["bad", "bold fg-9"],
        ["warm", "italic underline"],
        [" PASS ", "bg-2 raw-0"],
        ["turned", "inv-ink fg-ground"],
    ]
    style = "getComputedStyle(document.querySelectorAll('.row span')[%d]).%s"
    assert page.eval(style % (0, "fontWeight")) == "700"
    assert page.eval(style % (1, "fontStyle")) == "italic"
    assert page.eval(style % (1, "color")) not in ("rgb(255, 135, 0)", "rgb(28, 33, 39)")
    assert page.eval(style % (2, "backgroundColor")) == "rgb(41, 138, 70)"


def test_a_progress_bar_is_one_line(page: Page, site: Site) -> None:
    page.open(site.url)
    page.wait_for(LIVE)
    site.hub.send_process_output("build", "begin")
    for percent in (10, 50):
        site.hub.send_process_output("build", f"{percent}%\r")
        page.wait_for(f"{LINES}.at(-1) === '{percent}%'")
    site.hub.send_process_output("build", "100% done")
    site.hub.send_process_output("build", "end")
    page.wait_for(f"{LINES}.at(-1) === 'end'")
    assert page.eval(LINES) == ["begin", "100% done", "end"]


def test_a_very_long_line_is_cut_and_says_so(page: Page, site: Site) -> None:
    script = "print('x' * 1_000_000); print('after')"
    site.hub.run_process([sys.executable, "-c", script], "build").wait()
    page.open(site.url)
    page.wait_for(has(2))
    line, after = page.eval(LINES)
    assert line == "x" * 20_000 + " … 980,000 more characters"
    assert after == "after"


EVIL = '<img src=x onerror="window.hacked = 1"><script>window.hacked = 1</script>'


def test_what_comes_from_the_network_stays_text(
    page: Page, make_site: Callable[[str], Site]
) -> None:
    site = make_site("")
    hub = site.hub
    hub.send_process_output("build", EVIL)
    hub.send_process_output("build", f"\x1b[31m{EVIL}\x1b]8;;javascript:window.hacked=1\x07x")
    hub.send_process_status("build", EVIL)
    hub.send_process_status("build", "failed", extra={"error": EVIL})
    page.open(site.url + "?channel=process:build")
    page.wait_for(has(2))
    assert page.eval(LINES) == [EVIL, EVIL + "x"]
    page.open(site.url + "?channel=news")
    page.wait_for(LIVE)
    wait_until(lambda: hub.has_subscribers("news"))
    hub.send_event(EVIL, {EVIL: EVIL}, channel="news")
    hub.send_event("log", {"level": EVIL, "name": EVIL, "message": EVIL}, channel="news")
    hub.send_to_channel("news", Message(EVIL, data=EVIL))
    hub.send_error(EVIL)
    page.wait_for(has(3))
    page.wait_for("document.getElementById('note').textContent.includes('<img')")
    assert page.eval("document.querySelectorAll('#log img, #log script, footer img').length") == 0
    assert page.eval("window.hacked ?? null") is None


def test_a_channel_name_in_the_address_stays_text(
    browser: Browser, make_site: Callable[[str], Site]
) -> None:
    site = make_site("")
    with Page(browser) as page:
        page.call("Page.navigate", url=site.url + "?channel=%3Cimg%20src=x%20onerror=alert(1)%3E")
        page.wait_for("document.getElementById('name')?.textContent.includes('<img')")
        page.wait_for(f"({BANNER}).includes('invalid channel name')")
        assert page.eval("document.images.length") == 0


def test_a_page_without_history_says_what_is_missing(
    page: Page, make_site: Callable[..., Site]
) -> None:
    site = make_site("process:build", history=10_000)
    for number in range(10_500):
        site.hub.send_process_output("build", f"line {number}")
    page.open(site.url)
    page.wait_for(count_is("10,000 lines"))
    page.wait_for(f"{NOTES}.length > 0")  # what is in view is built first, and that is the end
    assert page.eval(NOTES) == [
        "500 earlier messages are missing here: no longer kept by the server"
    ]


def test_a_long_log_has_its_beginning_and_what_is_missing_behind_it(page: Page, site: Site) -> None:
    for start in range(1, 60_001, 500):
        numbers = range(start, start + 500)
        site.hub.send_process_lines("build", [f"line {n}" for n in numbers], numbers=numbers)
    site.hub.wait_for_room("process:build")
    page.open(site.url)
    page.wait_for(f"{VIEW}.store.count > 10_000 && !{VIEW}.store.provisional")
    middle = site.hub.history("process:build", last=1).middle
    assert middle is not None
    size = f"{middle.total_bytes // 100_000 / 10:.1f}".removesuffix(".0")
    assert page.eval(NOTES) == [
        f"{middle.messages:,} lines ({size} MB of messages) are missing here: "
        "no longer kept by the server"
    ]
    assert page.eval(COUNT) == "60,000 lines"
    assert page.eval(f"{VIEW}.store.count") == 60_000 - middle.messages
    page.eval(f"{VIEW}.reveal({VIEW}.store.find(1))")
    page.wait_for(f"{SHOWN}.includes('line 1')")


# --- a connection that ends ----------------------------------------------------------------


@contextlib.contextmanager
def away(page: Page, proxy: FaultProxy, lines: int) -> Iterator[None]:
    """Show so many lines through a proxy, and have the page be without a connection meanwhile."""
    page.open(f"http://127.0.0.1:{proxy.port}/")
    page.wait_for(has(lines))
    proxy.refuse()
    proxy.reset()
    page.wait_for(f"({BANNER}).startsWith('Connection lost')")
    yield
    proxy.accept()
    page.eval("document.getElementById('retry').click()")


def test_a_lost_connection_is_said_and_made_up_for(
    page: Page, make_site: Callable[[str], Site]
) -> None:
    site = make_site("process:build")
    with FaultProxy("127.0.0.1", site.server.port) as proxy:
        site.hub.send_process_output("build", "before")
        with away(page, proxy, 1):
            assert page.eval("document.getElementById('link').textContent") == "offline"
            for number in range(214):
                site.hub.send_process_output("build", f"missed {number}")
        page.wait_for(f"{SAID} === 'Reconnected, caught up 214 lines.'")
        site.hub.send_process_output("build", "after")
        page.wait_for(has(216))
        expected = ["before", *(f"missed {number}" for number in range(214)), "after"]
        assert page.eval(LINES) == expected


def test_fault_91_numbers_and_words_are_true_after_a_gap(
    page: Page, make_site: Callable[..., Site]
) -> None:
    def print_lines(first: int, last: int) -> None:
        for start in range(first, last + 1, 500):
            numbers = range(start, min(start + 500, last + 1))
            site.hub.send_process_lines("build", [f"line {n}" for n in numbers], numbers=numbers)

    site = make_site("process:build", history=10_000)
    gone = "document.getElementById('cut').textContent"
    with FaultProxy("127.0.0.1", site.server.port) as proxy:
        print_lines(1, 100)
        with away(page, proxy, 100):
            print_lines(101, 30_100)  # of which 10,000 are kept
        said = "Reconnected, caught up 10,000 lines; what is missing is said where it was."
        page.wait_for(f"{SAID} === '{said}'")
        page.wait_for(has(10_100))
        assert page.eval(COUNT) == "30,100 lines"
        assert page.eval(gone) == "20,000 lines in between are missing"
        note = "20,000 lines are missing here: no longer kept by the server"
        assert page.eval(NOTES) == [note]
        number_of = (
            "[...document.querySelectorAll('.row')].find((row) => row.textContent === 'line 20101')"
        )
        page.eval(f"{VIEW}.reveal({VIEW}.store.find(20101))")
        assert page.eval(f"{number_of}.dataset.n") == "20101"
        page.eval("URL.createObjectURL = (blob) => { window.saved = blob; return '#'; }")
        save = "document.getElementById('download').click() ?? window.saved.text()"
        saved = page.eval(save).splitlines()
        assert saved[99:102] == ["line 100", f"[{note}]", "line 20101"]
        # The page lets go of its first lines, and of the gap among them.
        page.eval(f"{VIEW}.store.maxLines = 50_000")
        print_lines(30_101, 80_100)
        page.wait_for(f"{LINES}.at(-1) === 'line 80100'", 60)
        page.wait_for(count_is("80,100 lines"))  # at the next frame
        said = page.eval(gone)
        kept = int(said.split()[-3].replace(",", ""))
        assert (
            said == f"the first {80_100 - kept:,} lines were let go, the newest {kept:,} are here"
        )
        saved = page.eval(save).splitlines()
        assert saved[:2] == [
            f"[{80_100 - kept} earlier lines are not here]",
            f"line {80_101 - kept}",
        ]


def test_fault_91_a_page_that_fell_behind_has_not_reconnected(
    page: Page, make_site: Callable[..., Site]
) -> None:
    # A small outbox is full before a slow machine has reached the end of the time to write.
    site, filler = make_site("process:build", outbox_bytes=2**20, write_timeout=60.0), "x" * 1000
    with FaultProxy("127.0.0.1", site.server.port) as proxy, site.hub.unpaced():
        page.open(f"http://127.0.0.1:{proxy.port}/")
        page.wait_for(LIVE)
        wait_until(lambda: site.hub.stats().subscriptions)  # or the hole holds back the request
        page.eval(
            "window.said = new Set();"
            "const note = () => said.add(document.getElementById('banner-text').textContent);"
            "new MutationObserver(note)"
            ".observe(document.getElementById('banner'), {subtree: true, childList: true})"
        )
        proxy.black_hole()
        first, more = 1, 12_000  # than the page's connection holds, of which 10,000 are kept
        while more > 0:
            if site.hub.stats().dropped:
                more -= 500
            numbers = range(first, first + 500)
            lines = [f"{number} {filler}" for number in numbers]
            site.hub.send_process_lines("build", lines, numbers=numbers)
            first += 500
            wait_until(lambda: not site.hub.stats().queued)  # it is unpaced, and would race on
            assert site.hub.stats().clients == 1  # or nothing would ever be dropped
        proxy.heal()
        text = "This page fell behind, caught up"
        page.wait_for(f"[...said].some((each) => each.startsWith('{text}'))", 60)
        assert not page.eval("[...said].some((text) => text.startsWith('Reconnected'))")
        page.wait_for(f"{LINES}.at(-1)?.startsWith('{first - 1} ')", 60)
        page.wait_for(count_is(f"{first - 1:,} lines"))  # at the next frame
        gone = page.eval("document.getElementById('cut').textContent")
        absent = sum(int(each.replace(",", "")) for each in re.findall(r"[\d,]*\d", gone))
        assert absent
        shown = 0 if "are here" in gone else page.eval(f"{LINES}.length")
        assert absent + shown == first - 1


def test_fault_91_messages_without_numbers_are_missing_as_messages(
    page: Page, make_site: Callable[..., Site]
) -> None:
    site = make_site("process:build", history=10_000)
    with FaultProxy("127.0.0.1", site.server.port) as proxy:
        site.hub.send_process_output("build", "first")
        with away(page, proxy, 1):
            for start in range(0, 10_500, 500):
                site.hub.send_process_lines("build", [f"line {start + n}" for n in range(500)])
        page.wait_for(has(10_001))
        assert page.eval(COUNT) == "10,001 lines"
        assert page.eval("document.getElementById('cut').textContent") == "500 messages are missing"
        assert page.eval(NOTES) == ["500 messages are missing here: no longer kept by the server"]


def test_fault_93_quick_clicks_show_only_what_was_chosen_last(
    page: Page, make_site: Callable[[str], Site]
) -> None:
    site = make_site("")
    lines = [f"line {number}" for number in range(2000)]
    for name in ("one", "two"):
        site.hub.send_process_lines(name, [f"{name} {line}" for line in lines])
    page.open(site.url)
    page.wait_for("document.querySelectorAll('#channels-list a').length === 2")
    page.wait_for(LIVE)
    page.eval(
        "for (const name of ['one', 'two', 'one', 'two', 'one'])"
        " document.querySelector(`#channels-list a[title='process:${name}']`).click()"
    )
    page.wait_for(count_is("2,000 lines"))
    site.hub.send_process_output("two", "not to be seen")
    site.hub.send_process_output("one", "the end")
    page.wait_for(f"{LINES}.at(-1) === 'the end'")
    page.wait_for(has(2001))  # the page builds what is in view first
    assert page.eval(LINES) == [*(f"one {line}" for line in lines), "the end"]


def test_fault_96_a_page_without_a_network_says_so(page: Page, site: Site) -> None:
    link = "document.getElementById('link').textContent"
    page.open(site.url)
    page.wait_for(f"{link} === 'live'")
    page.call("Network.enable")
    conditions = {"latency": 0, "downloadThroughput": -1, "uploadThroughput": -1}
    page.call("Network.emulateNetworkConditions", offline=True, **conditions)
    page.wait_for(f"{link} === 'offline'")
    assert page.eval("document.body.dataset.live") == "false"
    page.call("Network.emulateNetworkConditions", offline=False, **conditions)
    page.wait_for(f"{link} === 'live'")


def test_fault_96_a_line_that_died_is_not_live_when_the_network_is_back(
    page: Page, site: Site
) -> None:
    link = "document.getElementById('link').textContent"
    with FaultProxy("127.0.0.1", site.server.port) as proxy:
        page.open(f"http://127.0.0.1:{proxy.port}/")
        page.wait_for(f"{link} === 'live'")
        proxy.black_hole()
        # At once: an answer may be on its way already.
        online = "window.dispatchEvent(new Event('online'))"
        assert page.eval(f"({online}, {link})") == "checking"
        proxy.heal()
        page.wait_for(f"{link} === 'live'")


def test_fault_95_a_clock_that_is_set_changes_no_duration(page: Page, site: Site) -> None:
    site.hub.send_process_status("build", "running")
    page.open(site.url)
    page.wait_for("document.title === '● build · running'")
    page.eval("(() => { const real = Date.now; Date.now = () => real() + 3_600_000; })()")
    site.hub.send_process_output("build", "line")
    page.wait_for(has(1))
    assert page.eval("document.getElementById('elapsed').textContent").endswith(" s")


def test_a_restarted_server_is_told_apart(page: Page, site: Site) -> None:
    site.hub.send_process_output("build", "first life")
    page.open(site.url)
    page.wait_for(has(1))
    site.close()
    page.wait_for(f"({BANNER}).startsWith('Connection lost')")
    site.open()
    site.hub.send_process_output("build", "second life")
    page.wait_for(has(2))
    assert page.eval(LINES) == ["first life", "second life"]
    assert page.eval(NOTES) == ["the server has started anew: another numbering begins"]
    page.wait_for(f"{SAID}.startsWith('Reconnected')")


def test_a_server_that_goes_after_the_exit_is_no_alarm(page: Page, site: Site) -> None:
    site.hub.send_process_output("build", "all")
    site.hub.send_process_status("build", "exited", 0)
    page.open(site.url)
    page.wait_for("document.title === '✓ build · exited 0'")
    site.close()
    page.wait_for(f"({BANNER}) === 'The server has gone. What it sent is here, to the end.'")
    assert page.eval("document.getElementById('banner').className") == "banner lost over"
    assert page.eval("document.title") == "✓ build · exited 0"


# --- reading -------------------------------------------------------------------------------


def test_search_counts_the_lines_and_goes_through_them(page: Page, site: Site) -> None:
    for number in range(500):
        site.hub.send_process_output("build", f"\x1b[32mline\x1b[0m {number}")
    page.open(site.url)
    page.wait_for(has(500))
    page.key("/")
    page.type("LINE 49")
    page.wait_for(f"{FOUND} === '–/11'")
    page.key("Enter")
    page.wait_for(f"{FOUND} === '11/11' || {FOUND} === '2/11'")
    assert page.eval(FOLLOWS) is False
    page.key("Enter", shift=True)
    page.wait_for("document.querySelectorAll('.row.current').length === 1")
    page.wait_for("CSS.highlights.get('found')?.size > 0")
    site.hub.send_process_output("build", "line 4900")
    page.wait_for(f"{FOUND}.endsWith('/12')")
    page.key("Escape")
    page.wait_for("document.querySelectorAll('.row.hit').length === 0")


def test_a_search_without_a_match_says_none(page: Page, site: Site) -> None:
    site.hub.send_process_output("build", "a(b")
    page.open(site.url)
    page.wait_for(has(1))
    page.key("/")
    page.type("a(c")
    page.wait_for(f"{FOUND} === 'none'")
    assert page.eval("document.getElementById('next').disabled") is True


def test_scrolling_up_stops_following_and_the_end_starts_it(page: Page, site: Site) -> None:
    for number in range(500):
        site.hub.send_process_output("build", f"line {number}")
    page.open(site.url)
    page.wait_for(has(500))
    page.wait_for(
        "(() => { const l = document.getElementById('log');"
        " return l.scrollTop > 0 && l.scrollHeight - l.scrollTop - l.clientHeight < 5; })()"
    )
    page.wheel(600, 400, -2000)
    page.wait_for(f"!({FOLLOWS})")
    top = page.wait_for("document.getElementById('log').scrollTop")
    site.hub.send_process_output("build", "more")
    page.wait_for("document.getElementById('more').textContent === '↓ 1 new line'")
    assert abs(page.eval("document.getElementById('log').scrollTop") - top) < 2000
    page.eval("document.getElementById('more').click()")
    page.wait_for(FOLLOWS)
    page.wait_for(
        "(() => { const l = document.getElementById('log');"
        " return l.scrollHeight - l.scrollTop - l.clientHeight < 5; })()"
    )


def test_the_whole_log_can_be_saved(page: Page, site: Site) -> None:
    site.hub.send_process_output("build", "\x1b[31mone\x1b[0m")
    site.hub.send_process_output("build", "two")
    page.open(site.url)
    page.wait_for(has(2))
    page.eval("URL.createObjectURL = (blob) => { window.saved = blob; return '#'; }")
    page.eval("document.getElementById('download').click()")
    assert page.eval("window.saved.text()") == "one\ntwo\n"


def test_lines_wrap_or_do_not(page: Page, site: Site) -> None:
    site.hub.send_process_output("build", "x" * 1000)
    page.open(site.url)
    page.wait_for(has(1))
    wide = "document.getElementById('log').scrollWidth > document.getElementById('log').clientWidth"
    assert page.eval(wide) is False
    page.key("w")
    page.wait_for(wide)
    assert page.eval("document.getElementById('wrap').getAttribute('aria-pressed')") == "false"


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_burst_of_100_000_lines_leaves_the_page_alive_and_bounded(page: Page, site: Site) -> None:
    page.open(site.url)
    page.wait_for(LIVE)
    page.eval(f"{VIEW}.store.maxLines = 50_000")
    page.eval(
        "window.frames_seen = 0;"
        "(function count() { window.frames_seen++; requestAnimationFrame(count); })()"
    )
    script = "import sys\nfor i in range(100000): print('line', i, 'of a long build log')"
    process = site.hub.run_process([sys.executable, "-c", script], "build")
    page.key("/")
    page.type("999")  # it can be typed into while they come
    process.wait(120)
    shown = ""
    while shown != "100,000 lines":  # a busy machine is slow, but there is always more
        shown = page.wait_for(f"(text => text !== '{shown}' && text)({COUNT})")
    page.wait_for(f"{LINES}.at(-1) === 'line 99999 of a long build log'")
    said = page.eval("document.getElementById('cut').textContent")
    kept = int(said.split()[-3].replace(",", ""))
    assert 49_000 <= kept <= 50_000
    assert said == f"the first {100_000 - kept:,} lines were let go, the newest {kept:,} are here"
    page.wait_for(has(kept), 60)
    assert page.eval("document.getElementById('query').value") == "999"
    assert page.eval("window.frames_seen") > 20
    # 999, 1999 ... and 99900-99999 among those kept, once each.
    expected = sum("999" in str(number) for number in range(100_000 - kept, 100_000))
    page.wait_for(f"{FOUND} === '–/{expected}'")


# --- a page for all channels ---------------------------------------------------------------


def test_channels_are_listed_and_chosen(page: Page, make_site: Callable[[str], Site]) -> None:
    site = make_site("")
    site.hub.send_process_output("one", "output of one")
    page.open(site.url)
    names = "[...document.querySelectorAll('#channels-list a')].map((a) => a.title)"
    page.wait_for(f"{names}.join() === 'process:one'")
    page.eval("document.querySelector('#channels-list a').click()")
    page.wait_for(f"{LINES}.join() === 'output of one'")
    assert page.eval("location.search") == "?channel=process%3Aone"
    page.eval(
        "document.getElementById('watch-name').value = 'news';"
        "document.getElementById('watch').requestSubmit()"
    )
    wait_until(lambda: site.hub.has_subscribers("news"))
    assert not site.hub.has_subscribers("process:one")
    site.hub.send_event("released", {"version": "1.2"}, channel="news")
    page.wait_for(has(1))
    assert page.eval(LINES)[0].endswith(' released {"version":"1.2"}')
    page.wait_for("document.querySelector('.row .type')?.textContent === 'released'")
    page.eval("history.back()")
    page.wait_for(f"{LINES}.join() === 'output of one'")


def test_the_list_says_which_programs_run_and_which_have_failed(
    page: Page, make_site: Callable[[str], Site]
) -> None:
    site = make_site("")
    hub = site.hub
    hub.send_event("released", channel="process:events")
    hub.send_process_output("prints", "of a writer")
    for name in ("ok", "fails"):
        hub.send_process_status(name, "running")
        hub.send_process_output(name, "a line")
    hub.send_process_status("ok", "exited", 0)
    page.open(site.url)
    listed = (
        "[...document.querySelectorAll('#channels-list a')]"
        ".map((a) => [a.textContent, a.dataset.state ?? ''].join('/')).join()"
    )
    others = "prints/,events/"
    page.wait_for(f"{listed} === 'ok exited 0/ok,fails running/running,{others}'")
    count = "document.getElementById('channels-count').textContent"
    assert page.eval(count) == "4 · 1 running"
    hub.send_process_status("fails", "exited", 2)
    page.eval("document.querySelectorAll('#channels-list a')[0].focus()")
    # In their places, although the order of their messages is another.
    page.wait_for(f"{listed} === 'ok exited 0/ok,fails exited 2/failed,{others}'")
    assert page.eval("document.activeElement.title") == "process:ok"
    assert page.eval(count) == "4 · 1 failed"
    hub.send_process_status("fails", "running")  # once more: it begins, and comes first
    page.wait_for(f"{listed} === 'fails running/running,ok exited 0/ok,{others}'")


def test_what_has_no_listener_is_listed_while_something_of_it_is_kept(
    page: Page, make_site: Callable[..., Site]
) -> None:
    """Events that nobody has heard, and a program that has ended before."""
    site = make_site("", rules=[ChannelRule("*", history_messages=10)])
    site.hub.send_process_output("old", "a line")
    site.hub.send_process_status("old", "exited", 0)
    site.hub.send_event("deployed", {"version": "1.2"}, channel="deploys")
    page.open(site.url)
    listed = "[...document.querySelectorAll('#channels-list a')].map((a) => a.textContent).join()"
    page.wait_for(f"{listed} === 'deploys,old exited 0'")
    page.eval("document.querySelector('#channels-list a').click()")
    page.wait_for(f'{LINES}[0]?.endsWith(\' deployed {{"version":"1.2"}}\')')


def test_a_log_record_reads_like_one(page: Page, make_site: Callable[[str], Site]) -> None:
    site = make_site("logs")
    page.open(site.url)
    wait_until(lambda: site.hub.has_subscribers("logs"))
    record = {"level": "ERROR", "name": "shop", "message": "no stock", "exception": "Trace\n  at"}
    site.hub.send_event("log", record, channel="logs")
    page.wait_for(has(3))
    first, second, third = page.eval(LINES)
    assert first.endswith(" ERROR shop no stock")
    assert (second, third) == ("Trace", "  at")


def test_without_a_channel_broadcasts_are_shown(
    page: Page, make_site: Callable[[str], Site]
) -> None:
    site = make_site("")
    page.open(site.url)
    wait_until(lambda: site.hub.client_count() == 1)
    site.hub.broadcast(Message("event", data={"event": "hello", "data": 1}))
    page.wait_for(has(1))
    assert page.eval(LINES)[0].endswith(" hello 1")


def test_it_works_below_a_prefix(page: Page, make_site: Callable[[str], Site]) -> None:
    hub = make_site("").hub
    hub.send_process_output("build", "below")
    app = page_app(hub, channel="process:build")

    def mounted(environ, start_response):  # type: ignore[no-untyped-def]
        path = environ["PATH_INFO"]
        if not path.startswith("/tools/hub"):
            start_response("404 Not Found", [("Content-Length", "0")])
            return []
        environ["SCRIPT_NAME"], environ["PATH_INFO"] = "/tools/hub", path[len("/tools/hub") :]
        return app(environ, start_response)

    with serve(hub, path="/tools/hub/ws", app=mounted) as server:
        page.call("Page.navigate", url=f"http://127.0.0.1:{server.port}/tools/hub")
        page.wait_for(f"location.pathname === '/tools/hub/' && {has(1)}")
        assert page.eval(LINES) == ["below"]


@pytest.mark.parametrize("path", ["/logs/", "/logs", "/a/b/c/"])
def test_fault_102_it_works_behind_a_proxy_that_cuts_a_prefix_off(
    page: Page, site: Site, tmp_path: Path, path: str
) -> None:
    program = shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin")
    if program is None:
        pytest.skip("no nginx on this machine")
    site.hub.send_process_output("build", "below")
    prefix = path.rstrip("/") + "/"
    with nginx(program, tmp_path, site.server.port, prefix) as port:
        page.call("Page.navigate", url=f"http://127.0.0.1:{port}{path}")
        page.wait_for(f"location.pathname === {json.dumps(prefix)} && {has(1)}")
        assert page.eval(LINES) == ["below"]
        page.wait_for(LIVE)


@contextlib.contextmanager
def nginx(program: str, folder: Path, backend: int, prefix: str) -> Iterator[int]:
    """Run nginx with one location, which hands on what stands behind the prefix."""
    port = free_port()
    headers = (
        "proxy_set_header Host $http_host; proxy_http_version 1.1;"
        "proxy_set_header Upgrade $http_upgrade; proxy_set_header Connection upgrade;"
    )
    text = (
        f"access_log off; server {{ listen 127.0.0.1:{port};"
        f"absolute_redirect off; location {prefix} {{"
        f"proxy_pass http://127.0.0.1:{backend}/; {headers} }} }}"
    )
    process = subprocess.Popen([program, *arguments(folder, text)])

    def listens() -> bool:
        assert process.poll() is None, (folder / "error.log").read_text(encoding="utf-8")
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
            return True
        return False

    try:
        wait_until(listens, 20, what="nginx listens")
        yield port
    finally:
        process.terminate()
        process.wait(20)


# --- looks ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("dark", "ground"), [(False, "rgb(255, 255, 255)"), (True, "rgb(16, 18, 22)")]
)
def test_the_theme_is_the_readers_and_every_colour_can_be_read(
    page: Page, site: Site, tmp_path: Path, dark: bool, ground: str
) -> None:
    colours = "".join(f"\x1b[38;5;{number}m{number:4}" for number in range(256))
    site.hub.send_process_output("build", colours)
    page.theme(dark)
    page.open(site.url)
    page.wait_for(has(1))
    assert page.eval("getComputedStyle(document.body).backgroundColor") == ground
    lowest = page.eval(
        "import('/static/ansi.js').then(({contrast}) => {"
        " const rgb = (text) => text.match(/[0-9]+/g).map(Number);"
        " const ground = rgb(getComputedStyle(document.body).backgroundColor);"
        " return Math.min(...[...document.querySelectorAll('.row span')].map("
        "   (span) => contrast(rgb(getComputedStyle(span).color), ground))); })"
    )
    assert lowest >= 4.5
    picture = tmp_path / "page.png"
    page.screenshot(picture)
    assert picture.read_bytes().startswith(b"\x89PNG") and picture.stat().st_size > 10_000


def test_a_phone_shows_it_without_scrolling_sideways(
    page: Page, make_site: Callable[[str], Site]
) -> None:
    site = make_site("")
    for number in range(100):
        site.hub.send_process_output("build", f"{number} " + "a long line of words " * 10)
    page.resize(375, 812, scale=2, mobile=True)
    page.open(site.url + "?channel=process:build")
    page.wait_for(has(100))
    assert page.eval("document.documentElement.scrollWidth") == 375
    box = "document.getElementById('log').getBoundingClientRect()"
    assert page.eval(f"{box}.height") > 400
    assert page.eval(f"{box}.bottom") <= 812
    tools = "[...document.querySelectorAll('.tools button, .tools input')]"
    assert page.eval(f"Math.max(...{tools}.map((t) => t.getBoundingClientRect().right))") <= 375


def test_everything_can_be_reached_and_has_a_name(page: Page, site: Site) -> None:
    page.open(site.url)
    page.wait_for(LIVE)
    page.call("Accessibility.enable")
    nodes = page.call("Accessibility.getFullAXTree")["nodes"]
    nameless = [
        node["role"]["value"]
        for node in nodes
        if not node.get("ignored")
        and node["role"]["value"] in ("button", "searchbox", "textbox", "log", "toolbar")
        and not node.get("name", {}).get("value")
    ]
    assert nameless == []
    page.key("Tab")
    assert page.eval("document.activeElement.id") == "query"


# --- streams and times -----------------------------------------------------------------------

START = 1_771_550_276.5  # POSIX seconds
TIMES = (
    "[...document.querySelectorAll('.row:not(.note) .gutter')].map((each) => each.dataset.t ?? '')"
)
TIME_BUTTON = "document.getElementById('times').textContent"


def test_the_time_column_has_the_servers_times_in_four_ways_and_is_remembered(
    page: Page, site: Site
) -> None:
    hub = site.hub
    hub.send_to_channel(
        "process:build",
        Message(
            "process_status",
            process_id="build",
            data={"status": "running"},
            timestamp=timestamp(START),
        ),
    )
    hub.send_process_output("build", "one", time=START + 0.25)
    hub.send_process_lines("build", ["two", "three"], times=[START + 61, START + 3661.125])
    page.open(site.url)
    page.wait_for(has(3))
    assert page.eval(f"[{TIME_BUTTON}, {LOG}.classList.contains('times')]") == ["Time", False]
    page.key("t")
    page.wait_for(f"{TIMES}[0] !== ''")
    clock = page.eval(
        f"[0.25, 61, 3661.125].map((at) => new Date(({START} + at) * 1000))"
        ".map((at) => at.toTimeString().slice(0, 8) + '.' + String(at % 1000).padStart(3, '0'))"
    )
    assert page.eval(TIMES) == clock
    page.key("t")
    page.wait_for(f"{TIME_BUTTON} === 'Time: elapsed'")
    page.wait_for(f"{TIMES}[0] === '0:00:00.250'")
    assert page.eval(TIMES) == ["0:00:00.250", "0:01:01.000", "1:01:01.125"]
    page.key("t")
    page.wait_for(f"{TIMES}[0] === '+0.250'")
    assert page.eval(TIMES) == ["+0.250", "+60.750", "+3600.125"]
    page.open(site.url)  # the browser remembers it
    page.wait_for(has(3))
    assert page.eval(TIME_BUTTON) == "Time: delta"
    assert page.eval(TIMES) == ["+0.250", "+60.750", "+3600.125"]
    page.eval("document.getElementById('times').click()")
    page.wait_for(f"{TIMES}.join('') === '' && {TIME_BUTTON} === 'Time'")
    assert page.eval("document.getElementById('say').textContent") == "Times are not shown"


def test_lines_count_from_a_start_that_is_told_later(page: Page, site: Site) -> None:
    site.hub.send_process_output("build", "one", time=START + 2)
    page.open(site.url)
    page.wait_for(has(1))
    page.key("t")
    page.key("t")
    page.wait_for(f"{TIMES}.join() === '0:00:00.000'")
    status = {"status": "running"}
    message = Message("process_status", data=status, timestamp=timestamp(START))
    site.hub.send_to_channel("process:build", message)
    page.wait_for(f"{TIMES}.join() === '0:00:02.000'")


def test_the_time_since_the_line_before_follows_a_line_that_is_drawn_anew(
    page: Page, site: Site
) -> None:
    site.hub.send_process_lines("build", ["a", "b"], numbers=[1, 2], times=[START, START + 1])
    page.open(site.url)
    page.wait_for(has(2))
    for _ in range(3):
        page.key("t")
    page.wait_for(f"{TIMES}.join() === '+0.000,+1.000'")
    site.hub.send_process_lines("build", ["a: 1\r"], numbers=[1], times=[START + 3])
    page.wait_for(f"{TIMES}.join() === '+3.000,-2.000'")
    assert page.eval(LINES) == ["a: 1", "b"]


@pytest.mark.parametrize("dark", [False, True])
def test_lines_of_stderr_are_marked_and_said(page: Page, site: Site, dark: bool) -> None:
    page.theme(dark)
    site.hub.send_process_output("build", "plain")
    site.hub.send_process_output("build", "bad", stream="stderr")
    page.open(site.url)
    page.wait_for(f"{rows.number(LOG)} === 2 && document.querySelectorAll('.row').length === 2")
    plain, bad = page.eval(
        "[...document.querySelectorAll('.row')].map((row) => {"
        " const style = getComputedStyle(row.querySelector('.gutter'));"
        " return [row.querySelector('.text').textContent, row.querySelector('.said')?.textContent,"
        " row.querySelector('.text').getBoundingClientRect().left, style.borderRightWidth]; })"
    )
    assert plain[:2] == ["plain", None] and plain[3] == "0px"
    assert bad[:2] == ["bad", "stderr: "] and bad[3] == "2px"
    assert plain[2] == bad[2]  # the mark moves no text
    ratio = page.eval(
        """(() => {
          const canvas = new OffscreenCanvas(1, 1).getContext("2d", {willReadFrequently: true});
          const light = (colour) => {
            canvas.fillStyle = colour;
            canvas.fillRect(0, 0, 1, 1);
            const [r, g, b] = [...canvas.getImageData(0, 0, 1, 1).data].map((each) => {
              const part = each / 255;
              return part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4;
            });
            return 0.2126 * r + 0.7152 * g + 0.0722 * b;
          };
          const gutter = getComputedStyle(document.querySelector(".stderr .gutter"));
          const both = [gutter.borderRightColor, gutter.backgroundColor].map(light).sort();
          return (Math.max(...both) + 0.05) / (Math.min(...both) + 0.05);
        })()"""
    )
    assert ratio >= 3  # of what is no text
    assert page.eval(f"{VIEW}.text()") == "plain\nbad\n"
