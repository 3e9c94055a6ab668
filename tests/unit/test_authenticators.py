"""Who a request comes from, as its authenticator sees it."""

from __future__ import annotations

import builtins
import hmac
import logging
import time
from collections.abc import Mapping
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from ws_hub import (
    APIKeyAuth,
    AuthResult,
    BearerTokenAuth,
    ConfigError,
    CookieSessionAuth,
    JWTAuth,
    QueryTokenAuth,
)
from ws_hub.access.authenticators import authenticate, is_permitted
from ws_hub.access.tokens import TOKEN_KEY, bearer_token

SECRET = "a secret that is long enough for every algorithm of the kind"


def bearer(token: str) -> dict[str, str]:
    return {"HTTP_AUTHORIZATION": f"Bearer {token}"}


# --- results -------------------------------------------------------------------------------


def test_claims_are_copied_and_read_only_all_the_way_down() -> None:
    roles = ["admin"]
    given: dict[str, Any] = {"sub": "ann", "org": {"teams": roles, "tags": {"x"}}}
    claims: Any = AuthResult(True, "ann", given).claims
    roles.append("more")
    given["org"]["teams"] = []
    assert claims == {"sub": "ann", "org": {"teams": ("admin",), "tags": frozenset("x")}}
    for change in (
        lambda: claims.update(sub="bob"),
        lambda: claims["org"].clear(),
        lambda: claims["org"].__setitem__("teams", []),
        lambda: claims["org"]["teams"].append("x"),
        lambda: claims["org"]["tags"].add("y"),
    ):
        with pytest.raises((AttributeError, TypeError)):
            change()


@pytest.mark.parametrize(
    "settings",
    [
        {"valid": 1},
        {"user_id": True},
        {"user_id": b"ann"},
        {"user_id": 4.2},
        {"claims": ["a"]},
        {"expires_at": "soon"},
        {"expires_at": float("nan")},
        {"claims": {"exp": "soon"}},
    ],
)
def test_a_result_of_the_wrong_kind_is_a_type_error(settings: dict[str, Any]) -> None:
    with pytest.raises(TypeError):
        AuthResult(**{"valid": True, **settings})


def test_the_claim_exp_is_the_default_of_expires_at() -> None:
    assert AuthResult(True, "a", {"exp": 5}).expires_at == 5
    assert AuthResult(True, "a", {"exp": 5}, expires_at=3.0).expires_at == 3.0
    assert AuthResult(True, "a").expires_at is None


# --- asking --------------------------------------------------------------------------------


def test_an_authenticator_that_raises_refuses_and_its_text_is_not_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def look_up(environ: Mapping[str, Any]) -> AuthResult:
        return {"key": AuthResult(True, "ann")}[bearer_token(environ)]

    assert not authenticate(look_up, bearer("s3cret")).valid
    (record,) = caplog.records
    assert record.levelno == logging.ERROR and record.exc_info is None
    assert (
        "KeyError at " in record.getMessage() and "test_authenticators.py:" in record.getMessage()
    )
    assert "s3cret" not in caplog.text


@pytest.mark.parametrize("result", [None, True, "ann", {"valid": True}, AuthResult(True, "")])
def test_a_result_without_a_user_or_of_another_type_is_a_refusal(
    result: Any, caplog: pytest.LogCaptureFixture
) -> None:
    assert not authenticate(lambda environ: result, {}).valid
    assert len(caplog.records) == 1


async def of_course() -> bool:
    return True


@pytest.mark.parametrize(
    ("answer", "yes", "lines"),
    [(True, True, 0), (False, False, 0), (1, False, 1), (None, False, 1)],
)
def test_only_true_itself_permits(
    answer: Any, yes: bool, lines: int, caplog: pytest.LogCaptureFixture
) -> None:
    assert is_permitted("the check", lambda: answer) is yes
    assert len(caplog.records) == lines


def test_a_coroutine_is_a_refusal() -> None:
    made = of_course()
    assert not is_permitted("the check", lambda: made)
    made.close()


def test_a_check_that_raises_is_a_refusal(caplog: pytest.LogCaptureFixture) -> None:
    assert not is_permitted("the check", lambda: 1 / 0)
    assert "the check raised ZeroDivisionError at " in caplog.text


# --- the built-in ones ---------------------------------------------------------------------


def test_an_api_key_authenticates_its_user() -> None:
    keys = APIKeyAuth({"old": "ann", "new": "ann", "clé": "bob"})
    assert keys(bearer("old")) == keys(bearer("new")) == AuthResult(True, "ann")
    assert keys({TOKEN_KEY: "clé"}).user_id == "bob"
    for token in ("", "ol", "olds", "OLD", "\ud800"):
        assert not keys({TOKEN_KEY: token}).valid


def test_fault_53_every_key_is_compared_in_constant_time_and_as_bytes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    compared: list[tuple[bytes, bytes]] = []

    def compare(left: bytes, right: bytes) -> bool:
        compared.append((left, right))
        return digest(left, right)

    digest = hmac.compare_digest
    monkeypatch.setattr(hmac, "compare_digest", compare)
    keys = APIKeyAuth({"eins": "a", "zwei": "b", "drei": "c"})
    for token in ("eins", "drei", "vier", "fünf"):  # the first one is found no sooner
        compared.clear()
        keys({TOKEN_KEY: token})
        assert compared == [(key, token.encode()) for key in (b"eins", b"zwei", b"drei")]


@pytest.mark.parametrize("keys", [{"": "ann"}, {"key": ""}, {1: "ann"}, {"key": None}])
def test_keys_without_a_key_or_a_user_are_refused(keys: Any) -> None:
    with pytest.raises(ConfigError):
        APIKeyAuth(keys)


def test_a_function_authenticates_a_token_or_a_cookie() -> None:
    def validate(token: str) -> AuthResult:
        return AuthResult(token == "good", "ann")

    for authenticator, environ in (
        (BearerTokenAuth(validate), bearer("{}")),
        (QueryTokenAuth(validate), {"QUERY_STRING": "token={}"}),
        (QueryTokenAuth(validate, "key"), {"QUERY_STRING": "key={}"}),
        (CookieSessionAuth("sid", validate), {"HTTP_COOKIE": "sid={}"}),
    ):
        for token, valid in (("good", True), ("bad", False), ("", False)):
            filled = {key: value.format(token) for key, value in environ.items()}
            assert authenticator(filled).valid is valid, (authenticator, token)
        assert not authenticator({}).valid


# --- JWT -----------------------------------------------------------------------------------


def token(key: Any = SECRET, algorithm: str = "HS256", kid: str = "", **claims: Any) -> str:
    merged = {"sub": "ann", "exp": time.time() + 60, **claims}
    merged = {name: value for name, value in merged.items() if value is not None}
    return jwt.encode(merged, key, algorithm, headers={"kid": kid} if kid else None)


def check(authenticator: JWTAuth, text: str) -> AuthResult:
    return authenticate(authenticator, bearer(text))


def test_a_valid_jwt_gives_user_claims_and_expiry() -> None:
    end = time.time() + 60
    result = check(JWTAuth(SECRET, "HS256", leeway=5), token(exp=end, org={"teams": ["a"]}))
    assert result.valid and result.user_id == "ann"
    assert result.claims["org"]["teams"] == ("a",)
    assert result.expires_at == pytest.approx(end + 5, abs=1)


def far(seconds: float) -> float:
    return time.time() + seconds


@pytest.mark.parametrize(
    ("claims", "error"),
    [
        ({"exp": None}, "MissingRequiredClaimError"),
        ({"exp": 1}, "ExpiredSignatureError"),
        ({"nbf": far(86_400)}, "ImmatureSignatureError"),
        ({"aud": "other"}, "InvalidAudienceError"),
        ({"aud": None}, "MissingRequiredClaimError"),
        ({"iss": "other"}, "InvalidIssuerError"),
        ({"iss": None}, "MissingRequiredClaimError"),
        ({"sub": None}, "MissingRequiredClaimError"),
        ({"sub": ""}, "accepted a user without an id"),
        ({"key": "another secret of more than 32 bytes"}, "InvalidSignatureError"),
        ({"algorithm": "HS384"}, "InvalidAlgorithmError"),
        ({"key": None, "algorithm": "none"}, "InvalidAlgorithmError"),
    ],
)
def test_any_other_token_is_refused(claims: dict[str, Any], error: str) -> None:
    authenticator = JWTAuth(SECRET, "HS256", audience="hub", issuer="us")
    good = {"aud": ["hub", "more"], "iss": "us"}
    assert check(authenticator, token(**good)).valid
    assert check(authenticator, token(**{**good, **claims})).error == error


@pytest.mark.parametrize("text", ["x", "a.b.c", "..", "\ud800", "é.é.é"])
def test_a_malformed_jwt_is_refused(text: str) -> None:
    assert not JWTAuth({"k": SECRET}, "HS256")({TOKEN_KEY: text}).valid
    assert not JWTAuth(SECRET, "HS256")({}).valid


def test_a_token_with_an_audience_is_refused_without_one() -> None:
    assert check(JWTAuth(SECRET, "HS256"), token(aud="hub")).error == "InvalidAudienceError"
    assert check(JWTAuth(SECRET, "HS256", audience=["a", "hub"]), token(aud="hub")).valid


def test_keys_are_chosen_by_kid() -> None:
    keys = {"old": SECRET, "new": "the next secret of more than 32 bytes"}
    for authenticator in (JWTAuth(keys, "HS256"), JWTAuth(keys.get, "HS256")):
        assert check(authenticator, token(kid="old")).valid
        assert check(authenticator, token(keys["new"], kid="new")).valid
        assert not check(authenticator, token(keys["new"], kid="old")).valid
        assert check(authenticator, token(kid="x")).error == "signed with an unknown key"
        assert check(authenticator, token()).error == "signed with an unknown key"


def test_a_public_key_is_not_accepted_as_hmac_secret() -> None:
    private = ec.generate_private_key(ec.SECP256R1())
    public = private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    authenticator = JWTAuth(public, "ES256")
    assert check(authenticator, token(private, "ES256")).valid
    header = jwt.encode({"sub": "eve", "exp": far(60)}, "x" * 32, "HS256").partition(".")[0]
    payload = token(private, "ES256").split(".")[1]
    signed = hmac.new(public, f"{header}.{payload}".encode(), "sha256").digest()
    forged = f"{header}.{payload}.{jwt.utils.base64url_encode(signed).decode()}"
    assert check(authenticator, forged).error == "InvalidAlgorithmError"


def test_another_claim_may_be_the_user_if_it_is_text_or_a_number() -> None:
    authenticator = JWTAuth(SECRET, "HS256", user_claim="uid")
    assert check(authenticator, token(uid="bob")).user_id == "bob"
    assert check(authenticator, token(uid=7)).user_id == "7"
    for none in (True, 7.0, ["bob"]):
        assert check(authenticator, token(uid=none)).error == "claim uid is no text and no number"
    assert not check(authenticator, token()).valid


@pytest.mark.parametrize(
    ("keys", "algorithm"),
    [(SECRET, "none"), (SECRET, "NONE"), (SECRET, "HS1"), ("", "HS256"), ({}, "HS256")],
)
def test_keys_and_algorithms_that_sign_nothing_are_refused(keys: Any, algorithm: str) -> None:
    with pytest.raises(ConfigError):
        JWTAuth(keys, algorithm)


def test_without_pyjwt_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *args: Any, **options: Any) -> Any:
        if name == "jwt":
            raise ImportError(name)
        return real(name, *args, **options)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ImportError, match=r"pip install 'ws-hub\[jwt\]'"):
        JWTAuth(SECRET, "HS256")
