"""Hooks for gunicorn: clients hear of a worker's end when it begins, and threads for pages.

Must not know, nor import, gunicorn, whose master reads this as its configuration::

    gunicorn --config python:ws_hub.gunicorn app:app

or, from a gunicorn.conf.py of your own, `from ws_hub.gunicorn import *`; a hook that you
have there already calls the one from here.

Without them `atexit` ends the hub: after the last request, or the graceful timeout. With
TLS inside gunicorn each WebSocket is such a request. And gunicorn starts a thread of its
pool at the first moment that needs it: if clients have taken all threads that the system
gives by then, that ends the worker, and with it every client.

    SIGTERM, SIGINT, SIGQUIT, SIGHUP, max_requests, a changed file
      └─> worker.alive = False ─> watch ─> 1001 or 1012 to all ─> requests end ─> worker_exit

Every global of this module is offered to gunicorn as a setting: none may have the name of
one by chance (`workers`, `config`).

What is to be said goes to gunicorn's own log, which there always is, wherever that goes.
"""

from __future__ import annotations

import mmap
import threading
import time
from concurrent.futures import Executor
from typing import Any

from .hub import prefork
from .hub.exits import running, unregister
from .threads import start

__all__ = ["on_reload", "post_worker_init", "when_ready", "worker_exit"]

_PATIENCE = 10.0  # seconds, for threads to start: a first request may wait behind that
_LOOK = 0.25  # seconds between looks at a worker; gunicorn's own loop takes one each second
_SHARE = 0.5  # of the graceful timeout: what the end of a hub may take

# guards: nothing; one byte that the master writes and its workers read. How often the master
# has reloaded, since it tells its workers of that with the same signal as of its own end.
_reloads = mmap.mmap(-1, 1)


def when_ready(server: Any) -> None:
    """Warn of hubs that run in the master, as `--preload` with a `start()` at import has it.

    Threads: the master's only one.
    """
    prefork.warn(server.log)


def on_reload(server: Any) -> None:
    """Note that the workers that live are about to be replaced.

    Threads: the master's only one.
    """
    _reloads[0] = (_reloads[0] + 1) % 256


def post_worker_init(worker: Any) -> None:
    """Begin to watch for the end of a worker, and have it start its threads.

    Threads: the worker's main thread; does not wait.
    """
    worker.ws_hub_born = _reloads[0]
    pool = getattr(worker, "tpool", None)  # of a gthread worker
    if pool is not None:
        _fill(pool, worker)
    try:
        start("ws-hub:gunicorn", _watch, worker)
    except RuntimeError as error:  # no more threads: then `worker_exit` alone
        worker.log.warning("ws_hub: clients will hear late of this worker's end: %s", error)


def _fill(pool: Executor, worker: Any) -> None:
    """Have a pool start all its threads: none is done before the last has begun."""
    threads = worker.cfg.threads
    together = threading.Barrier(threads)
    try:
        for _ in range(threads):
            pool.submit(together.wait, _PATIENCE)
    except RuntimeError as error:  # no more threads
        together.abort()
        worker.log.warning("ws_hub: gunicorn cannot have its %d threads: %s", threads, error)


def worker_exit(server: Any, worker: Any) -> None:
    """End the hubs of a worker, if that has not been done yet, and wait for it.

    Threads: the worker's main thread; at most half the graceful timeout.
    """
    _end(worker)
    for hub in running():
        unregister(hub)  # who has not ended by now is not waited for again


# --- watch thread --------------------------------------------------------------------------


def _watch(worker: Any) -> None:
    # A look and no signal handler: gunicorn has its own, and max_requests is no signal.
    while worker.alive:
        time.sleep(_LOOK)
    _end(worker)


def _end(worker: Any) -> None:
    deadline = time.monotonic() + worker.cfg.graceful_timeout * _SHARE
    returns = _returns(worker)
    hubs = running()
    for hub in hubs:
        if returns:
            hub.drain(0)
    for hub in hubs:
        hub.stop(max(deadline - time.monotonic(), 0.0))


def _returns(worker: Any) -> bool:
    """Say whether another worker takes this one's place."""
    replaced = _reloads[0] != getattr(worker, "ws_hub_born", _reloads[0])
    return replaced or worker.cfg.reload or worker.nr >= worker.max_requests
