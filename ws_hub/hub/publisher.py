"""Publishes from a process that serves no sockets: a cron job, a task of Celery, a notebook.

A publisher has a hub without clients, which is started at the first use, by the rules that the
application's hubs have left in the backplane (`backplane.rules`). That hub only tells: it gets
nothing of what the others publish, and they do not count it among theirs.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import logging
import multiprocessing
import os
import re
import threading
import time
import warnings
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Never, Self, TextIO

from .. import threads
from ..backplane.addresses import VARIABLE, backplane_of, without_password
from ..backplane.bus import Backplane, BusStats, Notice, NoticeKind, Receiver, SharedClaims
from ..backplane.interest import Interest
from ..backplane.publisher import NOBODY, AbstractPublisher
from ..backplane.rules import SharedRules
from ..backplane.sqlite import SqliteHistory
from ..backplane.store import HistoryStore
from ..config import ChannelRule, HubConfig, as_rules
from ..errors import CloseCode, ConfigError, HubNotRunning, NotConnected, excerpt
from ..log import get_logger
from ..mask.masks import MaskEnv
from ..process.log_file import ProcessLog
from ..process.process import HasFileno, Process
from ..process.terms import GRACE
from ..process.writers import log_handler, writer
from ..protocol.json_text import fast_encoder
from ..protocol.message import AnyMessage, Encoder
from ..protocol.names import AnyId, check_channel, process_rule
from ..protocol.publication import Delivery, Key, Output
from ..reentrant import Lock, nested
from ..validation import check_bound, check_named, check_timeout
from . import prefork
from .beginning import Beginning
from .hub import Hub

__all__ = ["Publisher"]

logger = get_logger(__name__)

# Of the time for the end the history gets one part, the others another, and threads the rest.
_STEPS = 3
_LEAST_CLOSE = 0.1  # seconds of each
_LEAST_BEGIN = 1.0  # seconds for which the first use waits for a server, if it must not wait
_PAUSE = 1.0  # seconds for which a server that is away is not tried again
# What a hub tells to be told of it.
_QUESTIONS = (NoticeKind.KEYS, NoticeKind.PRESENCE, NoticeKind.ASK)
_EXIT_PRIORITY = 100  # among the finalisers of `multiprocessing`: before it ends what it has made


class Publisher(AbstractPublisher):
    """Publishes to the clients of an application from a process that has none.

    `Publisher("local:///run/app/hub").send_event("saved", {"id": 7}, channel="news")`

    It begins at its first use, and needs that a hub of the application has run, from which it has
    the rules for channels. One in each process is enough; it may be made before a fork, and used
    in the children. At the end of the process, by `close()`, and when it is collected, what was
    told is passed on.

    The first use waits for the server of the backplane, as long as a publish may wait, but up to
    one second where that is less; later ones do not wait for it.

    Where no process of the application is reached, what is published is lost, but for channels
    with history, and a warning is logged: see `peers`. With `wait=` a publish returns the Delivery
    of this process: without subscribers, but with the true number, once the message is kept.

    Args:
        address: the address of the application's backplane, as `HubConfig.backplane` has it, or
            a LocalBackplane or a RedisBackplane; None for the one in the environment,
            WS_HUB_BACKPLANE.
        rules: the rules for channels where no hub has run yet, the same as `HubConfig.rules`;
            None for those of the application.
        timeout: seconds that a publish may wait for room, and `close` for what is not passed on
            yet, each at most.

    Raises ConfigError for an address or rules that are none, and at the first use where the
    backplane cannot be used or has no rules; NotConnected there, where its server is not reached,
    which the next use tries again; TypeError and ValueError for a bad timeout.

    Threads: any.
    """

    def __init__(
        self,
        address: Backplane | str | None = None,
        *,
        rules: Sequence[ChannelRule] | None = None,
        timeout: float = 10.0,
    ) -> None:
        super().__init__()
        given = os.environ.get(VARIABLE) if address is None else address
        if not given:
            raise ConfigError(
                "a Publisher needs the address of the application's backplane: "
                f'Publisher("local:///run/app/hub"), or {VARIABLE} in the environment'
            )
        self._rules = None if rules is None else as_rules(rules)
        HubConfig(backplane=given, rules=self._rules or ())  # raises for what is no backplane
        backplane_of(given)  # the same for an address
        self._address = given
        self._timeout = check_bound("timeout", timeout)
        self._encoder = Encoder(fast_encoder(), process_rule(None))
        self._is_closed = False
        self._renew()
        threads.forget_after_fork(self)

    def _renew(self) -> None:
        # guards: what follows, and _is_closed. Nothing is taken under it.
        self._lock = Lock()
        self._hub: Hub | None = None
        self._beginning: Beginning[Hub] | None = None
        self._has_tried = False  # to begin, to the end of the attempt
        self._refusal: NotConnected | None = None  # of the last one, and until when that counts
        self._refuses_until = 0.0

    def __repr__(self) -> str:
        return f"Publisher({excerpt(without_password(self._address))})"

    def __del__(self) -> None:
        # A finaliser runs between any two bytecodes: it takes no lock, and waits for nothing.
        hub = getattr(self, "_hub", None)  # not there, where __init__ has raised
        if hub is not None and hub.running:
            hub._life.post(functools.partial(hub._stop, None))
            # After that: it may raise.
            warnings.warn(
                f"unclosed {self!r}: close() it, or keep one for the whole process",
                ResourceWarning,
                stacklevel=2,
                source=self,
            )

    def forget(self) -> None:
        """Begin anew in a forked child: the parent's hub is the parent's.

        Threads: the only one there is, right after the fork.
        """
        self._renew()

    # --- the hub ---------------------------------------------------------------------------

    @contextlib.contextmanager
    def _in_own_words(self) -> Iterator[None]:
        """Raise HubNotRunning in this publisher's words, where the hub has ended."""
        try:
            yield
        except HubNotRunning as error:
            raise self._ended() from error

    def _begun(self, timeout: float | None = None) -> Hub:
        """Return the hub, which runs; it is started where there is none yet.

        On a thread of its own: there is no other bound for what asks for the name of a server.
        """
        hub = self._hub
        if hub is not None:
            return hub
        check_timeout("timeout", timeout)
        threads.check_real("a Publisher")
        # A call within another one waits for no thread: that might need what is half done here.
        is_nested = nested()
        with self._lock:
            self._check_locked()
            if self._hub is not None:
                return self._hub
            if self._beginning is None and not is_nested:
                self._beginning = Beginning("ws-hub:begin", self._attempt)
            begun = self._beginning
        if is_nested or begun is None:
            return self._start()
        wait = self._timeout if timeout is None else timeout
        if not self._has_tried:
            wait = max(wait, begun.at + _LEAST_BEGIN - time.monotonic())
        hub = begun.result(wait)
        if hub is None:
            raise NotConnected(
                f"{self!r} has not begun within {max(wait, 0):g} s, and has published nothing: its "
                "server does not answer. Try again later: it goes on trying for some seconds"
            )
        return hub

    def _check_locked(self) -> None:
        assert self._lock.locked()
        # At the end of the interpreter nothing would stop a hub that begins only now.
        if self._is_closed or not threading.main_thread().is_alive():
            raise self._ended()
        if self._refusal is not None and time.monotonic() < self._refuses_until:
            raise copy.copy(self._refusal)

    def _attempt(self) -> Hub:
        """Start the hub, on the thread for it."""
        refusal: NotConnected | None = None
        try:
            return self._start()
        except NotConnected as error:
            refusal = copy.copy(error)
            raise
        finally:
            with self._lock:
                self._beginning, self._has_tried = None, True
                self._refusal, self._refuses_until = refusal, time.monotonic() + _PAUSE

    def _start(self) -> Hub:
        hub = Hub(self._config())
        hub.masks = self.masks
        hub.start()
        prefork.except_of(hub)
        _stop_at_exit(hub)
        with self._lock:
            first, is_closed = self._hub, self._is_closed
            if first is None and not is_closed:
                self._hub = hub
        if is_closed or first is not None:  # a signal handler has begun meanwhile
            hub.stop()
        if is_closed:
            raise self._ended()
        return first or hub

    def _config(self) -> HubConfig:
        """Return the settings of the hub; raises ConfigError where there are no rules."""
        backplane = backplane_of(self._address)
        assert backplane is not None
        try:
            kept = backplane.kept_rules()
        except OSError as error:
            raise NotConnected(
                f"{self!r} cannot begin, and has published nothing: {error}. Try again when it is "
                "there"
            ) from error
        if self._rules is None and kept is None:
            raise ConfigError(
                f"a Publisher found no rules at {excerpt(without_password(self._address))}: no "
                "hub of the application has run there. Start the application, whose hub may wait "
                'for its first request, with the same address, "local:///..." with a directory or '
                '"redis://..." with the same prefix; or pass rules=, the same as its own'
            )
        there = self._there(kept)
        rules = there.rules if self._rules is None else self._rules
        close_timeout = max(self._timeout / _STEPS, _LEAST_CLOSE)
        outward = _Outward(backplane, close_timeout)
        config = HubConfig(rules=rules, backplane=outward, close_timeout=close_timeout)
        if config.keeps_history:
            config = replace(config, history=_store(there.history))
        return config

    def _there(self, kept: str | None) -> SharedRules:
        """Return the rules of the application, of which those that were given may differ."""
        if self._rules is None:
            return SharedRules.parse(kept or "")
        own = SharedRules(self._rules)
        with contextlib.suppress(ConfigError):
            there = own if kept is None else SharedRules.parse(kept)
            difference = SharedRules(self._rules, there.history).difference(there)
            if difference:
                logger.warning(
                    "the application at %s has other rules than this Publisher: %s. Leave rules= "
                    "out, to go by those of the application",
                    excerpt(without_password(self._address)),
                    difference,
                )
            return there
        return own

    def _ended(self) -> HubNotRunning:
        return HubNotRunning(
            f"{self!r} has ended, by its close() or with its process, and publishes nothing any "
            "more: publish before that, call close() last, or make another one"
        )

    def peers(self) -> int:
        """Return how many processes of the application are reached; 0 once it has ended.

        Begins, where it has not. One that has begun meanwhile counts from the next publish on,
        where others are reached, and with a server after two seconds. Raises ConfigError and
        NotConnected, see `Publisher`.

        Threads: any; waits for the file system or the server at the first use.
        """
        hub = self._begun()
        return hub.stats().peers if hub.running else 0

    def keeps(self, channel: str) -> bool:
        """Return whether a channel keeps history: what is published to it is there for later.

        Raises TypeError and InvalidName for a bad name, ConfigError and NotConnected, see
        `Publisher`.

        Threads: any; waits for the file system or the server at the first use.
        """
        check_channel(channel)
        return self._begun().config.rule_for(channel).history_messages > 0

    def close(self, timeout: float | None = None) -> bool:
        """Pass on what was told, and end; programs of `run_process` end with it. Idempotent.

        Waits until it is done, at most `timeout` seconds; None for the publisher's own. Returns
        whether the processes that were reached have taken, and the history has kept, all that
        was published; otherwise the log has what was lost.

        Threads: any; blocks at most so long, from a signal handler not at all.
        """
        bound = self._timeout if timeout is None else check_bound("timeout", timeout)
        with self._lock:
            self._is_closed = True
            hub = self._hub
        if hub is None:
            return True
        hub.stop(bound)
        stats = hub.stats()
        lost = stats.bus_lost or stats.history_failed or stats.queued
        return hub._life.finished.is_set() and not lost

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    # --- publish (the other methods are those of `AbstractPublisher`) --------------------------

    def _publish(
        self,
        texts: Sequence[bytes],
        channel: str,
        timeout: float | None,
        *,
        ends_channel: bool = False,
        exclude: frozenset[int] = NOBODY,
        wait: float | None = None,
        of: Key | Output | None = None,
    ) -> Delivery | None:
        hub = self._begun(timeout)
        with self._in_own_words():
            return hub._publish(
                texts,
                channel,
                self._timeout if timeout is None else timeout,
                ends_channel=ends_channel,
                exclude=exclude,
                wait=wait,
                of=of,
            )

    def send_to_user(
        self,
        user_id: AnyId,
        message: AnyMessage,
        *_unnamed: Never,
        timeout: float | None = None,
    ) -> None:
        """Send a message to all connections of a user, each browser tab of theirs.

        See `Hub.send_to_user`.

        Threads: any; waits while the queue is full, at most `timeout` seconds.
        """
        check_named(_unnamed, "send_to_user(user_id, message)")
        bound = self._timeout if timeout is None else timeout
        hub = self._begun(timeout)
        with self._in_own_words():
            hub.send_to_user(user_id, message, timeout=bound)

    def disconnect(
        self, user_id: AnyId, code: int = CloseCode.UNAUTHENTICATED, reason: str = ""
    ) -> None:
        """Close all connections of a user to the processes of the application.

        See `Hub.disconnect`. How many there were is not known here.

        Threads: any; does not wait, but for the file system or the server at the first use.
        """
        self._begun().disconnect(user_id, code, reason)

    def run_process(
        self,
        argv: Sequence[str],
        process_id: AnyId | None = None,
        *,
        pty: bool | tuple[int, int] = False,
        cwd: str | os.PathLike[str] | None = None,
        env: Mapping[str, str] | None = None,
        on_line: Callable[[str, str], object] | None = None,
        mask: Iterable[str | bytes | MaskEnv | re.Pattern[str]] = (),
        timeout: float | None = None,
        idle_timeout: float | None = None,
        grace: float = GRACE,
        attempt: int | None = None,
        stdin: bool | HasFileno = False,
        log: ProcessLog | str | os.PathLike[str] | None = None,
    ) -> Process:
        """Start a program and stream its output to the channel of its process id.

        As `Hub.run_process`, to the clients of the application. An id runs once among all
        processes. Where this process is killed, the status of the program is `lost`.

        Threads: any; does not wait for the program.
        """
        hub = self._begun()
        with self._in_own_words():
            process: Process = hub.run_process(
                argv, process_id, pty=pty, cwd=cwd, env=env, on_line=on_line, mask=mask,
                timeout=timeout, idle_timeout=idle_timeout, grace=grace, attempt=attempt,
                stdin=stdin, log=log,
            )  # fmt: skip
            process.owner = self  # a publisher that is collected ends its programs
            return process

    def log_handler(self, channel: str, level: int = logging.NOTSET) -> logging.Handler:
        """Return a logging handler that sends records to a channel as events.

        Threads: any; does not wait.
        """
        return log_handler(self, channel, level)

    def writer(self, process_id: AnyId, *, stream: str = "stdout") -> TextIO:
        """Return a text file whose lines go to the channel of a process id.

        `stream` is "stdout" or "stderr".

        Threads: any; does not wait.
        """
        return writer(self, process_id, stream=stream)


class _Outward:
    """A backplane that only tells, and leaves no rules.

    Args:
        backplane: the application's.
        timeout: seconds that its end may take to pass on what was told.
    """

    def __init__(self, backplane: Backplane, timeout: float) -> None:
        self._backplane = backplane
        self._timeout = timeout

    def __repr__(self) -> str:
        return repr(self._backplane)

    @property
    def history(self) -> HistoryStore | None:
        """See `Backplane`."""
        return self._backplane.history

    @property
    def claims(self) -> SharedClaims:
        """See `Backplane`."""
        return self._backplane.claims

    def open(self, receiver: Receiver | None, interest: Interest | None = None) -> None:
        """See `Backplane`; whatever the receiver, nothing is received."""
        self._backplane.open(None)

    def keep_rules(self, rules: str) -> str | None:
        """Keep nothing: the rules are the application's to change."""
        return None

    def kept_rules(self) -> str | None:
        """See `Backplane`."""
        return self._backplane.kept_rules()

    def tell(self, notice: Notice) -> None:
        """See `Backplane`; what others would answer is not asked."""
        if notice.kind not in _QUESTIONS:
            self._backplane.tell(notice)

    def others(self) -> frozenset[str]:
        """See `Backplane`; nobody could answer."""
        return frozenset()

    def stats(self) -> BusStats:
        """See `Backplane`."""
        return self._backplane.stats()

    def close(self, timeout: float) -> None:
        """See `Backplane`; as long as the publisher may take, where there is any time."""
        self._backplane.close(self._timeout if timeout > 0 else 0.0)


def _stop_at_exit(hub: Hub) -> None:
    """Have a hub stopped at the end of a child of `multiprocessing`, which leaves `atexit` out."""
    if multiprocessing.parent_process() is not None:
        from multiprocessing import util  # there already, in such a child

        end = functools.partial(_stop, weakref.ref(hub))
        util.Finalize(None, end, exitpriority=_EXIT_PRIORITY)


def _stop(reference: weakref.ref[Hub]) -> None:
    hub = reference()
    if hub is not None:
        hub.stop()


def _store(history: str) -> HistoryStore | None:
    """Return the store that the application has of its own; None for the backplane's."""
    if not history:
        return None
    if not os.path.isabs(history):
        raise ConfigError(
            f"the application keeps its history in a {history}, which a Publisher cannot open: "
            "use a Hub here, with the same HubConfig(history=..., backplane=...)"
        )
    if not os.path.exists(history):  # on another machine, where it would be another history
        raise ConfigError(
            f"the application keeps its history in {history}, which is not on this machine: run "
            "the Publisher beside the application, or have that use the history of its backplane"
        )
    return SqliteHistory(history)
