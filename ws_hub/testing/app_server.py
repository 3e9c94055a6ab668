"""Serves a Flask or WSGI application on a free port of this machine, for tests.

Werkzeug is imported here and nowhere else in the package; Flask brings it.
"""

from __future__ import annotations

import threading
import time
import weakref
from collections.abc import Iterable
from typing import Any

from .. import threads
from ..wsgi.app import Application

__all__ = ["AppServer"]

_POLL = 0.05  # seconds after which Werkzeug's loop sees that it is to end
_GRACE = 2.0  # seconds that requests have to end in `close`


class AppServer:
    """A WSGI application, served by Werkzeug with a thread for each request.

    ::

        with AppServer(app) as server, HubClient(server.url) as client:
            client.subscribe("news")

    `close`, or leaving its `with`, ends it; the hub of the application goes on, until the test
    stops it.

    Args:
        app: the application, `app` of Flask or any other.
        path: the path of the WebSocket in it.

    Attributes:
        host: the address that it listens on.
        port: the port that it listens on.
        url: the URL of the WebSocket.

    Raises ImportError when Werkzeug is not installed.
    """

    def __init__(self, app: Application, path: str = "/ws") -> None:
        try:
            from werkzeug.serving import make_server
        except ImportError as error:
            raise ImportError(
                "AppServer needs Werkzeug, which Flask brings: pip install 'ws-hub[flask]'"
            ) from error
        self._app = app
        # guards: _requests.
        self._lock = threading.Lock()
        self._requests: weakref.WeakSet[threading.Thread] = weakref.WeakSet()
        self._server = make_server("127.0.0.1", 0, self._serve, threaded=True)
        self.host, self.port = "127.0.0.1", int(self._server.server_port)
        self.url = f"ws://{self.host}:{self.port}{path}"
        try:
            self._thread = threads.start("ws-hub:testing:app", self._server.serve_forever, _POLL)
        except BaseException:
            self._server.server_close()
            raise

    def __enter__(self) -> AppServer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop accepting, and wait for the requests there are, a few seconds at most. Idempotent.

        Threads: any; close the clients before it: a route that serves one ends with it.
        """
        self._server.shutdown()
        threads.join(self._thread, _GRACE)  # Werkzeug closes the port at the end of its loop
        with self._lock:
            requests = list(self._requests)
        deadline = time.monotonic() + _GRACE
        for thread in requests:
            threads.join(thread, deadline - time.monotonic())

    # --- request threads -------------------------------------------------------------------

    def _serve(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        with self._lock:
            self._requests.add(threading.current_thread())
        return self._app(environ, start_response)
