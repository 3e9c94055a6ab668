"""The JSON of data: what stands for values that JSON does not know."""

from __future__ import annotations

import collections
import dataclasses
import datetime
import decimal
import enum
import json
import math
import pathlib
import sys
import uuid
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ws_hub import HubConfig, MessageEncodeError, json_default
from ws_hub.protocol.json_text import fast_encoder, json_encoder, to_json
from ws_hub.protocol.message import Encoder


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
@pytest.mark.parametrize("encode", [to_json, fast_encoder()], ids=["json", "orjson"])
def test_a_value_that_json_does_not_know_has_a_form(encode: Any, value: Any, means: Any) -> None:
    for data, expected in ((value, means), ([value, {"a": value}], [means, {"a": means}])):
        assert json.loads(encode(data)) == expected


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


# --- orjson: the same value, and the same refusals -------------------------------------------


class Text(str):
    def __str__(self) -> str:
        return "not its text"


class Whole(int):
    def __int__(self) -> int:
        return 7

    __index__ = __int__


class Real(float):
    def __float__(self) -> float:
        return 7.0


class Items(list[Any]):
    def __iter__(self) -> Any:
        return iter(["not its items"])


class Fields(dict[str, Any]):
    def items(self) -> Any:
        return [("of", "its items()"), *super().items()]


class Row(tuple[Any, ...]):
    pass


@dataclasses.dataclass
class Wide(Point):
    _hidden: Any = dataclasses.field(default=None, repr=False)


FAST, PLAIN = Encoder(fast_encoder()), Encoder(to_json)

texts = st.text(st.characters(), max_size=8)  # lone surrogates too
numbers = st.integers() | st.integers(-(2**65), 2**65) | st.floats() | st.booleans()
leaves = (
    st.none() | numbers | texts | st.binary(max_size=2) | st.sampled_from([*Colour, *Level, *Kind])
    | texts.map(Text) | st.integers().map(Whole) | st.floats().map(Real)
    | st.datetimes(timezones=st.none() | st.timezones()) | st.dates() | st.times() | st.uuids()
    | st.decimals() | st.timedeltas() | texts.map(pathlib.PurePosixPath) | st.just({1})
    | st.complex_numbers() | st.sampled_from([Point, Colour, ..., print])
)  # fmt: skip
keys = texts | numbers | st.none() | texts.map(Text) | st.sampled_from([*Kind, *Level, Colour.RED])


def containers(values: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    several, named = st.lists(values, max_size=3), st.dictionaries(texts, values, max_size=3)
    return (
        several | several.map(tuple) | several.map(Items) | several.map(Row)
        | named | named.map(Fields) | named.map(collections.OrderedDict)
        | st.dictionaries(keys, values, max_size=3) | st.builds(Pair, values, values)
        | st.builds(Point, values, values) | st.builds(Line, values, values)
        | st.builds(Wide, values, values, values)
    )  # fmt: skip


@st.composite
def values(draw: st.DrawFn) -> Any:  # as a function, for its repr: that of the parts is megabytes
    return draw(st.recursive(leaves, containers, max_leaves=8))


def deep(depth: int) -> Any:
    data: Any = 1
    for number in range(depth):
        data = [data] if number % 2 else {"a": data}
    return data


def written(encoder: Encoder, data: Any) -> Any:
    """Return what a receiver reads, with the types of all of it; None for a refusal."""
    try:
        text = encoder.encode_fields("x", "", "", [data], "")
    except MessageEncodeError:
        return None
    return repr(json.loads(text))


@settings(max_examples=40)
@given(values())
@example(math.nan)
@example({"a": [math.inf]})
@example({"a": None, "b": Real("nan")})
@example("null")
@example(Real(1.5))
@example(2**64)
@example(-(2**63) - 1)
@example(10**5000)
@example(Whole(2**70))
@example({1: 2, "1": 3, False: 4, None: 5, 1.5: 6})
@example({math.nan: 1})
@example({"\ud800": 1})
@example(Text("\ud800"))
@example(pathlib.PurePosixPath("\udcff"))
@example(Fields(a=1))
@example(Fields())
@example(Items())
@example([1e16, 5e-324, 1.7976931348623157e308, -0.0, 1e22, 123456789.123456789])
def test_orjson_and_the_standard_library_write_the_same_and_refuse_the_same(data: Any) -> None:
    assert fast_encoder() is not to_json, "orjson is not installed"
    assert written(FAST, data) == written(PLAIN, data)


@pytest.mark.parametrize("depth", [10, 250, 253, 254, 255, 256, 600, 5000, 100_000])
def test_orjson_and_the_standard_library_nest_as_deeply(depth: int) -> None:
    assert written(FAST, deep(depth)) == written(PLAIN, deep(depth))
    assert (written(FAST, deep(depth)) is None) == (depth > 1000)


def test_data_that_contains_itself_is_refused_by_both() -> None:
    circle: list[Any] = []
    circle.append(circle)
    assert written(FAST, circle) is written(PLAIN, circle) is None


def test_without_orjson_the_standard_library_writes_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "orjson", None)
    assert fast_encoder() is to_json
