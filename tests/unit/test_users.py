"""Whose the connections are, and until when."""

from __future__ import annotations

import math

from tests.harness import weight
from ws_hub.hub.users import Users

NEVER = math.inf


def test_a_user_has_all_their_connections_oldest_first() -> None:
    who: Users[str] = Users()
    empty = weight(who)
    for client, user in (("a1", "ann"), ("b1", "bob"), ("a2", "ann")):
        who.enter(client, user, NEVER)
    assert who.of("ann") == ["a1", "a2"]
    who.leave("a1")
    who.leave("a1")
    assert (who.of("ann"), who.of("bob"), who.of("eve")) == (["a2"], ["b1"], [])
    who.leave("a2")
    assert who.of("ann") == []
    who.leave("b1")
    assert weight(who) == empty  # a user who is gone costs nothing


def test_each_expiry_is_due_once_and_not_early() -> None:
    who: Users[str] = Users()
    assert who.due(0.0) == ([], NEVER)
    who.enter("late", "ann", 50.0)
    who.enter("soon", "bob", 10.0)
    assert who.due(9.9) == ([], 10.0)
    assert who.due(10.0) == (["soon"], 50.0)
    assert who.due(49.0) == ([], 50.0)
    assert who.due(60.0) == (["late"], NEVER)
    assert who.due(1000.0) == ([], NEVER)


def test_ends_close_to_each_other_are_one_look() -> None:
    who: Users[str] = Users()
    who.enter("a", "ann", 10.0)
    who.enter("b", "ann", 10.5)
    assert who.due(10.0) == (["a"], 11.0)
    assert who.due(11.0) == (["b"], NEVER)


def test_a_later_end_replaces_the_first_and_leaving_takes_it_away() -> None:
    who: Users[str] = Users()
    who.enter("a", "", 10.0)
    who.enter("a", "ann", NEVER)
    who.enter("b", "", 10.0)
    who.leave("b")
    assert who.due(10.0) == ([], NEVER)


def test_fault_55_revocation_during_a_handshake_expires_the_client_at_once() -> None:
    who: Users[str] = Users()
    mark = who.mark()
    assert who.revoke("ann") == []
    who.enter("early", "ann", NEVER, mark)
    who.enter("other", "bob", NEVER, mark)
    assert who.due(0.0)[0] == ["early"]
    who.enter("after", "ann", NEVER, who.mark())
    assert who.due(5.0)[0] == []
    assert who.revoke("ann") == ["early", "after"]


def test_dropped_revocations_count_for_all_handshakes_of_that_time() -> None:
    who: Users[str] = Users()
    mark = who.mark()
    for number in range(1024):
        who.revoke(f"user {number}")
    who.enter("c", "cid", NEVER, mark)
    assert who.due(0.0)[0] == []  # 1024 are known by name
    who.leave("c")
    full = weight(who)
    for number in range(100):
        who.revoke(f"another {number}")
    assert weight(who) == full  # what is forgotten costs nothing
    who.enter("a", "user 0", NEVER, mark)
    who.enter("d", "dan", NEVER, mark)  # nobody can say any more: rather refused
    who.enter("e", "eve", NEVER, who.mark())
    assert who.due(0.0)[0] == ["a", "d"]
