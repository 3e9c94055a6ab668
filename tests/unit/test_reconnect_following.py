"""Each message once, in order, or said to be missing: whatever connections and servers do."""

from __future__ import annotations

import pickle
from typing import Any

import pytest

from ws_hub.protocol.message import Message
from ws_hub.reconnect.subscriptions import Following, MessagesLost, Verdict


def numbered(seq: int, channel: str = "a") -> Message:
    return Message("event", channel=channel, data=seq, seq=seq)


def ack(to: Message, **data: Any) -> Message:
    return Message("ack", id=to.id, data={"channel": to.channel, **data})


def history(to: Message, seq: int, replayed: int = 0, recovered: bool = True) -> Message:
    return ack(to, epoch="e1", seq=seq, replayed=replayed, recovered=recovered)


def add(following: Following, channel: str, *position: int | None) -> Message:
    """Follow a channel that was not followed; return the one request that this takes."""
    (request,) = following.add(channel, *(position or (None,)))
    return request


def followed(last: int = 10, since: int | None = None) -> Following:
    """A Following whose channel `a` stands at `last` in epoch e1."""
    following = Following()
    request = add(following, "a", since)
    verdict = following.take(history(request, last))
    for again in verdict.send:
        assert following.take(history(again, last)) == Verdict(deliver=False)
    return following


def anew(verdict: Verdict) -> Message:
    """Return the subscription by which one that is live is replaced."""
    leave, again = verdict.send
    assert (leave.type, again.type) == ("unsubscribe", "subscribe")
    assert leave.channel == again.channel and leave.id is not None
    return again


def delivered(following: Following, *seqs: int) -> list[int]:
    return [seq for seq in seqs if following.take(numbered(seq)).deliver]


# --- what is sent --------------------------------------------------------------------------


def test_a_subscription_names_the_channel_in_both_fields() -> None:
    message = add(Following(), "news")
    assert (message.type, message.channel, message.data) == ("subscribe", "news", "news")
    assert message.since is None
    assert message.id is not None


def test_the_newest_are_asked_for_until_there_is_a_position() -> None:
    following = Following()
    request = add(following, "a", None, 3)
    assert (request.last, request.since) == (3, None)
    (_, again) = following.open()
    assert again.last == 3
    assert following.take(history(again, 10, replayed=3)) == Verdict(deliver=False)
    assert delivered(following, 8, 9, 10, 11) == [8, 9, 10, 11]
    (_, again) = following.open()
    assert (again.last, again.since, again.epoch) == (None, 11, "e1")


def test_an_unsubscription_names_it_in_both_fields_and_only_once() -> None:
    following = Following()
    following.add("news", None)
    message = following.remove("news")
    assert message is not None
    assert (message.type, message.channel, message.data) == ("unsubscribe", "news", "news")
    assert following.remove("news") is None
    assert not following.channels


def test_a_connection_opens_with_a_ping_and_all_channels() -> None:
    following = Following()
    following.add("a", None)
    following.add("b", 0)
    ping, first, second = following.open()
    assert ping.type == "ping" and ping.id is not None
    assert (first.channel, first.since) == ("a", None)
    assert (second.channel, second.since) == ("b", 0)


def test_the_next_connection_asks_for_what_was_missed() -> None:
    following = followed(10)
    assert delivered(following, 11, 12) == [11, 12]
    _, again = following.open()
    assert (again.since, again.epoch) == (12, "e1")


def test_an_answer_names_the_position_that_the_next_connection_asks_from() -> None:
    following = Following()
    assert following.take(history(add(following, "a"), 10)) == Verdict(deliver=False)
    _, again = following.open()
    assert (again.since, again.epoch) == (10, "e1")


def test_a_channel_that_keeps_nothing_is_left_alone() -> None:
    following = Following()
    request = add(following, "a", None)
    assert following.take(ack(request)) == Verdict(deliver=False)
    assert following.take(Message("event", channel="a")).deliver


# --- each once, in order -------------------------------------------------------------------


def test_numbers_in_order_are_delivered() -> None:
    assert delivered(followed(10), 11, 12, 13) == [11, 12, 13]


def test_what_a_replay_repeats_is_dropped() -> None:
    following = followed(10)
    delivered(following, 11, 12)
    _, again = following.open()
    following.take(history(again, 14, replayed=4))
    assert delivered(following, 11, 12, 13, 14, 15) == [13, 14, 15]


def test_a_jump_is_fetched_and_nothing_is_delivered_out_of_order() -> None:
    following = followed(10)
    verdict = following.take(numbered(13))
    assert not verdict.deliver and not verdict.lost
    again = anew(verdict)
    assert (again.since, again.epoch) == (10, "e1")
    assert delivered(following, 14) == []  # still before the answer
    following.take(history(again, 14, replayed=4))
    assert delivered(following, 11, 12, 13, 14, 15) == [11, 12, 13, 14, 15]


def test_a_jump_is_asked_for_once() -> None:
    following = followed(10)
    assert following.take(numbered(13)).send
    assert not following.take(numbered(14)).send


def test_lagging_is_caught_up_and_shown() -> None:
    following = followed(10)
    verdict = following.take(Message("lagged", channel="a", seq=10))
    assert verdict.deliver
    assert [each.since for each in verdict.send] == [10]


def test_a_notice_that_an_older_subscription_lagged_changes_nothing() -> None:
    following = Following()
    add(following, "a")
    assert following.take(Message("lagged", channel="a", seq=7)) == Verdict()


def lag(following: Following, seq: int) -> Verdict:
    return following.take(Message("lagged", channel="a", seq=seq))


def test_lagging_again_and_again_without_a_message_between_is_given_up_and_said() -> None:
    following = followed(10)
    for _ in range(3):
        verdict = lag(following, 10)
        assert [each.since for each in verdict.send] == [10] and not verdict.lost
        following.take(history(verdict.send[0], 10))  # and no room for the rest
    verdict = lag(following, 10)
    assert [(each.channel, each.count) for each in verdict.lost] == [("a", None)]
    (skip,) = verdict.send
    assert (skip.since, skip.last) == (None, 0)
    following.take(history(skip, 400))
    verdict = lag(following, 400)
    assert not verdict.lost  # said already
    (skip,) = verdict.send
    assert following.take(history(skip, 500)) == Verdict(deliver=False)
    assert delivered(following, 501, 502) == [501, 502]


def test_lagging_with_progress_is_caught_up_for_ever() -> None:
    following = followed(10)
    for seq in range(11, 30):
        verdict = following.take(Message("lagged", channel="a", seq=seq - 1))
        assert not verdict.lost
        following.take(history(verdict.send[0], seq, replayed=1))
        assert delivered(following, seq) == [seq]


def test_fault_125_numbers_that_fall_are_a_new_numbering_and_all_of_it_comes() -> None:
    following = followed(10)
    verdict = following.take(numbered(1))
    assert not verdict.deliver
    again = anew(verdict)
    assert (again.since, again.epoch) == (10, "e1")
    assert delivered(following, 2, 11) == []
    assert following.take(ack(again, epoch="e2", seq=2, replayed=2, recovered=False)).lost == []
    assert delivered(following, 1, 2, 3) == [1, 2, 3]


def test_a_new_numbering_that_is_no_longer_whole_is_said() -> None:
    following = followed(10)
    again = anew(following.take(numbered(5)))
    following.take(ack(again, epoch="e2", seq=5, replayed=2, recovered=False))
    verdict = following.take(numbered(4))
    assert verdict.deliver
    assert [(each.channel, each.count) for each in verdict.lost] == [("a", 3)]


def test_a_message_that_comes_twice_is_no_new_numbering() -> None:
    following = followed(10)
    again = anew(following.take(numbered(10)))
    assert following.take(history(again, 12, replayed=2)) == Verdict(deliver=False)
    assert delivered(following, 11, 12, 13) == [11, 12, 13]


def test_a_new_numbering_right_after_a_replay_is_noticed() -> None:
    following = followed(10)
    _, again = following.open()
    following.take(history(again, 10))
    assert following.take(numbered(1)).send


def test_numbers_of_a_server_that_answers_nothing_are_delivered() -> None:
    following = Following()
    following.open()
    following.add("a", None)
    following.take(Message("pong"))
    assert delivered(following, 5, 6, 6, 7) == [5, 6, 7]
    verdict = following.take(numbered(10))
    assert verdict.deliver and [each.count for each in verdict.lost] == [2]


def test_a_hole_within_a_replay_is_no_gap() -> None:
    following = Following()
    following.take(history(add(following, "a", 0), 30, replayed=4))
    assert delivered(following, 3, 10, 20, 28) == [3, 10, 20, 28]
    assert delivered(following, 31) == [31]  # 29 and 30 were replaced as well
    _, again = following.open()
    following.take(history(again, 40, replayed=2))
    assert delivered(following, 35, 40, 41) == [35, 40, 41]
    assert anew(following.take(numbered(43))).since == 41


def test_a_replay_that_ends_early_is_over_with_the_first_live_message() -> None:
    following = Following()
    following.take(history(add(following, "a", 0), 5, replayed=5))
    assert delivered(following, 3, 6) == [3, 6]
    assert anew(following.take(numbered(8))).since == 6


def test_a_message_too_large_to_be_taken_is_a_gap_that_is_not_asked_for_again() -> None:
    following = followed(10)
    following.skipped()
    verdict = following.take(numbered(12))
    assert verdict.deliver
    assert [(each.channel, each.count) for each in verdict.lost] == [("a", 1)]
    assert following.take(numbered(14)).send


# --- one subscription after another --------------------------------------------------------


def test_fault_93_only_the_newest_subscription_of_a_channel_is_delivered() -> None:
    following = Following()
    ping, *_ = following.open()
    following.take(Message("pong", id=ping.id))
    first = add(following, "a", 0)
    leave = following.remove("a")
    second = add(following, "a", 0)
    assert leave is not None
    assert following.take(history(first, 3, replayed=3)) == Verdict(deliver=False)
    assert delivered(following, 1, 2, 3) == []
    assert not following.take(Message("event", channel="a", data="unnumbered")).deliver
    assert not following.take(ack(leave)).deliver
    assert following.take(Message("event", channel="a", data="unnumbered")).deliver
    assert following.take(history(second, 3, replayed=3)) == Verdict(deliver=False)
    assert delivered(following, 1, 2, 3) == [1, 2, 3]


def test_fault_93_leftovers_of_a_channel_that_was_left_are_nobodys() -> None:
    following = followed(10)
    leave = following.remove("a")
    assert leave is not None
    assert delivered(following, 11) == []
    assert not following.take(Message("event", channel="a")).deliver
    assert not following.take(Message("lagged", channel="a", seq=11)).deliver
    following.take(ack(leave))
    assert following.take(Message("event", channel="a")).deliver  # the server's own doing


def test_fault_93_a_position_given_again_begins_anew() -> None:
    following = followed(10)
    leave, again = following.add("a", 0)
    assert (leave.type, again.type, again.since) == ("unsubscribe", "subscribe", 0)
    assert delivered(following, 11) == []
    following.take(ack(leave))
    following.take(history(again, 11, replayed=11))
    assert delivered(following, *range(1, 13)) == list(range(1, 13))


def test_a_channel_that_is_followed_already_is_not_asked_for_again() -> None:
    following = Following()
    request = add(following, "a")
    assert following.add("a", None) == []
    following.take(history(request, 10))
    assert following.add("a", None) == []
    _, again = following.open()
    following.take(Message("error", id=again.id, data="no"))
    assert len(following.add("a", None)) == 1


def test_channels_left_behind_at_a_hub_that_never_answers_are_bounded() -> None:
    following = Following()
    for number in range(5000):
        following.add(str(number), None)
        following.remove(str(number))
    assert not following.take(Message("event", channel="4999")).deliver
    assert len(following._left) == 1024


# --- never silent --------------------------------------------------------------------------


def test_what_is_no_longer_kept_is_counted() -> None:
    following = followed(10)
    _, again = following.open()
    assert not following.take(history(again, 30, replayed=5, recovered=False)).lost
    verdict = following.take(numbered(26))  # the first that is kept says how many are not
    assert verdict.deliver
    assert [(each.channel, each.count) for each in verdict.lost] == [("a", 15)]
    assert delivered(following, 27) == [27]


def test_what_is_no_longer_kept_is_counted_where_nothing_is() -> None:
    following = followed(10)
    _, again = following.open()
    verdict = following.take(history(again, 30, recovered=False))
    assert [(each.channel, each.count) for each in verdict.lost] == [("a", 20)]
    assert delivered(following, 31) == [31]


def test_another_epoch_is_said_and_its_messages_are_delivered() -> None:
    following = followed(10)
    _, again = following.open()
    verdict = following.take(ack(again, epoch="e2", seq=3, replayed=3, recovered=False))
    assert [(each.channel, each.count) for each in verdict.lost] == [("a", None)]
    assert delivered(following, 1, 2, 3, 4) == [1, 2, 3, 4]


def test_a_position_asked_for_by_the_application_counts() -> None:
    following = Following()
    request = add(following, "a", 5)
    following.take(history(request, 20, replayed=10, recovered=False))
    verdict = following.take(numbered(11))
    assert [each.count for each in verdict.lost] == [5]


def test_a_channel_without_history_cannot_go_on_from_a_position() -> None:
    following = Following()
    request = add(following, "a", 5)
    verdict = following.take(ack(request, recovered=False, replayed=0))
    assert [(each.channel, each.count) for each in verdict.lost] == [("a", None)]


def test_a_channel_that_lost_its_history_is_said() -> None:
    following = followed(10)
    _, again = following.open()
    assert [each.count for each in following.take(ack(again)).lost] == [None]


def test_a_refused_subscription_is_shown_and_the_gap_said() -> None:
    following = followed(10)
    _, again = following.open()
    verdict = following.take(Message("error", id=again.id, data="no", code="forbidden"))
    assert verdict.deliver
    assert [each.count for each in verdict.lost] == [None]
    assert "a" in following.channels


@pytest.mark.parametrize("code", ["internal", "rate_limited"])
def test_a_server_that_is_too_busy_is_asked_again_from_the_same_position(code: str) -> None:
    following = followed(10)
    _, again = following.open()
    busy = Message("error", id=again.id, data="full", code=code)
    assert following.take(busy) == Verdict(deliver=False, retry=True)
    (again,) = following.retry()
    assert (again.since, again.epoch) == (10, "e1")
    assert following.retry() == []
    following.take(history(again, 11, replayed=1))
    assert delivered(following, 11, 12) == [11, 12]


def test_a_busy_server_is_not_asked_for_what_was_left_meanwhile() -> None:
    following = Following()
    request = add(following, "a")
    following.take(Message("error", id=request.id, code="internal"))
    following.remove("a")
    assert following.retry() == []
    request = add(following, "b")
    following.take(Message("error", id=request.id, code="internal"))
    following.open()
    assert following.retry() == []


def test_a_first_subscription_that_is_refused_loses_nothing() -> None:
    following = Following()
    request = add(following, "a", None)
    assert following.take(Message("error", id=request.id, data="no")) == Verdict()


@pytest.mark.parametrize("data", [None, "x", [], {}, {"epoch": 3, "seq": 1}, {"epoch": "e"}])
def test_an_answer_that_makes_no_sense_is_one_without_history(data: Any) -> None:
    following = Following()
    request = add(following, "a", None)
    assert following.take(Message("ack", id=request.id, data=data)) == Verdict(deliver=False)


def test_fault_93_answers_to_subscriptions_given_up_are_nobodys() -> None:
    following = Following()
    first, second = add(following, "a"), add(following, "b")
    following.remove("a")
    following.remove("b")
    assert not following.take(history(first, 10)).deliver
    assert not following.take(Message("error", id=second.id, data="no")).deliver


def test_the_applications_own_answers_are_its_own() -> None:
    following = followed(10)
    assert following.take(Message("ack", id="mine", data=1)).deliver
    assert following.take(Message("pong", id=7)).deliver
    assert following.take(Message("error", data="text")).deliver


# --- who is there --------------------------------------------------------------------------


def test_an_echo_tells_our_own_hub() -> None:
    following = Following()
    ping, *_ = following.open()
    assert following.extensions is None
    assert not following.take(Message("pong", id=ping.id)).deliver
    assert following.extensions is True


def test_a_pong_without_an_id_tells_a_go_hub_and_only_the_first_is_swallowed() -> None:
    following = Following()
    following.open()
    assert not following.take(Message("pong")).deliver
    assert following.extensions is False
    assert following.take(Message("pong")).deliver


def test_a_position_that_a_go_hub_cannot_honour_is_said_to_be_lost() -> None:
    following = followed(10)
    following.open()
    verdict = following.take(Message("pong"))
    assert [(each.channel, each.count) for each in verdict.lost] == [("a", None)]
    assert following.take(Message("event", channel="a")).deliver


# --- an application that is too slow -------------------------------------------------------


def test_what_had_no_room_is_fetched_again_where_there_is_history() -> None:
    following = followed(10)
    for seq in (11, 12):
        message = numbered(seq)
        if following.take(message).deliver:
            following.refused(message)
    verdict = following.catch_up()
    again = anew(verdict)
    assert (again.channel, again.since, again.epoch) == ("a", 10, "e1")
    assert not verdict.lost
    following.take(history(again, 12, replayed=2))
    assert delivered(following, 11, 12, 13) == [11, 12, 13]


def test_what_had_no_room_elsewhere_is_counted() -> None:
    following = followed(10)
    for _ in range(3):
        following.refused(Message("event", data=1))
    following.refused(Message("event", channel="other", seq=4))
    verdict = following.catch_up()
    assert [(each.channel, each.count) for each in verdict.lost] == [("", 4)]
    assert following.catch_up() == Verdict(deliver=False)


def test_fault_119_a_channel_without_history_is_named_with_what_it_lost() -> None:
    following = Following()
    following.add("a", None)
    for channel, count in (("a", 3), ("", 2), ("other", 1)):
        for _ in range(count):
            following.refused(Message("event", channel=channel))
    verdict = following.catch_up()
    assert [(each.channel, each.count) for each in verdict.lost] == [("a", 3), ("", 3)]


def test_lagging_while_there_is_no_room_waits_for_room() -> None:
    following = followed(10)
    following.take(numbered(11))
    following.refused(numbered(11))
    assert not following.take(Message("lagged", channel="a", seq=11)).send
    following.refused(Message("lagged", channel="a", seq=11))
    assert anew(following.catch_up()).since == 10


def test_the_exception_can_be_pickled_and_reads_well() -> None:
    error = pickle.loads(pickle.dumps(MessagesLost("a", 3, "no longer kept")))
    assert str(error) == "3 messages of channel 'a' are lost: no longer kept"
    assert str(MessagesLost("", None, "why")) == "some messages are lost: why"
