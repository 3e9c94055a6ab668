"""Hooks for gunicorn: a worker's hubs stop when its end begins, and its threads start early.

Gunicorn's master reads this module, which does not import gunicorn, as its configuration::

    gunicorn --config python:ws_hub.gunicorn app:app

or, from a gunicorn.conf.py of your own, `from ws_hub.gunicorn import *`; a hook of your own
with the same name must call the one from here.

Without these hooks `atexit` stops the hub: after the last request, or the graceful timeout.
With TLS inside gunicorn each WebSocket is such a request. And gunicorn starts a thread of
its pool when it first needs it: if clients have taken all threads of the system by then,
that ends the worker, and with it every connection.

    SIGTERM, SIGINT, SIGQUIT, SIGHUP, max_requests, a changed file
      └─> worker.alive = False ─> watch ─> 1001 or 1012 to all ─> requests end ─> worker_exit

Gunicorn reads every global of this module as a setting: none may have the name of one by
chance (`workers`, `config`).

Warnings go to gunicorn's own log, which is always configured.
"""

from __future__ import annotations

import mmap
import threading
import time
from concurrent.futures import Executor
from typing import Any

from .hub import prefork
from .hub.exits import made, running, unregister
from .threads import start
from .wsgi.servers import PROCESSES, warned_of_processes

__all__ = ["on_reload", "post_worker_init", "when_ready", "worker_exit"]

_START_TIMEOUT = 10.0  # seconds for threads to start: a first request may wait behind that
_INTERVAL = 0.25  # seconds between checks of a worker; gunicorn's own loop checks once a second
_SHARE = 0.5  # of the graceful timeout, for stopping the hubs

# guards: nothing; one byte that the master writes and its workers read: the number of reloads.
# The master stops its workers for a reload by the same signal as for its own end.
_reloads = mmap.mmap(-1, 1)


def when_ready(server: Any) -> None:
    """Warn of hubs that run in the master: they come of `--preload` and a `start()` at import.

    Threads: the master's only one.
    """
    prefork.warn(server.log)


def on_reload(server: Any) -> None:
    """Count a reload: the workers of now are about to be replaced.

    Threads: the master's only one.
    """
    _reloads[0] = (_reloads[0] + 1) % 256


def post_worker_init(worker: Any) -> None:
    """Start the watch thread of a worker, and all threads of its pool.

    Of several workers with hubs of their own, the first warns.

    Threads: the worker's main thread; does not wait.
    """
    worker.ws_hub_born = _reloads[0]
    if worker.cfg.workers > 1 and any(hub.config.backplane is None for hub in [*made]):
        if worker.age == 1:
            worker.log.warning("gunicorn has %d workers. %s", worker.cfg.workers, PROCESSES)
        warned_of_processes()
    pool = getattr(worker, "tpool", None)  # of a gthread worker
    if pool is not None:
        _fill(pool, worker)
    try:
        start("ws-hub:gunicorn", _watch, worker)
    except RuntimeError as error:  # no more threads: `worker_exit` alone stops the hubs
        worker.log.warning(
            "ws_hub: no thread to watch for this worker's end, its clients are closed late: %s",
            error,
        )


def _fill(pool: Executor, worker: Any) -> None:
    """Make a pool start all its threads: none finishes its task before the last has begun."""
    threads = worker.cfg.threads
    together = threading.Barrier(threads)
    try:
        for _ in range(threads):
            pool.submit(together.wait, _START_TIMEOUT)
    except RuntimeError as error:  # no more threads
        together.abort()
        worker.log.warning("ws_hub: cannot start all %d threads of gunicorn: %s", threads, error)


def worker_exit(server: Any, worker: Any) -> None:
    """Stop the hubs of a worker, unless they have stopped, and wait for that.

    Threads: the worker's main thread; waits at most half the graceful timeout.
    """
    _end(worker)
    for hub in running():
        unregister(hub)  # `atexit` must not wait for a hub that has not stopped by now


# --- watch thread --------------------------------------------------------------------------


def _watch(worker: Any) -> None:
    # Polls instead of a signal handler: gunicorn has its own, and max_requests is no signal.
    while worker.alive:
        time.sleep(_INTERVAL)
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
    """Return whether another worker takes this one's place."""
    replaced = _reloads[0] != getattr(worker, "ws_hub_born", _reloads[0])
    return replaced or worker.cfg.reload or worker.nr >= worker.max_requests
