"""The JSON of data: what stands for values that JSON does not know."""

from __future__ import annotations

import collections
import dataclasses
import datetime
import decimal
import enum
import json
import pathlib
import uuid
from typing import Any

import pytest

from ws_hub import HubConfig, json_default
from ws_hub.protocol.json_text import json_encoder, to_json


class Colour(enum.Enum):
    RED = "red"
    AT = datetime.date(2026, 2, 20)


class Level(enum.IntEnum):
    HIGH = 3


class Kind(enum.StrEnum):
    NEW = "new"


@dataclasses.dataclass
class Point:
    x: int
    y: Any = None


@dataclasses.dataclass(frozen=True, slots=True)
class Line:
    start: Point
    _end: Point


Pair = collections.namedtuple("Pair", "a b")  # noqa: PYI024 - what applications have

UTC = datetime.UTC
KATHMANDU = datetime.timezone(datetime.timedelta(hours=5, minutes=45))
KNOWN: list[tuple[Any, Any]] = [
    (datetime.datetime(2026, 2, 20, 1, 17, 56, 123456, UTC), "2026-02-20T01:17:56.123456+00:00"),
    (datetime.datetime(2026, 2, 20, 1, 17, tzinfo=KATHMANDU), "2026-02-20T01:17:00+05:45"),
    (datetime.datetime(2026, 2, 20), "2026-02-20T00:00:00"),
    (datetime.date(2026, 2, 20), "2026-02-20"),
    (datetime.time(1, 17, 56), "01:17:56"),
    (datetime.time(1, 17, tzinfo=UTC), "01:17:00+00:00"),
    (uuid.UUID(int=1), "00000000-0000-0000-0000-000000000001"),
    (decimal.Decimal("1.10"), "1.10"),
    (decimal.Decimal("1E+30"), "1E+30"),
    (decimal.Decimal("NaN"), "NaN"),
    (pathlib.PurePosixPath("/srv/ä"), "/srv/ä"),
    (Colour.RED, "red"),
    (Colour.AT, "2026-02-20"),
    (Level.HIGH, 3),
    (Kind.NEW, "new"),
    (Point(1, [Colour.RED]), {"x": 1, "y": ["red"]}),
    (Line(Point(1), Point(2)), {"start": {"x": 1, "y": None}, "_end": {"x": 2, "y": None}}),
    (Pair(1, Level.HIGH), [1, 3]),
]


@pytest.mark.parametrize(("value", "means"), KNOWN, ids=lambda each: repr(each)[:40])
def test_a_value_that_json_does_not_know_has_a_form(value: Any, means: Any) -> None:
    for data, expected in ((value, means), ([value, {"a": value}], [means, {"a": means}])):
        assert json.loads(to_json(data)) == expected


@pytest.mark.parametrize(
    "value",
    [
        {1},
        b"x",
        object(),
        1j,
        datetime.timedelta(1),
        range(3),
        Point,
        Colour,
        print,
        (x for x in ""),
    ],
    ids=lambda each: type(each).__name__,
)
def test_another_value_has_none(value: Any) -> None:
    with pytest.raises(TypeError, match="has no JSON form: convert it, or set HubConfig"):
        to_json([value])


def test_a_default_of_ones_own_replaces_it_and_may_call_it() -> None:
    asked: list[Any] = []

    def own(value: Any) -> Any:
        asked.append(value)
        return sorted(value) if isinstance(value, set) else json_default(value)

    encode = json_encoder(own)
    data = {"a": {2, 1}, "b": [uuid.UUID(int=1)], "c": "plain", "d": [1.5, None, True, Level.HIGH]}
    assert json.loads(encode(data)) == {
        "a": [1, 2],
        "b": ["00000000-0000-0000-0000-000000000001"],
        "c": "plain",
        "d": [1.5, None, True, 3],
    }
    assert asked == [{1, 2}, uuid.UUID(int=1)]  # what JSON knows is not asked for
    with pytest.raises(TypeError, match="bytes"):
        encode(b"x")


def test_a_default_of_ones_own_gets_what_ours_would_have_taken() -> None:
    encode = json_encoder(lambda value: f"<{type(value).__name__}>")
    for value, _ in KNOWN:
        if not isinstance(value, (int, str, tuple)):
            assert encode([value]) == f'["<{type(value).__name__}>"]'


def test_the_setting_must_be_a_function() -> None:
    with pytest.raises(ValueError, match="json_default must be callable"):
        HubConfig(json_default="iso")  # type: ignore[arg-type]
