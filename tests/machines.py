"""Machines of a network, as network namespaces of this one: a link between two can be cut.

It needs rights that not every machine gives; where they are missing a test is skipped.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

__all__ = ["Machine", "network"]

_CLONE_NEWNET = 0x40000000
_NAMESPACES = Path("/run/netns")


class Machine:
    """A namespace with an address of its own.

    Attributes:
        address: where the others reach it.
    """

    def __init__(self, name: str, address: str) -> None:
        self.address = address
        self._name = name

    @contextlib.contextmanager
    def entered(self) -> Iterator[None]:
        """Have this thread be on it: for sockets that it makes, and programs that it starts."""
        with (
            open("/proc/thread-self/ns/net", "rb") as here,
            (_NAMESPACES / self._name).open("rb") as there,
        ):
            _enter(there.fileno())
            try:
                yield
            finally:
                _enter(here.fileno())


class Network:
    """A bridge on the first machine, and a cable from it to each of the others."""

    def __init__(self, machines: Sequence[Machine], names: Sequence[str]) -> None:
        self.machines = machines
        self._names = names

    def cut(self, machine: Machine) -> None:
        """Have nothing come through to one, and nothing from it, without a word to either."""
        self._set(machine, "down")

    def join(self, machine: Machine) -> None:
        """Connect it again."""
        self._set(machine, "up")

    def _set(self, machine: Machine, state: str) -> None:
        place = self.machines.index(machine)
        _ip("-n", self._names[0], "link", "set", f"cable{place}", state)


@contextlib.contextmanager
def network(count: int) -> Iterator[Network]:
    """Make so many machines that reach each other; skips the test where that may not be."""
    if shutil.which("ip") is None:
        pytest.skip("network namespaces need the program ip (iproute2)")
    names = [f"wsh{os.getpid()}-{place}" for place in range(count)]
    with contextlib.ExitStack() as stack:
        try:
            for name in names:
                _ip("netns", "add", name)
                stack.callback(_ip, "netns", "del", name)
                _ip("-n", name, "link", "set", "lo", "up")
            _connect(names)
        except subprocess.CalledProcessError as error:
            pytest.skip(f"this machine makes no network namespaces: {error.stderr.strip()}")
        machines = [Machine(name, f"10.77.0.{place}") for place, name in enumerate(names, 1)]
        yield Network(machines, names)


def _connect(names: Sequence[str]) -> None:
    hub, *others = names
    _ip("-n", hub, "link", "add", "eth0", "type", "bridge")
    for place, name in enumerate(others, 1):
        ends = (f"cable{place}", "type", "veth", "peer", "name", "eth0", "netns", name)
        _ip("-n", hub, "link", "add", *ends)
        _ip("-n", hub, "link", "set", f"cable{place}", "master", "eth0", "up")
    for place, name in enumerate(names, 1):
        _ip("-n", name, "address", "add", f"10.77.0.{place}/24", "dev", "eth0")
        _ip("-n", name, "link", "set", "eth0", "up")


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True, text=True)


def _enter(namespace: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.setns(namespace, _CLONE_NEWNET) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
