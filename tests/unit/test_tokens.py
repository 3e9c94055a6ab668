"""Where the token of a request stands: headers, subprotocol, query, cookies, first message."""

from __future__ import annotations

import pytest

from ws_hub.access.tokens import (
    TOKEN_KEY,
    bearer_token,
    cookie,
    offers_token,
    query_token,
    token_protocol,
)


def bearer(token: str) -> dict[str, str]:
    return {"HTTP_AUTHORIZATION": f"Bearer {token}"}


@pytest.mark.parametrize(
    ("environ", "token"),
    [
        ({}, ""),
        (bearer("abc"), "abc"),
        ({"HTTP_AUTHORIZATION": "bEARER   a b "}, "a b"),
        ({"HTTP_AUTHORIZATION": "Basic abc"}, ""),
        ({"HTTP_AUTHORIZATION": "Bearer"}, ""),
        (bearer("clé".encode().decode("latin-1")), "clé"),
        (bearer("\xff"), "\xff"),
        ({"HTTP_SEC_WEBSOCKET_PROTOCOL": "ws-hub"}, ""),
        ({"HTTP_SEC_WEBSOCKET_PROTOCOL": f"ws-hub, {token_protocol('a/b+c?é')}"}, "a/b+c?é"),
        ({"HTTP_SEC_WEBSOCKET_PROTOCOL": "bearer.a"}, ""),
        ({"HTTP_SEC_WEBSOCKET_PROTOCOL": "bearer.!!!!"}, ""),
        ({"HTTP_SEC_WEBSOCKET_PROTOCOL": "bearer._w"}, ""),
        ({TOKEN_KEY: "first", **bearer("header")}, "first"),
    ],
)
def test_a_token_is_found_in_each_of_its_places(environ: dict[str, str], token: str) -> None:
    assert bearer_token(environ) == token


def test_a_token_protocol_is_a_valid_http_token() -> None:
    assert token_protocol("ÿ?>~") == "bearer.w78_Pn4"


@pytest.mark.parametrize(
    ("query", "token"),
    [
        ("", ""),
        ("token=a%2Bb+c", "a+b c"),
        ("x=1&token=a&token=b", "a"),
        ("%74oken=a", ""),
        ("mytoken=a", ""),
        ("token", ""),
    ],
)
def test_a_token_in_the_query_stands_under_its_own_name(query: str, token: str) -> None:
    assert query_token({"QUERY_STRING": query}) == token


@pytest.mark.parametrize(
    ("header", "value"),
    [
        ("", ""),
        ("a=1; sid=x=y; b=2", "x=y"),
        ('sid="x"', "x"),
        ("sid=1; sid=2", "1"),
        ("asid=1", ""),
    ],
)
def test_a_cookie_is_found_by_its_whole_name(header: str, value: str) -> None:
    assert cookie({"HTTP_COOKIE": header}, "sid") == value


def test_credentials_are_seen_in_three_places() -> None:
    assert not offers_token({})
    assert not offers_token({"HTTP_COOKIE": "sid=1", "QUERY_STRING": "a=1"})
    assert offers_token({"HTTP_AUTHORIZATION": "Basic x"})
    assert offers_token({"HTTP_SEC_WEBSOCKET_PROTOCOL": token_protocol("x")})
    assert offers_token({"QUERY_STRING": "token=x"})
