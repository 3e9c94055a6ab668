"""Wrong arguments: each ends in an exception of ours, which names the argument.

None in an AttributeError, a KeyError or a TypeError from inside: what is raised comes from a
`raise` of the package, and is a WsHubError, a TypeError or a ValueError.
"""

from __future__ import annotations

import ast
import datetime
import functools
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import ws_hub
from tests.support import wait_until
from ws_hub import (
    APIKeyAuth,
    AuthResult,
    BearerTokenAuth,
    Client,
    CookieSessionAuth,
    Hub,
    JWTAuth,
    QueryTokenAuth,
    ReconnectingClient,
    WsHubError,
    calculate_backoff,
    middleware,
    serve,
)
from ws_hub.testing import HubClient

flask = pytest.importorskip("flask")
from ws_hub.flask import FlaskSessionAuth, HubExtension  # noqa: E402 - needs Flask

PACKAGE = Path(ws_hub.__file__).parent
MESSAGE = {"type": "event", "data": 1}
URL = "ws://localhost/ws"
SECONDS: list[Any] = ["1", b"1", {"a": 1}, [1], datetime.timedelta(1), float("nan"), print, True]
TEXT: list[Any] = [None, 5, b"bytes", {"a": 1}, ["a"], object()]
FUNCTION: list[Any] = [5, "text", {"a": 1}, object()]
COUNT: list[Any] = ["1", 1.5, True, [1], {"a": 1}, -1, object()]
ANYTHING: list[Any] = [5, "text", b"bytes", {"a": 1}, [1], object(), print]


class Things:
    """A hub that runs, and a client of it."""

    def __init__(self, hub: Hub, client: Client) -> None:
        self.hub, self.client = hub, client


@pytest.fixture(scope="module")
def things() -> Iterator[Things]:
    with Hub() as hub, serve(hub) as server, HubClient(server.url):
        (client,) = wait_until(hub.all_clients)
        yield Things(hub, client)


def app() -> Any:
    return flask.Flask("test_wrong_calls")


Call = Callable[[Things, Any], object]
CALLS: dict[str, tuple[Call, list[Any]]] = {
    "Hub": (lambda t, x: Hub(x), ANYTHING),
    "configure": (lambda t, x: Hub().configure(x), [None, *ANYTHING]),
    "set_context": (lambda t, x: Hub().set_context(x), [None, *FUNCTION]),
    "stop": (lambda t, x: Hub().stop(x), SECONDS),
    "drain": (lambda t, x: Hub().drain(x), [None, *SECONDS]),
    "drain spread": (lambda t, x: Hub().drain(1, spread=x), SECONDS),
    "at_stop": (lambda t, x: Hub().at_stop(x), FUNCTION),
    "broadcast": (lambda t, x: t.hub.broadcast(x), TEXT),
    "broadcast exclude": (lambda t, x: t.hub.broadcast(MESSAGE, exclude=x), [None, 5, "a", [1]]),
    "broadcast timeout": (lambda t, x: t.hub.broadcast(MESSAGE, timeout=x), SECONDS),
    "send_to_channel": (lambda t, x: t.hub.send_to_channel(x, MESSAGE), TEXT),
    "send_to_channel message": (lambda t, x: t.hub.send_to_channel("a", x), TEXT),
    "send_to_user": (
        lambda t, x: t.hub.send_to_user(x, MESSAGE),
        [None, True, 1.5, b"a", "", {"a": 1}],
    ),
    "send_to_user timeout": (lambda t, x: t.hub.send_to_user("a", MESSAGE, timeout=x), SECONDS),
    "send_event": (lambda t, x: t.hub.send_event(x, 1), TEXT),
    "send_event channel": (lambda t, x: t.hub.send_event("a", 1, channel=x), ["", *TEXT]),
    "send_process_output": (lambda t, x: t.hub.send_process_output(x, "a"), [None, b"a", 1.5]),
    "send_process_output data": (lambda t, x: t.hub.send_process_output("a", x), [b"a", object()]),
    "send_process_lines": (lambda t, x: t.hub.send_process_lines("a", x), [None, 5, "a", b"a"]),
    "send_process_status": (lambda t, x: t.hub.send_process_status("a", x), TEXT),
    "send_process_status extra": (
        lambda t, x: t.hub.send_process_status("a", "running", extra=x),
        ANYTHING[:3],
    ),
    "wait_for_room": (lambda t, x: t.hub.wait_for_room("a", x), SECONDS),
    "subscribe": (lambda t, x: t.hub.subscribe(x, "a"), [None, *ANYTHING]),
    "subscribe channel": (lambda t, x: t.hub.subscribe(t.client, x), TEXT),
    "subscribe since": (lambda t, x: t.hub.subscribe(t.client, "a", since=x), COUNT),
    "subscribe epoch": (lambda t, x: t.hub.subscribe(t.client, "a", epoch=x), TEXT),
    "unsubscribe": (lambda t, x: t.hub.unsubscribe(x, "a"), [None, *ANYTHING]),
    "listen": (lambda t, x: t.hub.listen("a", x), FUNCTION),
    "on_connect": (lambda t, x: Hub().on_connect(x), FUNCTION),
    "on": (lambda t, x: Hub().on(x), TEXT),
    "on_subscribe": (lambda t, x: Hub().on_subscribe(x), TEXT),
    "recheck": (lambda t, x: t.hub.recheck(x), [None, *ANYTHING]),
    "disconnect": (lambda t, x: t.hub.disconnect("a", x), [None, "1000", 1.5, 5, 1006]),
    "disconnect reason": (lambda t, x: t.hub.disconnect("a", 4000, x), TEXT),
    "attach": (lambda t, x: t.hub.attach(x), [None, *ANYTHING]),
    "run_process": (lambda t, x: t.hub.run_process(x), [None, 5, "ls -l", [], [5], object()]),
    "run_process cwd": (lambda t, x: t.hub.run_process(["true"], cwd=x), ANYTHING[3:] + [5]),
    "run_process env": (lambda t, x: t.hub.run_process(["true"], env=x), ANYTHING),
    "run_process pty": (lambda t, x: t.hub.run_process(["true"], pty=x), [None, 1, "yes"]),
    "run_process on_line": (lambda t, x: t.hub.run_process(["true"], on_line=x), FUNCTION),
    "log_handler level": (lambda t, x: t.hub.log_handler("a", x), [None, "LOUD", 1.5]),
    "writer write": (lambda t, x: t.hub.writer("a").write(x), [None, b"bytes", 5]),
    "handler()": (lambda t, x: t.hub.handler()(x, print), [None, {"type": "http"}]),
    "client.send": (lambda t, x: t.client.send(x), TEXT),
    "client.send timeout": (lambda t, x: t.client.send(MESSAGE, x), SECONDS),
    "client.wait_for_room": (lambda t, x: t.client.wait_for_room(x), [None, *SECONDS]),
    "client.close": (lambda t, x: t.client.close(x), [None, "1000", 1.5, 5]),
    "client.close reason": (lambda t, x: t.client.close(4000, x), TEXT),
    "middleware": (lambda t, x: middleware(x, t.hub), [None, 5, "app", {}]),
    "middleware hub": (lambda t, x: middleware(lambda *_: [], x), [None, Hub, *ANYTHING]),
    "middleware path": (lambda t, x: middleware(lambda *_: [], t.hub, x), ["ws", *TEXT]),
    "serve": (lambda t, x: serve(x), [None, *ANYTHING]),
    "serve port": (lambda t, x: serve(t.hub, port=x), ["80", None, 1.5, -1, 70_000]),
    "serve ssl_context": (lambda t, x: serve(t.hub, ssl_context=x), ["cert.pem", True, print]),
    "HubExtension": (lambda t, x: HubExtension(x), [Hub(), *ANYTHING]),
    "HubExtension hub": (lambda t, x: HubExtension(app(), hub=x), [app(), *ANYTHING]),
    "HubExtension path": (lambda t, x: HubExtension(path=x), ["ws", 5, Hub()]),
    "init_app": (lambda t, x: HubExtension().init_app(x), [None, Hub(), *ANYTHING]),
    "FlaskSessionAuth": (lambda t, x: FlaskSessionAuth(x), TEXT),
    "FlaskSessionAuth validate": (lambda t, x: FlaskSessionAuth(validate=x), FUNCTION),
    "AuthResult": (lambda t, x: AuthResult(x, "a"), [None, 1, "yes"]),
    "AuthResult user_id": (lambda t, x: AuthResult(True, x), [True, 1.5, b"a", {"a": 1}]),
    "AuthResult claims": (lambda t, x: AuthResult(True, "a", x), [None, 5, "admin"]),
    "AuthResult forbidden": (lambda t, x: AuthResult(True, "a", forbidden=x), [None, 1, "no"]),
    "AuthResult error": (lambda t, x: AuthResult(False, error=x), [None, 5, ValueError()]),
    "APIKeyAuth": (lambda t, x: APIKeyAuth(x), [None, *ANYTHING[:3], {"": "a"}, {"a": None}]),
    "BearerTokenAuth": (lambda t, x: BearerTokenAuth(x), [None, *FUNCTION]),
    "QueryTokenAuth": (lambda t, x: QueryTokenAuth(print, x), TEXT),
    "CookieSessionAuth": (lambda t, x: CookieSessionAuth(x, print), TEXT),
    "JWTAuth": (lambda t, x: JWTAuth("k" * 32, x), ["none", "HS1", *TEXT]),
    "JWTAuth audience": (lambda t, x: JWTAuth("k" * 32, "HS256", audience=x), [5, b"a", object()]),
    "ReconnectingClient": (lambda t, x: ReconnectingClient(x), [None, "http://a", *TEXT]),
    "ReconnectingClient wait": (lambda t, x: ReconnectingClient(URL, wait=x), FUNCTION),
    "ReconnectingClient subscribe": (lambda t, x: ReconnectingClient(URL).subscribe(x), TEXT),
    "ReconnectingClient since": (
        lambda t, x: ReconnectingClient(URL).subscribe("a", since=x),
        COUNT,
    ),
    "ReconnectingClient send": (lambda t, x: ReconnectingClient(URL).send(x), TEXT),
    "calculate_backoff": (lambda t, x: calculate_backoff(x), [None, "1", [1]]),
    "HubClient": (lambda t, x: HubClient(x), [None, 5, {"a": 1}, "http://a"]),
}


@functools.cache
def raises(path: str) -> list[range]:
    """Return the lines of each `raise` of a module."""
    tree = ast.parse(Path(path).read_text(encoding="utf-8"))
    found = [each for each in ast.walk(tree) if isinstance(each, ast.Raise)]
    return [range(each.lineno, (each.end_lineno or each.lineno) + 1) for each in found]


@pytest.mark.parametrize("name", CALLS)
def test_a_wrong_argument_is_refused_by_a_raise_of_ours(name: str, things: Things) -> None:
    call, values = CALLS[name]
    for value in values:
        try:
            call(things, value)
        except Exception as error:  # noqa: BLE001 - looked at below
            place = traceback.extract_tb(error.__traceback__)[-1]
            where = f"{name}: {value!r}: {type(error).__name__}: {error}, at {place}"
            assert isinstance(error, (WsHubError, TypeError, ValueError)), where
            assert PACKAGE in Path(place.filename).parents, where
            assert any(place.lineno in lines for lines in raises(place.filename)), where
            assert len(str(error).split()) > 3, where
        else:
            pytest.fail(f"{name} takes {value!r}")
    assert things.hub.client_count() == 1  # nothing of it has reached the client
