"""Broadcasts by io_uring: one system call for many clients, the GIL being kept.

`fast_send.send_to_each` calls send(2) once a client, from Python. A ring hands the sends of a
chunk of clients to the kernel in one call of io_uring_enter(2). Rules of this file:

- **The kernel is given a descriptor only while its client's lock is held**, and under the lock it
  is looked at again whether it is still the client's. So no entry names a descriptor that its
  client has given up, and no other thread sends between a write that fell short and its rest.
- **No lock is waited for while another is held**: those of a chunk are held together. Where one of
  them is taken, the chunk is sent to one by one.
- **Next to nothing is allocated under the locks**, because the collector, which may run whenever
  something is, calls finalisers of the application.
- **Nothing stays in the kernel.** Each entry has MSG_DONTWAIT: a send that would have to wait fails
  with EAGAIN in the same call, also where the socket is in blocking mode. This is tested when a
  ring is made, and results are counted in each call.
- **What was not sent whole is the caller's**, as with `fast_send.send_to_each`.

The order of reads and writes that io_uring(7) asks for is certain, because one thread does all
of them: the kernel reads entries and writes results only within io_uring_enter, on the thread
that calls it. There is no IORING_SETUP_SQPOLL, and as no entry waits, no thread of the kernel's
completes one. A thread sees its own writes in order on every processor; the barriers of the
manual are for two threads. IORING_SETUP_SINGLE_ISSUER has the kernel refuse every other thread,
and every forked child.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import itertools
import mmap
import os
import platform
import socket
import struct
import sys
from array import array
from collections import deque
from collections.abc import Callable, Collection, Iterator
from typing import TypeVar

from ..log import get_logger
from ..reentrant import Lock
from ..threads import forget_after_fork
from .fast_send import DirectSocket, Reachable, send_to_each

__all__ = ["Ring", "Unavailable"]

logger = get_logger(__name__)

R = TypeVar("R", bound=Reachable)

# --- the kernel's interface --------------------------------------------------------------

# Both are little-endian and have the same numbers of system calls, and on both an int fills the
# register of an argument (see `fast_send`).
_MACHINES = ("x86_64", "amd64", "aarch64", "arm64")
_SETUP, _ENTER = 425, 426
_GET_SECCOMP = 21  # PR_GET_SECCOMP of prctl(2)

# struct io_uring_params of io_uring_setup(2): sq_entries, cq_entries, flags, sq_thread_cpu,
# sq_thread_idle, features; at 40 struct io_sqring_offsets: head, tail, ring_mask, ring_entries,
# flags, dropped, array; at 80 struct io_cqring_offsets: head, tail, ring_mask, ring_entries,
# overflow, cqes, flags.
_PARAMS = struct.Struct("=6I")
_SQ_OFFSETS = struct.Struct("=40x7I")
_CQ_OFFSETS = struct.Struct("=80x7I")
_PARAMS_BYTES = 120
_FLAGS = (
    1 << 7  # IORING_SETUP_SUBMIT_ALL: entries behind one that fails are looked at too
    | 1 << 12  # IORING_SETUP_SINGLE_ISSUER: only the thread that made it may use it
    | 1 << 13  # IORING_SETUP_DEFER_TASKRUN: nothing interrupts that thread (Linux 6.1)
)
_ONE_MAP = 1 << 0  # IORING_FEAT_SINGLE_MMAP: both queues are in one mapping
_ENTRIES_AT = 0x10000000  # IORING_OFF_SQES, the place of the entries' mapping

# struct io_uring_sqe of io_uring_enter(2), 64 bytes: opcode, flags, ioprio, fd, off, addr, len,
# msg_flags, user_data; the rest is 0 in a send. Where `fd` and `len` are, in numbers of 4 bytes.
_ENTRY = struct.Struct("=BBHiQQIIQ24x")
_FD, _LENGTH, _NUMBERS = 1, 6, 16
_OP_SEND = 26  # IORING_OP_SEND
_SEND_FLAGS = getattr(socket, "MSG_DONTWAIT", 0) | getattr(socket, "MSG_NOSIGNAL", 0)

# struct io_uring_cqe of io_uring(7), 16 bytes: user_data, res, flags. Where `res` is, in
# numbers of 4 bytes.
_RESULT = struct.Struct("=QiI")
_RES, _RESULT_NUMBERS = 2, 4

_INDEX = 0xFFFFFFFF  # indices are 32 bits wide and wrap around

# --- the bounds of this file -------------------------------------------------------------

# Of one call, which keeps the GIL: it takes some 5 us an entry, and the copying of the bytes.
_ENTRIES = 128  # a power of two
_RESULTS = 2 * _ENTRIES  # the length of the queue of results, as the kernel has it
_CALL_BYTES = 1 << 20
# Of a frame. What takes longer to copy than to send gains nothing.
_FRAME_BYTES = 64 * 1024
_FEW = 160  # targets; to fewer a loop of sends is as fast or faster

_ORDER = array("I", range(_ENTRIES))
_NOT_WAITING = itertools.repeat(False)
_take, _release = Lock.acquire, Lock.release
# Results of this file, beside those of the kernel.
_NOT_TAKEN = -errno.ECANCELED  # the kernel has not looked at an entry
_UNKNOWN = -errno.EINPROGRESS  # the kernel has taken an entry and not answered


class Unavailable(Exception):
    """No ring can be had here; the text says why."""


class Ring:
    """Sends one frame to many clients by io_uring.

    Nothing is taken of the system before the first crowd is sent to, or `open`.

    Threads: one, which sends first or opens it, but for `is_open`, `close` and `forget`.
    """

    def __init__(self) -> None:
        self._fd = -1
        self._tried = False
        self._maps: list[mmap.mmap] = []
        self._views: list[memoryview] = []
        self._nothing = deque[None](maxlen=0)  # runs an iterator
        self._frame: bytes | None = None  # what is in the buffer
        self._size = -1  # its length, as the entries and the expected results have it

    def open(self) -> None:
        """Have the kernel make it; raises Unavailable, and then it sends without."""
        self._tried = True
        self._call, self._differs = _load_libc()
        # The kernel reads the frame from here, and never memory that Python may have freed.
        self._buffer = (ctypes.c_ubyte * _FRAME_BYTES)()
        self._content = memoryview(self._buffer).cast("B")
        # The results of a call that sends it whole to all.
        self._whole = array("i", b"".join([_RESULT.pack(each, 0, 0) for each in range(_ENTRIES)]))
        params = ctypes.create_string_buffer(_PARAMS_BYTES)
        self._fd = _set_up(params)
        try:
            self._map_queues(params)
            self._map_entries()
            self._test()
        except (OSError, ValueError) as error:
            self.close()
            raise Unavailable(str(error)) from error
        except BaseException:
            self.close()
            raise
        forget_after_fork(self)

    def _is_ready(self) -> bool:
        """Return whether it is open; where it has not been tried, open it."""
        if not self._tried:
            try:
                self.open()
            except Unavailable as error:
                logger.debug("broadcasts are sent by a loop of sends: %s", error)
            else:
                logger.debug("broadcasts to %d clients and more are sent by io_uring", _FEW)
        return self._fd >= 0

    def _map_queues(self, params: ctypes.Array[ctypes.c_char]) -> None:
        entries, results, _, _, _, features = _PARAMS.unpack_from(params)
        if not features & _ONE_MAP or (entries, results) != (_ENTRIES, _RESULTS):
            raise OSError(errno.ENOTSUP, "io_uring has another layout")
        sq_head, sq_tail, _, _, _, _, order = _SQ_OFFSETS.unpack_from(params)
        cq_head, cq_tail, _, _, _, found, _ = _CQ_OFFSETS.unpack_from(params)
        size = max(order + 4 * _ENTRIES, found + _RESULTS * _RESULT.size)
        queues = self._map(size, 0)
        self._words = self._keep(queues.cast("I"))
        # Where they are among these words.
        self._sq_head, self._sq_tail, self._order = sq_head // 4, sq_tail // 4, order // 4
        self._cq_head, self._cq_tail = cq_head // 4, cq_tail // 4
        self._found = self._keep(queues[found : found + _RESULTS * _RESULT.size])
        base = ctypes.addressof(ctypes.c_char.from_buffer(self._found))
        self._places = [ctypes.c_void_p(base + at * _RESULT.size) for at in range(_RESULTS)]

    def _map_entries(self) -> None:
        entries = self._map(_ENTRIES * _ENTRY.size, _ENTRIES_AT)
        address = ctypes.addressof(self._buffer)
        for number in range(_ENTRIES):
            entry = _ENTRY.pack(_OP_SEND, 0, 0, -1, 0, address, 0, _SEND_FLAGS, number)
            entries[number * _ENTRY.size : (number + 1) * _ENTRY.size] = entry
        self._numbers = self._keep(entries.cast("i"))

    def _map(self, size: int, offset: int) -> memoryview:
        """Return memory that is shared with the kernel, until `close`."""
        flags = mmap.MAP_SHARED | mmap.MAP_POPULATE
        memory = mmap.mmap(self._fd, size, flags, mmap.PROT_READ | mmap.PROT_WRITE, offset=offset)
        self._maps.append(memory)
        return self._keep(memoryview(memory))

    def _keep(self, view: memoryview) -> memoryview:
        self._views.append(view)
        return view

    def _test(self) -> None:
        """Raise OSError unless the kernel does with a send what this file relies on."""
        near, far = socket.socketpair()
        with near, far:
            self._load(b"x")
            self._name([near.fileno()])
            whole = self._submit(1)
            near.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)
            near.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                while True:
                    near.send(bytes(4096))
            near.setblocking(True)  # as the sockets of clients are
            self._name([near.fileno(), -1])
            full = [] if self._submit(2) else self._results_of(2)
            self._clear()
        if not whole or full != [-errno.EAGAIN, -errno.EBADF]:
            raise OSError(errno.ENOTSUP, f"io_uring does not send as expected: {whole}, {full}")

    def close(self) -> None:
        """Give the memory and the descriptor back; from then on it sends without. Idempotent.

        Threads: any, while nothing is sent.
        """
        fd, self._fd = self._fd, -1
        self._tried = True
        while self._views:
            self._views.pop().release()
        while self._maps:
            self._maps.pop().close()
        if fd >= 0:
            os.close(fd)

    def forget(self) -> None:
        """Do what `close` does, in a forked child: the kernel's part is the parent's.

        Threads: the only one of a forked child.
        """
        self.close()  # nothing is written to the memory, which the parent shares

    @property
    def is_open(self) -> bool:
        """Whether it sends by io_uring. Any thread."""
        return self._fd >= 0

    def send_to_each(
        self, targets: Collection[R], data: bytes, begun: Callable[[R, int], None]
    ) -> Iterator[R]:
        """Do what `fast_send.send_to_each` does."""
        left = iter(targets)
        if len(targets) >= _FEW and 0 < len(data) <= _FRAME_BYTES:
            most = min(_ENTRIES, _CALL_BYTES // len(data))
            while self._is_ready() and (chunk := list(itertools.islice(left, most))):
                self._load(data)  # each time: the caller may have sent another meanwhile
                yield from self._send(chunk, data, begun)
        yield from send_to_each(left, data, begun)

    def _load(self, data: bytes) -> None:
        """Have the entries send this frame."""
        # What is there is said last: an exception may come at any line.
        if self._frame is not data:
            self._frame = None
            self._content[: len(data)] = data
            self._frame = data
        if self._size != (size := len(data)):
            self._size = -1
            sizes = array("i", [size]) * _ENTRIES
            self._numbers[_LENGTH::_NUMBERS] = sizes
            self._whole[_RES::_RESULT_NUMBERS] = sizes
            self._expected = self._whole.tobytes()
            self._size = size

    def _send(self, targets: list[R], data: bytes, begun: Callable[[R, int], None]) -> list[R]:
        """Send the frame to at most as many targets as there are entries.

        Returns those to which nothing was sent. What is done for each target is done in C or in a
        comprehension: this is run for every message.
        """
        rest: list[R] = []
        directs = [way for each in targets if (way := each.direct) is not None and way.fd >= 0]
        if len(directs) < len(targets):
            targets, directs = _open_ones(targets, rest)
        locks = [direct.lock for direct in directs]
        fds = [direct.fd for direct in directs]
        self._name(fds)
        take, release = map(_take, locks, _NOT_WAITING), map(_release, locks)
        try:
            if not all(bytes(take)) or [direct.fd for direct in directs] != fds:
                _release_held(locks)
                rest += send_to_each(targets, data, begun)
            elif self._submit(len(fds)):
                self._nothing.extend(release)
            else:
                results = self._results_of(len(fds))
                self._settle(targets, directs, results, begun, rest)
        except BaseException:
            try:
                self._abandon(directs)
            finally:
                _release_held(locks)
            raise
        return rest

    def _name(self, fds: list[int]) -> None:
        """Have the first entries send to these descriptors, with the next call."""
        count = len(fds)
        self._numbers[_FD : _FD + count * _NUMBERS : _NUMBERS] = array("i", fds)
        # The queue is a circle of places, each of which names an entry.
        at = self._words[self._sq_tail] % _ENTRIES
        first = min(count, _ENTRIES - at)
        self._words[self._order + at : self._order + at + first] = _ORDER[:first]
        self._words[self._order : self._order + count - first] = _ORDER[first:count]

    def _submit(self, count: int) -> bool:
        """Send the frame by so many entries, under the locks; return whether all took it whole.

        Where they did, the results are taken; otherwise `_results_of` has them until `_clear`.
        """
        words, expected = self._words, self._expected
        words[self._sq_tail] = (words[self._sq_tail] + count) & _INDEX
        self._call(_ENTER, self._fd, count, 0, 0, 0, 0)
        head, tail = words[self._cq_head], words[self._cq_tail]
        at = head % _RESULTS
        first = min(count, _RESULTS - at) * _RESULT.size
        if (
            (tail - head) & _INDEX != count
            or self._differs(self._places[at], expected, first)
            or self._differs(self._places[0], expected[first:], count * _RESULT.size - first)
        ):
            return False
        words[self._cq_head] = tail
        return True

    def _results_of(self, count: int) -> list[int]:
        """Return what the last call made of so many entries.

        How many bytes of the frame each has sent, or the negative number of an error.
        """
        words = self._words
        head, tail = words[self._cq_head], words[self._cq_tail]
        # What the kernel has taken begins at the first.
        left = (words[self._sq_tail] - words[self._sq_head]) & _INDEX
        results = [_UNKNOWN] * (count - left) + [_NOT_TAKEN] * left
        for number in range((tail - head) & _INDEX):
            at = (head + number) % _RESULTS * _RESULT.size
            entry, result, _ = _RESULT.unpack_from(self._found, at)
            results[entry] = result
        return results

    def _clear(self) -> None:
        """Take back the entries that the kernel has not taken, and take the results."""
        words = self._words
        words[self._sq_tail] = words[self._sq_head]
        words[self._cq_head] = words[self._cq_tail]

    def _abandon(self, directs: list[DirectSocket]) -> None:
        """End a call that an exception has cut short, under the locks that are still held.

        A client with a part of the frame would never get the rest: its connection ends.
        """
        if self._fd < 0:
            return
        try:
            for direct, result in zip(directs, self._results_of(len(directs)), strict=True):
                if 0 < result < self._size and direct.lock.locked():
                    direct.sever()
        finally:
            self._clear()

    def _settle(
        self,
        targets: list[R],
        directs: list[DirectSocket],
        results: list[int],
        begun: Callable[[R, int], None],
        rest: list[R],
    ) -> None:
        """Act on the results of a call, under the locks of its targets, which it releases."""
        size = self._size
        for direct, result in zip(directs, results, strict=True):
            if result == size:
                direct.lock.release()  # first: for the others, other locks are taken
        for target, direct, result in zip(targets, directs, results, strict=True):
            if result == size:
                continue
            if result == _UNKNOWN:
                direct.sever()
            elif result > 0:
                begun(target, result)
            else:
                rest.append(target)
            direct.lock.release()
        self._clear()
        if unknown := results.count(_UNKNOWN):
            self._give_up(unknown)

    def _give_up(self, clients: int) -> None:
        self.close()
        logger.error(
            "io_uring has not answered for %d clients, which are disconnected; from here on "
            "broadcasts are sent without it. Please report this, with your kernel's version",
            clients,
        )


def _open_ones(targets: list[R], rest: list[R]) -> tuple[list[R], list[DirectSocket]]:
    """Return the targets whose direct path is open, and these; add the others to `rest`."""
    found: list[R] = []
    directs: list[DirectSocket] = []
    for target in targets:
        direct = target.direct
        if direct is not None and direct.fd >= 0:
            found.append(target)
            directs.append(direct)
        else:
            rest.append(target)
    return found, directs


def _release_held(locks: list[Lock]) -> None:
    """Release those of some locks that this thread holds."""
    for lock in locks:
        if lock.locked():
            lock.release()


def _load_libc() -> tuple[Callable[..., int], Callable[..., int]]:
    """Return libc's `syscall` and `memcmp`, which keep the GIL; raises Unavailable."""
    known = platform.machine().lower() in _MACHINES and sys.byteorder == "little"
    if not sys.platform.startswith("linux") or not known or ctypes.sizeof(ctypes.c_void_p) != 8:
        raise Unavailable("there is no io_uring on this system")
    try:
        libc = ctypes.PyDLL(None)
        filtered = libc.prctl(_GET_SECCOMP, 0, 0, 0, 0)
        functions = libc.syscall, libc.memcmp
    except (OSError, AttributeError) as error:
        raise Unavailable(f"libc cannot be called: {error}") from None
    # A filter may end the process for a system call that it does not know.
    if filtered:
        raise Unavailable("the process is under a seccomp filter")
    libc.memcmp.argtypes = ctypes.c_void_p, ctypes.c_char_p, ctypes.c_size_t
    return functions


def _set_up(params: ctypes.Array[ctypes.c_char]) -> int:
    """Return the descriptor of a new ring, and fill in its parameters; raises Unavailable."""
    _PARAMS.pack_into(params, 0, 0, 0, _FLAGS, 0, 0, 0)
    fd: int = ctypes.PyDLL(None, use_errno=True).syscall(_SETUP, _ENTRIES, params)
    if fd < 0:
        raise Unavailable(f"io_uring_setup: {os.strerror(ctypes.get_errno())}")
    return fd
