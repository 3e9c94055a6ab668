"""A Chromium for all tests of this directory, a tab and a served hub for each."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.browser.chromium import Browser, Page, find_chromium
from tests.support import free_port
from ws_hub.config import ChannelRule, HubConfig
from ws_hub.hub.hub import Hub
from ws_hub.server.server import Server, serve
from ws_hub.server.viewer import page_app


class Site:
    """A hub, its server and its page on one port, which can go and come back."""

    def __init__(self, channel: str = "", *, history: int = 0, **settings: Any) -> None:
        self._channel = channel
        # Room for all of a burst: how much a slow page may miss is not what most tests look at.
        self._settings = {"outbox_messages": 200_000, "outbox_bytes": 2**26, **settings}
        if history:
            kept = ChannelRule("process:*", history_messages=history, history_bytes=400 * history)
            self._settings["rules"] = [kept]
        self._port = free_port()
        self.open()

    def open(self) -> None:
        self.hub = Hub(HubConfig(**self._settings))
        self.server: Server = serve(
            self.hub, port=self._port, app=page_app(self.hub, channel=self._channel)
        )
        self.url = f"http://127.0.0.1:{self._port}/"

    def close(self) -> None:
        self.server.close()


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    binary = find_chromium()
    if binary is None:
        pytest.skip("no Chromium on this machine (CHROMIUM=/path/to/chromium names one)")
    browser = Browser(binary)
    yield browser
    browser.close()


@contextlib.contextmanager
def tab(browser: Browser, beside: Page | None = None) -> Iterator[Page]:
    """Yield a tab, which must have nothing to complain of in the end."""
    with Page(browser, beside=beside) as page:
        yield page
        assert page.complaints() == []


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    with tab(browser) as page:
        yield page


@pytest.fixture
def second_page(browser: Browser) -> Iterator[Page]:
    with tab(browser) as page:
        yield page


@pytest.fixture
def make_site() -> Iterator[Callable[..., Site]]:
    made: list[Site] = []

    def make(channel: str = "", **options: Any) -> Site:
        made.append(Site(channel, **options))
        return made[-1]

    yield make
    for site in made:
        site.close()


@pytest.fixture
def site(make_site: Callable[[str], Site]) -> Site:
    return make_site("process:build")
