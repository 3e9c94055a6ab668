"""What clients may cost, by payer, on a clock that a test sets."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ws_hub.access.quotas import Account, Flood, PendingCharges, Quotas, address_payer, user_payer
from ws_hub.config import HubConfig


def made(*, max_idle_accounts: int | None = None, **settings: Any) -> Quotas:
    bound = {} if max_idle_accounts is None else {"max_idle_accounts": max_idle_accounts}
    unbounded = {"max_byte_rate": None, "max_message_rate": None, "max_control_rate": None}
    settings = {**unbounded, "max_processing_rate_in_all": None, **settings}
    return Quotas(HubConfig(**settings), **bound)


def rest_of(account: Account, now: float, **cost: Any) -> float:
    rest = account.charge(now, **{"seconds": 0.0, **cost})
    assert not isinstance(rest, Flood)
    return rest


def test_usage_beyond_a_burst_pauses_the_connection() -> None:
    account = made(max_processing_rate=0.5, processing_burst=1.0).enter("", 100.0)
    assert rest_of(account, 100.0, seconds=0.9) == 0.0
    assert round(rest_of(account, 100.0, seconds=0.5), 3) == 0.802  # the connect counts as well


def test_one_request_costs_no_more_than_a_burst() -> None:
    account = made(max_processing_rate=0.5, processing_burst=1.0).enter("", 100.0)
    assert round(rest_of(account, 100.0, seconds=3600.0), 3) == 0.002


def test_each_resource_has_a_limit_of_its_own() -> None:
    bounds = {"message_burst": 10, "control_burst": 10, "byte_burst": 10}
    rates = {"max_message_rate": 5.0, "max_control_rate": 2.5, "max_byte_rate": 1.25}
    account = made(max_processing_rate=None, **bounds, **rates).enter("", 100.0)
    assert rest_of(account, 100.0, messages=10, controls=10, size=10) == 0.0
    assert rest_of(account, 100.0, messages=10) == 2.0
    assert rest_of(account, 100.0, controls=10) == 4.0
    assert rest_of(account, 100.0, size=10) == 8.0
    assert account.charge_bytes(1, 100.0) == 8.8
    assert account.charge_bytes(1, 200.0) == 0.0


def test_all_connections_of_a_payer_use_one_account_and_others_have_theirs() -> None:
    budget = made(max_message_rate=1.0, message_burst=5)
    one, two = (budget.enter("address:a", 100.0) for _ in range(2))
    assert rest_of(one, 100.0, messages=5) == 0.0
    assert rest_of(two, 100.0, messages=1) == 1.0
    for payer in ("address:b", "user:a", "", ""):
        assert rest_of(budget.enter(payer, 100.0), 100.0, messages=5) == 0.0


def test_a_reconnect_does_not_reset_an_account_in_debt() -> None:
    budget = made(max_message_rate=1.0, message_burst=5)
    account = budget.enter("address:a", 100.0)
    rest_of(account, 100.0, messages=7)
    budget.leave(account, 100.0)
    assert len(budget) == 1
    account = budget.enter("address:a", 101.0)
    assert rest_of(account, 101.0, messages=1) == 2.0
    budget.leave(account, 101.0)
    budget.leave(budget.enter("address:b", 200.0), 200.0)
    assert len(budget) == 1  # the first is as good as new, and forgotten


def test_the_number_of_idle_accounts_is_limited() -> None:
    budget = made(max_idle_accounts=100)
    for number in range(1000):
        budget.leave(budget.enter(f"address:{number}", 100.0), 100.0)
        assert len(budget) <= 101
    here = [budget.enter(f"user:{number}", 100.0) for number in range(500)]
    assert len(budget) > 500
    for account in here:
        budget.leave(account, 200.0)
    assert len(budget) < 10


def test_a_payer_deep_in_debt_is_closed_and_refused_until_it_has_paid() -> None:
    budget = made(max_processing_rate=0.1, processing_burst=1.0)
    account = budget.enter("address:a", 100.0)
    assert rest_of(account, 100.0, seconds=1.0) > 0.0
    assert budget.wait("address:a", 100.0) == 0.0  # it rests, and may come all the same
    fault = account.charge(100.0, seconds=1.0)
    assert isinstance(fault, Flood) and fault.limit == "overdrafts"
    budget.leave(account, 100.0)
    assert 9.9 < budget.wait("address:a", 100.0) < 10.1
    assert 0.9 < budget.wait("address:a", 109.0) < 1.1
    assert budget.wait("address:a", 111.0) == 0.0
    assert budget.wait("address:b", 100.0) == 0.0


def test_a_debt_refuses_connections_for_at_most_fifteen_seconds() -> None:
    budget = made(max_processing_rate=0.1, processing_burst=1.0)
    account = budget.enter("address:a", 100.0)
    for _ in range(1000):
        account.charge(100.0, seconds=1.0)
    assert budget.wait("address:a", 100.0) == 15.0


def test_a_payer_that_only_reconnects_is_refused_as_well() -> None:
    budget = made()
    while not budget.wait("address:a", 100.0):
        budget.leave(budget.enter("address:a", 100.0), 100.0)
    assert budget.wait("address:b", 100.0) == 0.0


def test_flood_timeout_closes_a_payer_overdrawn_for_too_long() -> None:
    budget = made(max_processing_rate=0.1, processing_burst=0.5, flood_timeout=5.0)
    account = budget.enter("", 100.0)
    assert rest_of(account, 100.0, seconds=0.5) > 0.0
    assert rest_of(account, 102.0, seconds=0.25) > 0.0
    assert isinstance(account.charge(106.0, seconds=0.3), Flood)


def test_without_rates_nothing_is_counted() -> None:
    budget = made(max_processing_rate=None)
    account = budget.enter("user:a", 100.0)
    for _ in range(100):
        assert rest_of(account, 100.0, seconds=1e6, messages=10**9, size=10**12) == 0.0
    account.charge_processing(1e6, 100.0)
    budget.leave(account, 100.0)
    assert len(budget) == 0


def test_work_of_other_threads_is_charged_to_the_client() -> None:
    account = made(max_processing_rate=0.1, processing_burst=1.0).enter("", 100.0)
    account.charge_processing(1.0, 100.0)
    assert rest_of(account, 100.0) > 0.0


def test_small_usage_is_summed_up_before_it_is_charged() -> None:
    budget = made(max_message_rate=1.0, message_burst=640)
    account, pending = budget.enter("", 100.0), PendingCharges(budget.config)
    assert (
        pending.add(0.0, 0, 0) and pending.settle(account, 100.0) == 0.0
    )  # is there a debt already?
    for _ in range(10):
        assert not pending.add(0.0001, 1, 1)
    assert pending.add(0.0, 1, 0)
    assert pending.settle(account, 100.0) == 0.0
    assert rest_of(account, 100.0, messages=630) == 1.0
    assert pending.settle(account, 100.0) == 0.0  # nothing more


@pytest.mark.parametrize(
    "cost", [(0.008, 0, 0), (0.0, 10, 0), (0.0, 0, 16)], ids=["seconds", "messages", "controls"]
)
def test_larger_usage_of_any_kind_is_charged_at_once(cost: tuple[float, int, int]) -> None:
    pending = PendingCharges(HubConfig())
    assert pending.add(*cost)
    pending = PendingCharges(HubConfig())
    pending.add_bytes(2**20 + 1)
    assert pending.add(0.0, 0, 0)


# --- all together --------------------------------------------------------------------------


def storm(heavy: int, cost: float) -> tuple[float, float]:
    """Have payers use all that they get for a minute, and another one a little.

    Returns what the former got in all, and how long the other had to rest at most.
    """
    budget = made(max_processing_rate_in_all=0.25)
    accounts = [budget.enter(f"address:{number}", 0.0) for number in range(heavy)]
    light = budget.enter("user:light", 0.0)
    free = dict.fromkeys(accounts, 0.0)  # when each may be read again
    got = most = 0.0
    for step in range(6000):
        now = step / 100
        for account in accounts:
            if free[account] <= now:
                free[account] = now + rest_of(account, now, seconds=cost)
                got += cost
        most = max(most, rest_of(light, now, seconds=0.00002))
    return got, most


@pytest.mark.parametrize("heavy", [1, 5, 20, 100])
def test_the_common_rate_does_not_slow_a_light_user(heavy: int) -> None:
    got, most = storm(heavy, 0.005)
    assert most == 0.0
    # Of a minute; and what each gets once, its first receives and its first share.
    bound = min(heavy * 0.2, 0.25) * 60
    assert bound * 0.8 <= got <= bound + 0.25 + heavy * 0.05 + (heavy == 1) * 0.5


def test_disconnected_payers_do_not_shrink_the_share() -> None:
    budget = made(max_processing_rate_in_all=0.25)
    for payer in ("", "address:a"):
        for _ in range(1000):
            account = budget.enter(payer, 0.0)
            account.charge(0.0, seconds=0.01)
            budget.leave(account, 0.0)
    light = budget.enter("user:light", 0.0)
    for second in range(1, 11):  # three quarters of a tenth of its rate
        assert rest_of(light, second, seconds=0.75 * 0.1 * budget.config.max_processing_rate) == 0.0


def test_usage_above_the_share_waits_a_limited_time() -> None:
    budget = made(max_processing_rate_in_all=0.25)
    greedy = [budget.enter(f"address:{number}", 0.0) for number in range(20)]
    for account in greedy:
        rest_of(account, 0.0, seconds=0.1)
    late = budget.enter("user:late", 0.0)
    assert 0.5 < rest_of(late, 0.0, seconds=0.03) < 10.0


def test_fault_121_a_payer_in_a_long_pause_opens_no_more_connections() -> None:
    """Each would rest, and be one more; a short rest keeps nobody out."""
    budget = made(max_processing_rate_in_all=0.25)
    assert not budget.bars_anybody(100.0)
    accounts = [budget.enter(f"address:{number}", 100.0) for number in range(20)]
    rests = [rest_of(account, 100.0, seconds=0.05) for account in accounts]
    assert min(rests) == 0.0 and max(rests) > 2.0
    for account, rest in zip(accounts, rests, strict=True):
        assert budget.wait(account.payer, 100.0) == pytest.approx(max(rest - 2.0, 0.0))
        assert budget.wait(account.payer, 100.0 + rest) == 0.0
    assert budget.wait("address:new", 100.0) == 0.0
    assert budget.bars_anybody(100.0) and not budget.bars_anybody(120.0)
    worst = accounts[rests.index(max(rests))]
    budget.leave(worst, 100.0)
    for _ in range(3):  # nor does it come back as another
        budget.leave(budget.enter("address:other", 100.0), 100.0)
    assert budget.wait(worst.payer, 100.0) > 0.0


@settings(deadline=None)
@given(st.lists(st.tuples(st.floats(0, 0.3), st.floats(0, 2)), max_size=40))
def test_a_client_that_pauses_as_told_gets_its_burst_and_its_rate(
    steps: list[tuple[float, float]],
) -> None:
    account = made(max_processing_rate=0.2, processing_burst=0.5).enter("", 0.0)
    now = used = 0.0
    for cost, pause in steps:
        now += rest_of(account, now, seconds=cost)
        used += cost
        assert used <= 0.5 + 0.2 * now + 1e-6
        now += pause


def test_keys_of_users_and_addresses_differ() -> None:
    assert user_payer("10.0.0.1") != address_payer("10.0.0.1")
    assert address_payer("") == ""


def test_a_payer_barred_for_a_flood_of_messages_stays_barred_until_that_is_paid() -> None:
    quotas = made(max_message_rate=10.0, message_burst=5, flood_timeout=1.0)
    account = quotas.enter("address:a", 100.0)
    assert rest_of(account, 100.0, messages=30) == 2.5
    flood = account.charge(101.5, seconds=0.0, messages=30)
    assert isinstance(flood, Flood)
    wait = quotas.wait("address:a", 101.5)
    assert wait == pytest.approx(4.0)
    assert quotas.wait("address:a", 101.5 + wait / 2) == pytest.approx(2.0)
    assert quotas.wait("address:a", 101.6 + wait) == 0.0
