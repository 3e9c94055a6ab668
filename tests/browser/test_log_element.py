"""`<ws-hub-log>` on a page that is not ours, under a strict content security policy."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.browser import rows
from tests.browser.chromium import Page
from tests.support import wait_until
from ws_hub import Hub, HubConfig, Message, serve
from ws_hub.page import page_app

pytestmark = pytest.mark.browser

POLICY = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'"
CSS = "body { margin: 0; color-scheme: %s } ws-hub-log { block-size: 300px }"
HTML = """<!doctype html><html lang="en"><title>elsewhere</title>
<meta name="viewport" content="width=device-width">
<link rel="stylesheet" href="/own.css">
<script type="module" src="/ws_hub_log.js"></script>
%s
"""
LOG = '<ws-hub-log channel="process:build"></ws-hub-log>'
ROOT = "document.querySelector('ws-hub-log').shadowRoot"
SCROLLER = f"{ROOT}.querySelector('[role=log]')"
LINES, NOTES = rows.lines(SCROLLER), rows.notes(SCROLLER)
SHOWN = f"[...{ROOT}.querySelectorAll('.row:not(.note)')].map((row) => row.textContent)"
AT_END = f"{SCROLLER}.scrollHeight - {SCROLLER}.scrollTop - {SCROLLER}.clientHeight <= 4"
MORE = f"{ROOT}.querySelector('button')"
STATE = f"{ROOT}.querySelector('#state').textContent"
KIND = f"{ROOT}.querySelector('#state').className"
ROW = "(text) => ({runs: [{text, style: null}]})"


@pytest.fixture
def hub() -> Iterator[Hub]:
    config = HubConfig(
        outbox_messages=100_000,
        channel_authoriser=lambda client, channel: channel != "secret",
    )
    with Hub(config) as hub:
        yield hub


Show = Callable[..., str]


@pytest.fixture
def show(page: Page, hub: Hub) -> Iterator[Show]:
    """Open a page with this in its body."""
    shown = {"body": LOG, "scheme": "light dark"}

    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        kind, text = ("text/html", HTML % shown["body"])
        if environ["PATH_INFO"] == "/own.css":
            kind, text = ("text/css", CSS % shown["scheme"])
        headers = [("Content-Type", kind), ("Content-Security-Policy", POLICY)]
        start_response("200 OK", headers)
        return [text.encode()]

    with serve(hub, port=0, app=page_app(hub, fallback=app)) as server:

        def go(body: str = LOG, scheme: str = "light dark") -> str:
            shown.update(body=body, scheme=scheme)
            url = f"http://127.0.0.1:{server.port}/elsewhere"
            page.open(url)
            page.wait_for("customElements.get('ws-hub-log') !== undefined")
            return url

        yield go


def has(number: int) -> str:
    """So many are there, and the last one is in view."""
    return f"{rows.number(SCROLLER)} === {number} && {SHOWN}.at(-1) === {LINES}.at(-1)"


def print_lines(hub: Hub, start: int, stop: int) -> None:
    hub.send_process_lines("build", [f"line {number}" for number in range(start, stop)])


def test_one_line_shows_a_log_with_its_colours_and_its_end(
    page: Page, hub: Hub, show: Show
) -> None:
    hub.send_process_status("build", "running")
    hub.send_process_output("build", "\x1b[31mred\x1b[0m \x1b[38;5;208morange\x1b[0m")
    hub.send_process_output("build", "10%\r")
    hub.send_process_output("build", "<b>100%</b>")
    show()
    page.wait_for(f"{SHOWN}.join() === 'red orange,<b>100%</b>'")
    assert page.eval(f"getComputedStyle({ROOT}.querySelector('.fg-1')).color") == "rgb(196, 38, 46)"
    page.eval(
        "document.querySelector('ws-hub-log')"
        ".addEventListener('status', ({detail}) => (window.status = detail.exitCode))"
    )
    hub.send_process_status("build", "exited", 3)
    page.wait_for(f"{NOTES}.at(-1)?.startsWith('exited 3')")
    assert page.eval("window.status") == "3"
    assert page.eval(f"{ROOT}.querySelector('#say').textContent") == "build exited 3"


def test_it_follows_the_end_until_the_reader_scrolls_up(page: Page, hub: Hub, show: Show) -> None:
    print_lines(hub, 0, 200)
    show()
    page.wait_for(f"{has(200)} && {AT_END}")
    assert page.eval(f"{MORE}.hidden")
    page.wheel(100, 100, -500)
    page.wait_for(f"!{MORE}.hidden")
    print_lines(hub, 200, 250)
    page.wait_for(f"{MORE}.textContent === '↓ 50 new lines'")
    assert not page.eval(AT_END)
    page.eval(f"{MORE}.click()")
    page.wait_for(f"{MORE}.hidden && {AT_END}")


def test_it_keeps_so_many_lines(page: Page, hub: Hub, show: Show) -> None:
    print_lines(hub, 0, 50)
    show('<ws-hub-log channel="process:build" lines="100" numbers></ws-hub-log>')
    page.wait_for(has(50))
    print_lines(hub, 50, 1000)
    page.wait_for(f"{LINES}.at(-1) === 'line 999'")
    page.wait_for(f"{LINES}.length > 80 && {LINES}.length <= 100")


def test_all_lines_are_selected_and_copied(page: Page, hub: Hub, show: Show) -> None:
    print_lines(hub, 0, 1000)
    show("<p>before</p>" + LOG + "<p>behind</p>")
    page.wait_for(has(1000))
    page.eval(f"{SCROLLER}.focus()")
    page.key("a", control=True)
    copied = page.eval(
        "new Promise((done) => {"
        " document.addEventListener('copy', (event) =>"
        " done(event.clipboardData.getData('text/plain')));"
        " document.execCommand('copy'); })"
    )
    assert copied == "\n".join(f"line {number}" for number in range(1000))


@pytest.mark.parametrize(
    ("scheme", "dark", "ground"),
    [
        ("light dark", False, "rgb(255, 255, 255)"),
        ("light dark", True, "rgb(16, 18, 22)"),
        ("light", True, "rgb(255, 255, 255)"),
        ("dark", False, "rgb(16, 18, 22)"),
    ],
)
def test_the_theme_is_that_of_the_page_and_every_colour_can_be_read(
    page: Page, hub: Hub, show: Show, scheme: str, dark: bool, ground: str
) -> None:
    colours = "".join(f"\x1b[38;5;{number}m{number:4}" for number in range(256))
    hub.send_process_output("build", colours)
    page.theme(dark)
    show(LOG, scheme)
    page.wait_for(has(1))
    assert page.eval(f"getComputedStyle({SCROLLER}).backgroundColor") == ground
    lowest = page.eval(
        "import('/static/ansi.js').then(({contrast}) => {"
        " const rgb = (text) => text.match(/[0-9]+/g).map(Number);"
        f" const ground = rgb(getComputedStyle({SCROLLER}).backgroundColor);"
        f" return Math.min(...[...{ROOT}.querySelectorAll('.row span')].map("
        "   (span) => contrast(rgb(getComputedStyle(span).color), ground))); })"
    )
    assert lowest >= 4.5


def test_it_has_a_role_and_a_name(page: Page, hub: Hub, show: Show) -> None:
    print_lines(hub, 0, 200)
    show()
    page.wait_for(f"{has(200)} && {AT_END}")  # before that there is nothing to scroll
    page.wheel(100, 100, -500)
    page.wait_for(f"!{MORE}.hidden")
    page.call("Accessibility.enable")
    nodes = page.call("Accessibility.getFullAXTree")["nodes"]
    found = {
        node["role"]["value"]: node["name"]["value"]
        for node in nodes
        if not node.get("ignored") and node["role"]["value"] in ("log", "button")
    }
    assert found == {"log": "Output of build", "button": "↓ Follow"}
    page.key("Tab")
    assert page.eval(f"{ROOT}.activeElement.getAttribute('role')") == "log"


def test_logs_of_a_page_share_a_connection(page: Page, hub: Hub, show: Show) -> None:
    print_lines(hub, 0, 3)
    hub.send_process_output("test", "another")
    show(LOG + '<ws-hub-log channel="process:test"></ws-hub-log>')
    page.wait_for(has(3))
    page.wait_for(
        "document.querySelectorAll('ws-hub-log')[1].shadowRoot"
        ".querySelector('.row')?.textContent === 'another'"
    )
    assert len(hub.all_clients()) == 1
    page.eval("document.body.insertAdjacentHTML('beforeend', " + json.dumps(LOG) + ")")
    page.wait_for(
        "document.querySelectorAll('ws-hub-log')[2].shadowRoot"
        ".querySelectorAll('.row:not(.note)').length === 3"
    )
    assert len(hub.all_clients()) == 2  # a channel is subscribed to once a connection


def test_another_channel_takes_the_place_of_the_first_and_nothing_is_left(
    page: Page, hub: Hub, show: Show
) -> None:
    print_lines(hub, 0, 3)
    hub.send_process_output("test", "another")
    show()
    page.wait_for(has(3))
    page.eval("document.querySelector('ws-hub-log').setAttribute('channel', 'process:test')")
    page.wait_for(f"{LINES}.join() === 'another'")
    wait_until(lambda: not hub.has_subscribers("process:build"))
    page.eval("void (window.log = document.querySelector('ws-hub-log')).remove()")
    wait_until(lambda: not hub.all_clients())
    page.eval("document.body.append(log)")
    page.wait_for(f"{LINES}.join() === 'another'")


def test_a_lost_connection_is_said_and_what_was_missed_comes(
    page: Page, hub: Hub, show: Show
) -> None:
    print_lines(hub, 0, 3)
    show()
    page.wait_for(has(3))
    page.eval(
        f"new MutationObserver(() => (window.said = {ROOT}.querySelector('#state').textContent"
        f" || window.said)).observe({ROOT}.querySelector('#state'), {{childList: true}})"
    )
    (client,) = hub.all_clients()
    client.close()
    print_lines(hub, 3, 6)
    page.wait_for(has(6))
    assert page.eval(LINES) == [f"line {number}" for number in range(6)]
    assert page.eval("window.said") == "Connection lost, reconnecting…"
    assert page.eval(f"{ROOT}.querySelector('#state').textContent") == ""


def test_where_there_was_no_connection_yet_none_is_called_lost(page: Page, show: Show) -> None:
    show('<ws-hub-log url="/nowhere" channel="process:1"></ws-hub-log>')
    page.wait_for(f"{ROOT}.querySelector('#state').textContent.startsWith('No connection')")


def test_a_refusal_is_shown(page: Page, show: Show) -> None:
    show('<ws-hub-log channel="not a name"></ws-hub-log>')
    page.wait_for(f"{ROOT}.querySelector('#state').textContent.startsWith('The server refuses')")


# What is written wrong, how what the box says begins, and what it says further on.
WRONG = {
    "none": ("<ws-hub-log></ws-hub-log>", "No channel is named", 'channel="process:build-42"'),
    "empty": ('<ws-hub-log channel=""></ws-hub-log>', "No channel is named", "Write <ws-hub-log"),
    "bad name": (
        '<ws-hub-log channel="a b"></ws-hub-log>',
        "The server refuses a b: Subscribe: invalid channel name",
        "A-Z a-z 0-9 _ - . :",
    ),
    "bad id": (
        '<ws-hub-log channel="process:a:b"></ws-hub-log>',
        "The server refuses process:a:b: Subscribe: invalid process ID",
        "an ID has A-Z a-z 0-9 _ - . only",
    ),
    "pattern": (
        '<ws-hub-log channel="process:*"></ws-hub-log>',
        "The server refuses process:*: Subscribe: invalid process ID",
        "A * makes it a pattern",
    ),
    "forbidden": (
        '<ws-hub-log channel="secret"></ws-hub-log>',
        "The server refuses secret: Subscribe: subscription unauthorised",
        "unauthorised",
    ),
    "too long": (
        f'<ws-hub-log channel="{"x" * 5000}"></ws-hub-log>',
        "Cannot show xxx",
        "over 4096 characters",
    ),
    "no URL": (
        '<ws-hub-log url="http://" channel="news"></ws-hub-log>',
        'Cannot show news: url="http://" is no address of a hub',
        'such as "/ws"',
    ),
    "another scheme": (
        '<ws-hub-log url="ftp://a/" channel="news"></ws-hub-log>',
        "There can be no connection",
        "ftp",
    ),
}


@pytest.mark.parametrize(("body", "begin", "further"), WRONG.values(), ids=WRONG)
def test_what_is_wrong_stands_in_the_box_and_on_the_console(
    page: Page, show: Show, body: str, begin: str, further: str
) -> None:
    show(body)
    page.wait_for(f"{STATE}.startsWith({json.dumps(begin)})")
    said = page.eval(STATE)
    assert further in said
    assert any(f"ws-hub-log: {said}" in each for each in page.warnings())


def test_a_number_of_lines_that_is_none_is_a_warning(page: Page, hub: Hub, show: Show) -> None:
    print_lines(hub, 0, 3)
    show('<ws-hub-log channel="process:build" lines="many"></ws-hub-log>')
    page.wait_for(has(3))
    (said,) = page.warnings()
    assert said.startswith('ws-hub-log: lines="many" is no number of lines: 5000 are kept')


def test_an_empty_log_says_what_it_waits_for_until_it_comes(
    page: Page, hub: Hub, show: Show
) -> None:
    show()
    page.wait_for(f"{STATE} === 'Waiting for output of build…' && {KIND} === 'quiet'")
    hub.send_process_status("build", "running")
    print_lines(hub, 0, 1)
    page.wait_for(f"{has(1)} && {STATE} === ''")
    page.eval("document.querySelector('ws-hub-log').channel = 'news'")
    page.wait_for(f"{STATE} === 'Waiting for messages in news…'")
    hub.send_event("saved", 1, channel="news")
    page.wait_for(f"{has(1)} && {STATE} === ''")
    assert page.warnings() == []
    page.eval("document.querySelector('ws-hub-log').channel = null")
    page.wait_for(f"{STATE}.startsWith('No channel')")


def test_a_program_without_output_ends_the_wait(page: Page, hub: Hub, show: Show) -> None:
    show()
    page.wait_for(f"{STATE}.startsWith('Waiting')")
    hub.send_process_status("build", "exited", 0)
    page.wait_for(f"{NOTES}.length === 1 && {STATE} === ''")


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("body", [LOG, WRONG["none"][0], WRONG["forbidden"][0]])
def test_what_the_box_says_can_be_read_in_both_themes(
    page: Page, show: Show, dark: bool, body: str
) -> None:
    page.theme(dark)
    show(body)
    page.wait_for(f"{STATE} !== ''")
    contrast = page.eval(
        "import('/static/ansi.js').then(({contrast}) => {"
        " const rgb = (text) => text.match(/[0-9]+/g).map(Number);"
        f" const {{color, backgroundColor}} = getComputedStyle({ROOT}.querySelector('#state'));"
        " return contrast(rgb(color), rgb(backgroundColor)); })"
    )
    assert contrast >= 4.5


def test_a_client_of_the_page_that_is_not_connected_is_told_of(
    page: Page, hub: Hub, show: Show
) -> None:
    print_lines(hub, 0, 3)
    show("<p>nothing yet</p>")
    page.eval(
        """import("/ws_hub.js").then(({HubClient}) => {
          const log = document.createElement("ws-hub-log");
          window.client = new HubClient("/ws");
          log.client = client;
          log.channel = "process:build";
          document.body.append(log);
        })"""
    )
    page.wait_for(f"{STATE}.includes('call its connect()')")
    page.eval("client.connect()")
    page.wait_for(f"{has(3)} && {STATE} === ''")
    page.eval("client.close()")
    page.wait_for(f"{STATE} === 'The connection is closed.'")


def test_a_channel_that_the_pages_client_has_already_is_told_of(page: Page, show: Show) -> None:
    show("<ws-hub-log></ws-hub-log>")
    page.eval(
        """import("/ws_hub.js").then(({HubClient}) => {
          const log = document.querySelector("ws-hub-log");
          const client = HubClient.fromPage({url: "/ws"});
          client.subscribe("news", () => {});
          Object.assign(log, {client, channel: "news"});
        })"""
    )
    page.wait_for(f"{STATE}.startsWith('Cannot show news: news is subscribed to already')")


@pytest.mark.parametrize("wrong", ["'/ws'", "{}", "7", "''"])
def test_a_client_that_is_none_is_refused_at_once(page: Page, show: Show, wrong: str) -> None:
    show()
    said = page.eval(
        f"try {{ document.querySelector('ws-hub-log').client = {wrong} }}"
        " catch (error) { `${error.name}: ${error.message}` }"
    )
    assert said.startswith("TypeError: client must be a HubClient")


def test_what_a_page_sets_before_the_element_is_defined_counts(
    page: Page, hub: Hub, show: Show
) -> None:
    print_lines(hub, 0, 3)
    show("<p>nothing yet</p>")
    page.eval(
        """{
          const frame = document.createElement("iframe");
          document.body.append(frame);  // a document in which nothing is defined
          const log = frame.contentDocument.createElement("ws-hub-log");
          log.channel = "process:build";
          document.body.append(log);
          customElements.upgrade(log);
        }"""
    )
    page.wait_for(has(3))


def test_a_page_may_lend_it_a_client_of_its_own(page: Page, hub: Hub, show: Show) -> None:
    show("<ws-hub-log></ws-hub-log>")
    page.eval(
        """import("/ws_hub.js").then(({HubClient}) => {
          const log = document.querySelector("ws-hub-log");
          window.client = HubClient.fromPage({url: "/ws"});
          log.client = client;
          log.setAttribute("channel", "news");
        })"""
    )
    wait_until(lambda: hub.has_subscribers("news"))
    hub.send_to_channel("news", Message("event", data={"event": "saved", "data": 1}))
    page.wait_for(f"{LINES}.some((line) => line.endsWith('saved 1'))")
    page.eval("void document.querySelector('ws-hub-log').remove()")
    wait_until(lambda: not hub.has_subscribers("news"))
    assert page.eval("client.state") == "connected"


def test_a_phone_shows_it_without_scrolling_sideways(
    page: Page, hub: Hub, show: Show, tmp_path: Path
) -> None:
    for number in range(30):
        hub.send_process_output("build", f"{number} " + "a long line of words " * 10)
    page.resize(375, 812, scale=2, mobile=True)
    show()
    page.wait_for(has(30))
    assert page.eval("document.documentElement.scrollWidth") == 375
    assert page.eval(f"{SCROLLER}.scrollWidth <= {SCROLLER}.clientWidth")


def test_fault_80_lines_that_change_later_stay_in_their_rows(
    page: Page, hub: Hub, show: Show
) -> None:
    hub.send_process_status("build", "running")
    show()
    page.wait_for(f"{STATE}.startsWith('Waiting') || {LINES}.length === 0")
    hub.send_process_lines("build", ["a: 0", "b: 0", "a: 1\r"], numbers=[1, 2, 1])
    page.wait_for(f"{LINES}.join() === 'a: 1,b: 0'")
    hub.send_process_lines("build", ["d", "c", "a: 2", "50%\r"], numbers=[4, 3, 1, 0])
    page.wait_for(f"{LINES}.join() === 'a: 2,b: 0,c,d'")
    status = f"{ROOT}.querySelector('.status-row')"
    assert page.eval(f"{status}.textContent") == "50%"
    numbers = f"[...{ROOT}.querySelectorAll('.row:not(.note)')].map((row) => row.dataset.n).join()"
    page.wait_for(f"{numbers} === '1,2,3,4'")  # at the next frame
    hub.send_process_status("build", "exited", 0)
    page.wait_for(f"{status}.hidden && {NOTES}.at(-1)?.startsWith('exited 0')")
    hub.send_process_status("build", "running")
    hub.send_process_lines("build", ["again"], numbers=[1])
    page.wait_for(f"{LINES}.join() === 'a: 2,b: 0,c,d,again'")


def test_fault_78_a_page_that_opens_late_shows_the_newest_state(
    page: Page, hub: Hub, show: Show
) -> None:
    hub.send_process_lines("build", ["one", "1%\r", "2%\r"], numbers=[1, 2, 2])
    show()
    page.wait_for(f"{LINES}.join() === 'one,2%'")
    hub.send_process_lines("build", ["done"], numbers=[2])
    page.wait_for(f"{LINES}.join() === 'one,done'")


def test_times_of_the_element_are_the_servers_and_stderr_has_a_mark(
    page: Page, hub: Hub, show: Show
) -> None:
    start = 1_771_550_276.5
    times = [start, start + 61.25]
    hub.send_process_lines("build", ["one", "two"], stream="stderr", times=times)
    shown = f"[...{ROOT}.querySelectorAll('.row .gutter')].map((each) => each.dataset.t)"
    show('<ws-hub-log channel="process:build" times="elapsed"></ws-hub-log>')
    page.wait_for(f"{shown}.join() === '0:00:00.000,0:01:01.250'")
    assert page.eval(f"{ROOT}.querySelectorAll('.row.stderr .said').length") == 2
    log = "document.querySelector('ws-hub-log')"
    page.eval(f"{log}.setAttribute('times', 'delta')")
    page.wait_for(f"{shown}.join() === '+0.000,+61.250'")
    page.eval(f"{log}.setAttribute('times', '')")
    page.wait_for(f"/^[0-9:]{{8}}.500,[0-9:]{{8}}.750$/.test({shown}.join())")
    page.eval(f"{log}.removeAttribute('times')")
    page.wait_for(f"{shown}.join() === ','")


def test_the_element_folds_groups_and_lists_problems(page: Page, hub: Hub, show: Show) -> None:
    for line in ("::group::A", "x", "::endgroup::", "+++ B", "src/a.c:3:1: error: y"):
        hub.send_process_output("build", line)
    rows_shown = f"[...{ROOT}.querySelectorAll('.row .text')].map((text) => text.textContent)"
    source = 'source-url="https://code.example/{file}?l={line}"'
    show(f'<ws-hub-log channel="process:build" groups="folded" problems {source}></ws-hub-log>')
    page.wait_for(f"{rows_shown}.join() === '::group::A,+++ B'")
    page.wait_for(f"{ROOT}.querySelector('.problems summary').textContent === '1 error '")
    page.eval(f"{ROOT}.querySelector('.problems').open = true")
    page.wait_for(
        f"{ROOT}.querySelector('.problems .place')?.href === 'https://code.example/src/a.c?l=3'"
    )
    page.eval(f"{ROOT}.querySelector('.problems li button').click()")
    page.wait_for(f"{rows_shown}.at(-1) === 'src/a.c:3:1: error: y'")
    assert (
        page.eval(f"{ROOT}.querySelector('.row .out').href") == "https://code.example/src/a.c?l=3"
    )
    page.eval("document.querySelector('ws-hub-log').setAttribute('groups', 'open')")
    page.wait_for(f"{rows_shown}.length === 5")


def test_the_element_says_what_is_wrong_with_groups_and_sources(
    page: Page, hub: Hub, show: Show
) -> None:
    hub.send_process_output("build", "a.c:1:1: error: x")
    wrong = 'groups="some" source-url="javascript:{file}"'
    show(f'<ws-hub-log channel="process:build" {wrong}></ws-hub-log>')
    page.wait_for(has(1))
    assert page.eval(f"{ROOT}.querySelector('.problems').getBoundingClientRect().height") == 0
    assert page.eval(f"{ROOT}.querySelectorAll('.row a.out').length") == 0
    warnings = page.warnings()
    assert any("none of marked, open, folded" in each for each in warnings)
    assert any("no http or https address" in each for each in warnings)


def test_a_group_whose_title_was_let_go_hides_nothing(page: Page, hub: Hub, show: Show) -> None:
    show('<ws-hub-log channel="process:build" lines="10" groups="folded"></ws-hub-log>')
    hub.send_process_output("build", "::group::A")
    page.wait_for(f"{ROOT}.querySelector('.fold')?.ariaExpanded === 'false'")
    for start in range(0, 30, 10):  # each in a frame of its own, one in which the title goes
        print_lines(hub, start, start + 10)
        page.wait_for(f"{LINES}.at(-1) === 'line {start + 9}'")
        page.eval("new Promise(requestAnimationFrame)")
    page.wait_for(f"{SHOWN}.length > 5 && {SHOWN}.at(-1) === 'line 29'")
    assert page.eval(f"{ROOT}.querySelector('.fold')") is None


def test_a_row_that_comes_within_a_folded_group_is_hidden(page: Page, hub: Hub, show: Show) -> None:
    show('<ws-hub-log channel="process:build" groups="folded"></ws-hub-log>')
    for line in ("::group::A", "x", "y", "::endgroup::", "z"):
        hub.send_process_output("build", line)
    page.wait_for(f"{SHOWN}.at(-1) === 'z'")
    text = f"[...{ROOT}.querySelectorAll('.row .text')].map((text) => text.textContent)"
    row = "{runs: [{text: 'within', style: null}]}"
    page.eval(f"{SCROLLER}.logView.insert({row}, {SCROLLER}.logView.store.find(3))")
    page.wait_for(f"{LINES}.length === 6")
    page.eval("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")
    assert page.eval(text) == ["::group::A", "z"]
    page.eval(f"{ROOT}.querySelector('.fold').click()")
    page.wait_for(f"{text}.length === 6")


def test_a_gap_is_never_within_a_folded_group(page: Page, hub: Hub, show: Show) -> None:
    show('<ws-hub-log channel="process:build" groups="folded"></ws-hub-log>')
    hub.send_process_output("build", "::group::A")
    hub.send_process_output("build", "x")
    page.wait_for(f"{ROOT}.querySelector('.fold')?.ariaExpanded === 'false'")
    gap = "{kind: 'note', gap: true, runs: [{text: 'a gap', style: null}]}"  # as feed.js adds it
    page.eval(f"{SCROLLER}.logView.append({gap})")
    hub.send_process_output("build", "y")
    page.wait_for(f"{SHOWN}.at(-1) === 'y'")
    rows_shown = f"[...{ROOT}.querySelectorAll('.row .text')].map((text) => text.textContent)"
    assert page.eval(rows_shown) == ["::group::A", "a gap", "y"]


@pytest.mark.parametrize("end", [[], ["::endgroup::", "behind"]])
def test_a_group_whose_title_goes_before_it_is_drawn_hides_nothing(
    page: Page, hub: Hub, show: Show, end: list[str]
) -> None:
    show('<ws-hub-log channel="process:build" lines="10" groups="folded"></ws-hub-log>')
    lines = ["::group::A", *(f"line {number}" for number in range(30)), *end]
    page.eval(f"{json.dumps(lines)}.map({ROW}).forEach((row) => {SCROLLER}.logView.append(row))")
    page.wait_for(f"{SHOWN}.length > 5 && {SHOWN}.at(-1) === {json.dumps(lines[-1])}")
    assert page.eval(f"{SHOWN}.length === {LINES}.length")


def test_a_title_that_changes_before_it_is_drawn_hides_nothing(
    page: Page, hub: Hub, show: Show
) -> None:
    show('<ws-hub-log channel="process:build" groups="folded"></ws-hub-log>')
    page.eval(
        f"const [title, ...rows] = ['::group::A', 'x', 'y'].map({ROW}), view = {SCROLLER}.logView;"
        f"const id = view.append(title); rows.forEach((row) => view.append(row));"
        f"view.replace(id, ({ROW})('no title'))"
    )
    page.wait_for(f"{SHOWN}.join() === 'no title,x,y'")


def test_the_note_of_lines_that_were_loaded_stays_away_when_groups_unfold(
    page: Page, hub: Hub, show: Show
) -> None:
    show('<ws-hub-log channel="process:build" groups="folded"></ws-hub-log>')
    page.eval(
        f"const view = {SCROLLER}.logView, row = {ROW};"
        "for (const text of ['::group::A', 'x']) view.append(row(text));"
        "const id = view.append({kind: 'note', gap: true, runs: [{text: 'a gap', style: null}]});"
        "view.append(row('y')); view.loaded(id)"
    )
    rows_shown = f"[...{ROOT}.querySelectorAll('.row .text')].map((text) => text.textContent)"
    page.wait_for(f"{rows_shown}.join() === '::group::A,y'")
    page.eval(f"{ROOT}.querySelector('.fold').click()")
    page.wait_for(f"{rows_shown}.length > 2")
    assert page.eval(rows_shown) == ["::group::A", "x", "y"]
