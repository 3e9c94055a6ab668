"""Settings: which rule counts, and that nothing impossible is corrected in silence."""

from __future__ import annotations

import dataclasses
import inspect
import math
import re
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ws_hub import APIKeyAuth, AuthResult, SqliteHistory, config
from ws_hub.config import ChannelRule, HubConfig
from ws_hub.errors import ConfigError
from ws_hub.reconnect.config import ReconnectConfig

NOT_SECONDS = [0, -1, -0.5, math.nan, math.inf, -math.inf, "1", None, True, [1]]
NOT_COUNTS = [0, -1, 1.0, math.nan, "1", None, True]
NOT_SECONDS_OR_NONE = [value for value in NOT_SECONDS if value is not None]
NOT_COUNTS_OR_NONE = [value for value in NOT_COUNTS if value is not None]
NOT_FLAGS = [0, 1, "yes", None]
NOT_CALLABLES = [0, "name", [], ...]
NOT_OVERFLOWS = ["", "block", None, 1, ["drop"]]

HUB: dict[str, list[Any]] = {
    "heartbeat_interval": NOT_SECONDS,
    "pong_timeout": [*NOT_SECONDS, 1_000_001, 1e300],
    "write_timeout": [*NOT_SECONDS, 1_000_001, 1e300],
    "close_timeout": [*NOT_SECONDS, 1_000_001],
    "publish_timeout": [*NOT_SECONDS, 1_000_001],
    "queue_size": NOT_COUNTS,
    "outbox_messages": NOT_COUNTS,
    "queue_bytes": NOT_COUNTS_OR_NONE,
    "outbox_bytes": NOT_COUNTS,
    "pace_bytes": NOT_COUNTS_OR_NONE,
    "broadcast_overflow": NOT_OVERFLOWS,
    "max_message_size": NOT_COUNTS,
    "max_fragments": NOT_COUNTS,
    "lenient": NOT_FLAGS,
    "compression": NOT_FLAGS,
    "io_uring": NOT_FLAGS,
    "compression_min_size": NOT_COUNTS,
    "max_handshakes": NOT_COUNTS,
    "history_bytes_in_all": NOT_COUNTS,
    "published_history_bytes_in_all": NOT_COUNTS,
    "max_subscriptions": NOT_COUNTS,
    "message_timeout": [*NOT_SECONDS_OR_NONE, 1_000_001],
    "max_message_rate": NOT_SECONDS_OR_NONE,
    "message_burst": NOT_COUNTS,
    "max_processing_rate": NOT_SECONDS_OR_NONE,
    "processing_burst": [*NOT_SECONDS, 1_000_001],
    "max_processing_rate_in_all": NOT_SECONDS_OR_NONE,
    "max_byte_rate": NOT_SECONDS_OR_NONE,
    "byte_burst": NOT_COUNTS,
    "max_byte_rate_in_all": NOT_SECONDS_OR_NONE,
    "flood_timeout": [*NOT_SECONDS_OR_NONE, 1_000_001],
    "max_control_rate": NOT_SECONDS_OR_NONE,
    "control_burst": NOT_COUNTS,
    "max_subscriptions_in_all": NOT_COUNTS_OR_NONE,
    "max_connections": NOT_COUNTS_OR_NONE,
    "max_connections_per_address": NOT_COUNTS_OR_NONE,
    "max_connections_per_user": NOT_COUNTS_OR_NONE,
    "max_waiting": NOT_COUNTS_OR_NONE,
    "handshake_timeout": [*NOT_SECONDS, 1_000_001],
    "history": ["hub.db", 1, True],
    "logs": ["", 5, b"logs", ["logs"], True, "a\0b"],
    "attempt_bytes": [value for value in NOT_COUNTS if value != 0],
    "usage_interval": [*[each for each in NOT_SECONDS if each != 0], False, 1_000_001],
    "backplane": [1, True, b"local"],
    "rules": [
        None,
        5,
        "process:*",
        b"process:*",
        ["process:*"],
        [None],
        iter(()),
        set(),  # has no order
        ChannelRule("a"),
        {"pattern": "a"},
        {"chat:*": {"history_messages": 1}},
    ],
    "channel_name": NOT_CALLABLES,
    "json_default": NOT_CALLABLES,
    "allowed_origins": [
        None,
        5,
        "https://example.com",
        b"https://example.com",
        [5],
        [b"x"],
        ["https://example.com/"],
        ["example.com"],
    ],
    "require_origin": NOT_FLAGS,
    "check_origin": NOT_CALLABLES,
    "trusted_proxies": [None, 5, "10.0.0.0/8", [5], ["10.0.0.1/8"], ["proxy.example"], [""]],
    "authenticator": NOT_CALLABLES,
    "auth_by_message": [*NOT_FLAGS, True],  # True: without an authenticator
    "auth_timeout": [*NOT_SECONDS, 1_000_001],
    "on_auth_failure": NOT_CALLABLES,
    "channel_authoriser": NOT_CALLABLES,
    "publish_authoriser": NOT_CALLABLES,
    "input_authoriser": NOT_CALLABLES,
    "log_input": NOT_FLAGS,
    "on_connect": NOT_CALLABLES,
    "on_disconnect": NOT_CALLABLES,
    "on_message": NOT_CALLABLES,
    "on_slow_client": NOT_CALLABLES,
    "on_first_subscriber": NOT_CALLABLES,
    "on_last_unsubscribe": NOT_CALLABLES,
}
RULE: dict[str, list[Any]] = {
    "pattern": ["", None, 5, b"a"],
    "history_messages": [-1, 1.5, None, True, "1"],
    "history_bytes": NOT_COUNTS,
    "history_head_bytes": [-1, 1.5, None, True, "1"],
    "history_ttl": NOT_SECONDS,
    "history_idle_ttl": NOT_SECONDS,
    "replay": NOT_FLAGS,
    "overflow": NOT_OVERFLOWS,
    "publish": NOT_FLAGS,
    "keyed": NOT_FLAGS,
    "max_keys": NOT_COUNTS,
    "presence": [0, 1, "yes", "", None, ["count"]],
    "presence_grace": NOT_SECONDS,
    "presence_limit": [*NOT_COUNTS, 10_001],
}
CLIENT: dict[str, list[Any]] = {
    "url": ["", None, 5, "http://example.com", "example.com", b"ws://example.com"],
    "initial_backoff": NOT_SECONDS,
    "max_backoff": NOT_SECONDS,
    "backoff_multiplier": [0, 0.99, -1, math.nan, math.inf, "2", None, True],
    "max_retries": [-1, 1.0, None, True, "1"],
    "stable_after": [-1, math.nan, math.inf, "1", None, 1_000_001],
    "jitter": NOT_FLAGS,
    "headers": [None, "a: b", [("a", "b")], {"a": 1}, {b"a": "b"}],
    "token": ["", 5, b"t"],
    "token_in": ["", "cookie", None, 1, ["header"]],
    "origin": ["", 5, b"http://a"],
    "subprotocols": ["chat", None, [5], [b"chat"]],
    "connect_timeout": NOT_SECONDS,
    "ping_interval": NOT_SECONDS,
    "ping_timeout": NOT_SECONDS,
    "write_timeout": NOT_SECONDS,
    "max_message_size": NOT_COUNTS,
    "compression": NOT_FLAGS,
    "queue_size": NOT_COUNTS,
    "queue_bytes": NOT_COUNTS,
    "queue_patience": NOT_SECONDS,
    "dialer": NOT_CALLABLES,
    "on_connect": NOT_CALLABLES,
    "on_disconnect": NOT_CALLABLES,
    "on_reconnect": NOT_CALLABLES,
    "on_ask": NOT_CALLABLES,
    "on_presence": NOT_CALLABLES,
    "on_message": NOT_CALLABLES,
    "on_error": NOT_CALLABLES,
}
REQUIRED: dict[type, dict[str, Any]] = {
    HubConfig: {},
    ChannelRule: {"pattern": "*"},
    ReconnectConfig: {"url": "ws://127.0.0.1/ws"},
}


def bad_values() -> Iterator[Any]:
    for kind, fields in ((HubConfig, HUB), (ChannelRule, RULE), (ReconnectConfig, CLIENT)):
        for name, values in fields.items():
            for value in values:
                yield pytest.param(kind, name, value, id=f"{kind.__name__}.{name}={value!r:.22}")


@pytest.mark.parametrize(("kind", "name", "value"), list(bad_values()))
def test_an_invalid_value_is_a_config_error_that_names_its_field(
    kind: type, name: str, value: Any
) -> None:
    with pytest.raises(ConfigError, match=rf"^{name} "):
        kind(**{**REQUIRED[kind], name: value})


def test_every_field_of_a_hub_config_is_validated() -> None:
    assert {field.name for field in dataclasses.fields(HubConfig)} == set(HUB)
    assert {field.name for field in dataclasses.fields(ChannelRule)} == set(RULE)


@pytest.mark.parametrize("kind", REQUIRED, ids=lambda kind: kind.__name__)
def test_the_docstring_describes_every_field(kind: type) -> None:
    described = re.findall(r"^ {4}(\w+): ", inspect.getdoc(kind) or "", re.MULTILINE)

    assert described == [field.name for field in dataclasses.fields(kind)]


@pytest.mark.parametrize("kind", REQUIRED, ids=lambda kind: kind.__name__)
def test_settings_cannot_be_changed(kind: type) -> None:
    settings = kind(**REQUIRED[kind])

    for field in dataclasses.fields(kind):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(settings, field.name, None)


@pytest.mark.parametrize("kind", REQUIRED, ids=lambda kind: kind.__name__)
def test_settings_are_named(kind: type) -> None:
    with pytest.raises(TypeError):
        kind(*REQUIRED[kind].values(), 1.0)


def test_the_times_that_are_exported_are_those_of_the_settings() -> None:
    settings = HubConfig()

    assert settings.heartbeat_interval == config.DEFAULT_HEARTBEAT_INTERVAL
    assert settings.pong_timeout == config.DEFAULT_PONG_TIMEOUT
    assert settings.write_timeout == config.DEFAULT_WRITE_TIMEOUT


@pytest.mark.parametrize(("heartbeat", "pong"), [(30, 30), (30, 29.9), (60, 1)])
def test_a_pong_timeout_not_above_the_heartbeat_is_refused(heartbeat: float, pong: float) -> None:
    with pytest.raises(ConfigError, match=r"^pong_timeout must be above heartbeat_interval"):
        HubConfig(heartbeat_interval=heartbeat, pong_timeout=pong)


def test_a_backoff_that_cannot_reach_its_start_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"^max_backoff must not be below initial_backoff"):
        ReconnectConfig(url="ws://x", initial_backoff=2, max_backoff=1)


def test_networks_addresses_and_unix_sockets_may_be_trusted() -> None:
    HubConfig(trusted_proxies=["10.0.0.0/8", "192.0.2.1", "2001:db8::/32", "unix"])


@pytest.mark.parametrize(
    "settings", [{"allowed_origins": ["https://a.example"]}, {"require_origin": True}]
)
def test_check_origin_excludes_the_other_origin_settings(settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"^check_origin "):
        HubConfig(check_origin=lambda environ: True, **settings)


def test_the_edges_that_work_are_accepted() -> None:
    settings = HubConfig(
        heartbeat_interval=0.001,
        pong_timeout=1_000_000,
        queue_size=1,
        outbox_messages=1,
        outbox_bytes=1,
        max_message_size=1,
        max_fragments=1,
        max_subscriptions=1,
        max_connections=1,
        broadcast_overflow="drop",
        rules=[],
        channel_name=str.isalpha,
        allowed_origins={"https://example.com"},
        require_origin=True,
        on_connect=print,
    )

    assert settings.max_connections == 1
    assert settings.on_connect is print


def test_a_client_that_never_waits_to_be_stable_is_accepted() -> None:
    settings = ReconnectConfig(url="ws://x", stable_after=0, initial_backoff=1, max_backoff=1)

    assert settings.stable_after == 0


def test_rules_may_be_mappings_as_a_file_of_settings_has_them() -> None:
    table = {"pattern": "chat:*", "history_messages": 100}
    rules: list[Any] = [table, ChannelRule("news"), types.MappingProxyType({"pattern": "a"})]
    settings = HubConfig(rules=rules)
    rules.clear()
    chat = ChannelRule("chat:*", history_messages=100)
    assert settings.rules == (chat, ChannelRule("news"), ChannelRule("a"))
    assert settings.rule_for("chat:1").history_messages == 100
    assert dataclasses.replace(settings, queue_size=5).rules == settings.rules


@pytest.mark.parametrize(
    ("rule", "says"),
    [
        ({"patern": "a"}, "'patern' in {'patern': 'a'} is no field of a ChannelRule: use pattern$"),
        ({"pattern": "a", "historyMessages": 5}, "'historyMessages' in .*: use history_messages"),
        ({"chat:*": {"history_messages": 5}}, "'chat:.' in .*: use pattern or history_messages or"),
        ({1: "a"}, "rules: 1 in {1: 'a'} is no field of a ChannelRule: use pattern or"),
        ({"history_messages": 5}, "rules: {'history_messages': 5} needs a pattern"),
        ({}, "rules: {} needs a pattern"),
        ({"pattern": "a", "history_messages": "5"}, "rules: history_messages must be .*, in {'pat"),
        ({"pattern": "a", "replay": True}, "rules: replay needs history_messages, .* in {'pattern"),
        ("chat:*", "rules must hold ChannelRule or dict, not 'chat:.': write .ChannelRule"),
    ],
)
def test_a_mapping_that_is_no_rule_is_shown_with_what_to_write(rule: Any, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        HubConfig(rules=[rule])


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: HubConfig(max_conections=5), "HubConfig has no max_conections: use max_connec"),
        (lambda: HubConfig(path="/ws"), "HubConfig has no path: use one of the documented$"),
        (
            lambda: HubConfig(replay=True),
            r"no replay: it is one of a rule, set it by rules=\[ChannelRule\('chat:\*', replay=",
        ),
        (lambda: ChannelRule("a", historyMessages=5), "has no historyMessages: use history_mes"),
        (
            lambda: ChannelRule("a", max_connections=5),
            r"by HubConfig\(max_connections=...\)",
        ),
        (lambda: HubConfig([]), r"^\[\] must be passed by name: HubConfig\(max_connections=500"),
        (lambda: ChannelRule("a", 5), r"^5 must be passed by name: ChannelRule\(\"chat:\*\", hist"),
    ],
)
def test_a_setting_with_another_name_or_none_is_told_what_to_write(
    make: Callable[[], object], says: str
) -> None:
    with pytest.raises(TypeError, match=says):
        make()


@pytest.mark.parametrize("kind", [HubConfig, ChannelRule])
def test_the_signature_of_settings_shows_their_fields(kind: type) -> None:
    assert list(inspect.signature(kind).parameters) == [
        each.name for each in dataclasses.fields(kind)
    ]


@pytest.mark.parametrize(
    ("name", "given"),
    [
        ("authenticator", APIKeyAuth),
        ("check_origin", bool),
        ("channel_authoriser", AuthResult),
        ("publish_authoriser", AuthResult),
        ("input_authoriser", AuthResult),
    ],
)
def test_a_class_in_place_of_a_decision_is_refused(name: str, given: type) -> None:
    text = f"^{name} must be a function, .* not the class {given.__name__}: pass {given.__name__}"
    with pytest.raises(ConfigError, match=text):
        HubConfig(**{name: given, "rules": [ChannelRule("a", publish=True)]})


def test_a_text_in_place_of_a_list_is_refused_with_what_to_write() -> None:
    with pytest.raises(ConfigError, match=r"not 'https://a.example': write a list, also of one"):
        HubConfig(allowed_origins="https://a.example")


def test_the_first_rule_that_matches_counts() -> None:
    first = ChannelRule(pattern="log:*", history_messages=1)
    second = ChannelRule(pattern="*", history_messages=2)
    settings = HubConfig(rules=[first, second])

    assert settings.rule_for("log:app") is first
    assert settings.rule_for("logs") is second
    assert settings.rule_for("LOG:app") is second


@pytest.mark.parametrize(
    ("pattern", "channel", "matches"),
    [
        ("a", "a", True),
        ("a", "ab", False),
        ("a*", "ab", True),
        ("a?", "ab", True),
        ("a?", "a", False),
        ("[ab]", "b", True),
        ("*:x", "a:b:x", True),
        ("A", "a", False),
    ],
)
def test_a_pattern_is_a_shell_pattern(pattern: str, channel: str, matches: bool) -> None:
    assert ChannelRule(pattern=pattern).matches(channel) is matches


@given(st.floats(min_value=1e-9, max_value=499_999), st.floats(min_value=1e-3, max_value=500_000))
def test_any_pong_timeout_above_any_heartbeat_works(heartbeat: float, more: float) -> None:
    settings = HubConfig(heartbeat_interval=heartbeat, pong_timeout=heartbeat + more)

    assert settings.pong_timeout > settings.heartbeat_interval


def test_every_origin_that_can_match_is_accepted() -> None:
    HubConfig(allowed_origins=["https://a.example", "HTTP://b.example:8080", "http://[::1]", "*"])


def test_the_repr_of_a_client_config_hides_its_token() -> None:
    config = ReconnectConfig(url="ws://h/", token="s3cret", headers={"Cookie": "s3cret"})
    assert "s3cret" not in repr(config)


def test_a_token_and_an_authorization_header_are_mutually_exclusive() -> None:
    with pytest.raises(ConfigError, match=r"^token "):
        ReconnectConfig(url="ws://h/", token="t", headers={"AUTHORIZATION": "Basic x"})


def test_queue_bytes_defaults_to_a_quarter_of_outbox_bytes() -> None:
    assert HubConfig(outbox_bytes=8 << 20).queue_bytes_or_default == 2 << 20
    assert HubConfig(outbox_bytes=1).queue_bytes_or_default == 256 << 10
    assert HubConfig(queue_bytes=5).queue_bytes_or_default == 5


@pytest.mark.parametrize(
    "settings",
    [
        {"keyed": True, "replay": True},
        {"keyed": True, "history_ttl": 1.0},
        {"keyed": True, "history_messages": 1},
        {"max_keys": 5},
    ],
)
def test_a_setting_that_keyed_channels_do_not_have_is_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="keyed=True"):
        ChannelRule(pattern="board", **settings)


def test_a_keyed_channel_has_bounds_of_its_own() -> None:
    ChannelRule(pattern="board", keyed=True, max_keys=5, history_bytes=1, history_idle_ttl=1.0)


def test_a_history_store_without_a_channel_that_keeps_history_is_refused(tmp_path: Path) -> None:
    store = SqliteHistory(tmp_path / "hub.db")
    for rules in [ChannelRule("*")], [ChannelRule("board", keyed=True), ChannelRule("process:*")]:
        with pytest.raises(ConfigError, match="history has nothing to keep"):
            HubConfig(history=store, rules=rules)
    for rules in [], [ChannelRule("chat:*")]:  # process channels keep one
        assert HubConfig(history=store, rules=rules).history is store
    assert not store.path.exists()
