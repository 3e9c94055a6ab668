"""One connection for several tabs: real tabs, a real SharedWorker, a real hub."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests import node
from tests.browser.chromium import Browser, Page
from tests.browser.conftest import tab
from tests.integration.gohub import GoHub
from tests.support import wait_until
from ws_hub import APIKeyAuth, ChannelRule, Hub, HubConfig, Message, serve
from ws_hub.page import page_app

pytestmark = pytest.mark.browser

CONFIG = HubConfig(rules=(ChannelRule(pattern="kept", history_messages=10_000),))
# A client of a tab, and what it has seen.
CLIENT = """
    import("/ws_hub.js").then(({HubClient}) => {
      const seen = [], told = [], states = [], events = [];
      const client = HubClient.fromPage({initialBackoff: 20, maxBackoff: 40, ...%s});
      client.on("state", ({state}) => states.push(state));
      client.on("message", (message) => events.push(message.data));
      const watch = (channel, options) => client.subscribe(channel, (m) => seen.push(m.data), {
        onSync: (info) => told.push(["sync", info.replayed, info.missed]),
        onGap: (count) => told.push(["gap", count]),
        onError: (message) => told.push(["error", message.code]),
        ...options,
      });
      Object.assign(window, {client, seen, told, states, events, watch});
    })
"""


@pytest.fixture
def hub() -> Iterator[Hub]:
    with Hub(CONFIG) as hub:
        yield hub


@pytest.fixture
def url(hub: Hub) -> Iterator[str]:
    with serve(hub, port=0, app=page_app(hub)) as server:
        yield f"http://127.0.0.1:{server.port}/static/icon.svg"


@pytest.fixture
def first(page: Page, url: str) -> Page:
    return start(page, url)


@pytest.fixture
def second(browser: Browser, first: Page, url: str) -> Iterator[Page]:
    with tab(browser, beside=first) as page:
        yield start(page, url)


def start(page: Page, place: str, /, **options: object) -> Page:
    page.open(place)
    page.eval(CLIENT % json.dumps({"shared": True, **options}))
    page.wait_for("client.state === 'connected'")
    return page


def publish(hub: Hub, *numbers: int, channel: str = "kept") -> None:
    for number in numbers:
        hub.send_to_channel(channel, Message("event", data=number))


def has(*numbers: int) -> str:
    return f"JSON.stringify(seen) === {json.dumps(json.dumps(numbers, separators=(',', ':')))}"


def test_two_tabs_have_one_connection_and_each_gets_each_message(
    hub: Hub, first: Page, second: Page
) -> None:
    for page in (first, second):
        page.eval("watch('news').ready.then(() => {})")
    publish(hub, 1, 2, channel="news")
    hub.broadcast(Message("event", data="to all"))
    for page in (first, second):
        page.wait_for(has(1, 2))
        page.wait_for("events.join() === 'to all'")
    assert len(hub.all_clients()) == 1


def test_a_tab_that_closes_takes_nothing_from_the_others(
    browser: Browser, hub: Hub, first: Page, url: str
) -> None:
    with Page(browser, beside=first) as leader:
        start(leader, url)
        for page in (leader, first):
            page.eval("watch('kept', {since: 0}).ready.then(() => {})")
        publish(hub, *range(1, 50))
    publish(hub, *range(50, 100))
    first.wait_for("seen.length === 99")
    assert first.eval("seen") == list(range(1, 100))
    assert first.eval("[states, told]") == [["connected"], [["sync", 0, 0]]]
    assert len(hub.all_clients()) == 1


def test_a_later_tab_gets_the_history_and_the_others_none_of_it(
    hub: Hub, first: Page, second: Page
) -> None:
    first.eval("watch('kept').ready.then(() => {})")
    publish(hub, *range(1, 1001))
    first.wait_for("seen.length === 1000")
    second.eval("watch('kept', {since: 0}).ready.then(() => {})")
    publish(hub, 1001)
    for page in (first, second):
        page.wait_for("seen.length === 1001")
        assert page.eval("seen") == list(range(1, 1002))
    assert first.eval("told") == [["sync", 0, 0]]
    assert second.eval("told[0][2]") == 0


def test_a_channel_is_left_with_the_last_tab(hub: Hub, first: Page, second: Page) -> None:
    for page in (first, second):
        page.eval("(window.sub = watch('news')).ready.then(() => {})")
    first.eval("sub.close()")
    publish(hub, 1, channel="news")
    second.wait_for(has(1))
    second.eval("sub.close()")
    wait_until(lambda: not hub.has_subscribers("news"))
    assert first.eval("seen") == []


def test_a_lost_connection_comes_back_for_every_tab(hub: Hub, first: Page, second: Page) -> None:
    for page in (first, second):
        page.eval("watch('kept', {since: 0}).ready.then(() => {})")
    publish(hub, 1)
    second.wait_for(has(1))
    (client,) = hub.all_clients()
    client.close()
    publish(hub, 2)
    for page in (first, second):
        page.wait_for(has(1, 2))
    publish(hub, 3)
    for page in (first, second):
        page.wait_for(has(1, 2, 3))
        assert page.eval("states.includes('waiting')")
    assert len(hub.all_clients()) == 1


def test_a_worker_that_is_gone_is_noticed_and_replaced(
    browser: Browser, hub: Hub, page: Page, url: str
) -> None:
    options = {"pingInterval": 200, "pingTimeout": 200}
    start(page, url, **options)
    with Page(browser, beside=page) as other:
        start(other, url, **options)
        for tab in (page, other):
            tab.eval("watch('kept', {since: 0}).ready.then(() => {})")
        publish(hub, 1)
        other.wait_for(has(1))
        assert page.close_workers() == 1
        publish(hub, 2)
        for tab in (page, other):
            tab.wait_for(has(1, 2))
        wait_until(lambda: len(hub.all_clients()) == 1)


def test_requests_of_tabs_are_answered_to_the_tab_that_asked(page: Page, browser: Browser) -> None:
    def answer(client: object, message: Message) -> object:
        return ["answer", message.data]

    with (
        Hub(HubConfig(on_message=answer)) as hub,
        serve(hub, port=0, app=page_app(hub)) as server,
        Page(browser, beside=page) as other,
    ):
        for tab in (page, other):
            start(tab, f"http://127.0.0.1:{server.port}/static/icon.svg")
        assert page.eval("client.request('say', 'one')") == ["answer", "one"]
        assert other.eval("client.request('say', 'two')") == ["answer", "two"]
        refused = "client.publish('news', 1).catch((error) => [error.name, error.code])"
        assert page.eval(refused) == ["HubError", "forbidden"]
        assert other.eval("events") == []


def test_where_there_are_no_workers_a_tab_has_its_own_connection(
    browser: Browser, hub: Hub, page: Page
) -> None:
    pages = page_app(hub)

    def app(environ: dict[str, object], start_response: object) -> object:
        def answer(status: str, headers: list[tuple[str, str]]) -> object:
            policy = ("Content-Security-Policy", "worker-src 'none'")
            return start_response(status, [*headers, policy])  # type: ignore[operator]

        return pages(environ, answer)

    with serve(hub, port=0, app=app) as server, Page(browser, beside=page) as other:
        for tab in (page, other):
            start(tab, f"http://127.0.0.1:{server.port}/static/icon.svg")
            tab.eval("watch('news').ready.then(() => {})")
        publish(hub, 1, channel="news")
        for tab in (page, other):
            tab.wait_for(has(1))
        assert len(hub.all_clients()) == 2
        page.forget()  # the browser tells of the policy


def test_tabs_of_different_users_do_not_share(hub: Hub, first: Page, browser: Browser) -> None:
    with Page(browser, beside=first) as other:
        start(other, first.eval("location.href"), shared="user 7", token="secret")
        assert len(hub.all_clients()) == 2
        refused = """
            import("/ws_hub.js").then(({HubClient}) => {
              try { new HubClient("/ws", {shared: true, token: "secret"}); }
              catch (error) { return error.message; }
            })
        """
        assert "whose connection" in other.eval(refused)


def test_tabs_share_a_connection_to_a_go_hub(page: Page, browser: Browser, hub: Hub) -> None:
    def files(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        """The scripts without the policy of the viewer's page, which forbids other hosts."""
        name = environ["PATH_INFO"][1:]
        script = name.endswith(".js")
        kind = "text/javascript" if script else "text/html"
        start_response("200 OK", [("Content-Type", kind)])
        return [(node.STATIC / name).read_bytes() if script else b"<!doctype html>"]

    with (
        GoHub() as go,
        serve(hub, port=0, app=files) as server,
        Page(browser, beside=page) as other,
    ):
        for tab in (page, other):
            start(tab, f"http://127.0.0.1:{server.port}/", url=go.url)
            tab.eval("void (window.sub = watch('news'))")
        go.wait_subscribed("news")
        for tab in (page, other):  # what a tab has said before this is said
            tab.eval("client.wake()")
        assert go.clients == 1
        messages = [{"type": "event", "channel": "news", "data": n} for n in range(3)]
        go.send_to_channel("news", *messages)
        for tab in (page, other):
            tab.wait_for(has(0, 1, 2))
        page.eval("sub.close()")
        page.eval("client.wake()")
        go.send_to_channel("news", *messages)
        other.wait_for("seen.length === 6")
        other.eval("sub.close()")
        go.wait_unsubscribed("news")
        assert page.eval("seen.length") == 3


def test_a_token_that_is_a_message_is_sent_once_for_all_tabs(page: Page, browser: Browser) -> None:
    config = HubConfig(authenticator=APIKeyAuth({"secret": "ann"}), auth_by_message=True)
    with (
        Hub(config) as hub,
        serve(hub, port=0, app=page_app(hub)) as server,
        Page(browser, beside=page) as other,
    ):
        for tab in (page, other):
            options = {"shared": "ann", "token": "secret", "tokenIn": "message"}
            start(tab, f"http://127.0.0.1:{server.port}/static/icon.svg", **options)
            tab.eval("watch('news').ready.then(() => {})")
        publish(hub, 1, channel="news")
        for tab in (page, other):
            tab.wait_for(has(1))
        assert [client.user_id for client in hub.all_clients()] == ["ann"]


@pytest.mark.parametrize("seed", range(3))
def test_tabs_that_come_and_go_miss_nothing_and_get_nothing_twice(
    hub: Hub, page: Page, url: str, seed: int
) -> None:
    """Clients of one page, each of which is a tab to the worker, subscribe and leave at random."""
    page.open(url)
    page.eval(
        """import("/ws_hub.js").then(({HubClient}) => {
          let state = SEED * 7919 + 1;
          window.random = (n) => (state = (state * 48271) % 2147483647) % n;
          window.faults = [];
          window.tabs = Array.from({length: 5}, () => {
            const client = new HubClient("/ws", {shared: true, initialBackoff: 10, maxBackoff: 20});
            client.connect();
            return {client, subscription: null, last: 0, next: null};
          });
          window.turn = () => {
            for (const tab of tabs) {
              if (random(3)) continue;
              if (tab.subscription) {
                tab.subscription.close();
                tab.subscription = null;
                continue;
              }
              const options = [{since: 0}, {}, {last: 5}][random(3)];
              tab.next = options.since === 0 ? 1 : null;
              const fault = (...what) => faults.push([tabs.indexOf(tab), ...what]);
              tab.subscription = tab.client.subscribe("kept", ({data}) => {
                if (data !== (tab.next ?? data)) fault("expected", tab.next, "got", data);
                tab.next = data + 1;
              }, {...options, onGap: (n) => fault("gap", n)});
            }
          };
        })""".replace("SEED", str(seed))
    )
    page.wait_for("tabs.every(({client}) => client.state === 'connected')")
    number = 0
    for turn in range(40):
        page.eval("turn()")
        publish(hub, *range(number + 1, number + 51))
        number += 50
        if turn == 20:
            for client in hub.all_clients():
                client.close()
    page.eval("Promise.all(tabs.map(({subscription}) => subscription?.ready)).then(() => {})")
    publish(hub, number + 1)
    page.wait_for(f"tabs.every((tab) => !tab.subscription || tab.next === {number + 2})")
    assert page.eval("faults") == []
    wait_until(lambda: len(hub.all_clients()) == 1)


# --- filters -------------------------------------------------------------------------------


def log(hub: Hub, *levels: str, channel: str = "kept", key: str = "") -> None:
    for level in levels:
        hub.send_to_channel(channel, Message("log", data={"level": level}, key=key))


LEVELS = """JSON.stringify(seen.filter((data) => data.level !== "end").map((data) => data.level))"""


def until_end(hub: Hub, page: Page, channel: str = "kept") -> Any:
    """Publish what passes every filter, and wait for it; return the levels before that."""
    before = page.eval("seen.filter((data) => data.level === 'end').length")
    log(hub, "end", channel=channel)
    page.wait_for(f"seen.filter((data) => data.level === 'end').length === {before + 1}")
    return json.loads(page.eval(LEVELS))


def test_a_tab_with_a_filter_gets_what_passes_and_the_others_everything(
    hub: Hub, first: Page, second: Page
) -> None:
    log(hub, "error", "info")
    first.eval("watch('kept', {since: 0}).ready.then(() => {})")
    filter = "{since: 0, filter: {level: ['error', 'end']}}"
    second.eval(f"(window.sub = watch('kept', {filter})).ready.then(() => {{}})")
    log(hub, "info", "error", "debug")
    everything = ["error", "info", "info", "error", "debug"]
    assert until_end(hub, second) == ["error", "error"]
    first.wait_for("seen.length === 6")
    assert json.loads(first.eval(LEVELS)) == everything
    assert second.eval("sub.seq") == 6
    # Its connection comes back, and each tab goes on where it was.
    (client,) = hub.all_clients()
    client.close()
    log(hub, "info", "error", "info")
    assert until_end(hub, second) == ["error"] * 3
    first.wait_for("seen.length === 10")
    assert first.eval("told.filter(([what]) => what === 'gap')") == []
    assert second.eval("told.filter(([what, , missed]) => what === 'gap' || missed)") == []
    # A tab that closes its subscription has no filter any more.
    second.eval("sub.close(); seen.length = 0; watch('kept').ready.then(() => {})")
    log(hub, "info")
    assert until_end(hub, second) == ["info"]
    assert len(hub.all_clients()) == 1


def test_a_filter_without_history_and_a_bad_one_are_as_without_a_worker(
    hub: Hub, first: Page, second: Page
) -> None:
    second.eval("watch('news').ready.then(() => {})")
    first.eval("watch('news', {filter: {level: ['error', 'end', true]}}).ready.then(() => {})")
    hub.send_to_channel("news", Message("log", data={"level": 1}))
    hub.send_to_channel("news", Message("log", data="error"))
    hub.send_to_channel("news", Message("log", data=[{"level": "error"}]))
    log(hub, "info", "error", channel="news")
    assert until_end(hub, first, "news") == ["error"]
    second.wait_for("seen.length === 6")
    for bad in ("'error'", "{level: 'error'}", "{level: [{}]}", "{level: Array(65).fill(1)}"):
        first.eval(f"void (window.other = watch('other', {{filter: {bad}}}))")
        assert first.eval("other.ready.catch(({code}) => code)") == "bad_message", bad
        first.eval("other.close()")
    assert not hub.has_subscribers("other")


def test_a_tab_with_a_filter_has_the_keys_whose_state_passes(page: Page, browser: Browser) -> None:
    config = HubConfig(rules=(ChannelRule(pattern="board", keyed=True),))
    with (
        Hub(config) as hub,
        serve(hub, port=0, app=page_app(hub)) as server,
        Page(browser, beside=page) as other,
    ):
        for key, level in (("a", "error"), ("b", "info")):
            log(hub, level, channel="board", key=key)
        for tab, options in ((page, "{}"), (other, "{filter: {level: ['error']}}")):
            start(tab, f"http://127.0.0.1:{server.port}/static/icon.svg")
            tab.eval(f"""
                import("/ws_hub_state.js").then(({{KeyedState}}) => {{
                  window.changes = [];
                  window.state = new KeyedState(client, "board", (values, key) => {{
                    if (key) changes.push(key);
                  }}, {options});
                  window.keys = () => [...state.values.keys()].sort().join();
                }})
            """)
        page.wait_for("keys() === 'a,b'")
        other.wait_for("keys() === 'a'")
        for key, level in (("b", "error"), ("a", "info"), ("c", "info"), ("a", "debug")):
            log(hub, level, channel="board", key=key)
        log(hub, "error", channel="board", key="d")
        page.wait_for("keys() === 'a,b,c,d'")
        other.wait_for("keys() === 'b,d'")
        (client,) = hub.all_clients()
        client.close()
        log(hub, "info", channel="board", key="b")
        log(hub, "error", channel="board", key="e")
        other.wait_for("keys() === 'd,e'")
        page.wait_for("keys() === 'a,b,c,d,e'")
