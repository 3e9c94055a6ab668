"""Faults at the doors: refused upgrades, who may ask, what is listed, what is believed.

Each is numbered as in the list of faults.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import subprocess
import sys
from collections.abc import Iterator

import pytest
from flask import Flask

from tests.integration.apps.launch import START, Running, client_context, server
from tests.integration.apps.live import live
from tests.support import RawPeer, wait_until
from ws_hub import ConfigError, workers
from ws_hub.flask import HubExtension

# --- 122: nothing is served behind a refused upgrade -----------------------------------------

Case = tuple[str, int, list[tuple[str, str]], dict[str, str], bytes]

SERVERS = ["gthread", "sync", "werkzeug", "wsgiref", "embedded", "gevent"]
TLS = ["gthread", "sync", "werkzeug", "wsgiref", "embedded"]
COUNT = b"GET /count HTTP/1.1\r\nHost: x\r\n\r\n"
BODY = [("Content-Length", "4")]
CHUNKS = [("Transfer-Encoding", "chunked")]


@contextlib.contextmanager
def serving(kind: str, *, tls: bool = False) -> Iterator[Running]:
    if kind == "gevent" and importlib.util.find_spec("gevent") is None:
        pytest.skip("gevent is not installed")
    options = ["--access-logfile", "-"] if kind in ("gthread", "sync", "gevent") else None
    with server(kind, tls=tls, options=options) as made:
        made.get("/")
        yield made


@pytest.fixture(scope="module", params=SERVERS)
def running(request: pytest.FixtureRequest) -> Iterator[Running]:
    with serving(request.param) as made:
        yield made


@pytest.fixture(scope="module", params=TLS)
def secure(request: pytest.FixtureRequest) -> Iterator[Running]:
    with serving(request.param, tls=True) as made:
        yield made


REFUSALS: list[Case] = [
    ("/ws", 400, [("Sec-WebSocket-Key", "x")], {}, b""),
    ("/ws", 400, BODY, {}, b"body"),
    ("/ws", 405, [], {"method": "POST"}, b""),
    ("/ws", 405, BODY, {"method": "POST"}, b"body"),
    ("/ws", 405, CHUNKS, {"method": "POST"}, b"4\r\nbody\r\n0\r\n\r\n"),
    ("/ws", 405, [], {"method": "HEAD"}, b""),
    ("/ws", 426, [("Sec-WebSocket-Version", "8")], {}, b""),
    ("/ws", 426, [("Upgrade", "")], {}, b""),
    ("/ws", 403, [("Origin", "https://evil.example")], {}, b""),
    ("/guarded", 401, [], {}, b""),
    ("/guarded", 403, [("X-User", "mallory")], {}, b""),
    ("/closed", 503, [], {}, b""),
]


def refused_and_ended(running: Running, case: Case, *, at_once: bool) -> None:
    """Send an upgrade that is refused and a request behind it: only one may be answered."""
    path, status, headers, options, body = case
    context = client_context() if running.scheme == "https" else None
    before = running.state()["counted"]
    with RawPeer(
        running.host, running.port, path=path, handshake=False, ssl_context=context
    ) as sly:
        request = sly.request(headers, **options) + body
        sly.send_raw(request + COUNT if at_once else request)
        if options.get("method") == "HEAD":
            assert sly.recv_eof().partition(b"\r\n\r\n")[2] == b""
        else:
            answer = sly.read_response()
            assert answer.status == status
            assert answer.body and answer.headers["content-type"].startswith("text/plain")
        with contextlib.suppress(OSError):  # a reset says as much as an end
            if not at_once:
                sly.send_raw(COUNT)
            assert sly.recv_eof() == b""
    assert running.state()["counted"] == before


@pytest.mark.parametrize("at_once", [True, False], ids=["same packet", "later"])
@pytest.mark.parametrize("case", REFUSALS, ids=[f"{c[1]}-{n}" for n, c in enumerate(REFUSALS)])
def test_fault_122_no_request_behind_a_refused_upgrade_is_served(
    running: Running,
    case: Case,
    at_once: bool,
) -> None:
    if "gevent" in running.process.args:  # type: ignore[operator]
        case = (case[0], 503, *case[2:])  # no hub starts there (row 127)
    refused_and_ended(running, case, at_once=at_once)


@pytest.mark.parametrize("at_once", [True, False], ids=["same packet", "later"])
@pytest.mark.parametrize("case", REFUSALS, ids=[f"{c[1]}-{n}" for n, c in enumerate(REFUSALS)])
def test_fault_122_nor_under_tls(
    secure: Running,
    case: Case,
    at_once: bool,
) -> None:
    refused_and_ended(secure, case, at_once=at_once)


def test_fault_122_nor_behind_too_many_connections_of_a_user(running: Running) -> None:
    user = [("X-User", "ann")]
    if "gevent" in running.process.args:  # type: ignore[operator]
        return
    with RawPeer(running.host, running.port, path="/guarded", headers=user):
        for at_once in (True, False):
            refused_and_ended(running, ("/guarded", 429, user, {}, b""), at_once=at_once)


@pytest.mark.parametrize("at_once", [True, False])
def test_fault_122_nor_where_the_server_cannot_keep_a_websocket(at_once: bool) -> None:
    with serving("sync", tls=True) as running:  # its only thread would have to stay
        refused_and_ended(running, ("/ws", 501, [], {}, b""), at_once=at_once)


@pytest.mark.parametrize("kind", ["gthread", "sync"])
def test_fault_122_the_access_log_has_the_status_of_the_refusal(kind: str) -> None:
    with serving(kind) as running:
        refused_and_ended(running, ("/guarded", 401, [], {}, b""), at_once=True)
        wait_until(lambda: '"GET /guarded HTTP/1.1" 401 ' in running.log())
        assert running.complaints() == []


# --- 127: gevent and eventlet ----------------------------------------------------------------

PATCHES = {
    "gevent": "from gevent import monkey; monkey.patch_all()",
    "gevent threads": "from gevent import monkey; monkey.patch_thread()",
    "gevent sockets": "from gevent import monkey; monkey.patch_socket()",
    "gevent time": "from gevent import monkey; monkey.patch_time()",
    "gevent select": "from gevent import monkey; monkey.patch_select()",
    "eventlet": "import eventlet; eventlet.monkey_patch()",
    "eventlet threads": "import eventlet; eventlet.monkey_patch(all=False, thread=True)",
}
STARTS = """
import threading, ws_hub
hub = ws_hub.Hub()
for start in (hub.start, hub.run, lambda: ws_hub.serve(hub)):
    try:
        start()
    except ws_hub.ConfigError as error:
        print(error)
assert not hub.running and not [t for t in threading.enumerate() if t.name.startswith("ws-hub")]
"""
RECEIVES = """
import sys, ws_hub
try:
    with ws_hub.ReconnectingClient(sys.argv[1]) as client:
        client.subscribe("process:b", since=0)
        print([next(iter(client)).data for _ in range(3)])
except ws_hub.ConfigError as error:
    print(error)
"""


def patched(how: str, program: str, *arguments: str) -> str:
    """Run a program in a process that is monkey-patched first; return what it prints."""
    library = how.split()[0]
    if importlib.util.find_spec(library) is None:
        pytest.skip(f"{library} is not installed")
    run = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", f"{PATCHES[how]}\n{program}", *arguments],
        env={key: value for key, value in os.environ.items() if "COVERAGE" not in key},
        capture_output=True,
        text=True,
        timeout=START,
    )
    assert (run.returncode, run.stderr) == (0, ""), run.stderr
    return run.stdout


@pytest.mark.parametrize("how", PATCHES)
def test_fault_127_a_hub_refuses_to_start_where_threads_or_sockets_are_patched(how: str) -> None:
    said = patched(how, STARTS).splitlines()
    assert len(said) == 3
    assert all(how.split()[0] in each and "gthread" in each for each in said)


def test_fault_127_a_library_that_is_imported_and_patches_nothing_is_no_hindrance() -> None:
    pytest.importorskip("gevent")
    program = "import gevent.monkey, ws_hub; ws_hub.Hub().start().stop(); print('ran')"
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, timeout=START)
    assert run.stdout == b"ran\n"


def test_fault_127_a_client_works_under_a_whole_patch_and_refuses_a_part_of_one() -> None:
    with live() as hub:
        for number in range(3):
            hub.hub.send_process_output("b", f"line {number}")
        expected = "['line 0', 'line 1', 'line 2']\n"
        assert patched("gevent", RECEIVES, hub.server.url) == expected
        for how in ("gevent threads", "gevent sockets", "eventlet"):
            if importlib.util.find_spec(how.split()[0]) is not None:
                assert "gevent.monkey.patch_all()" in patched(how, RECEIVES, hub.server.url)


def test_fault_127_pages_of_flask_are_served_where_the_hub_cannot_start(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(what: str) -> None:
        raise ConfigError(f"{what} needs real threads")

    monkeypatch.setattr(workers, "check_real", refuse)
    app = Flask("app")
    HubExtension(app)
    page = app.test_client()
    assert [page.get("/").status_code for _ in range(2)] == [404, 404]
    assert page.get("/ws", headers={"Upgrade": "websocket"}).status_code == 503
    assert caplog.text.count("needs real threads") == 1  # and not at every request
