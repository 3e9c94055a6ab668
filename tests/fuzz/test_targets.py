"""The targets in brief, without guidance; `make fuzz` runs them guided by coverage."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fuzz import targets
from tests.fuzz.targets import FOUND, SEEDS, TARGETS


@pytest.fixture(scope="module", autouse=True)
def nothing_stays() -> Iterator[None]:
    """Have what the targets keep between their inputs made before the first, and closed."""
    session = targets.the_session()
    yield
    session.far.close()
    session.hub.stop()
    targets.the_session.cache_clear()


@pytest.mark.parametrize("name", TARGETS)
def test_the_seeds_are_taken(name: str) -> None:
    for seed in SEEDS[name]:
        TARGETS[name](seed)


FRAME = st.builds(
    lambda first, payload: targets.frame_of(first, payload),
    st.integers(0, 255),
    st.binary(max_size=targets.LIMIT + 2),
)


@settings(max_examples=200, deadline=None)
@given(
    st.integers(0, 255),
    st.lists(st.one_of(FRAME, st.binary(max_size=20)), max_size=8),
)
def test_any_frames_are_the_same_events_however_they_are_cut(cut: int, pieces: list[bytes]) -> None:
    targets.frames(bytes([cut]) + b"".join(pieces))


PACKED = st.builds(
    lambda first, payload: targets.deflated_of(payload, first),
    st.sampled_from([0xC1, 0xC2, 0x41, 0x42, 0xC0, 0xC9, 0x80]),
    st.binary(max_size=targets.LIMIT + 2),
)


@settings(max_examples=200, deadline=None)
@given(
    st.integers(0, 255),
    st.lists(st.one_of(PACKED, FRAME, st.binary(max_size=20)), max_size=8),
)
def test_any_compressed_frames_are_the_same_events_however_they_are_cut(
    cut: int, pieces: list[bytes]
) -> None:
    targets.packed(bytes([cut]) + b"".join(pieces))


OFFERS = st.lists(
    st.sampled_from(
        [
            *("permessage-deflate", ";", ",", "=", '"', " ", "8", "15", "16", "x"),
            *("client_max_window_bits", "server_max_window_bits"),
            *("client_no_context_takeover", "server_no_context_takeover"),
        ]
    ),
    max_size=12,
).map("".join)


@settings(max_examples=300, deadline=None)
@given(OFFERS | st.text(max_size=30))
def test_any_header_about_extensions_is_answered(text: str) -> None:
    targets.extensions(text.encode("latin-1", "replace"))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=8,
)
WORDS = ["type", "channel", "data", "id", "since", "last", "epoch", "processId", "seq", "code"]
VALUES = st.sampled_from(["ping", "subscribe", "unsubscribe", "publish", "open", "process:x"])


@st.composite
def texts(draw: st.DrawFn) -> bytes:
    """What is nearly a message, with a byte or two that should not be there."""
    fields = draw(st.dictionaries(st.sampled_from(WORDS), VALUES | JSON, max_size=6))
    text = json.dumps(fields).encode()
    if draw(st.booleans()):
        at = draw(st.integers(0, len(text)))
        text = text[:at] + draw(st.binary(max_size=3)) + text[at:]
    return text


@settings(max_examples=200, deadline=None)
@given(texts() | st.binary(max_size=50))
def test_any_text_is_an_effect_or_an_answer(data: bytes) -> None:
    targets.message(data)


@settings(max_examples=100, deadline=None)
@given(st.lists(texts(), max_size=5))
def test_any_texts_are_carried_out_or_refused(lines: list[bytes]) -> None:
    targets.session(b"\n".join(lines))


@pytest.mark.parametrize(("name", "data"), FOUND, ids=range(len(FOUND)))
def test_what_was_found_once_is_not_found_again(name: str, data: bytes) -> None:
    TARGETS[name](data)
