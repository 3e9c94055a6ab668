"""Calls of a user's functions, and of pieces of the hub's own work."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from ws_hub.access.contexts import CONTEXT_KEY, kept, texts
from ws_hub.errors import HubNotRunning
from ws_hub.hub.callbacks import Callbacks, guarded
from ws_hub.hub.stats import Counters


@pytest.fixture
def errors() -> list[int]:
    return []


@pytest.fixture
def calls(errors: list[int]) -> Callbacks:
    counters = Counters()
    counters.add = lambda name, amount=1: errors.append(amount)  # type: ignore[method-assign]
    return Callbacks(counters)


def test_what_a_function_returns_is_returned(calls: Callbacks, errors: list[int]) -> None:
    assert calls.call(max, 1, 2) == 2
    assert errors == []


@pytest.mark.parametrize("error", [ValueError("no"), SystemExit(), KeyboardInterrupt()])
def test_what_a_function_raises_is_logged_counted_and_kept(
    calls: Callbacks, errors: list[int], error: BaseException, caplog: pytest.LogCaptureFixture
) -> None:
    def fail() -> None:
        raise error

    connection = SimpleNamespace(last_error="")
    assert calls.call(fail, connection=connection, default="default") == "default"
    assert errors == [1]
    assert connection.last_error == repr(error)
    assert "fail" in caplog.text and type(error).__name__ in caplog.text


def test_what_runs_is_named_with_its_client(calls: Callbacks) -> None:
    class Callable:
        def __call__(self) -> object:
            return calls.running(), calls.inside

        def __repr__(self) -> str:
            return "<it>"

    def inner() -> object:
        return calls.running(), calls.inside

    name = f"{__name__}.test_what_runs_is_named_with_its_client.<locals>.inner"
    assert calls.call(inner, connection="client") == ([(name, "client")], True)
    assert calls.call(Callable()) == ([("<it>", None)], True)
    assert (calls.running(), calls.inside) == ([], False)


class Context:
    """Records what happens to it."""

    def __init__(self) -> None:
        self.events: list[str] = []

    def __enter__(self) -> None:
        self.events.append("enter")

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.events.append("exit" if kind is None else kind.__name__)


def test_a_function_runs_in_the_context_of_its_handshake_or_in_the_general_one() -> None:
    general, own = Context(), Context()
    calls = Callbacks(Counters(), lambda: general)
    environ = {CONTEXT_KEY: lambda environ: own, "PATH_INFO": "/ws"}

    calls.call(own.events.append, "called", connection=SimpleNamespace(environ=environ))
    assert (own.events, general.events) == (["enter", "called", "exit"], [])
    calls.call(general.events.append, "called", connection=SimpleNamespace(environ=None))
    calls.call(general.events.append, "called")
    assert general.events == ["enter", "called", "exit"] * 2
    calls.call(general.events.append, "bare", bare=True)
    assert general.events[6:] == ["bare"]


def test_a_context_sees_what_the_function_raises(caplog: pytest.LogCaptureFixture) -> None:
    context = Context()
    calls = Callbacks(Counters(), lambda: context)
    assert calls.call(divmod, 1, 0, default="default") == "default"
    assert context.events == ["enter", "ZeroDivisionError"]
    assert "ZeroDivisionError" in caplog.text


def test_of_an_environ_its_strings_and_its_context_are_kept_where_there_is_one() -> None:
    environ = {"PATH_INFO": "/ws", "wsgi.input": object(), "wsgi.multithread": True}
    assert kept(environ) is None
    assert texts(environ) == {"PATH_INFO": "/ws"}
    environ[CONTEXT_KEY] = enter = object()
    assert kept(environ) == {"PATH_INFO": "/ws", CONTEXT_KEY: enter}


def test_calls_within_calls_are_counted(calls: Callbacks) -> None:
    assert calls.call(lambda: (calls.call(int), calls.inside)) == (0, True)
    assert not calls.inside


def test_an_error_of_our_own_is_logged_and_counted(caplog: pytest.LogCaptureFixture) -> None:
    counters = Counters()
    assert guarded(counters, divmod, 7, 2) == (3, 1)
    assert guarded(counters, divmod, 7, 0, default="default") == "default"
    assert counters.snapshot() == {"internal_errors": 1}
    assert "ZeroDivisionError" in caplog.text


@pytest.mark.parametrize("ends", [True, False])
def test_a_function_may_publish_when_the_hub_ends(
    ends: bool, caplog: pytest.LogCaptureFixture
) -> None:
    def publish() -> None:
        raise HubNotRunning("the hub is not running")

    counters = Counters()
    calls = Callbacks(counters, ends=lambda: ends)
    with caplog.at_level("INFO", "ws_hub"):
        assert calls.call(publish, default="default") == "default"
    assert counters.snapshot().get("callback_errors", 0) == (not ends)
    assert [record.levelname for record in caplog.records] == ["INFO" if ends else "ERROR"]
