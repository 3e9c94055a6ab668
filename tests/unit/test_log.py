"""What a log does not show."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from ws_hub import MaskTokens

WERKZEUG = ('%s - - [%s] "%s" 101 -', ("127.0.0.1", "now", "GET /ws?a=1&token=s3cret HTTP/1.1"))
GUNICORN = ('%(h)s "%(r)s" "%(f)s"', ({"h": "-", "r": "GET /ws?token=s3cret HTTP/1.1", "f": "-"},))


def shown(message: str, arguments: Any, *names: str) -> str:
    record = logging.LogRecord("x", logging.INFO, "", 0, message, arguments, None)
    assert MaskTokens(*names).filter(record)
    return record.getMessage()


@pytest.mark.parametrize(("message", "arguments"), [WERKZEUG, GUNICORN])
def test_fault_52_an_access_log_has_the_path_and_not_the_token(
    message: str, arguments: Any
) -> None:
    text = shown(message, arguments)
    assert "s3cret" not in text
    assert "token=*** HTTP/1.1" in text and "/ws?" in text


def test_other_records_and_other_parameters_stay_as_they_are() -> None:
    assert shown("100 % sure", ()) == "100 % sure"
    assert shown("%d%% of %s", (5, "a?mytoken=b&tokens=c")) == "5% of a?mytoken=b&tokens=c"


def test_a_record_that_cannot_be_formatted_passes_unchanged() -> None:
    record = logging.LogRecord("x", logging.INFO, "", 0, "%d", ("no number",), None)
    assert MaskTokens().filter(record)
    assert record.args == ("no number",)


def test_other_parameters_can_be_masked() -> None:
    assert shown("GET /ws?key=a&token=b&key=c", (), "key") == "GET /ws?key=***&token=b&key=***"
