"""The servers under test, each in a process of its own: `python -m bench.servers NAME`.

All take the same requests (see `base`); each module says how its library is used the way
its own documentation uses it.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["CONTENDERS", "FLOORS", "PEERS", "PYTHON_PEERS", "RIVALS", "Contender"]


@dataclass(frozen=True)
class Contender:
    """One server under test.

    Args:
        name: as the table has it, and as `python -m bench.servers` takes it.
        title: what it is.
        where: module and class.
        needs: the distribution that must be installed, with the import name before it.
        least: its lowest major version.
        program: for a server that is no Python process, what it runs on (see `programs`).
    """

    name: str
    title: str
    where: tuple[str, str]
    needs: tuple[str, str] | None = None
    least: int = 0
    program: str | None = None


_WEBSOCKETS = ("websockets", "websockets")
_FLASK_SOCK = ("flask_sock", "flask-sock")
CONTENDERS = {
    each.name: each
    for each in (
        Contender("ws_hub", "ws_hub on its embedded server", ("hub", "HubServer")),
        Contender("ws_hub, loop", "the same without io_uring", ("hub", "LoopingHubServer")),
        Contender(
            "ws_hub, heartbeats",
            "ws_hub with its default heartbeats on",
            ("hub", "HeartbeatingHubServer"),
        ),
        Contender(
            "ws_hub, compression",
            "ws_hub with compression: each message once, for all",
            ("hub", "CompressingHubServer"),
        ),
        Contender(
            "ws_hub, memory",
            "ws_hub with a channel more that keeps history, in memory",
            ("history", "KeepingHubServer"),
        ),
        Contender(
            "ws_hub, file",
            "the same with history in a file (SqliteHistory)",
            ("history", "FileHubServer"),
        ),
        Contender(
            "ws_hub, Werkzeug",
            "ws_hub beside a Flask application on Werkzeug's threaded server",
            ("flask_", "HubBesideFlask"),
            ("werkzeug", "werkzeug"),
        ),
        Contender(
            "ws_hub, gunicorn",
            "ws_hub beside a Flask application on gunicorn -k gthread --threads 4",
            ("gunicorn_", "HubOnGunicorn"),
            ("gunicorn", "gunicorn"),
        ),
        Contender(
            "floor, gunicorn",
            "a bare answer to each handshake on gunicorn -k gthread --threads 4",
            ("gunicorn_", "FloorOnGunicorn"),
            ("gunicorn", "gunicorn"),
        ),
        Contender("floor", "a bare loop of sends of one ready frame", ("floor", "Floor")),
        Contender("floor in C", "the same loop in C", ("floor", "CompiledFloor"), program="cc"),
        Contender("floor joined", "the same, a burst joined first", ("floor", "JoinedFloor")),
        Contender(
            "websockets asyncio",
            "websockets.broadcast() on its event loop",
            ("websockets_", "AsyncioBroadcast"),
            _WEBSOCKETS,
        ),
        Contender(
            "websockets pool",
            "websockets.sync.server.broadcast(), a thread pool",
            ("websockets_", "SyncBroadcast"),
            _WEBSOCKETS,
            least=17,
        ),
        Contender(
            "websockets asyncio, compression",
            "websockets.broadcast() on its event loop, with compression",
            ("websockets_", "CompressingAsyncioBroadcast"),
            _WEBSOCKETS,
        ),
        Contender(
            "websockets pool, compression",
            "websockets.sync.server.broadcast(), a thread pool, with compression",
            ("websockets_", "CompressingSyncBroadcast"),
            _WEBSOCKETS,
            least=17,
        ),
        Contender(
            "websockets loop",
            "websockets sync server, a loop of send()",
            ("websockets_", "SyncLoop"),
            _WEBSOCKETS,
        ),
        Contender(
            "flask-sock",
            "flask-sock on Werkzeug's threaded server, a loop of send()",
            ("flask_", "FlaskSock"),
            _FLASK_SOCK,
        ),
        Contender(
            "flask-sock, compression",
            "flask-sock on Werkzeug's threaded server, a loop of send(), to clients that take "
            "compressed messages",
            ("flask_", "CompressingFlaskSock"),
            _FLASK_SOCK,
        ),
        Contender(
            "flask-sock, gunicorn",
            "flask-sock on gunicorn -k gthread --threads 4",
            ("gunicorn_", "FlaskSockOnGunicorn"),
            _FLASK_SOCK,
        ),
        Contender(
            "Flask-SocketIO",
            "Flask-SocketIO, threading mode, emit()",
            ("flask_", "FlaskSocketIO"),
            ("flask_socketio", "flask-socketio"),
        ),
        Contender(
            "flask-websockets",
            "Flask-WebSockets on Werkzeug's threaded server, publish() to a channel",
            ("flask_", "FlaskWebSockets"),
            ("flask_websockets", "flask-websockets"),
        ),
        Contender(
            "websocket-server",
            "websocket-server, send_message_to_all()",
            ("websocket_server_", "SendToAll"),
            ("websocket_server", "websocket-server"),
        ),
        Contender(
            "picows",
            "picows on uvloop, a loop of send() on its event loop",
            ("picows_", "PicowsLoop"),
            ("picows", "picows"),
            least=2,
        ),
        Contender(
            "nginx nchan",
            "nginx with nchan, published to by HTTP POST on one connection",
            ("nginx_", "Nchan"),
            program="nginx",
        ),
        Contender(
            "Node ws", "npm's ws on Node, a loop of send()", ("npm_", "NodeLoop"), program="node"
        ),
        Contender(
            "bun publish",
            "Bun's own server, publish() to a topic",
            ("npm_", "BunPublish"),
            program="bun",
        ),
    )
}
FLOORS = ("floor", "floor in C", "floor joined", "floor, gunicorn")
RIVALS = tuple(name for name in CONTENDERS if not name.startswith("ws_hub") and name not in FLOORS)
# A name with a comma is a variant, for the rows that ask for it.
PEERS = tuple(name for name in RIVALS if ", " not in name)
# Those of them in whose process a thread can compute in Python.
PYTHON_PEERS = tuple(name for name in PEERS if CONTENDERS[name].program is None)
