"""Subscriptions: each message once, in order, or reported as lost, whatever the server does."""

from __future__ import annotations

import pickle
from typing import Any

import pytest

from ws_hub.protocol.filters import Filter
from ws_hub.protocol.message import Message, SubscribeMessage
from ws_hub.reconnect.subscriptions import MessagesLost, Start, Subscriptions, Verdict


def numbered(seq: int, channel: str = "a") -> Message:
    return Message("event", channel=channel, data=seq, seq=seq)


def ack(to: Message, **data: Any) -> Message:
    return Message("ack", id=to.id, data={"channel": to.channel, **data})


def history(to: Message, seq: int, replayed: int = 0, recovered: bool = True) -> Message:
    return ack(to, epoch="e1", seq=seq, replayed=replayed, recovered=recovered)


def add(subscriptions: Subscriptions, channel: str, *position: int | None) -> Message:
    """Subscribe to a new channel; return the one request to send."""
    (request,) = subscriptions.add(channel, Start(*position))
    return request


def followed(last: int = 10, since: int | None = None) -> Subscriptions:
    """A Subscriptions whose channel `a` stands at `last` in epoch e1."""
    subscriptions = Subscriptions()
    request = add(subscriptions, "a", since)
    verdict = subscriptions.take(history(request, last))
    for again in verdict.send:
        assert subscriptions.take(history(again, last)) == Verdict(deliver=False)
    return subscriptions


def anew(verdict: Verdict) -> Message:
    """Return the subscription that replaces an existing one."""
    leave, again = verdict.send
    assert (leave.type, again.type) == ("unsubscribe", "subscribe")
    assert leave.channel == again.channel and leave.id is not None
    return again


def delivered(subscriptions: Subscriptions, *seqs: int) -> list[int]:
    return [seq for seq in seqs if subscriptions.take(numbered(seq)).deliver]


# --- excluded ------------------------------------------------------------------------------


def test_a_skipped_number_is_counted_and_not_delivered() -> None:
    subscriptions = followed()
    assert subscriptions.take(numbered(11)).deliver
    skip = Message("skip", channel="a", seq=12)
    assert subscriptions.take(skip) == Verdict(deliver=False)
    assert subscriptions.take(numbered(13)) == Verdict(deliver=True)
    (_, again) = subscriptions.open()
    assert again.since == 13


def test_a_gap_before_a_skipped_number_is_a_gap() -> None:
    subscriptions = followed()
    verdict = subscriptions.take(Message("skip", channel="a", seq=13))
    assert not verdict.deliver and anew(verdict).since == 10


# --- what is sent --------------------------------------------------------------------------


def test_a_subscription_names_the_channel_in_both_fields() -> None:
    message = add(Subscriptions(), "news")
    assert (message.type, message.channel, message.data) == ("subscribe", "news", "news")
    assert message.since is None
    assert message.id is not None


def test_last_is_requested_until_there_is_a_position() -> None:
    subscriptions = Subscriptions()
    request = add(subscriptions, "a", None, 3)
    assert (request.last, request.since) == (3, None)
    (_, again) = subscriptions.open()
    assert again.last == 3
    assert subscriptions.take(history(again, 10, replayed=3)) == Verdict(deliver=False)
    assert delivered(subscriptions, 8, 9, 10, 11) == [8, 9, 10, 11]
    (_, again) = subscriptions.open()
    assert (again.last, again.since, again.epoch) == (None, 11, "e1")


def test_an_unsubscription_names_the_channel_in_both_fields_and_is_sent_once() -> None:
    subscriptions = Subscriptions()
    subscriptions.add("news", Start())
    message = subscriptions.remove("news")
    assert message is not None
    assert (message.type, message.channel, message.data) == ("unsubscribe", "news", "news")
    assert subscriptions.remove("news") is None
    assert not subscriptions.channels


def test_a_connection_opens_with_a_ping_and_all_channels() -> None:
    subscriptions = Subscriptions()
    subscriptions.add("a", Start())
    subscriptions.add("b", Start(0))
    ping, first, second = subscriptions.open()
    assert ping.type == "ping" and ping.id is not None
    assert (first.channel, first.since) == ("a", None)
    assert (second.channel, second.since) == ("b", 0)


def test_the_next_connection_requests_missed_messages() -> None:
    subscriptions = followed(10)
    assert delivered(subscriptions, 11, 12) == [11, 12]
    _, again = subscriptions.open()
    assert (again.since, again.epoch) == (12, "e1")


def test_the_next_connection_requests_from_the_acknowledged_position() -> None:
    subscriptions = Subscriptions()
    assert subscriptions.take(history(add(subscriptions, "a"), 10)) == Verdict(deliver=False)
    _, again = subscriptions.open()
    assert (again.since, again.epoch) == (10, "e1")


def test_a_channel_without_history_has_no_position() -> None:
    subscriptions = Subscriptions()
    request = add(subscriptions, "a", None)
    assert subscriptions.take(ack(request)) == Verdict(deliver=False)
    assert subscriptions.take(Message("event", channel="a")).deliver


# --- each once, in order -------------------------------------------------------------------


def test_numbers_in_order_are_delivered() -> None:
    assert delivered(followed(10), 11, 12, 13) == [11, 12, 13]


def test_messages_repeated_by_a_replay_are_dropped() -> None:
    subscriptions = followed(10)
    delivered(subscriptions, 11, 12)
    _, again = subscriptions.open()
    subscriptions.take(history(again, 14, replayed=4))
    assert delivered(subscriptions, 11, 12, 13, 14, 15) == [13, 14, 15]


def test_a_gap_is_requested_and_nothing_is_delivered_out_of_order() -> None:
    subscriptions = followed(10)
    verdict = subscriptions.take(numbered(13))
    assert not verdict.deliver and not verdict.lost
    again = anew(verdict)
    assert (again.since, again.epoch) == (10, "e1")
    assert delivered(subscriptions, 14) == []  # still before the answer
    subscriptions.take(history(again, 14, replayed=4))
    assert delivered(subscriptions, 11, 12, 13, 14, 15) == [11, 12, 13, 14, 15]


def test_a_gap_is_requested_once() -> None:
    subscriptions = followed(10)
    assert subscriptions.take(numbered(13)).send
    assert not subscriptions.take(numbered(14)).send


def test_lagged_requests_the_missing_messages_and_is_delivered() -> None:
    subscriptions = followed(10)
    verdict = subscriptions.take(Message("lagged", channel="a", seq=10))
    assert verdict.deliver
    assert [each.since for each in verdict.send] == [10]


def test_lagged_of_an_older_subscription_changes_nothing() -> None:
    subscriptions = Subscriptions()
    add(subscriptions, "a")
    assert subscriptions.take(Message("lagged", channel="a", seq=7)) == Verdict()


def lag(subscriptions: Subscriptions, seq: int) -> Verdict:
    return subscriptions.take(Message("lagged", channel="a", seq=seq))


def test_repeated_lags_without_a_message_end_in_a_reported_loss() -> None:
    subscriptions = followed(10)
    for _ in range(3):
        verdict = lag(subscriptions, 10)
        assert [each.since for each in verdict.send] == [10] and not verdict.lost
        subscriptions.take(history(verdict.send[0], 10))  # and no room for the rest
    verdict = lag(subscriptions, 10)
    assert [(each.channel, each.count) for each in verdict.lost] == [("a", None)]
    (skip,) = verdict.send
    assert (skip.since, skip.last) == (None, 0)
    subscriptions.take(history(skip, 400))
    verdict = lag(subscriptions, 400)
    assert not verdict.lost  # said already
    (skip,) = verdict.send
    assert subscriptions.take(history(skip, 500)) == Verdict(deliver=False)
    assert delivered(subscriptions, 501, 502) == [501, 502]


def test_lags_with_progress_are_always_requested() -> None:
    subscriptions = followed(10)
    for seq in range(11, 30):
        verdict = subscriptions.take(Message("lagged", channel="a", seq=seq - 1))
        assert not verdict.lost
        subscriptions.take(history(verdict.send[0], seq, replayed=1))
        assert delivered(subscriptions, seq) == [seq]


def test_fault_125_numbers_that_fall_are_a_new_numbering_and_all_of_it_comes() -> None:
    subscriptions = followed(10)
    verdict = subscriptions.take(numbered(1))
    assert not verdict.deliver
    again = anew(verdict)
    assert (again.since, again.epoch) == (10, "e1")
    assert delivered(subscriptions, 2, 11) == []
    assert subscriptions.take(ack(again, epoch="e2", seq=2, replayed=2, recovered=False)).lost == []
    assert delivered(subscriptions, 1, 2, 3) == [1, 2, 3]


def test_an_incomplete_new_numbering_is_reported() -> None:
    subscriptions = followed(10)
    again = anew(subscriptions.take(numbered(5)))
    subscriptions.take(ack(again, epoch="e2", seq=5, replayed=2, recovered=False))
    verdict = subscriptions.take(numbered(4))
    assert verdict.deliver
    assert [(each.channel, each.count) for each in verdict.lost] == [("a", 3)]


def test_a_repeated_message_is_no_new_numbering() -> None:
    subscriptions = followed(10)
    again = anew(subscriptions.take(numbered(10)))
    assert subscriptions.take(history(again, 12, replayed=2)) == Verdict(deliver=False)
    assert delivered(subscriptions, 11, 12, 13) == [11, 12, 13]


def test_a_new_numbering_right_after_a_replay_is_noticed() -> None:
    subscriptions = followed(10)
    _, again = subscriptions.open()
    subscriptions.take(history(again, 10))
    assert subscriptions.take(numbered(1)).send


def test_numbers_of_a_server_without_acknowledgements_are_delivered() -> None:
    subscriptions = Subscriptions()
    subscriptions.open()
    subscriptions.add("a", Start())
    subscriptions.take(Message("pong"))
    assert delivered(subscriptions, 5, 6, 6, 7) == [5, 6, 7]
    verdict = subscriptions.take(numbered(10))
    assert verdict.deliver and [each.count for each in verdict.lost] == [2]


def test_a_hole_within_a_replay_is_no_gap() -> None:
    subscriptions = Subscriptions()
    subscriptions.take(history(add(subscriptions, "a", 0), 30, replayed=4))
    assert delivered(subscriptions, 3, 10, 20, 28) == [3, 10, 20, 28]
    assert delivered(subscriptions, 31) == [31]  # 29 and 30 were replaced as well
    _, again = subscriptions.open()
    subscriptions.take(history(again, 40, replayed=2))
    assert delivered(subscriptions, 35, 40, 41) == [35, 40, 41]
    assert anew(subscriptions.take(numbered(43))).since == 41


def test_a_hole_within_a_replay_that_lacks_something_is_a_loss() -> None:
    subscriptions = followed(10)
    _, again = subscriptions.open()
    subscriptions.take(history(again, 20, replayed=3, recovered=False))
    assert lost(subscriptions, 12, 13, 17) == [(12, 1), (17, 3)]
    verdict = subscriptions.take(numbered(21))  # 18 to 20 are reported as soon as it is known
    assert verdict.deliver and [each.count for each in verdict.lost] == [3]
    assert lost(subscriptions, 22, 23) == []


def test_what_is_missing_at_the_end_of_a_replay_is_told_when_more_is_missing_behind_it() -> None:
    subscriptions = followed(10)
    _, again = subscriptions.open()
    subscriptions.take(history(again, 13, replayed=1, recovered=False))
    assert lost(subscriptions, 11) == []
    verdict = subscriptions.take(numbered(15))
    assert [each.count for each in verdict.lost] == [2]
    assert anew(verdict).since == 13


def lost(subscriptions: Subscriptions, *seqs: int) -> list[tuple[int, int | None]]:
    """Deliver messages; return what is reported as lost before which."""
    return [(seq, each.count) for seq in seqs for each in subscriptions.take(numbered(seq)).lost]


def test_a_replay_that_ends_early_is_over_with_the_first_live_message() -> None:
    subscriptions = Subscriptions()
    subscriptions.take(history(add(subscriptions, "a", 0), 5, replayed=5))
    assert delivered(subscriptions, 3, 6) == [3, 6]
    assert anew(subscriptions.take(numbered(8))).since == 6


def test_the_gap_of_a_skipped_message_is_not_requested() -> None:
    subscriptions = followed(10)
    subscriptions.skipped()
    verdict = subscriptions.take(numbered(12))
    assert verdict.deliver
    assert [(each.channel, each.count) for each in verdict.lost] == [("a", 1)]
    assert subscriptions.take(numbered(14)).send


# --- one subscription after another --------------------------------------------------------


def test_fault_93_only_the_newest_subscription_of_a_channel_is_delivered() -> None:
    subscriptions = Subscriptions()
    ping, *_ = subscriptions.open()
    subscriptions.take(Message("pong", id=ping.id))
    first = add(subscriptions, "a", 0)
    leave = subscriptions.remove("a")
    second = add(subscriptions, "a", 0)
    assert leave is not None
    assert subscriptions.take(history(first, 3, replayed=3)) == Verdict(deliver=False)
    assert delivered(subscriptions, 1, 2, 3) == []
    assert not subscriptions.take(Message("event", channel="a", data="unnumbered")).deliver
    assert not subscriptions.take(ack(leave)).deliver
    assert subscriptions.take(Message("event", channel="a", data="unnumbered")).deliver
    assert subscriptions.take(history(second, 3, replayed=3)) == Verdict(deliver=False)
    assert delivered(subscriptions, 1, 2, 3) == [1, 2, 3]


def test_fault_93_late_messages_of_a_left_channel_are_ignored() -> None:
    subscriptions = followed(10)
    leave = subscriptions.remove("a")
    assert leave is not None
    assert delivered(subscriptions, 11) == []
    assert not subscriptions.take(Message("event", channel="a")).deliver
    assert not subscriptions.take(Message("lagged", channel="a", seq=11)).deliver
    subscriptions.take(ack(leave))
    assert subscriptions.take(Message("event", channel="a")).deliver  # the server's own doing


def test_fault_93_a_position_given_again_begins_anew() -> None:
    subscriptions = followed(10)
    leave, again = subscriptions.add("a", Start(0))
    assert (leave.type, again.type, again.since) == ("unsubscribe", "subscribe", 0)
    assert delivered(subscriptions, 11) == []
    subscriptions.take(ack(leave))
    subscriptions.take(history(again, 11, replayed=11))
    assert delivered(subscriptions, *range(1, 13)) == list(range(1, 13))


def test_a_subscribed_channel_is_not_requested_again() -> None:
    subscriptions = Subscriptions()
    request = add(subscriptions, "a")
    assert subscriptions.add("a", Start()) == []
    subscriptions.take(history(request, 10))
    assert subscriptions.add("a", Start()) == []
    _, again = subscriptions.open()
    subscriptions.take(Message("error", id=again.id, data="no"))
    assert len(subscriptions.add("a", Start())) == 1


def test_unacknowledged_unsubscriptions_are_bounded() -> None:
    subscriptions = Subscriptions()
    for number in range(5000):
        subscriptions.add(str(number), Start())
        subscriptions.remove(str(number))
    dropped = [
        number
        for number in range(5000)
        if not subscriptions.take(Message("event", channel=str(number))).deliver
    ]
    assert dropped == list(range(5000 - 1024, 5000))


# --- never silent --------------------------------------------------------------------------


def test_messages_no_longer_kept_are_counted() -> None:
    subscriptions = followed(10)
    _, again = subscriptions.open()
    assert not subscriptions.take(history(again, 30, replayed=5, recovered=False)).lost
    verdict = subscriptions.take(numbered(26))  # the first that is kept says how many are not
    assert verdict.deliver
    assert [(each.channel, each.count) for each in verdict.lost] == [("a", 15)]
    assert delivered(subscriptions, 27) == [27]


def test_messages_no_longer_kept_are_counted_without_a_replay() -> None:
    subscriptions = followed(10)
    _, again = subscriptions.open()
    verdict = subscriptions.take(history(again, 30, recovered=False))
    assert [(each.channel, each.count) for each in verdict.lost] == [("a", 20)]
    assert delivered(subscriptions, 31) == [31]


def test_another_epoch_is_reported_and_its_messages_are_delivered() -> None:
    subscriptions = followed(10)
    _, again = subscriptions.open()
    verdict = subscriptions.take(ack(again, epoch="e2", seq=3, replayed=3, recovered=False))
    assert [(each.channel, each.count) for each in verdict.lost] == [("a", None)]
    assert delivered(subscriptions, 1, 2, 3, 4) == [1, 2, 3, 4]


def test_a_position_of_the_application_counts() -> None:
    subscriptions = Subscriptions()
    request = add(subscriptions, "a", 5)
    subscriptions.take(history(request, 20, replayed=10, recovered=False))
    verdict = subscriptions.take(numbered(11))
    assert [each.count for each in verdict.lost] == [5]


def test_a_channel_without_history_cannot_go_on_from_a_position() -> None:
    subscriptions = Subscriptions()
    request = add(subscriptions, "a", 5)
    verdict = subscriptions.take(ack(request, recovered=False, replayed=0))
    assert [(each.channel, each.count) for each in verdict.lost] == [("a", None)]


def test_a_channel_that_lost_its_history_is_reported() -> None:
    subscriptions = followed(10)
    _, again = subscriptions.open()
    assert [each.count for each in subscriptions.take(ack(again)).lost] == [None]


def test_a_refused_subscription_is_delivered_and_its_loss_reported() -> None:
    subscriptions = followed(10)
    _, again = subscriptions.open()
    verdict = subscriptions.take(Message("error", id=again.id, data="no", code="forbidden"))
    assert verdict.deliver
    assert [each.count for each in verdict.lost] == [None]
    assert "a" in subscriptions.channels


@pytest.mark.parametrize("code", ["internal", "rate_limited"])
def test_a_subscription_refused_by_a_busy_server_is_repeated(code: str) -> None:
    subscriptions = followed(10)
    _, again = subscriptions.open()
    busy = Message("error", id=again.id, data="full", code=code)
    assert subscriptions.take(busy) == Verdict(deliver=False, retry=True)
    (again,) = subscriptions.retry()
    assert (again.since, again.epoch) == (10, "e1")
    assert subscriptions.retry() == []
    subscriptions.take(history(again, 11, replayed=1))
    assert delivered(subscriptions, 11, 12) == [11, 12]


def test_a_removed_subscription_is_not_repeated() -> None:
    subscriptions = Subscriptions()
    request = add(subscriptions, "a")
    subscriptions.take(Message("error", id=request.id, code="internal"))
    subscriptions.remove("a")
    assert subscriptions.retry() == []
    request = add(subscriptions, "b")
    subscriptions.take(Message("error", id=request.id, code="internal"))
    subscriptions.open()
    assert subscriptions.retry() == []


def test_a_first_subscription_that_is_refused_loses_nothing() -> None:
    subscriptions = Subscriptions()
    request = add(subscriptions, "a", None)
    assert subscriptions.take(Message("error", id=request.id, data="no")) == Verdict()


@pytest.mark.parametrize("data", [None, "x", [], {}, {"epoch": 3, "seq": 1}, {"epoch": "e"}])
def test_a_malformed_ack_means_no_history(data: Any) -> None:
    subscriptions = Subscriptions()
    request = add(subscriptions, "a", None)
    assert subscriptions.take(Message("ack", id=request.id, data=data)) == Verdict(deliver=False)


def test_fault_93_late_acks_of_a_left_channel_are_ignored() -> None:
    subscriptions = Subscriptions()
    first, second = add(subscriptions, "a"), add(subscriptions, "b")
    subscriptions.remove("a")
    subscriptions.remove("b")
    assert not subscriptions.take(history(first, 10)).deliver
    assert not subscriptions.take(Message("error", id=second.id, data="no")).deliver


def test_answers_to_the_application_are_delivered() -> None:
    subscriptions = followed(10)
    assert subscriptions.take(Message("ack", id="mine", data=1)).deliver
    assert subscriptions.take(Message("pong", id=7)).deliver
    assert subscriptions.take(Message("error", data="text")).deliver


# --- who is there --------------------------------------------------------------------------


def test_a_pong_with_our_id_means_extensions() -> None:
    subscriptions = Subscriptions()
    ping, *_ = subscriptions.open()
    assert subscriptions.extensions is None
    assert not subscriptions.take(Message("pong", id=ping.id)).deliver
    assert subscriptions.extensions is True


def test_a_first_pong_without_an_id_means_a_go_hub() -> None:
    subscriptions = Subscriptions()
    subscriptions.open()
    assert not subscriptions.take(Message("pong")).deliver
    assert subscriptions.extensions is False
    assert subscriptions.take(Message("pong")).deliver


def test_a_position_that_a_go_hub_ignores_is_reported_as_lost() -> None:
    subscriptions = followed(10)
    subscriptions.open()
    verdict = subscriptions.take(Message("pong"))
    assert [(each.channel, each.count) for each in verdict.lost] == [("a", None)]
    assert subscriptions.take(Message("event", channel="a")).deliver


# --- an application that is too slow -------------------------------------------------------


def test_refused_messages_of_a_channel_with_history_are_requested_again() -> None:
    subscriptions = followed(10)
    for seq in (11, 12):
        message = numbered(seq)
        if subscriptions.take(message).deliver:
            subscriptions.refused(message)
    verdict = subscriptions.catch_up()
    again = anew(verdict)
    assert (again.channel, again.since, again.epoch) == ("a", 10, "e1")
    assert not verdict.lost
    subscriptions.take(history(again, 12, replayed=2))
    assert delivered(subscriptions, 11, 12, 13) == [11, 12, 13]


def test_other_refused_messages_are_counted() -> None:
    subscriptions = followed(10)
    for _ in range(3):
        subscriptions.refused(Message("event", data=1))
    subscriptions.refused(Message("event", channel="other", seq=4))
    verdict = subscriptions.catch_up()
    assert [(each.channel, each.count) for each in verdict.lost] == [("", 4)]
    assert subscriptions.catch_up() == Verdict(deliver=False)


def test_fault_119_a_channel_without_history_is_named_with_what_it_lost() -> None:
    subscriptions = Subscriptions()
    subscriptions.add("a", Start())
    for channel, count in (("a", 3), ("", 2), ("other", 1)):
        for _ in range(count):
            subscriptions.refused(Message("event", channel=channel))
    verdict = subscriptions.catch_up()
    assert [(each.channel, each.count) for each in verdict.lost] == [("a", 3), ("", 3)]


def test_lagged_while_behind_requests_nothing() -> None:
    subscriptions = followed(10)
    subscriptions.take(numbered(11))
    subscriptions.refused(numbered(11))
    assert not subscriptions.take(Message("lagged", channel="a", seq=11)).send
    subscriptions.refused(Message("lagged", channel="a", seq=11))
    assert anew(subscriptions.catch_up()).since == 10


def test_the_exception_can_be_pickled_and_reads_well() -> None:
    error = pickle.loads(pickle.dumps(MessagesLost("a", 3, "no longer kept")))
    assert str(error) == "3 messages of channel 'a' are lost: no longer kept"
    assert str(MessagesLost("", None, "why")) == "some messages are lost: why"


# --- filters -------------------------------------------------------------------------------

ERRORS = Filter({"level": ["error"]})


def with_filter(filter: Filter | None = ERRORS, **start: Any) -> Start:
    return Start(filter=filter, **start)


def filter_in(message: Message) -> Any:
    assert isinstance(message, SubscribeMessage)
    return message.filter


def sparse(to: Message, seq: int, **data: Any) -> Message:
    return ack(to, epoch="e1", seq=seq, replayed=0, recovered=True, sparse=True, **data)


def test_a_filter_goes_with_every_request_for_its_channel() -> None:
    subscriptions = Subscriptions()
    (request,) = subscriptions.add("a", with_filter(since=0))
    assert (filter_in(request), request.since) == (ERRORS.value, 0)
    subscriptions.take(sparse(request, 10))
    assert subscriptions.take(numbered(17)) == Verdict()  # no gap
    (_, again) = subscriptions.open()
    assert (filter_in(again), again.since, again.epoch) == (ERRORS.value, 17, "e1")
    subscriptions.take(sparse(again, 30))
    for _ in range(4):  # the fourth gives up what cannot be caught up with
        (lagging,) = subscriptions.take(Message("lagged", channel="a", seq=30)).send
        assert filter_in(lagging) == ERRORS.value
        subscriptions.take(sparse(lagging, 30))
    assert (lagging.last, lagging.since) == (0, None)


def test_the_same_filter_again_is_no_request_and_another_goes_on_behind_the_position() -> None:
    subscriptions = Subscriptions()
    (request,) = subscriptions.add("a", with_filter())
    subscriptions.take(sparse(request, 10))
    assert subscriptions.add("a", with_filter(Filter({"level": ("error",)}))) == []
    (request,) = subscriptions.add("a", with_filter(Filter({"level": ["info"]})))
    assert (filter_in(request), request.since, request.epoch) == ({"level": ["info"]}, 10, "e1")
    (request,) = subscriptions.add("a", Start())
    assert (filter_in(request), request.since) == (None, 10)
    assert subscriptions.add("a", Start()) == []


def test_another_filter_before_the_first_answer_starts_where_the_first_was_to() -> None:
    subscriptions = Subscriptions()
    subscriptions.add("a", with_filter(since=0))
    (request,) = subscriptions.add("a", Start())
    assert (filter_in(request), request.since) == (None, 0)


def test_another_filter_with_a_position_or_of_a_keyed_channel_starts_anew() -> None:
    subscriptions = Subscriptions()
    (request,) = subscriptions.add("a", with_filter())
    subscriptions.take(sparse(request, 10))
    leave, request = subscriptions.add("a", with_filter(None, last=3))
    assert (leave.type, request.last, request.since) == ("unsubscribe", 3, None)
    subscriptions.take(sparse(request, 10, keyed=True))
    subscriptions.take(Message("event", channel="a", key="k", data=1, seq=11))
    leave, request = subscriptions.add("a", with_filter())
    assert (leave.type, request.last, request.since) == ("unsubscribe", None, None)
    assert subscriptions.snapshot("a") == {}


def test_a_filter_outlives_a_go_hub() -> None:
    subscriptions = Subscriptions()
    (request,) = subscriptions.add("a", with_filter())
    subscriptions.take(sparse(request, 10))
    subscriptions.open()
    assert subscriptions.take(Message("pong")).lost
    _, again = subscriptions.open()
    assert (filter_in(again), again.since) == (ERRORS.value, None)
