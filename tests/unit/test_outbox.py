"""What waits for one client: order, bounds, control frames, and the books."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ws_hub.connection.outbox import Outbox
from ws_hub.protocol.frames import close_frame, ping_frame, pong_frame, text_frame


def drain(outbox: Outbox, step: int | None = None) -> bytes:
    """Take everything out, `step` bytes at a time."""
    taken = b""
    while outbox.size:
        head = outbox.head()
        piece = head if step is None else head[:step]
        taken += piece
        outbox.advance(len(piece))
    assert outbox.messages == 0
    return taken


def test_frames_leave_in_order() -> None:
    outbox = Outbox(10, 1000)
    assert all(outbox.offer(frame, 1) for frame in (b"one", b"two", b"three"))
    assert (outbox.messages, outbox.size) == (3, 11)
    assert drain(outbox) == b"onetwothree"


def test_a_frame_that_exceeds_the_messages_is_not_kept() -> None:
    outbox = Outbox(2, 1000)
    assert outbox.offer(b"a", 1)
    assert not outbox.offer(b"bc", 2)
    assert outbox.offer(b"d", 1)
    assert drain(outbox) == b"ad"


def test_a_frame_that_exceeds_the_bytes_is_not_kept() -> None:
    outbox = Outbox(10, 4)
    assert outbox.offer(b"abc", 1)
    assert not outbox.offer(b"de", 1)
    assert drain(outbox) == b"abc"


def test_an_empty_outbox_takes_a_message_over_the_limits() -> None:
    outbox = Outbox(1, 1)
    assert outbox.offer(b"far too long", 5)
    assert not outbox.offer(b"x", 1)
    assert drain(outbox) == b"far too long"


def test_fault_116_frames_that_must_not_be_lost_have_a_reserve_of_messages() -> None:
    outbox = Outbox(2, 1000)
    assert outbox.offer(b"ab", 2)
    for _ in range(2048):
        assert outbox.offer(b"c", 1, beyond=True)
    assert not outbox.offer(b"d", 1, beyond=True)
    assert not outbox.offer(b"d", 1)
    assert drain(outbox) == b"ab" + b"c" * 2048
    assert outbox.offer(b"ab", 2)
    assert outbox.offer(b"c", 1, beyond=True)


def test_fault_116_the_reserve_is_bounded_in_bytes_too() -> None:
    outbox = Outbox(100_000, 100)
    assert outbox.offer(b"x" * 100, 1)
    notice, size = b"n" * 60_000, 100
    while outbox.offer(notice, 1, beyond=True):
        size += len(notice)
    assert outbox.size == size == 100 + 4 * 60_000
    assert outbox.clear() == 5
    assert outbox.offer(b"x" * 100, 1)
    assert outbox.offer(notice, 1, beyond=True)


def test_frames_that_fit_do_not_use_the_reserve() -> None:
    outbox = Outbox(100_000, 1 << 20)
    while outbox.offer(b"n" * 60_000, 1, beyond=True):
        pass
    assert outbox.size > (1 << 20) + 3 * 60_000


def frames_of(*sizes: int) -> list[bytes]:
    return [bytes([65 + index]) * size for index, size in enumerate(sizes)]


def test_fault_74_a_burst_is_kept_as_far_as_there_is_room_and_never_half_a_frame() -> None:
    outbox = Outbox(3, 1000)
    each = frames_of(2, 2, 2, 2, 2)
    assert outbox.take(b"".join(each), each, 3) == 4  # one sent, three kept
    assert outbox.messages == 3
    assert drain(outbox) == b"BCCDD"


def test_fault_74_a_burst_is_kept_within_the_bytes() -> None:
    outbox = Outbox(100, 10)
    each = frames_of(4, 4, 4, 4)
    assert outbox.take(b"".join(each), each, 1) == 2
    assert drain(outbox) == b"AAABBBB"


def test_fault_74_a_single_message_beyond_the_bounds_is_kept_alone() -> None:
    outbox = Outbox(100, 10)
    each = frames_of(20, 2)
    assert outbox.take(b"".join(each), each) == 1
    assert outbox.take(b"".join(each), each) == 0
    assert drain(outbox) == each[0]
    assert outbox.take(b"".join(each), each, 5) == 1
    assert drain(outbox) == each[0][5:]


def test_a_burst_that_fits_is_kept_as_it_is() -> None:
    outbox = Outbox(100, 100)
    each = frames_of(2, 3)
    assert outbox.take(b"AABBB", each, 1) == 2
    assert outbox.take(b"AABBB", each) == 2
    assert drain(outbox) == b"ABBBAABBB"


def test_discard_drops_the_write_that_has_begun() -> None:
    outbox = Outbox(10, 1000)
    outbox.begin(b"begun", 1, 1)
    outbox.offer(b"two", 2)
    outbox.control(ping_frame())
    assert outbox.discard() == 3
    assert (outbox.messages, outbox.size, outbox.head()) == (0, 0, b"")


@given(st.lists(st.integers(1, 30), min_size=1, max_size=20), st.integers(0, 100))
def test_fault_74_the_rest_of_a_burst_is_whole_frames(sizes: list[int], sent: int) -> None:
    outbox = Outbox(5, 60)
    each = frames_of(*sizes)
    joined = b"".join(each)
    sent = min(sent, len(joined) - 1)
    kept = outbox.take(joined, each, sent)
    bound = outbox.size <= 60 or outbox.messages <= 1
    assert bound
    assert outbox.messages <= max(5, 1)
    assert drain(outbox) == b"".join(each[:kept])[sent:]


def test_control_frames_come_before_messages() -> None:
    outbox = Outbox(10, 1000)
    outbox.offer(b"message", 1)
    outbox.control(ping_frame())
    assert drain(outbox) == ping_frame() + b"message"


def test_a_control_frame_never_comes_inside_a_write_that_has_begun() -> None:
    outbox = Outbox(10, 1000)
    outbox.offer(b"begun", 1)
    outbox.head()
    outbox.advance(2)
    outbox.offer(b"next", 1)
    outbox.control(pong_frame(b"x"))
    assert drain(outbox, 1) == b"gun" + pong_frame(b"x") + b"next"


def test_a_newer_pong_replaces_older_ones() -> None:
    outbox = Outbox(10, 1000)
    outbox.offer(b"m", 1)
    for number in range(1000):
        outbox.control(pong_frame(b"%d" % number))
    assert outbox.size == 1 + len(pong_frame(b"999"))
    assert drain(outbox) == pong_frame(b"999") + b"m"


def test_control_frames_of_several_kinds_all_leave() -> None:
    outbox = Outbox(10, 1000)
    for frame in (ping_frame(), pong_frame(b"x"), close_frame(1000)):
        outbox.control(frame)
    assert drain(outbox) == ping_frame() + pong_frame(b"x") + close_frame(1000)


def test_a_direct_send_leaves_its_rest_first_in_line() -> None:
    outbox = Outbox(10, 1000)
    outbox.begin(b"direct", 2, 3)
    outbox.offer(b"next", 1)
    assert (outbox.messages, outbox.size) == (3, 7)
    assert drain(outbox, 2) == b"ectnext"


def test_clear_keeps_the_begun_write_and_counts_the_dropped_messages() -> None:
    outbox = Outbox(10, 1000)
    outbox.begin(b"begun", 1, 1)
    outbox.offer(b"two", 2)
    outbox.offer(b"one", 1)
    assert outbox.clear() == 3
    assert (outbox.messages, outbox.size) == (1, 4)
    assert drain(outbox) == b"egun"


def test_a_long_backlog_is_written_in_pieces_of_bounded_size() -> None:
    outbox = Outbox(10, 10_000_000)
    big = text_frame(b"x" * 1_000_000)
    outbox.offer(big, 1)
    outbox.control(ping_frame())
    outbox.offer(b"tail", 1)
    assert outbox.head() == ping_frame()
    outbox.advance(2)
    assert len(outbox.head()) == 256 * 1024
    assert drain(outbox) == big + b"tail"


def test_an_empty_outbox_has_no_head() -> None:
    outbox = Outbox(1, 1)
    assert outbox.head() == b""
    outbox.advance(0)
    assert (outbox.messages, outbox.size) == (0, 0)


OPERATION = st.one_of(
    st.tuples(st.just("offer"), st.integers(1, 40), st.integers(1, 5)),
    st.tuples(st.just("advance"), st.integers(0, 30), st.just(0)),
    st.tuples(st.just("clear"), st.just(0), st.just(0)),
)


@given(st.lists(OPERATION, max_size=60))
def test_the_counters_are_right_after_any_sequence_of_calls(
    operations: list[tuple[str, int, int]],
) -> None:
    outbox = Outbox(8, 100)
    waiting: list[tuple[bytes, int]] = []  # the model: entries, the first may be begun
    begun = 0
    for index, (name, amount, messages) in enumerate(operations):
        if name == "offer":
            frames = bytes([index % 256]) * amount
            fits = (
                sum(count for _, count in waiting) + messages <= 8
                and sum(len(each) for each, _ in waiting) - begun + amount <= 100
            )
            kept = outbox.offer(frames, messages)
            assert kept == (fits or not waiting)
            if kept:
                waiting.append((frames, messages))
        elif name == "advance":
            head = outbox.head()
            left = b"".join(each for each, _ in waiting)[begun:]
            assert head == left[: len(head)]
            assert bool(head) == bool(left)
            sent = min(amount, len(head))
            outbox.advance(sent)
            begun += sent
            if head and sent == len(head):
                # Everything that the head held is done; what it held is a whole prefix.
                while waiting and begun >= len(waiting[0][0]):
                    begun -= len(waiting.pop(0)[0])
        else:
            before = outbox.messages
            assert before - outbox.clear() == outbox.messages
            rest = drain(outbox)
            left = b"".join(each for each, _ in waiting)[begun:]
            assert rest == left[: len(rest)]
            waiting, begun = [], 0
        assert outbox.size == sum(len(each) for each, _ in waiting) - begun


def test_a_frame_that_is_no_message_always_fits() -> None:
    outbox = Outbox(1, 1)
    assert outbox.offer(b"m", 1)
    assert outbox.offer(b"notice", 1, beyond=True)
    assert outbox.offer(close_frame(1001), 0, beyond=True)
    assert drain(outbox) == b"mnotice" + close_frame(1001)


@pytest.mark.parametrize(
    ("sent", "torn", "kept"),
    [
        (0, 0, 1),  # the first, because an empty outbox takes one message of any size
        (0, 1, 1),
        (0, 11, 2),  # the second has begun as well
        (0, 30, 3),
        (4, 0, 1),
        (4, 7, 2),
        (10, 1, 2),
        (25, 16, 5),
        (25, 25, 5),
    ],
)
def test_fault_126_of_a_burst_all_frames_that_have_begun_are_kept(
    sent: int, torn: int, kept: int
) -> None:
    """What TLS has encrypted is under way, whatever there is room for."""
    each = [bytes([65 + number]) * 10 for number in range(5)]
    outbox = Outbox(1, 8)
    assert outbox.take(b"".join(each), each, sent, torn) == kept
    outbox.control(b"\x8a\x00")
    rest = b"".join(each[:kept])[sent:]
    if sent or torn:
        assert outbox.head() == rest  # before the control frame
        outbox.clear()
        assert outbox.head() == rest
        outbox.advance(len(rest))
    else:
        assert outbox.head() == b"\x8a\x00" + rest
