"""Those who have yet to say who they are: what is theirs to decide, without a socket."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from ws_hub.access.authenticators import AuthResult
from ws_hub.hub.pending import PendingClients
from ws_hub.protocol.message import Message

ANN = '{"type":"auth","data":"k-ann"}'


class Guest:
    """What the pending needs of a client."""

    def __init__(self, verify: Callable[[str], AuthResult] | None = None) -> None:
        self.verify = verify or (lambda token: AuthResult(token == "k-ann", "ann"))
        self.user_id: str | None = None
        self.mark = 0
        self.notes: list[Any] = []

    def will_call(self) -> None:
        pass

    def set_identity(self, result: AuthResult) -> None:
        self.user_id = result.user_id

    def close(self, code: int, reason: str) -> None:
        self.notes.append(int(code))

    def reply(self, message: Message) -> None:
        self.notes.append((str(message.type), message.id, message.data))

    def call_on_connect(self) -> None:
        self.notes.append("begin")


def pending(*, room: int = 10, admits: bool = True) -> Any:
    def admit(client: Any) -> bool:
        if not admits:
            client.close(1013, "full")
        return admits

    return PendingClients(lambda waiting: waiting < room, admit, lambda: 7)


def test_authenticated_client_begins_and_is_no_longer_pending() -> None:
    made, guest = pending(), Guest()
    assert made.enter(guest)
    made.hear(guest, ANN)
    assert (guest.user_id, guest.verify, guest.notes) == ("ann", None, ["begin"])
    assert guest.mark == 7  # of now, not of the handshake
    assert not made.connections


def test_an_introduction_with_an_id_is_answered_before_the_beginning() -> None:
    made, guest = pending(), Guest()
    made.enter(guest)
    made.hear(guest, '{"type":"auth","data":"k-ann","id":"a"}')
    assert guest.notes == [("ack", "a", {"user": "ann"}), "begin"]


def test_a_hub_that_takes_no_more_says_try_again() -> None:
    made, guest = pending(admits=False), Guest()
    made.enter(guest)
    made.hear(guest, ANN)
    assert guest.notes == [1013] and guest.verify is not None


@pytest.mark.parametrize("first", [b"k-ann", "{", "[1]", '{"type":"auth","data":1}', ANN[:-1]])
def test_the_first_message_counts_and_no_other(first: str | bytes) -> None:
    made, guest = pending(), Guest()
    made.enter(guest)
    made.hear(guest, first)
    made.hear(guest, ANN)
    assert guest.notes == [4401] and guest.user_id is None


def test_message_of_a_client_that_left_is_ignored() -> None:
    made, guest = pending(), Guest()
    made.enter(guest)
    made.leave(guest)
    made.leave(guest)
    made.hear(guest, ANN)
    assert guest.notes == []


def test_there_is_room_for_so_many_and_after_the_end_for_none() -> None:
    made, first = pending(room=1), Guest()
    assert made.enter(first) and not made.enter(Guest())
    assert made.shut() == [first]
    made.leave(first)
    assert not made.enter(Guest())
