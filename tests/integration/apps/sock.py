"""An application with a route of flask-sock that joins its hub; for servers in processes.

`serve_routes` serves the same kind of application in the test's own process, by Werkzeug.
"""

from __future__ import annotations

import contextlib
import logging
import os
import queue
import ssl
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import flask
import flask_sock
import werkzeug.serving

from tests.integration.apps.live import Notes
from tests.support import TIMEOUT, RawPeer, wait_until
from ws_hub import Client, Hub, HubConfig, Message

logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s %(message)s")


def echo(client: Client, message: Message) -> object:
    return {"echo": message.data}


class Quiet(werkzeug.serving.WSGIRequestHandler):
    def log_request(self, *_: Any) -> None:
        pass


class Site:
    """A served application whose route does what a test says; attach is the default."""

    def __init__(self, hub: Hub, notes: Notes, scheme: str = "http") -> None:
        self.hub = hub
        self.notes = notes
        self.scheme = scheme
        self.port = 0
        self.options: dict[str, Any] = {}  # of attach
        # guards: themselves. The connections that have come, and how their routes ended.
        self.came: queue.Queue[Any] = queue.Queue()
        self.ended: queue.Queue[BaseException | None] = queue.Queue()
        self.gate = threading.Event()  # opened for routes to go on
        self.gate.set()
        self.route: Callable[[Any], None] = self.attach

    def attach(self, ws: Any) -> None:
        self.hub.attach(ws, **self.options)

    def live(self, ws: Any) -> None:
        self.came.put(ws)
        assert self.gate.wait(TIMEOUT)
        try:
            self.route(ws)
        except BaseException as error:
            self.ended.put(error)
            raise
        self.ended.put(None)

    def application(self, **settings: Any) -> flask.Flask:
        app = flask.Flask(__name__)
        app.config["SOCK_SERVER_OPTIONS"] = settings
        flask_sock.Sock(app).route("/ws")(self.live)
        return app

    def settle(self) -> None:
        """Wait until the server is done with what its connections have brought."""
        wait_until(
            lambda: not any("process_request" in thread.name for thread in threading.enumerate())
        )

    def peer(self, **options: Any) -> RawPeer:
        host = "localhost" if self.scheme == "https" else "127.0.0.1"
        return RawPeer(host, self.port, **options)

    def client(self) -> Client:
        """Return the newest client, once it is there."""
        return wait_until(self.hub.all_clients, what="a client")[-1]

    def held(self) -> tuple[RawPeer, Any]:
        """Return a peer whose route waits at the gate, and its connection there."""
        self.gate.clear()
        while not self.came.empty():
            self.came.get_nowait()
        peer = self.peer()
        return peer, self.came.get(timeout=TIMEOUT)

    def result(self) -> BaseException | None:
        """Return what a route raised, once it has ended."""
        return self.ended.get(timeout=TIMEOUT)


@contextlib.contextmanager
def serve_routes(
    *,
    running: bool = True,
    certificate: Path | None = None,
    server_options: dict[str, Any] | None = None,
    wrap: Callable[[Any], Any] = lambda app: app,
    **settings: Any,
) -> Iterator[Site]:
    """Serve a route that attaches to a hub with these settings.

    `server_options` are simple_websocket's; `wrap` changes the application.
    """
    context = None
    if certificate is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
    notes = Notes()
    callbacks = {"on_connect": notes.on_connect, "on_disconnect": notes.on_disconnect}
    hub = Hub(HubConfig(**{**callbacks, "on_message": echo, **settings}))
    site = Site(hub, notes, "http" if context is None else "https")
    server = werkzeug.serving.make_server(
        "127.0.0.1",
        0,
        wrap(site.application(**(server_options or {}))),
        threaded=True,
        request_handler=Quiet,
        ssl_context=context,
    )
    site.port = server.server_port
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), name="test:server")
    thread.start()
    try:
        if running:
            hub.start()
        yield site
    finally:
        site.gate.set()
        hub.stop()
        server.shutdown()
        thread.join(TIMEOUT)
        server.server_close()


# --- for gunicorn --------------------------------------------------------------------------

hub = Hub(HubConfig(on_message=echo))
application = flask.Flask(__name__)
_first = threading.Lock()  # guards: the first start of the hub in this process.


@flask_sock.Sock(application).route("/ws")
def live(ws: Any) -> None:
    hub.attach(ws, user_id="ann", claims={"from": "gunicorn"})


@application.before_request
def start() -> None:
    with _first:
        hub.start()


@application.get("/state")
def state() -> dict[str, Any]:
    return {
        "pid": os.getpid(),
        "clients": hub.client_count(),
        "users": [client.user_id for client in hub.all_clients()],
        "threads": sorted(thread.name for thread in threading.enumerate()),
        "files": len(os.listdir("/proc/self/fd")),
    }


@application.get("/broadcast")
def broadcast() -> str:
    hub.broadcast(Message("event", data=flask.request.args["data"]))
    return "sent"
