"""Faults of the system beneath ws_hub, made to happen: a kernel, a libc, threads that are missing.

Each is a context manager; what it changes is as before when its block ends. The only module
that knows private names of `ws_hub.connection` and `ws_hub.process` on behalf of their tests.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib.machinery
import importlib.util
import os
import platform
import queue
import socket
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tests import support
from ws_hub import Publisher, crew, threads
from ws_hub.backplane import (
    redis_claims,
    redis_history,
    redis_links,
    redis_listener,
    redis_scripts,
    redis_sender,
    redis_server,
    sqlite,
    sqlite_file,
    sqlite_rows,
)
from ws_hub.connection import fast_send, progress, readers, ring
from ws_hub.connection.poller import Poller
from ws_hub.hub import history, memory
from ws_hub.mask import patterns
from ws_hub.process import launch, samples, session
from ws_hub.process.process import Process

__all__ = [
    "LibcSend",
    "a_platform",
    "after_reserving",
    "answer_lost",
    "around_ring_calls",
    "before_each_request",
    "before_each_signal",
    "before_ring_locks",
    "broker_times",
    "first_ring_call",
    "hub_held",
    "imported_anew",
    "io_uring_for_all",
    "kernel_send",
    "lingers",
    "looks_cost",
    "machine_restarted",
    "messages_a_block",
    "mounted",
    "no_epoll",
    "no_look_before",
    "no_take_over",
    "no_threads",
    "numbers_reserved",
    "other_ring",
    "patched",
    "patient_histories",
    "pattern_bounds",
    "pauses_of_crews",
    "published_remembered",
    "reused",
    "ring_descriptor",
    "ring_from",
    "sends_by_libc",
    "short_writes",
    "time_is_up",
    "was_quiet",
    "without_libc",
    "without_libc_send",
    "without_proc",
    "without_socket_flag",
    "without_spawn_action",
]

LibcSend = Callable[[int, bytes, int, int], int]


@contextlib.contextmanager
def patched(owner: object, name: str, value: object) -> Iterator[None]:
    """Have an attribute be another while the block runs."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(owner, name, value)
        yield


# --- the kernel ----------------------------------------------------------------------------


@contextlib.contextmanager
def kernel_send(send: LibcSend | None) -> Iterator[None]:
    """Have `send(descriptor, data, size, flags)` stand for the send(2) of libc, and no ring."""
    with patched(fast_send, "_libc_send", send), patched(ring, "_FEW", sys.maxsize):
        yield


def io_uring_for_all() -> AbstractContextManager[None]:
    """Have broadcasts to few clients sent by io_uring as well."""
    return patched(ring, "_FEW", 1)


@contextlib.contextmanager
def around_ring_calls(
    owner: ring.Ring,
    *,
    before: Callable[[int], object] = lambda count: None,
    after: Callable[[], object] = lambda: None,
    entries: Callable[[int], int] = lambda count: count,
    results: Mapping[int, int] | None = None,
    lost: int = 0,
) -> Iterator[None]:
    """Have something happen around the system calls of a ring.

    Args:
        owner: the ring.
        before: called before each, with the number of its entries.
        after: called after each.
        entries: returns how many of them the kernel takes.
        results: what the kernel answers for some of them, by their places.
        lost: how many of its last answers are missing.
    """
    call, words, memory = owner._call, owner._words, owner._found

    def call_and_change(number: int, fd: int, count: int, *args: int) -> int:
        before(count)
        done = call(number, fd, entries(count), *args)
        for place, result in (results or {}).items():
            at = (words[owner._cq_head] + place) % ring._RESULTS
            ring._RESULT.pack_into(memory, at * ring._RESULT.size, place, result, 0)
        words[owner._cq_tail] -= lost
        after()
        return done

    with patched(owner, "_call", call_and_change):
        yield


def before_ring_locks(owner: ring.Ring, act: Callable[[], object]) -> AbstractContextManager[None]:
    """Have something happen after a ring has read descriptors, and before it takes the locks."""
    name = owner._name

    def name_and_act(fds: list[int]) -> None:
        name(fds)
        act()

    return patched(owner, "_name", name_and_act)


def first_ring_call(act: Callable[[], object]) -> AbstractContextManager[None]:
    """Have something happen before the first system call of a ring that is made meanwhile."""
    return patched(ring, "_load_libc", lambda: (lambda *args: act(), None))


def other_ring(name: str, value: object) -> AbstractContextManager[None]:
    """Have a constant of rings, which is the kernel's, be another."""
    return patched(ring, name, value)


def ring_descriptor(owner: ring.Ring) -> int:
    """Return the descriptor of a ring."""
    return owner._fd


def ring_from(targets: int) -> None:
    """Have broadcasts to so many targets and more sent by io_uring, for the whole run."""
    ring._FEW = targets


@contextlib.contextmanager
def short_writes(seed: int, most: int) -> Iterator[None]:
    """Have the kernel take a random part of what it is sent, of at most so many bytes."""
    with kernel_send(support.short_writes(seed, most)):
        yield


# --- libc and the platform -----------------------------------------------------------------


def sends_by_libc() -> bool:
    """Return whether frames go to the kernel by libc, with the GIL held, as things are."""
    near, far = socket.socketpair()
    with near, far:
        direct = fast_send.DirectSocket(near)
        direct.open()
        return direct.fd == near.fileno()


def without_libc_send() -> AbstractContextManager[None]:
    """Have every send go by the socket."""
    return kernel_send(None)


@contextlib.contextmanager
def without_libc(error: type[Exception] = OSError) -> Iterator[None]:
    """Have no libc that can be loaded (OSError), or one without the symbols (AttributeError)."""

    def missing(*_: object, **__: object) -> Any:
        raise error("made to be missing")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ctypes, "PyDLL", missing)
        _load_again(patch)
        yield


@contextlib.contextmanager
def without_socket_flag(name: str) -> Iterator[None]:
    """Have a system whose sockets do not know this flag: MSG_DONTWAIT or MSG_NOSIGNAL."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delattr(socket, name)
        _load_again(patch)
        yield


@contextlib.contextmanager
def a_platform(
    *, family: str | None = None, system: str | None = None, machine: str | None = None
) -> Iterator[LibcSend | None]:
    """Have another platform; yield the send of its libc, None where that is not used.

    Args:
        family: `os.name`.
        system: `sys.platform`.
        machine: `platform.machine()`.
    """
    with pytest.MonkeyPatch.context() as patch:
        if family is not None:
            patch.setattr(os, "name", family)
        if system is not None:
            patch.setattr(sys, "platform", system)
        if machine is not None:
            patch.setattr(platform, "machine", lambda: machine)
        _load_again(patch)
        yield fast_send._libc_send


def imported_anew(module: ModuleType) -> ModuleType:
    """Return what an import of a module makes on a system that is as it is now."""
    assert module.__file__ is not None
    # Not by the loader of pytest, which asks for paths of the system that is pretended.
    loader = importlib.machinery.SourceFileLoader(module.__name__, module.__file__)
    spec = importlib.util.spec_from_loader(module.__name__, loader)
    assert spec is not None
    anew = importlib.util.module_from_spec(spec)
    loader.exec_module(anew)
    return anew


_OF_THE_SYSTEM = {
    fast_send: (
        "_AT_ONCE",
        "_FLAGS",
        "_libc_send",
        "_libc_recv",
        "_libc_poll",
        "_libc_epoll_ctl",
    ),
    progress: ("_HAS_INFO", "_ioctl"),
    ring: ("_SEND_FLAGS",),
}


def _load_again(patch: pytest.MonkeyPatch) -> None:
    """Have the modules know what they would find out of the system that there is now."""
    for module, names in _OF_THE_SYSTEM.items():
        anew = imported_anew(module)
        for name in names:
            patch.setattr(module, name, getattr(anew, name))


@contextlib.contextmanager
def answer_lost(error: Exception, then: Callable[[], object] = lambda: None) -> Iterator[None]:
    """Have a Redis server do what the next messages ask for, and be gone before it answers.

    The first attempt to connect after that fails too. `error` is what both raise; `then` is
    called between the two.
    """
    run, session = redis_server.Session.run, redis_server.RedisServer.session
    with pytest.MonkeyPatch.context() as patch:

        def connect_later(server: redis_server.RedisServer, shard: int = 0) -> redis_server.Session:
            patch.setattr(redis_server.RedisServer, "session", session)
            raise error

        def run_and_lose(made: redis_server.Session, text: str, *call: Any) -> Any:
            answer = run(made, text, *call)
            if text != redis_scripts.APPEND.text:
                return answer
            then()
            patch.setattr(redis_server.Session, "run", run)
            patch.setattr(redis_server.RedisServer, "session", connect_later)
            raise error

        patch.setattr(redis_server.Session, "run", run_and_lose)
        yield


# --- threads -------------------------------------------------------------------------------


@contextlib.contextmanager
def no_threads(*names: str) -> Iterator[None]:
    """Have no thread start whose name begins with one of these; none at all without names."""

    def checked(start: Callable[..., Any]) -> Callable[..., Any]:
        def start_or_refuse(name: str, *args: Any, **kwargs: Any) -> Any:
            if not names or name.startswith(names):
                raise RuntimeError("can't start new thread")
            return start(name, *args, **kwargs)

        return start_or_refuse

    with (
        patched(threads, "start", checked(threads.start)),
        patched(threads, "begin", checked(threads.begin)),
    ):
        yield


def no_epoll() -> AbstractContextManager[None]:
    """Have each connection have a thread of its own, as where there is no epoll."""
    return patched(readers, "_AVAILABLE", False)


def no_take_over() -> AbstractContextManager[None]:
    """Have the others wait for a thread that is held up, unless it has handed over before."""
    return patched(crew, "_LOOK", 3600.0)


def lingers(seconds: float) -> AbstractContextManager[None]:
    """Have a connection that had a thread keep it for so long."""
    return patched(readers, "_LINGER", seconds)


def pauses_of_crews(seconds: float) -> AbstractContextManager[None]:
    """Have a crew whose wait has failed wait again after so long."""
    return patched(crew, "_PAUSE", seconds)


# --- processes -----------------------------------------------------------------------------


def without_proc() -> AbstractContextManager[None]:
    """Have a system that tells of its processes by `ps` alone."""
    return patched(session, "_PROC", "/no/such/directory")


def no_look_before() -> None:
    """Have the next sample of a program look at all processes anew."""
    samples._processes.forget()


def time_is_up(process: Process) -> None:
    """Have the timeout of a program be over; it looks at that behind each output."""
    process._watch._timeout_at = 0.0


def was_quiet(process: Process, seconds: float) -> None:
    """Have the last output of a program be older."""
    process._watch._quiet_since -= seconds


def looks_cost(times: float) -> AbstractContextManager[None]:
    """Have a look at all processes serve for so many times what it has cost."""
    return patched(samples, "_REST", times)


def reused(pid: int) -> AbstractContextManager[None]:
    """Have a process id be that of another process by now, which has started later."""
    born = session._born

    def born_later(each: int, **options: Any) -> str:
        return "later" if each == pid else born(each, **options)

    return patched(session, "_born", born_later)


def before_each_signal(act: Callable[[], object]) -> AbstractContextManager[None]:
    """Act whenever a session has found a process of its own, and is about to take hold of it."""
    hold = session._hold

    def act_and_hold(pid: int) -> int | None:
        act()
        return hold(pid)

    return patched(session, "_hold", act_and_hold)


def without_spawn_action(name: str) -> AbstractContextManager[None]:
    """Have a C library whose posix_spawn(3) lacks a file action: `addchdir`, `addclosefrom`."""
    return patched(launch, f"_{name}", None)


# --- between two lines ---------------------------------------------------------------------


@contextlib.contextmanager
def before_each_request(poller: Poller, act: Callable[[], object]) -> Iterator[None]:
    """Act when a poller has seen that its thread lives, and is about to queue a request for it."""

    class Requests(queue.SimpleQueue[Any]):
        def put(self, item: Any, block: bool = True, timeout: float | None = None) -> None:
            act()
            super().put(item)

    with pytest.MonkeyPatch.context() as patch:
        requests, before = Requests(), poller._requests
        while not before.empty():
            queue.SimpleQueue.put(requests, before.get_nowait())
        patch.setattr(poller, "_requests", requests)
        yield


def machine_restarted(name: str = "another boot") -> AbstractContextManager[None]:
    """Have history files be opened after another start of the machine."""
    return patched(sqlite_file, "_boot", lambda: name)


def mounted(table: Path) -> AbstractContextManager[None]:
    """Have a file be the table of what is mounted."""
    return patched(sqlite_file, "_MOUNTS", str(table))


def numbers_reserved(count: int) -> AbstractContextManager[None]:
    """Have a history file reserve so many numbers at a time."""
    return patched(sqlite_rows, "_RESERVE", count)


@contextlib.contextmanager
def published_remembered(count: int) -> Iterator[None]:
    """Have every store remember so many publishes with an idempotency key."""
    with contextlib.ExitStack() as stack:
        for module in (memory, redis_history, sqlite):
            stack.enter_context(patched(module, "_MOST_PUBLISHED", count))
        yield


def messages_a_block(count: int) -> AbstractContextManager[None]:
    """Have the histories in memory join so many messages at most."""
    return patched(history, "_BLOCK_MESSAGES", count)


@contextlib.contextmanager
def hub_held(publisher: Publisher) -> Iterator[Callable[[float], bool]]:
    """Hold the lock of a publisher's hub on another thread; yield what waits for the hub's end.

    The publisher is not kept.
    """
    hub = publisher._hub
    assert hub is not None
    del publisher
    life, taken, release = hub._life, threading.Event(), threading.Event()

    def hold() -> None:
        with hub._lock:
            taken.set()
            release.wait()

    holder = threading.Thread(target=hold)
    holder.start()
    taken.wait()
    try:
        yield life.finished.wait
    finally:
        release.set()
        holder.join()


@contextlib.contextmanager
def after_reserving(function: Callable[[], object]) -> Iterator[None]:
    """Have a store of SQLite call a function behind its first reservation of numbers."""
    reserve, waiting = sqlite.reserve, [function]

    def reserve_then(*args: Any) -> None:
        reserve(*args)
        if waiting:
            waiting.pop()()

    with patched(sqlite, "reserve", reserve_then):
        yield


@contextlib.contextmanager
def patient_histories(seconds: float) -> Iterator[None]:
    """Have histories that are opened in the block wait longer: for a file, for their server."""
    with patched(sqlite_file, "_PATIENCE", seconds):
        with broker_times(answer=seconds, patience=seconds):
            yield


@contextlib.contextmanager
def pattern_bounds(
    patience: int = 2048, window: int = 8192, remembered: int = 8192
) -> Iterator[None]:
    """Have patterns of secrets read backwards sooner, and less in one go, and remember less."""
    with (
        patched(patterns, "_PATIENCE", patience),
        patched(patterns, "_WINDOW", window),
        patched(patterns, "_MOST_REMEMBERED", remembered),
    ):
        yield


@contextlib.contextmanager
def broker_times(
    silence: float = 5.0,
    gone: float = 10.0,
    age: float = 10.0,
    room: int | None = None,
    patience: float = 2.0,
    settling: float = 30.0,
    answer: float = 3.0,
) -> Iterator[None]:
    """Have a RedisBackplane wait less: for a sign of life, a process, its server; in seconds.

    One that is made in the block waits `answer` for each answer of the server.
    `room` is how many bytes wait for a receiver. Its history tries for `patience` to keep
    messages, for `settling` where they may be kept.
    """
    with contextlib.ExitStack() as stack:
        for owner, name, value in (
            (redis_listener, "_SILENCE", silence),
            (redis_listener, "_PING_EVERY", min(silence / 2, 2.0)),
            (redis_listener, "_GONE", gone),
            (redis_listener, "_LOOK_EVERY", min(gone / 2, 5.0)),
            (redis_claims, "OWNER_SECONDS", gone),
            (redis_sender, "BEAT_EVERY", min(gone / 5, 2.0)),
            (redis_sender, "_MOST_AGE", age),
            (redis_links, "_PATIENCE", patience),
            (redis_links, "_SETTLING", settling),
            (redis_server, "_TIMEOUT", answer),
        ):
            stack.enter_context(patched(owner, name, value))
        if room is not None:
            stack.enter_context(patched(redis_listener, "MAX_WAITING_BYTES", room))
        yield
