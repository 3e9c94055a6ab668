"""The wire format of notices: what goes in comes out, and nothing else is taken for one."""

from __future__ import annotations

import json
import random
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ws_hub.backplane.bus import Notice, NoticeKind
from ws_hub.backplane.notices import (
    MAX_FRAME_BYTES,
    FrameBuffer,
    Hello,
    Numbered,
    decode,
    encode,
    frame,
    hello,
    is_socket_name,
    joined,
)

NAME = "417-0a1b2c3d.sock"

names = st.text(st.characters(exclude_categories=()))
texts = st.binary().filter(lambda text: b"\n" not in text)
notices = st.builds(
    Notice,
    st.sampled_from(NoticeKind),
    names,
    st.lists(texts).map(tuple),
    key=names,
    deletes=st.booleans(),
    stands_for=st.just(1),  # encoded by `joined` alone
    code=st.integers(0, 4999),
    reason=names,
)


def bodies_of(data: bytes, sizes: list[int] | None = None) -> list[bytes]:
    """What a buffer makes of a stream that arrives in parts."""
    buffer = FrameBuffer()
    found = []
    for size in [*(sizes or ()), len(data)]:
        buffer.feed(data[:size])
        data = data[size:]
        while (body := buffer.next()) is not None:
            found.append(body)
    return found


@given(notices, st.integers(0, 2**63 - 1))
def test_a_notice_arrives_as_it_was_sent(notice: Notice, number: int) -> None:
    (body,) = bodies_of(frame(number, encode(notice)))
    assert decode(body) == Numbered(number, notice)


@given(st.lists(notices), st.lists(st.integers(1, 50)))
def test_a_stream_may_arrive_in_any_parts(sent: list[Notice], sizes: list[int]) -> None:
    data = hello(NAME, 0) + b"".join(frame(n, encode(each)) for n, each in enumerate(sent, 1))
    first, *rest = [decode(body) for body in bodies_of(data, sizes)]
    assert first == Hello(NAME, 0)
    assert rest == [Numbered(n, each) for n, each in enumerate(sent, 1)]


def test_the_frames_are_those_of_the_documentation() -> None:
    notice = Notice(NoticeKind.PUBLISH, "news", (b'{"a":1}', b"2"))
    body = b'{"v":1,"n":8,"kind":"publish","name":"news"}\n{"a":1}\n2'
    assert frame(8, encode(notice)) == struct.pack("!I", len(body)) + body
    body = b'{"v":1,"hello":"417-0a1b2c3d.sock","n":7}'
    assert hello(NAME, 7) == struct.pack("!I", len(body)) + body


def test_a_hello_may_say_that_a_table_comes_beside_it() -> None:
    body = b'{"v":1,"hello":"417-0a1b2c3d.sock","n":7,"interest":1}'
    assert hello(NAME, 7, shares=True) == struct.pack("!I", len(body)) + body
    assert decode(body) == Hello(NAME, 7, 1)


def test_empty_fields_are_left_out() -> None:
    assert json.loads(frame(1, encode(Notice(NoticeKind.KEPT)))[4:]) == {
        "v": 1,
        "n": 1,
        "kind": "kept",
    }


def test_a_notice_stands_for_several_that_differ_in_their_texts() -> None:
    tails = [encode(Notice(NoticeKind.PUBLISH, "a", each)) for each in ((b"1",), (b"2", b""))]
    (body,) = bodies_of(frame(9, joined(tails)))
    assert body == b'{"v":1,"n":9,"joined":2,"kind":"publish","name":"a"}\n1\n2\n'
    assert decode(body) == Numbered(
        9, Notice(NoticeKind.PUBLISH, "a", (b"1", b"2", b""), stands_for=2)
    )


def test_no_text_is_not_an_empty_text() -> None:
    for sent in ((), (b"",), (b"", b"")):
        (body,) = bodies_of(frame(1, encode(Notice(NoticeKind.USER, "a", sent))))
        assert decode(body) == Numbered(1, Notice(NoticeKind.USER, "a", sent))


@pytest.mark.parametrize("sent", [(b"1\n2",), (b"1", b"\n")])
def test_a_text_with_a_line_feed_is_refused(sent: tuple[bytes, ...]) -> None:
    with pytest.raises(ValueError, match="line feed"):
        encode(Notice(NoticeKind.PUBLISH, "a", sent))


def test_a_kind_of_a_newer_version_is_skipped() -> None:
    assert decode(b'{"v":1,"n":3,"kind":"survey","name":7}\n1') == Numbered(3, None)


def test_unknown_fields_are_ignored() -> None:
    body = b'{"v":1,"n":3,"kind":"kept","colour":"red"}'
    assert decode(body) == Numbered(3, Notice(NoticeKind.KEPT))


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\n",
        b"[]",
        b"7",
        b"null",
        b"{",
        b"\xff",
        b"[" * 100_000,
        b'{"v":2,"n":1,"kind":"kept"}',
        b'{"v":true,"n":1,"kind":"kept"}',
        b'{"v":1.0,"n":1,"kind":"kept"}',
        b'{"n":1,"kind":"kept"}',
        b'{"v":1,"kind":"kept"}',
        b'{"v":1,"n":-1,"kind":"kept"}',
        b'{"v":1,"n":true,"kind":"kept"}',
        b'{"v":1,"n":1.5,"kind":"kept"}',
        b'{"v":1,"n":9223372036854775808,"kind":"kept"}',
        b'{"v":1,"n":' + b"9" * 10_000 + b',"kind":"kept"}',
        b'{"v":1,"n":1}',
        b'{"v":1,"n":1,"kind":7}',
        b'{"v":1,"n":1,"kind":["kept"]}',
        b'{"v":1,"n":1,"kind":"user","name":7}',
        b'{"v":1,"n":1,"kind":"publish","key":null}',
        b'{"v":1,"n":1,"kind":"publish","deletes":1}',
        b'{"v":1,"n":1,"kind":"disconnect","code":"1000"}',
        b'{"v":1,"n":1,"kind":"disconnect","code":true}',
        b'{"v":1,"n":1,"kind":"disconnect","reason":{}}',
        b'{"v":1,"n":9,"joined":0,"kind":"publish"}\n1',
        b'{"v":1,"n":9,"joined":257,"kind":"publish"}\n1',
        b'{"v":1,"n":9,"joined":true,"kind":"publish"}\n1',
        b'{"v":1,"hello":7,"n":1}',
        b'{"v":1,"hello":"../x.sock","n":1}',
        b'{"v":1,"hello":"417-0a1b2c3d.sock"}',
        b'{"v":2,"hello":"417-0a1b2c3d.sock","n":1}',
    ],
    ids=lambda body: repr(body[:60]),
)
def test_a_body_against_the_rules_is_refused(body: bytes) -> None:
    with pytest.raises(ValueError):
        decode(body)


@pytest.mark.parametrize("seed", range(5))
def test_a_damaged_body_is_refused_or_a_notice(seed: int) -> None:
    chance = random.Random(seed)
    whole = encode(Notice(NoticeKind.PUBLISH, "news", (b'{"a":1}',), "k", True, 1000, "why"))
    for _ in range(500):
        body = bytearray(frame(5, whole)[4:])
        for _ in range(chance.randint(1, 4)):
            body[chance.randrange(len(body))] = chance.randrange(256)
        try:
            assert isinstance(decode(bytes(body)), (Hello, Numbered))
        except ValueError:
            pass


@pytest.mark.parametrize(
    "name",
    [
        "",
        "../1-00000000.sock",
        "/tmp/1-00000000.sock",
        "1-00000000.sock\n",
        "1-00000000.sock\0",
        "\N{ARABIC-INDIC DIGIT ONE}-00000000.sock",
        "1-0000000.sock",
        "1-0000000G.sock",
        "1-000000000.sock",
        "-00000000.sock",
        "11111111111-00000000.sock",
        ".sock",
    ],
)
def test_a_name_that_is_no_sockets_is_refused(name: str) -> None:
    assert not is_socket_name(name)
    assert is_socket_name(NAME)


def test_a_frame_that_is_too_large_is_refused_before_it_arrives() -> None:
    buffer = FrameBuffer()
    buffer.feed(struct.pack("!I", MAX_FRAME_BYTES))
    assert buffer.next() is None
    buffer = FrameBuffer()
    buffer.feed(struct.pack("!I", MAX_FRAME_BYTES + 1))
    with pytest.raises(ValueError, match="at most"):
        buffer.next()
