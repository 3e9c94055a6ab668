"""The rules that processes share: their text, and what differs."""

from __future__ import annotations

import dataclasses
import json

import pytest

from ws_hub import ChannelRule, ConfigError, HubConfig, SqliteHistory
from ws_hub.backplane.rules import SharedRules

KEPT = ChannelRule("kept:*", history_messages=100)
OPEN = ChannelRule("open:*", publish=True)


class Elsewhere:
    """A store that is no SqliteHistory."""

    def append(self) -> None:
        raise NotImplementedError


def shared(*rules: ChannelRule, history: str = "") -> SharedRules:
    return SharedRules(rules, history)


def test_each_field_of_a_rule_comes_back() -> None:
    whole = ChannelRule(
        "a:*",
        history_messages=7,
        history_bytes=8,
        history_ttl=0.5,
        history_idle_ttl=9,
        replay=True,
        overflow="disconnect",
        publish=True,
        presence="count",
        presence_grace=1.5,
        presence_limit=3,
    )
    given = shared(whole, ChannelRule("b", keyed=True, max_keys=2), history="/srv/hub.db")
    assert SharedRules.parse(given.text()) == given
    assert given.text() == SharedRules.parse(given.text()).text()


def test_what_a_hub_has_is_told() -> None:
    config = HubConfig(rules=[KEPT], history=SqliteHistory("/srv/hub.db"))
    assert SharedRules.of(config) == shared(KEPT, history="/srv/hub.db")
    assert SharedRules.of(HubConfig(rules=[KEPT], history=Elsewhere())).history == "Elsewhere"
    assert SharedRules.of(HubConfig()) == shared()


def test_fields_that_are_not_known_are_skipped() -> None:
    fields = {"pattern": "a", "publish": True, "of_a_newer_version": 1}
    text = json.dumps({"v": 1, "history": "", "rules": [fields], "more": []})
    assert SharedRules.parse(text) == shared(ChannelRule("a", publish=True))


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "3", '{"v":2,"history":"","rules":[]}', '{"v":1,"history":3,"rules":[]}',
     '{"v":1,"rules":[]}', '{"v":1,"history":"","rules":[3]}', '{"v":1,"history":"","rules":[{}]}',
     '{"v":1,"history":"","rules":[{"pattern":"a","replay":3}]}', "[" * 100_000],
)  # fmt: skip
def test_what_no_hub_has_written_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        SharedRules.parse(text)


@pytest.mark.parametrize(
    ("here", "there", "said"),
    [
        (shared(KEPT, OPEN), shared(KEPT, OPEN), ""),
        (shared(), shared(), ""),
        (
            shared(KEPT),
            shared(dataclasses.replace(KEPT, history_messages=9)),
            "the rule for 'kept:*' has history_messages=100 here, and history_messages=9 there",
        ),
        (
            shared(OPEN, KEPT),
            shared(KEPT, OPEN),
            "where the rule for 'open:*' stands here, there is one for 'kept:*' there",
        ),
        (shared(KEPT, OPEN), shared(KEPT), "there is a rule for 'open:*' here alone"),
        (shared(), shared(KEPT), "there is a rule for 'kept:*' there alone"),
        (
            shared(KEPT, history="/a.db"),
            shared(KEPT),
            "the history is in '/a.db' here, and in 'the backplane' there",
        ),
    ],
)
def test_the_first_difference_is_named(here: SharedRules, there: SharedRules, said: str) -> None:
    assert here.difference(there) == said
