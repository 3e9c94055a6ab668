"""`<ws-hub-log>` on a page that is not ours, under a strict content security policy."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

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
LINES = f"[...{ROOT}.querySelectorAll('.row:not(.note)')].map((row) => row.textContent)"
NOTES = f"[...{ROOT}.querySelectorAll('.row.note')].map((row) => row.textContent)"
SCROLLER = f"{ROOT}.querySelector('[role=log]')"
AT_END = f"{SCROLLER}.scrollHeight - {SCROLLER}.scrollTop - {SCROLLER}.clientHeight <= 4"
MORE = f"{ROOT}.querySelector('button')"


@pytest.fixture
def hub() -> Iterator[Hub]:
    with Hub(HubConfig(outbox_messages=100_000)) as hub:
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
    return f"{LINES}.length === {number}"


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
    page.wait_for(has(2))
    assert page.eval(LINES) == ["red orange", "<b>100%</b>"]
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
