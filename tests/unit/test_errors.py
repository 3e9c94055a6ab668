"""The exception tree, close codes, and what goes into a log."""

from __future__ import annotations

import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ws_hub import errors
from ws_hub.errors import (
    CloseCode,
    ConnectionClosed,
    HandshakeRefused,
    MessageDecodeError,
    ProtocolError,
    WsHubError,
    excerpt,
    is_retryable,
)

EXCEPTIONS = [
    value
    for name in errors.__all__
    if isinstance(value := getattr(errors, name), type) and issubclass(value, BaseException)
]

BUILTINS = {
    "AdoptionError": RuntimeError,
    "ConfigError": ValueError,
    "ConnectionClosed": ConnectionError,
    "HandshakeRefused": ConnectionError,
    "HubNotRunning": RuntimeError,
    "InvalidName": ValueError,
    "MaxRetriesExceeded": ConnectionError,
    "MessageDecodeError": ValueError,
    "MessageEncodeError": ValueError,
    "NotConnected": ConnectionError,
    "SendTimeout": TimeoutError,
}


@pytest.mark.parametrize("kind", EXCEPTIONS, ids=lambda kind: kind.__name__)
def test_every_exception_has_one_root(kind: type[BaseException]) -> None:
    assert issubclass(kind, WsHubError)


@pytest.mark.parametrize(("name", "builtin"), BUILTINS.items())
def test_exceptions_are_the_builtin_that_callers_expect(
    name: str, builtin: type[BaseException]
) -> None:
    assert issubclass(getattr(errors, name), builtin)


@pytest.mark.parametrize("kind", EXCEPTIONS, ids=lambda kind: kind.__name__)
def test_the_tree_in_the_docstring_lists_every_exception(kind: type[BaseException]) -> None:
    assert kind.__name__ in (errors.__doc__ or "")


def test_the_faults_of_a_peer_have_a_branch_of_their_own() -> None:
    peer = {kind for kind in EXCEPTIONS if issubclass(kind, errors.PeerError)}

    assert peer == {errors.PeerError, MessageDecodeError, ProtocolError}


def test_a_closed_connection_tells_code_and_reason() -> None:
    error = ConnectionClosed(1006, "reset\r\nby peer")

    assert (error.code, error.reason) == (1006, "reset\r\nby peer")
    assert str(error) == "connection closed: 1006 'reset\\r\\nby peer'"


def test_a_closed_connection_names_a_code_by_its_number() -> None:
    assert str(ConnectionClosed(CloseCode.GOING_AWAY)) == "connection closed: 1001 ''"


def test_a_refused_handshake_tells_status_and_delay() -> None:
    error = HandshakeRefused(503, "full", retry_after=2.5)

    assert (error.status, error.retry_after) == (503, 2.5)
    assert str(error) == "handshake refused: HTTP 503 'full'"
    assert HandshakeRefused(401).retry_after is None


def test_a_decode_error_carries_what_the_reply_needs() -> None:
    error = MessageDecodeError("no", id=7, code="bad_channel")

    assert (str(error), error.id, error.code) == ("no", 7, "bad_channel")
    assert MessageDecodeError("no").id is None
    assert MessageDecodeError("no").code == "bad_message"


def test_a_protocol_error_carries_the_close_code() -> None:
    error = ProtocolError(CloseCode.TOO_BIG, "70000 bytes")

    assert (error.code, error.reason) == (1009, "70000 bytes")
    assert str(error) == "1009 '70000 bytes'"


@pytest.mark.parametrize("code", [401, 403, 4401, 4403])
def test_authentication_errors_are_not_retryable(code: int) -> None:
    assert not is_retryable(code)


@pytest.mark.parametrize(
    "code", [400, 404, 429, 500, 502, 503, *(int(code) for code in CloseCode if code < 4000), 4999]
)
def test_all_other_codes_are_retryable(code: int) -> None:
    assert is_retryable(code)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("abc", "'abc'"),
        ("a" * 100, repr("a" * 100)[:100] + "..."),
        ("a" * 101, repr("a" * 100) + "..."),
        (b"\x00" * 200, repr(b"\x00" * 100) + "..."),
        ([1, 2], "[1, 2]"),
        (list(range(1000)), repr(list(range(1000)))[:100] + "..."),
        (None, "None"),
    ],
)
def test_an_excerpt_is_a_repr_cut_short(value: object, expected: str) -> None:
    assert excerpt(value) in (expected, repr(value))
    assert len(excerpt(value)) <= 4 * 100 + len("b''...")


def test_an_excerpt_has_the_length_that_is_asked_for() -> None:
    assert excerpt("abcdef", 3) == "'abc'..."
    assert excerpt([10, 20, 30], 5) == "[10, ..."


@given(st.one_of(st.text(), st.binary(), st.lists(st.text())))
def test_fault_54_an_excerpt_has_no_control_characters(value: object) -> None:
    assert excerpt(value).isprintable()


class Hostile:
    def __repr__(self) -> str:
        raise RuntimeError("no repr for you")


def test_an_excerpt_of_a_value_without_repr_is_its_type() -> None:
    assert excerpt(Hostile()) == "<Hostile without a repr>"


def test_an_excerpt_of_a_value_nested_too_deeply_is_its_type() -> None:
    deep: list[object] = []
    for _ in range(100_000):
        deep = [deep]

    assert excerpt(deep) == "<list without a repr>"


def test_exceptions_without_arguments_of_their_own_can_be_pickled() -> None:
    error = pickle.loads(pickle.dumps(errors.HubFull("full")))

    assert isinstance(error, errors.HubFull)
    assert str(error) == "full"


@pytest.mark.parametrize(
    "error",
    [
        ConnectionClosed(1001, "bye"),
        HandshakeRefused(503, "full", 2.0),
        MessageDecodeError("no", id="a", code="limit"),
        ProtocolError(1009, "big"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_exceptions_with_attributes_can_be_pickled_and_copied(error: WsHubError) -> None:
    again = pickle.loads(pickle.dumps(error))

    assert type(again) is type(error)
    assert str(again) == str(error)
    assert vars(again) == vars(error)
