"""Questions to all processes, asked at the moment: each one answers for itself.

A question is a notice to all, and so is an answer, of a topic that only the asking process wants.
It has its answer when all that were reached as it asked have answered, or have ended since. Nothing
is told while nobody asks, and no count is older than the question. What a process has is one kind
of question; others are registered, see `shared_control`.
"""

from __future__ import annotations

import functools
import json
import secrets
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, Protocol, TypeGuard, TypeVar

from ..backplane.bus import Backplane, Notice, NoticeKind
from ..backplane.interest import Interest, answers_topic
from ..errors import WaitTimeout, excerpt
from ..log import get_logger
from ..protocol.json_text import to_json
from ..reentrant import Event

__all__ = ["Fields", "Instance", "Question", "Report", "Reporting", "Survey"]

logger = get_logger(__name__)

T = TypeVar("T")

_REPORT = "report"  # the kind of the question what a process has, which need not be named
_SLICE = 0.1  # seconds after which one that has ended is not waited for any more


@dataclass(frozen=True, slots=True)
class Instance:
    """One process of the application, and what its hub had as it was asked.

    Args:
        host: the name of its machine.
        pid: its process id there.
        clients: connected to it.
        users: that these are of, each once.
        channels: with at least one subscriber in it.
        subscriptions: in all these channels.
        is_own: whether it is the process that has asked.
    """

    host: str
    pid: int
    clients: int
    users: int
    channels: int
    subscriptions: int
    is_own: bool = False


@dataclass(frozen=True, slots=True)
class Report:
    """What one process says of itself.

    Args:
        instance: the process.
        subscribers: of the channel that was asked for.
        connections: of the user that was asked for.
    """

    instance: Instance
    subscribers: int = 0
    connections: int = 0


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked of the processes.

    Args:
        channel: whose subscribers to count.
        user: whose connections to count.
        is_enough: says of a report that no other one is needed.
        needs_all: whether WaitTimeout is raised where one does not answer.
    """

    channel: str | None = None
    user: str | None = None
    is_enough: Callable[[Report], bool] = lambda report: False
    needs_all: bool = True


class Reporting(Protocol):
    """What a survey asks of the hub."""

    def report(self, channel: str | None, user: str | None) -> Report:
        """Return what this process has. Any thread; does not wait."""


Fields = Mapping[str, Any]  # of a question, or of an answer
# Answers a question, on the backplane's thread: called with the name of the process that asks, the
# fields, and what takes the answer, on any thread; it must not wait. False for no such question.
Answering = Callable[[str, Fields, Callable[[Fields], object]], bool]


@dataclass(slots=True)
class _Round(Generic[T]):
    """A question that waits for its answers, by the names of the processes."""

    read: Callable[[Fields], T | None]
    answers: dict[str, T] = field(default_factory=dict)
    changed: Event = field(default_factory=Event)


def _goes_on() -> bool:
    return False


class Survey:
    """The questions of one life of a hub, and its answers to those of others.

    Args:
        backplane: what connects the processes.
        interest: what this one wants to be told.
        hub: the hub.
    """

    def __init__(self, backplane: Backplane, interest: Interest, hub: Reporting) -> None:
        self._backplane = backplane
        self._interest = interest
        self._hub = hub
        self._rounds: dict[str, _Round[Any]] = {}  # changed by single calls
        self._answering: dict[str, Answering] = {_REPORT: self._report}

    def register(self, kind: str, answering: Answering) -> None:
        """Have a kind of questions answered by a function; before the backplane is opened."""
        self._answering[kind] = answering

    # --- any thread ------------------------------------------------------------------------

    def ask(self, question: Question, timeout: float) -> list[Report]:
        """Return what the other processes say; waits for it, `timeout` seconds at most."""
        fields = {"channel": question.channel, "user": question.user}
        found, missing = self.collect(fields, _report_of, question.is_enough, timeout)
        if missing and question.needs_all:
            asked = missing + len(found)
            raise WaitTimeout(
                f"{missing} of {asked} other processes have not answered within "
                f"{timeout:g} s: one that was killed counts as gone some seconds later. Pass a "
                "longer timeout, or ask again"
            )
        return found

    def collect(
        self,
        fields: Fields,
        read: Callable[[Fields], T | None],
        is_enough: Callable[[T], bool],
        timeout: float,
        is_over: Callable[[], bool] = _goes_on,
    ) -> tuple[list[T], int]:
        """Ask all other processes; return their answers, and how many are missing.

        Waits until all have answered, one is enough, or `is_over`; `timeout` seconds at most.

        Args:
            fields: of the question.
            read: returns an answer of its fields; None where it is none.
            is_enough: says of an answer that no other one is needed.
            timeout: seconds to wait.
            is_over: says that there is no use in waiting.
        """
        id, deadline, asked = secrets.token_hex(8), time.monotonic() + timeout, self._others()
        round = self._rounds[id] = _Round(read)
        self._interest.begin(answers_topic(id))
        try:
            self.tell({"id": id, **fields})
            while True:
                found = list(round.answers.values())
                if any(map(is_enough, found)):
                    return found, 0
                missing = (asked & self._others()) - round.answers.keys()
                left = deadline - time.monotonic()
                if not missing or left <= 0 or is_over():
                    return found, len(missing)
                round.changed.wait(min(left, _SLICE))  # set by the backplane's thread
                round.changed.clear()
        finally:
            self._interest.end(answers_topic(id))
            del self._rounds[id]

    def tell(self, fields: Fields) -> None:
        """Tell all other processes the fields of a question; with "" as its id of no question."""
        self._backplane.tell(Notice(NoticeKind.ASK, texts=(to_json(fields).encode(),)))

    def _others(self) -> frozenset[str]:
        return self._backplane.others()

    # --- the backplane's thread --------------------------------------------------------------

    def asked(self, source: str, texts: Iterable[bytes]) -> None:
        """Answer a question of another process, of this name on the backplane."""
        for text in texts:
            said = _fields(text)
            id, answering = said.get("id"), self._answering.get(str(said.get("kind", _REPORT)))
            answer = functools.partial(self._answer, str(id))
            if not isinstance(id, str) or not answering or not answering(source, said, answer):
                _warn(text)

    def _answer(self, id: str, fields: Fields) -> None:
        self._backplane.tell(Notice(NoticeKind.ANSWER, id, (to_json(fields).encode(),)))

    def _report(self, _: str, said: Fields, answer: Callable[[Fields], object]) -> bool:
        channel, user = said.get("channel"), said.get("user")
        if not (_is_name(channel) and _is_name(user)):
            return False
        answer(_fields_of(self._hub.report(channel, user)))
        return True

    def hear(self, source: str, id: str, texts: Iterable[bytes]) -> None:
        """Take what a process of this name on the backplane has answered."""
        round = self._rounds.get(id)
        if round is None:
            return  # it has ended
        for text in texts:
            answer = round.read(_fields(text))
            if answer is None:
                _warn(text)
            else:
                round.answers[source] = answer
                round.changed.set()


_NUMBERS = ("pid", "clients", "users", "channels", "subscriptions")


def _fields_of(report: Report) -> dict[str, object]:
    found: dict[str, object] = {name: getattr(report.instance, name) for name in _NUMBERS}
    found |= {"host": report.instance.host}
    return found | {"subscribers": report.subscribers, "connections": report.connections}


def _report_of(said: Mapping[str, Any]) -> Report | None:
    """Return the report of such fields; None where they are none."""
    numbers = {name: said.get(name) for name in (*_NUMBERS, "subscribers", "connections")}
    host = said.get("host")
    if not isinstance(host, str) or any([type(value) is not int for value in numbers.values()]):
        return None
    subscribers, connections = numbers.pop("subscribers"), numbers.pop("connections")
    return Report(Instance(host, **numbers), subscribers, connections)  # type: ignore[arg-type]


def _fields(text: bytes) -> dict[str, Any]:
    """Return the fields of a JSON object; none where it is something else."""
    try:
        said = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return said if isinstance(said, dict) else {}


def _is_name(given: object) -> TypeGuard[str | None]:
    return isinstance(given, str | None)


def _warn(text: bytes) -> None:
    logger.warning("another process asks or answers what is not understood: %s", excerpt(text))
