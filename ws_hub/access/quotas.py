"""Quotas: processing time and bytes that clients may use, by payer and in all.

Time is an argument. A payer is the owner of an account: a connection's user, else its
address, else that connection alone. All connections of a payer share one account. The
account outlives them, so that reconnecting does not reset it, and is forgotten once its
debt is paid.

Of each resource a payer has a rate and a burst of its own, which no other payer can use up.
All payers together have a rate as well, the common rate. A payer that uses no more than its
share, a small part of its own rate, is not slowed when the common rate is used up. Only the
usage beyond the share waits, until either the common rate or the share covers it.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

from ..config import HubConfig
from ..reentrant import Lock
from .token_bucket import Bucket

__all__ = ["Account", "Flood", "PendingCharges", "Quotas", "address_payer", "user_payer"]

# seconds of processing: about the cost of a connect, whichever thread serves it
_CONNECTION = 0.001
_SHARE_OF_RATE = 1 / 10  # of a payer's rate, reserved for it whatever others use
_SHARE_BURST = 2.0  # seconds of that share, as a burst
_INITIAL_SHARE = 0.1  # seconds of it, for a new payer
_COMMON_BURST = 0.5  # seconds of the common rate, as a burst
_MAX_UNCHARGED = 1 / 64  # of a burst, which a connection may use uncharged: charging is work too
_MAX_WAIT = 10.0  # seconds: a connection of a payer with a longer debt is closed
_MAX_PAUSE = 2.0  # seconds of pause of a payer's connections, above which it may open no more
_MAX_DEBT = 15.0  # seconds: the longest time for which a payer may open no connection
_VAIN_WAITS = (0.1, 2.0)  # rate and burst, in seconds, of waits for a payer's clients
_MAX_IDLE_ACCOUNTS = 16_384


@dataclass(frozen=True, slots=True)
class Flood:
    """A payer's usage is so far over its quota that the connection is to be closed.

    Args:
        reason: the reason of the Close frame.
        limit: the name of the counter of the exceeded limit.
    """

    reason: str
    limit: str


_MESSAGES = Flood("too many messages", "message_floods")
_PROCESSING = Flood("too much processing asked for", "overdrafts")


def user_payer(user_id: str) -> str:
    """Return the key of a user's account."""
    return f"user:{user_id}"


def address_payer(network: str) -> str:
    """Return the key of an address's account; "" without one: the connection pays alone."""
    return network and f"address:{network}"


class _PayerBuckets:
    """The buckets of one payer for one resource: its own rate, and its share of the common one."""

    __slots__ = ("own", "share")

    def __init__(self, own: Bucket, share: Bucket) -> None:
        self.own = own
        self.share = share


class _Resource:
    """A resource with a rate for each payer and a common rate for all of them.

    Args:
        rate: of a payer, a second; None for no limit at all.
        burst: of a payer.
        rate_in_all: of all payers together, a second; None for no common limit.
    """

    def __init__(self, rate: float | None, burst: float, rate_in_all: float | None) -> None:
        self._rate = rate
        self._burst = burst
        self._common_rate = None if rate is None else rate_in_all
        self._share_rate = 0.0 if rate is None else rate * _SHARE_OF_RATE
        self._common = Bucket(
            self._common_rate, (self._common_rate or 0.0) * _COMMON_BURST, _MAX_DEBT
        )
        # Payers that have used more than their share lately -> when; in order of that time.
        self._above_share: dict[_PayerBuckets, float] = {}

    def new_buckets(self, now: float) -> _PayerBuckets:
        """Return the buckets of a new payer."""
        rate = None if self._common_rate is None else self._share_rate
        share = Bucket(rate, _SHARE_BURST * self._share_rate, _MAX_DEBT)
        # Not full: a new address for each connection must not be of advantage.
        share.take((_SHARE_BURST - _INITIAL_SHARE) * self._share_rate, now)
        return _PayerBuckets(Bucket(self._rate, self._burst, _MAX_DEBT), share)

    def take(self, buckets: _PayerBuckets, amount: float, now: float) -> tuple[float, float]:
        """Charge an amount; return the seconds of the payer's own debt, and of the common one."""
        own = buckets.own.take(amount, now)
        if self._common_rate is None:
            return own, 0.0
        rate = self._share(now)
        buckets.share.set_rate(rate)
        # All usage counts against the share, also the part that the common rate covers.
        share_wait = buckets.share.take(amount, now)
        if not share_wait:
            return own, 0.0
        self._above_share.pop(buckets, None)
        self._above_share[buckets] = now
        beyond = min(amount, share_wait * rate)
        if self._common.wait(beyond, now) > share_wait:
            return own, share_wait
        return own, self._common.take(beyond, now)

    def forget(self, buckets: _PayerBuckets) -> None:
        """Remove a payer from those that use more than their share."""
        self._above_share.pop(buckets, None)

    def _share(self, now: float) -> float:
        """Return the rate at which a payer is not slowed by others.

        It shrinks when many payers use more: otherwise the sum of the shares would have no bound.
        """
        assert self._common_rate is not None
        above = self._above_share
        for buckets, when in list(itertools.islice(above.items(), 2)):
            if when < now - _MAX_DEBT:
                del above[buckets]
        return min(self._share_rate, self._common_rate / max(len(above), 1))


class Account:
    """The usage of one payer on all its connections. Made by a Quotas, under its lock."""

    __slots__ = ("_quotas", "barred", "bytes", "connections", "controls", "messages",
                 "paused_until", "payer", "processing", "vain_waits")  # fmt: skip

    def __init__(self, quotas: Quotas, payer: str, now: float) -> None:
        config = quotas.config
        self._quotas = quotas
        self.payer = payer
        self.connections = 0
        self.barred = False  # whether no connection is accepted until the debt is paid
        self.paused_until = now  # because the common rate is used up
        self.messages = Bucket(config.max_message_rate, config.message_burst, _MAX_DEBT)
        self.controls = Bucket(config.max_control_rate, config.control_burst, _MAX_DEBT)
        self.vain_waits = Bucket(*_VAIN_WAITS, _MAX_DEBT)
        self.processing = quotas.processing.new_buckets(now)
        self.bytes = quotas.bytes.new_buckets(now)

    def charge(
        self, now: float, *, seconds: float, messages: int = 0, controls: int = 0, size: int = 0
    ) -> float | Flood:
        """Charge the usage of one connection; return for how many seconds it must now pause.

        Args:
            now: monotonic seconds.
            seconds: of processing. More than a burst counts as one burst: a single request,
                however expensive for the application, does not pause its client for long.
            messages: messages received.
            controls: pings, and unsolicited pongs, received.
            size: bytes kept or sent at the client's request.
        """
        quotas = self._quotas
        with quotas.lock:
            burst = quotas.config.processing_burst
            own, rest = quotas.process_locked(self, min(seconds, burst), now)
            rest = max(own, rest)
            if own > _MAX_WAIT or self.processing.own.overdrawn_for(now) > quotas.patience:
                quotas.bar_locked(self, now)
                return _PROCESSING
            if messages:
                rest = max(rest, self.messages.take(messages, now))
                if self.messages.overdrawn_for(now) > quotas.patience:
                    quotas.bar_locked(self, now)
                    return _MESSAGES
            if controls:
                rest = max(rest, self.controls.take(controls, now))
            if size:
                rest = max(rest, *quotas.bytes.take(self.bytes, size, now))
            return rest

    def charge_bytes(self, size: int, now: float) -> float:
        """Charge bytes that are kept or sent; return the seconds until more are allowed."""
        quotas = self._quotas
        with quotas.lock:
            return max(quotas.bytes.take(self.bytes, size, now))

    def charge_processing(self, seconds: float, now: float) -> None:
        """Charge processor time that another thread than its reader has spent for a client."""
        quotas = self._quotas
        with quotas.lock:
            quotas.process_locked(self, seconds, now)

    def has_vain_waits(self, now: float) -> bool:
        """Return whether publishers have waited in vain for this payer's clients for too long."""
        with self._quotas.lock:
            return self.vain_waits.wait(0.0, now) > 0

    def charge_vain_wait(self, seconds: float, now: float) -> None:
        """Charge the seconds that a publisher waited for a client that did not read."""
        with self._quotas.lock:
            self.vain_waits.take(seconds, now)

    def is_settled_locked(self, now: float) -> bool:
        """Return whether nothing is owed, so that a new account would be the same."""
        assert self._quotas.lock.locked()
        return now >= self.paused_until and all(
            bucket.full(now)
            for bucket in (
                self.messages,
                self.controls,
                self.vain_waits,
                self.processing.own,
                self.bytes.own,
            )
        )


class PendingCharges:
    """The usage of one connection that is not yet charged.

    Most receives are too small to be charged one by one.

    Args:
        config: the hub's settings. A small part of each burst may be uncharged.
    """

    __slots__ = ("_controls", "_messages", "_most", "_new", "_seconds", "_size")

    def __init__(self, config: HubConfig) -> None:
        self._most = (
            config.processing_burst * _MAX_UNCHARGED,
            config.message_burst * _MAX_UNCHARGED,
            config.control_burst * _MAX_UNCHARGED,
            config.byte_burst * _MAX_UNCHARGED,
        )
        self._seconds, self._messages, self._controls, self._size = 0.0, 0, 0, 0
        self._new = True

    def add_bytes(self, size: int) -> None:
        """Add bytes that were kept or sent."""
        self._size += size

    def add(self, seconds: float, messages: int, controls: int) -> bool:
        """Add usage; return whether the sum is to be charged now.

        The first usage is always charged: a new connection begins with its payer's debt.
        """
        self._seconds += seconds
        self._messages += messages
        self._controls += controls
        most_seconds, most_messages, most_controls, most_bytes = self._most
        return (
            self._new
            or self._seconds > most_seconds
            or self._messages > most_messages
            or self._controls > most_controls
            or self._size > most_bytes
        )

    def settle(self, account: Account, now: float) -> float | Flood:
        """Charge the sum to an account; return for how many seconds the connection must pause."""
        seconds, messages, controls, size = (
            self._seconds,
            self._messages,
            self._controls,
            self._size,
        )
        self._seconds, self._messages, self._controls, self._size = 0.0, 0, 0, 0
        self._new = False
        return account.charge(now, seconds=seconds, messages=messages, controls=controls, size=size)


class Quotas:
    """The accounts of all payers, and the common rates.

    Args:
        config: the hub's settings.
        max_idle_accounts: accounts without a connection that are kept for their debts.

    Attributes:
        lock: guards its state and that of its accounts.
        patience: seconds for which an account may be overdrawn.
    """

    def __init__(self, config: HubConfig, *, max_idle_accounts: int = _MAX_IDLE_ACCOUNTS) -> None:
        self.config = config
        self._max_idle_accounts = max_idle_accounts
        # guards: everything below, and all accounts. Taken after a transport's lock; no lock is
        # taken under it.
        self.lock = Lock()
        self.patience = math.inf if config.flood_timeout is None else config.flood_timeout
        self.processing = _Resource(
            config.max_processing_rate, config.processing_burst, config.max_processing_rate_in_all
        )
        self.bytes = _Resource(config.max_byte_rate, config.byte_burst, config.max_byte_rate_in_all)
        self._barred_until = -math.inf  # the end of the last bar; read without the lock
        self._accounts: dict[str, Account] = {}
        # Accounts without a connection that still have a debt, in the order of their last
        # disconnect.
        self._idle: dict[str, Account] = {}

    def enter(self, payer: str, now: float) -> Account:
        """Return the account of a new connection, charged for the connect.

        `leave` gives it back. The payer "" gets an account of its own.
        """
        with self.lock:
            account = self._accounts.get(payer) or self._idle.pop(payer, None)
            if account is None:
                account = Account(self, payer, now)
            if payer:
                self._accounts[payer] = account
            account.connections += 1
            self.process_locked(account, _CONNECTION, now)
            return account

    def leave(self, account: Account, now: float) -> None:
        """Release a connection of an account, at its end."""
        with self.lock:
            account.connections -= 1
            if account.connections:
                return
            # Payers without a connection must not shrink the share of the others.
            self.processing.forget(account.processing)
            self.bytes.forget(account.bytes)
            if not account.payer:
                return
            del self._accounts[account.payer]
            self._idle[account.payer] = account
            self._forget_locked(now)

    def _forget_locked(self, now: float) -> None:
        """Forget the two oldest idle accounts if they owe nothing, or if too many are kept."""
        assert self.lock.locked()
        for payer in list(itertools.islice(self._idle, 2)):
            if (
                self._idle[payer].is_settled_locked(now)
                or len(self._idle) > self._max_idle_accounts
            ):
                del self._idle[payer]

    def wait(self, payer: str, now: float) -> float:
        """Return the seconds until a payer may open one more connection, mostly 0.0."""
        with self.lock:
            account = self._accounts.get(payer) or self._idle.get(payer)
            if account is None:
                return 0.0
            debt = account.processing.own.wait(0.0, now)
            if debt > _MAX_WAIT:
                self.bar_locked(account, now)
            debt = max(debt, account.messages.wait(0.0, now))  # barred for a flood of these too
            if not debt:
                account.barred = False
            # until another connection is accepted during the pause
            rest = account.paused_until - now - _MAX_PAUSE
            return max(debt if account.barred else 0.0, rest, 0.0)

    def bars_anybody(self, now: float) -> bool:
        """Return whether any payer may have to wait, without a look-up. Takes no lock."""
        return now < self._barred_until

    def process_locked(self, account: Account, seconds: float, now: float) -> tuple[float, float]:
        """Charge processing; return the seconds of the payer's own debt, and of the common one."""
        assert self.lock.locked()
        own, rest = self.processing.take(account.processing, seconds, now)
        account.paused_until = max(account.paused_until, now + rest)
        if rest > _MAX_PAUSE:
            self._barred_until = max(self._barred_until, now + _MAX_DEBT)
        return own, rest

    def bar_locked(self, account: Account, now: float) -> None:
        """Accept no more connections of an account until its debt is paid."""
        assert self.lock.locked()
        account.barred = True
        self._barred_until = now + _MAX_DEBT

    def __len__(self) -> int:
        """Return the number of accounts that are kept."""
        with self.lock:
            return len(self._accounts) + len(self._idle)
