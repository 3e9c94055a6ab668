"""Broadcasts by io_uring: one system call for many clients, the GIL being kept.

`fast_send.send_to_each` calls send(2) once a client, from Python. A ring hands the sends of a
chunk of clients to the kernel in one call of io_uring_enter(2). Rules of this file:

- **A descriptor is named only while its client's lock is held**: from before it is read until
  the kernel has answered. So no entry names a descriptor that its client has given up, and
  no other thread sends between a write that fell short and its rest.
- **No lock is waited for**, as those of a chunk are held together. A client whose lock is taken
  is the caller's to send to.
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

# struct io_uring_cqe of io_uring(7), 16 bytes: user_data, res, flags.
_RESULT = struct.Struct("=QiI")

_INDEX = 0xFFFFFFFF  # indices are 32 bits wide and wrap around

# --- the bounds of this file -------------------------------------------------------------

# Of one call, which keeps the GIL: it takes some 5 us an entry, and the copying of the bytes.
_ENTRIES = 128  # a power of two
_RESULTS = 2 * _ENTRIES  # the length of the queue of results, as the kernel has it
_CALL_BYTES = 1 << 20
# Of a frame. What takes longer to copy than to send gains nothing.
_FRAME_BYTES = 64 * 1024
_FEW = 32  # targets; to fewer a loop of sends is as fast

_ORDER = array("I", range(_ENTRIES))
_NOT_WAITING = itertools.repeat(False)
_take, _release = Lock.acquire, Lock.release
# Results of this file, beside those of the kernel.
_NOT_TAKEN = -errno.ECANCELED  # the kernel has not looked at an entry
_UNKNOWN = -errno.EINPROGRESS  # the kernel has taken an entry and not answered


class Unavailable(Exception):
    """No ring can be had here; the text says why."""


class Ring:
    """Sends one frame to many clients by io_uring. Raises Unavailable.

    Threads: that which made it, but for `forget`.
    """

    def __init__(self) -> None:
        self._call = _load_syscall()
        params = ctypes.create_string_buffer(_PARAMS_BYTES)
        self._fd = _set_up(params)
        self._maps: list[mmap.mmap] = []
        self._views: list[memoryview] = []
        # The kernel reads the frame from here, and never memory that Python may have freed.
        self._buffer = (ctypes.c_ubyte * _FRAME_BYTES)()
        self._content = memoryview(self._buffer).cast("B")
        self._frame: bytes | None = None  # what is in the buffer
        self._size = -1  # its length, as the entries and the expected results have it
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
        self._results = self._keep(queues[found : found + _RESULTS * _RESULT.size])

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
            whole = self._submit([near.fileno()])
            near.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)
            near.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                while True:
                    near.send(bytes(4096))
            near.setblocking(True)  # as the sockets of clients are
            full = self._submit([near.fileno(), -1])
        if whole or full != [-errno.EAGAIN, -errno.EBADF]:
            raise OSError(errno.ENOTSUP, f"io_uring does not send as expected: {whole}, {full}")

    def close(self) -> None:
        """Give the memory and the descriptor back; from then on there is the loop of sends.

        Idempotent.
        """
        fd, self._fd = self._fd, -1
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
            while self._fd >= 0 and (chunk := list(itertools.islice(left, most))):
                self._load(data)  # each time: who gets the others may have sent something else
                yield from self._send(chunk, begun)
        yield from send_to_each(left, data, begun)

    def _load(self, data: bytes) -> None:
        """Have the entries send this frame."""
        if self._frame is not data:
            self._content[: len(data)] = data
            self._frame = data
        if self._size != len(data):
            size = self._size = len(data)
            self._numbers[_LENGTH::_NUMBERS] = array("i", [size]) * _ENTRIES
            self._expected = b"".join([_RESULT.pack(each, size, 0) for each in range(_ENTRIES)])

    def _send(self, targets: list[R], begun: Callable[[R, int], None]) -> list[R]:
        """Send the frame to at most as many targets as there are entries.

        Returns those to which nothing was sent. What is done for each target is done in C or in a
        comprehension: this is run for every message.
        """
        rest: list[R] = []
        directs = [way for each in targets if (way := each.direct) is not None and way.fd >= 0]
        if len(directs) < len(targets):
            targets, directs = _part(targets, lambda direct: direct.fd >= 0, rest)
        locks = [direct.lock for direct in directs]
        try:
            if not all(list(map(_take, locks, _NOT_WAITING))):
                targets, directs = _part(targets, lambda direct: direct.lock.locked(), rest)
                locks = [direct.lock for direct in directs]
            results = self._submit([direct.fd for direct in directs])
            if not results:  # nearly always
                deque(map(_release, locks), maxlen=0)
                return rest
            whole = [result == self._size for result in results]
            # First: those that fell short take other locks under theirs.
            deque(map(_release, itertools.compress(locks, whole)), maxlen=0)
            for target, direct, sent in zip(targets, directs, results, strict=True):
                if sent == self._size:
                    continue
                if sent == _UNKNOWN:
                    direct.sever()
                elif sent > 0:
                    begun(target, sent)
                else:
                    rest.append(target)
                direct.lock.release()
        except BaseException:
            for lock in locks:
                if lock.locked():
                    lock.release()
            raise
        if _UNKNOWN in results:
            self._give_up(results.count(_UNKNOWN))
        return rest

    def _submit(self, fds: list[int]) -> list[int]:
        """Send the frame to descriptors, under their locks.

        Returns an empty list when each was sent the whole of it, and else how many bytes each was
        sent, or the negative number of an error.
        """
        words, count = self._words, len(fds)
        self._numbers[_FD : _FD + count * _NUMBERS : _NUMBERS] = array("i", fds)
        # The first `count` entries are those to be sent, wherever the queue stands.
        tail = words[self._sq_tail]
        at = tail % _ENTRIES
        first = min(count, _ENTRIES - at)
        words[self._order + at : self._order + at + first] = _ORDER[:first]
        words[self._order : self._order + count - first] = _ORDER[first:count]
        words[self._sq_tail] = (tail + count) & _INDEX
        self._call(_ENTER, self._fd, count, 0, 0, 0, 0)  # it returns how many it has taken
        taken = (words[self._sq_head] - tail) & _INDEX
        answered = self._take_results()
        if answered == self._expected[: count * _RESULT.size]:
            return []
        words[self._sq_tail] = words[self._sq_head]  # what it has not taken is taken back
        results = [_UNKNOWN] * taken + [_NOT_TAKEN] * (count - taken)
        for number, result, _ in _RESULT.iter_unpack(answered):
            results[number] = result
        return results

    def _take_results(self) -> bytes:
        """Return the results that are there, of whole entries."""
        head, tail = self._words[self._cq_head], self._words[self._cq_tail]
        begin, count = head % _RESULTS, (tail - head) & _INDEX
        end = (begin + count) * _RESULT.size
        found = bytes(self._results[begin * _RESULT.size : end])
        if end > len(self._results):
            found += bytes(self._results[: end - len(self._results)])
        self._words[self._cq_head] = tail
        return found

    def _give_up(self, clients: int) -> None:
        self.close()
        logger.error(
            "io_uring has not answered for %d clients, which are disconnected; from here on "
            "broadcasts are sent without it. Please report this, with your kernel's version",
            clients,
        )


def _part(
    targets: list[R], suits: Callable[[DirectSocket], bool], rest: list[R]
) -> tuple[list[R], list[DirectSocket]]:
    """Return the targets whose direct path suits, and these; add the others to `rest`."""
    suited: list[R] = []
    directs: list[DirectSocket] = []
    for target in targets:
        direct = target.direct
        if direct is not None and suits(direct):
            suited.append(target)
            directs.append(direct)
        else:
            rest.append(target)
    return suited, directs


def _load_syscall() -> Callable[..., int]:
    """Return libc's `syscall`, which keeps the GIL; raises Unavailable."""
    known = platform.machine().lower() in _MACHINES and sys.byteorder == "little"
    if not sys.platform.startswith("linux") or not known or ctypes.sizeof(ctypes.c_void_p) != 8:
        raise Unavailable("there is no io_uring on this system")
    try:
        libc = ctypes.PyDLL(None)
        filtered = libc.prctl(_GET_SECCOMP, 0, 0, 0, 0)
        call: Callable[..., int] = libc.syscall
    except (OSError, AttributeError) as error:
        raise Unavailable(f"libc cannot be called: {error}") from None
    # A filter may end the process for a system call that it does not know.
    if filtered:
        raise Unavailable("the process is under a seccomp filter")
    return call


def _set_up(params: ctypes.Array[ctypes.c_char]) -> int:
    """Return the descriptor of a new ring, and fill in its parameters; raises Unavailable."""
    _PARAMS.pack_into(params, 0, 0, 0, _FLAGS, 0, 0, 0)
    fd: int = ctypes.PyDLL(None, use_errno=True).syscall(_SETUP, _ENTRIES, params)
    if fd < 0:
        raise Unavailable(f"io_uring_setup: {os.strerror(ctypes.get_errno())}")
    return fd
