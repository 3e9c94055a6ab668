"""`HubClient.fromPage`: where it connects to, and what it looks after."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.browser.chromium import Page
from tests.support import wait_until
from ws_hub import Hub, middleware, serve
from ws_hub.page import page_app

pytestmark = pytest.mark.browser

Open = Callable[..., str]


@pytest.fixture
def hub() -> Iterator[Hub]:
    with Hub() as hub:
        yield hub


@pytest.fixture
def open_page(page: Page, hub: Hub) -> Iterator[Open]:
    """Open a page with this in its head, of an application below a prefix."""
    head = ""

    def elsewhere(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        start_response("200 OK", [("Content-Type", "text/html")])
        return [f"<!doctype html><title>x</title>{head}".encode()]

    pages = middleware(page_app(hub, fallback=elsewhere), hub, path="/ws")
    pages = middleware(pages, hub, path="/live")

    def app(environ: dict[str, Any], start_response: Any) -> Any:
        if environ["PATH_INFO"].startswith("/tools/"):
            environ["PATH_INFO"] = environ["PATH_INFO"].removeprefix("/tools")
            environ["SCRIPT_NAME"] = "/tools"
        return pages(environ, start_response)

    with serve(hub, port=0, app=app) as server:
        place = f"127.0.0.1:{server.port}"

        def go(new_head: str = "", script: str = "/ws_hub.js", options: str = "{}") -> str:
            nonlocal head
            head = new_head
            page.open(f"http://{place}/deep/page")
            url: str = page.eval(
                f"import('{script}').then(({{HubClient}}) =>"
                f" (window.client = HubClient.fromPage({options})).url)"
            )
            return url.removeprefix(f"ws://{place}")

        yield go


def test_it_connects_beside_the_file(page: Page, hub: Hub, open_page: Open) -> None:
    assert open_page() == "/ws"
    page.wait_for("client.state === 'connected'")
    assert open_page(script="/tools/ws_hub.js") == "/tools/ws"


def test_the_page_or_an_option_names_another_place(page: Page, open_page: Open) -> None:
    meta = '<meta name="ws-hub" content="/live">'
    assert open_page(meta) == "/live"
    page.wait_for("client.state === 'connected'")
    assert open_page('<meta name="ws-hub" content="live">') == "/deep/live"
    assert open_page(meta, options="{url: '/other'}") == "/other"


def test_it_comes_back_at_once_when_the_network_does(page: Page, hub: Hub, open_page: Open) -> None:
    open_page(options="{initialBackoff: 1e6, maxBackoff: 1e6, random: () => 1}")
    page.wait_for("client.state === 'connected'")
    (client,) = hub.all_clients()
    client.close()
    page.wait_for("client.state === 'waiting'")
    page.eval("dispatchEvent(new Event('online')) && undefined")
    page.wait_for("client.state === 'connected'")
    wait_until(lambda: len(hub.all_clients()) == 1)
