"""Whether a client tries again, and after how long: no sockets, no clock."""

from __future__ import annotations

import pytest

from ws_hub.backoff import come_back
from ws_hub.errors import ConnectionClosed, HandshakeRefused
from ws_hub.reconnect.config import ReconnectConfig
from ws_hub.reconnect.retries import Retries

URL = "ws://127.0.0.1:1/ws"


def retries(random: float = 0.5, **settings: object) -> Retries:
    return Retries(ReconnectConfig(url=URL, **settings), lambda: random)  # type: ignore[arg-type]


def test_without_a_bound_every_failure_is_retried() -> None:
    each = retries()
    assert all(each.failed(OSError()) for _ in range(1000))
    assert each.failures == 1000


def test_max_retries_counts_the_retries_not_the_first_attempt() -> None:
    each = retries(max_retries=3)
    assert [each.failed(OSError()) for _ in range(4)] == [True, True, True, False]


def test_a_stable_connection_resets_the_count() -> None:
    each = retries(max_retries=2, stable_after=5.0)
    each.failed(OSError())
    each.failed(OSError())
    assert each.failed(ConnectionClosed(1006), held=5.0)
    assert each.failures == 1


def test_a_short_connection_does_not_reset_the_count() -> None:
    each = retries(max_retries=2, stable_after=5.0)
    assert each.failed(ConnectionClosed(1006), held=4.9)
    assert each.failed(ConnectionClosed(1006), held=0.0)
    assert not each.failed(ConnectionClosed(1006), held=4.9)


@pytest.mark.parametrize(
    "failure",
    [
        HandshakeRefused(401),
        HandshakeRefused(403),
        ConnectionClosed(4401),
        ConnectionClosed(4403),
    ],
)
def test_refused_credentials_are_final(failure: Exception) -> None:
    each = retries()
    assert Retries.is_final(failure)
    assert not each.failed(failure)


@pytest.mark.parametrize("code", [1000, 1001, 1005, 1006, 1008, 1009, 1011, 1012, 1013, 4000])
def test_every_other_close_is_retried(code: int) -> None:
    assert retries().failed(ConnectionClosed(code))


@pytest.mark.parametrize("status", [301, 302, 400, 404, 426, 429, 500, 502, 503])
def test_every_other_http_status_is_retried(status: int) -> None:
    assert retries().failed(HandshakeRefused(status))


def test_the_wait_is_the_backoff_with_jitter() -> None:
    each = retries(random=0.25, initial_backoff=2.0)
    failure = OSError()
    each.failed(failure)
    assert each.wait(failure) == 0.5
    each.failed(failure)
    assert each.wait(failure) == 1.0


def test_without_jitter_the_wait_is_the_backoff() -> None:
    each = retries(jitter=False)
    each.failed(OSError())
    assert each.wait(OSError()) == 1.0


@pytest.mark.parametrize("code", [1001, 1012, 1013])
def test_codes_sent_to_all_clients_are_jittered_whatever_the_setting(code: int) -> None:
    each = retries(random=0.125, jitter=False, initial_backoff=8.0)
    each.failed(ConnectionClosed(code))
    assert each.wait(ConnectionClosed(code)) == 1.0


@pytest.mark.parametrize(("most", "wait"), [(30.0, 2.5), (1.0, 0.5)])
def test_codes_sent_to_all_clients_spread_the_reconnects(most: float, wait: float) -> None:
    each = retries(random=0.5, initial_backoff=1.0, max_backoff=most)
    each.failed(OSError())
    assert each.wait(ConnectionClosed(1012)) == wait
    assert each.wait(ConnectionClosed(1006)) == 0.5


def test_fault_50_a_wait_that_is_asked_for_is_the_least_and_drawn_from_as_long_again() -> None:
    each = retries(random=0.5, initial_backoff=4.0, max_backoff=4.0)
    each.failed(OSError())
    assert each.wait(HandshakeRefused(503, retry_after=3.0)) == 3.0 + 2.0
    assert each.wait(HandshakeRefused(503, retry_after=0.0)) == 2.0
    assert each.wait(HandshakeRefused(503)) == 2.0
    assert each.wait(HandshakeRefused(429, retry_after=60.0)) == 60.0 + 30.0
    assert each.wait(ConnectionClosed(1012, come_back(60.0))) == 60.0 + 30.0
    assert each.wait(ConnectionClosed(1012, come_back(0.5))) == 0.5 + 2.0


def test_without_jitter_the_servers_wait_is_a_lower_bound() -> None:
    each = retries(jitter=False, initial_backoff=4.0, max_backoff=4.0)
    each.failed(OSError())
    assert each.wait(HandshakeRefused(503, retry_after=3.0)) == 4.0
    assert each.wait(HandshakeRefused(503, retry_after=60.0)) == 60.0


def test_only_codes_sent_to_all_clients_can_ask_for_a_wait() -> None:
    each = retries(random=0.5)
    each.failed(OSError())
    assert each.wait(ConnectionClosed(4000, come_back(60.0))) == 0.5
