"""Between a hub and its backplane: tells what is published here, delivers what others tell.

Messages of channels with history are not told: the store has them, and the notice that it has
more makes each hub look. Keyed channels and presence are exchanged by `shared_keys` and
`shared_presence`. All else is delivered here first, then told: at most once, and in the order of
each publishing thread.
"""

from __future__ import annotations

import functools
import queue
from collections.abc import Callable, Sequence
from typing import Protocol

from ..backplane.bus import Backplane, BusStats, Notice, NoticeKind
from ..backplane.interest import Interest
from ..errors import ProcessAlreadyRunning, WsHubError
from ..log import get_logger
from ..protocol.publication import Publication
from .items import Item, Publications, UserPublication
from .presence_feed import PresenceFeed
from .shared_control import SharedControl
from .shared_keys import SharedKeys
from .survey import Reporting, Survey

__all__ = ["Relay", "RelayingHub"]

logger = get_logger(__name__)


class RelayingHub(Reporting, Protocol):
    """What a relay asks of the hub."""

    def publications(self, notice: Notice) -> list[Publication]:
        """Return what the messages of a notice are here; raises WsHubError. Any thread."""

    def program_lost(self, process_id: str) -> None:
        """Tell the viewers of a program that it is gone. Any thread; waits for the hub's queue."""

    def post(self, call: Callable[[], object]) -> None:
        """Have something called on the notify thread. Any thread; does not wait."""

    def close_user(self, user_id: str, code: int, reason: str) -> int:
        """Close the connections of a user to this process. Any thread; does not wait."""


class Relay:
    """The connection of one life of a hub to its backplane.

    Attributes:
        survey: the questions to all processes.
        control: what clients ask of the programs of other processes.

    Args:
        backplane: what tells the other processes.
        hub: the hub.
        deliver: the queue for what is to be delivered.
        look: has the store looked at soon; None where there is none.
        presence: who is present, to be exchanged with the others; None where no rule has it.
        keys: the keyed channels, the same.
        interest: what this process wants to be told.
    """

    def __init__(
        self,
        backplane: Backplane,
        hub: RelayingHub,
        deliver: queue.Queue[Item],
        look: Callable[[], object] | None,
        presence: PresenceFeed | None,
        keys: SharedKeys | None,
        interest: Interest,
    ) -> None:
        self._backplane = backplane
        self._hub = hub
        self._queue = deliver
        self._look = look
        self._keys = keys
        self._interest = interest
        self.survey = Survey(backplane, interest, hub)
        self._presence = None if presence is None else presence.share(backplane.tell)
        self.control: SharedControl | None = None  # set before it is opened
        self._is_open = False  # changed by the thread that starts the hub, and the one that ends it

    # --- the thread that starts the hub, and the hub thread ------------------------------------

    def open(self) -> None:
        """Begin; raises ConfigError."""
        self._backplane.open(self, self._interest)
        self._is_open = True

    def close(self, timeout: float) -> None:
        """Pass on what was told, for so many seconds at most, and end."""
        if self.control is not None:
            self.control.close()
        if self._is_open:  # otherwise it may be another hub's
            self._is_open = False
            self._backplane.close(timeout)

    # --- any thread ------------------------------------------------------------------------

    def publish(self, channel: str, texts: Sequence[bytes]) -> None:
        """Tell the others of messages that were published here; never waits."""
        self._backplane.tell(Notice(NoticeKind.PUBLISH, channel, tuple(texts)))

    def send_to_user(self, user_id: str, text: bytes) -> None:
        """Tell the others of a message for a user; never waits."""
        self._backplane.tell(Notice(NoticeKind.USER, user_id, (text,)))

    def disconnect(self, user_id: str, code: int, reason: str) -> None:
        """Have the others close a user's connections; never waits."""
        self._backplane.tell(Notice(NoticeKind.DISCONNECT, user_id, code=code, reason=reason))

    def claim(self, process_id: str) -> Callable[[], object]:
        """Claim a process id; return what lets go of it. Raises ProcessAlreadyRunning, OSError."""
        claims = self._backplane.claims
        for lost in self._abandoned():  # before it runs again
            self._hub.program_lost(lost)
        if not claims.claim(process_id):
            raise ProcessAlreadyRunning(process_id)
        return functools.partial(claims.release, process_id)

    def kept(self) -> None:
        """Tell the others that the store has more; never waits."""
        self._backplane.tell(Notice(NoticeKind.KEPT))

    def stats(self) -> BusStats:
        """Return what the backplane has done."""
        return self._backplane.stats()

    # --- the backplane's thread --------------------------------------------------------------

    def receive(self, notice: Notice, source: str) -> bool:
        """Deliver what another process tells; False where the hub's queue has no room."""
        match notice.kind:
            case NoticeKind.KEPT if self._look is not None:
                self._look()
            case NoticeKind.DISCONNECT:
                self._hub.close_user(notice.name, notice.code, notice.reason)
            case NoticeKind.PUBLISH | NoticeKind.USER:
                return self._deliver(notice)
            case NoticeKind.KEYS if self._keys is not None:
                self._keys.asked()
            case NoticeKind.ASK:
                self.survey.asked(source, notice.texts)
            case NoticeKind.ANSWER:
                self.survey.hear(source, notice.name, notice.texts)
            case NoticeKind.PRESENCE if self._presence is not None:
                return all([self._presence.hear(source, text) for text in notice.texts[:1]])
        return True

    def _deliver(self, notice: Notice) -> bool:
        found = self._hub.publications(notice)
        if not found:
            return True
        item: Item = Publications(tuple(found))
        if notice.kind is NoticeKind.USER:
            item = UserPublication(notice.name, found[0])
        try:
            self._queue.put(item, False)
        except queue.Full:
            return False
        return True

    def gone(self, source: str) -> None:
        """Take the clients of a process that has ended for cut ones."""
        if self._presence is not None:
            self._presence.gone(source)
        if self.control is not None:
            self.control.gone(source)

    def left(self) -> None:
        """Look for the programs of a process that has ended."""
        for lost in self._abandoned():
            self._hub.post(functools.partial(self._hub.program_lost, lost))

    def _abandoned(self) -> list[str]:
        try:
            claims = self._backplane.claims
        except WsHubError:
            return []  # the backplane is being closed
        lost = claims.abandoned()
        if lost:
            logger.warning("another process has ended, and with it its programs: %s", lost)
        return lost

    def missed(self, count: int) -> None:
        """Log that others have told what this process never got."""
        logger.warning(
            "%d notices of another process never came: what it published to channels without "
            "history meanwhile is missing here",
            count,
        )
        if self.control is not None:
            self.control.missed()
        if self._keys is not None:
            self._keys.missed()
