"""What waits for one client: order, bounds, control frames, and the books."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from ws_hub.frames import close_frame, ping_frame, pong_frame, text_frame
from ws_hub.outbox import Outbox


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


def test_frames_leave_in_the_order_in_which_they_came() -> None:
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


def test_an_empty_outbox_takes_what_exceeds_every_bound() -> None:
    outbox = Outbox(1, 1)
    assert outbox.offer(b"far too long", 5)
    assert not outbox.offer(b"x", 1)
    assert drain(outbox) == b"far too long"


def test_what_must_not_be_lost_goes_beyond_the_bounds_up_to_twice() -> None:
    outbox = Outbox(2, 1000)
    assert outbox.offer(b"ab", 2)
    assert outbox.offer(b"c", 1, beyond=True)
    assert outbox.offer(b"d", 1, beyond=True)
    assert not outbox.offer(b"e", 1, beyond=True)
    assert drain(outbox) == b"abcd"


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


def test_a_newer_pong_stands_for_all_before_it() -> None:
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


def test_clearing_keeps_what_has_begun_and_tells_how_many_messages_are_gone() -> None:
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
def test_the_books_are_right_whatever_happens(operations: list[tuple[str, int, int]]) -> None:
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


def test_a_frame_that_is_no_message_always_goes_beyond_the_bounds() -> None:
    outbox = Outbox(1, 1)
    assert outbox.offer(b"m", 1)
    assert outbox.offer(b"notice", 1, beyond=True)
    assert not outbox.offer(b"notice", 1, beyond=True)
    assert outbox.offer(close_frame(1001), 0, beyond=True)
    assert drain(outbox) == b"mnotice" + close_frame(1001)
