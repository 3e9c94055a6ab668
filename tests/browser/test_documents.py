"""The snippets of docs/browser.md, in a browser and under Node, as they stand there."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests import node
from tests.browser.chromium import Page
from tests.support import TIMEOUT, wait_until
from tests.test_snippets import ROOT, Snippet, snippets
from ws_hub import APIKeyAuth, ChannelRule, Client, Hub, HubConfig, HubError, Message, serve
from ws_hub.page import page_app

pytestmark = [pytest.mark.browser, pytest.mark.timeout(180)]  # npm may have to install

FOUND = {
    each.mark: each for each in snippets("js", "html") if each.path == ROOT / "docs" / "browser.md"
}
# A snippet runs as a module of its own, on a page that shows what it is given.
PAGE = '<!doctype html><title>x</title><script src="/show.js"></script>%s'
SHOW = "const shown = [], show = (what) => shown.push(what); const said = console.log;"
SHOW += "console.log = (...what) => { show(...what); said(...what); };"


class Place:
    """A hub with a page for one snippet."""

    def __init__(self, snippet: Snippet) -> None:
        self.published = threading.Event()
        self.received: list[tuple[str, Any]] = []
        rules = (
            ChannelRule(pattern="news", history_messages=100),
            ChannelRule(pattern="chat:*", publish=True),
        )
        authenticator = APIKeyAuth({"secret": "ann"}) if snippet.mark == "token" else None
        self.hub = Hub(HubConfig(rules=rules, on_message=self.answer, authenticator=authenticator))
        body = '<script type="module" src="/snippet.js"></script>'
        if snippet.language == "html":
            body = snippet.code
        self._files = {
            "/here": ("text/html", PAGE % body),
            "/show.js": ("text/javascript", SHOW),
            "/snippet.js": ("text/javascript", f"{snippet.code}\nshow.ended = true;\n"),
            "/token": ("text/plain", "secret"),
        }

    def answer(self, client: Client, message: Message) -> Any:
        self.received.append((message.type, message.data))
        return {"price": 12}.get(message.type)

    def app(self, environ: dict[str, Any], start_response: Any) -> list[bytes]:
        kind, text = self._files[environ["PATH_INFO"]]
        start_response("200 OK", [("Content-Type", kind)])
        return [text.encode()]


@pytest.fixture
def place(request: pytest.FixtureRequest, page: Page) -> Iterator[Place]:
    place = Place(FOUND[request.param])
    with place.hub, serve(place.hub, port=0, app=page_app(place.hub, fallback=place.app)) as server:
        place.hub.listen("chat:lobby", lambda message: place.published.set())
        if request.param == "history":
            told(place.hub, "news", *range(120))
            assert place.hub.wait_for_room("news")
        page.open(f"http://127.0.0.1:{server.port}/here")
        yield place


def told(hub: Hub, channel: str, *data: Any) -> None:
    for each in data:
        hub.send_to_channel(channel, Message("event", data=each))


def only(name: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("place", [name], indirect=True)


@only("client")
def test_the_client(page: Page, place: Place) -> None:
    place.hub.send_process_output("build-42", "compiled")
    page.wait_for("shown.includes('compiled')")


@only("subscribe")
def test_a_subscription(page: Page, place: Place) -> None:
    page.wait_for("show.ended")
    wait_until(lambda: place.hub.all_clients() and not place.hub.has_subscribers("news"))
    assert page.eval("shown") == []


@only("loop")
def test_a_loop(page: Page, place: Place) -> None:
    wait_until(lambda: place.hub.has_subscribers("news"))
    told(place.hub, "news", "one", "the end", "more")
    page.wait_for("shown.join() === 'one,the end'")
    wait_until(lambda: not place.hub.has_subscribers("news"))


@only("request")
def test_a_request(page: Page, place: Place) -> None:
    assert place.published.wait(TIMEOUT)
    page.wait_for("show.ended")
    assert page.eval("shown") == []


@only("history")
def test_the_history_page_by_page(page: Page, place: Place) -> None:
    page.wait_for("show.ended")  # with the page that is empty
    assert page.eval("shown") == list(range(119, 19, -1))  # as many as are kept


@only("asks")
def test_what_the_server_asks(page: Page, place: Place) -> None:
    received = wait_until(lambda: place.received)
    assert received == [("seen", "/here")]
    (client,) = place.hub.all_clients()
    width, height = place.hub.ask(client, "size", TIMEOUT)
    assert width > 0 and height > 0
    with pytest.raises(HubError, match="no such question") as refused:
        place.hub.ask(client, "mood", TIMEOUT)
    assert refused.value.code == "not_found"


@only("events")
def test_events(page: Page, place: Place) -> None:
    wait_until(lambda: place.hub.has_subscribers("files"))
    place.hub.send_event("saved", {"path": "a.txt"}, channel="files")
    place.hub.send_event("saved", {"path": "b.txt"})
    page.wait_for("shown.join() === 'connected,a.txt,b.txt'")


@only("token")
def test_a_token(page: Page, place: Place) -> None:
    (client,) = wait_until(place.hub.all_clients)
    assert client.user_id == "ann"


@only("shared")
def test_a_shared_connection(page: Page, place: Place) -> None:
    wait_until(place.hub.all_clients)
    assert page.close_workers() == 1


@only("element")
def test_the_element(page: Page, place: Place) -> None:
    place.hub.send_process_output("build-42", "compiled")
    row = "document.querySelector('ws-hub-log').shadowRoot?.querySelector('.row')?.textContent"
    page.wait_for(f"{row} === 'compiled'")


def test_the_program_for_node(tmp_path: Path) -> None:
    place = Place(FOUND["node"])
    with place.hub, serve(place.hub, port=0) as server:
        program = FOUND["node"].code.replace("ws://127.0.0.1:8765/ws", server.url)
        assert node.run(node.prepare(tmp_path), program) == 12


def test_every_snippet_of_the_page_is_run() -> None:
    assert set(FOUND) == {
        *("client", "subscribe", "loop", "request", "history", "asks", "events", "token"),
        *("shared", "node", "element"),
    }
