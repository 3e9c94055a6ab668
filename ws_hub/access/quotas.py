"""What clients may cost: processing time and bytes, by payer, and one bound over all.

Must not know sockets, clocks, or what a payer is beyond its key: time is an argument.

A payer is who a connection counts for: its user, else its address, else that connection
alone. All connections of a payer use one account, which outlives them: who reconnects
finds it as it was left. An account whose debt is paid is as good as new, and is forgotten.

Of each resource a payer has a rate and a burst of its own, which no other payer can use
up. All payers together have a rate as well. Who uses no more than a small share of its own
rate does not notice when that is used up: only what is beyond waits for its turn in what is
for all, or for the share, whichever comes first.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

from ..config import HubConfig
from ..reentrant import Lock
from .token_bucket import Bucket

__all__ = ["Account", "Budget", "Flood", "Tab", "address_payer", "user_payer"]

_CONNECTION = 0.001  # seconds of processing: about what a connect costs, whoever serves it
_MOST_SHARE = 1 / 10  # of a payer's rate, kept for it whatever others use
_SHARE_BURST = 2.0  # seconds of that share, in store
_FIRST_SHARE = 0.1  # seconds of it, at first
_BURST_IN_ALL = 0.5  # seconds of what is for all, in store
_UNPAID = 1 / 64  # of a burst, which a connection may owe: to charge is work as well
_MOST_WAIT = 10.0  # seconds: a payer whose debt takes longer than that to pay is cut
_MOST_REST = 2.0  # seconds of rest of a payer's connections, above which no other is let in
_MOST_DEBT = 15.0  # seconds: nobody is kept out for longer
_DOUBT = (0.1, 2.0)  # seconds a second, and at once, that publishers wait in vain for a payer
_MOST_LEFT = 16_384  # accounts that are remembered for their debts alone


@dataclass(frozen=True, slots=True)
class Flood:
    """A payer asks for so much that its connection is to be closed.

    Args:
        reason: what is told to the peer.
        limit: the name that this is counted under.
    """

    reason: str
    limit: str


_MESSAGES = Flood("too many messages", "message_floods")
_PROCESSING = Flood("too much processing asked for", "overdrafts")


def user_payer(user_id: str) -> str:
    """Return the key of a user's account."""
    return f"user:{user_id}"


def address_payer(network: str) -> str:
    """Return the key of an address's account; "" for no address: the connection pays alone."""
    return network and f"address:{network}"


class _Purse:
    """What one payer has of one resource: its own rate, and its share of what is for all."""

    __slots__ = ("own", "share")

    def __init__(self, own: Bucket, share: Bucket) -> None:
        self.own = own
        self.share = share


class _Resource:
    """Something that payers use: so much each, and so much in all.

    Args:
        rate: of a payer; None for no bound at all.
        burst: of a payer.
        rate_in_all: of all payers; None for no bound over all.
    """

    def __init__(self, rate: float | None, burst: float, rate_in_all: float | None) -> None:
        self._rate = rate
        self._burst = burst
        self._in_all = None if rate is None else rate_in_all
        self._most_share = 0.0 if rate is None else rate * _MOST_SHARE
        self._for_all = Bucket(self._in_all, (self._in_all or 0.0) * _BURST_IN_ALL, _MOST_DEBT)
        # Who has used more than its share lately, and when, the last last.
        self._greedy: dict[_Purse, float] = {}

    def purse(self, now: float) -> _Purse:
        """Return that of a new payer."""
        rate = None if self._in_all is None else self._most_share
        share = Bucket(rate, _SHARE_BURST * self._most_share, _MOST_DEBT)
        # Not full: a new address for each connection must not be worth its while.
        share.take((_SHARE_BURST - _FIRST_SHARE) * self._most_share, now)
        return _Purse(Bucket(self._rate, self._burst, _MOST_DEBT), share)

    def take(self, purse: _Purse, amount: float, now: float) -> tuple[float, float]:
        """Take from a purse; return the seconds until its own part and the rest is back."""
        own = purse.own.take(amount, now)
        if self._in_all is None:
            return own, 0.0
        rate = self._share(now)
        purse.share.repace(rate)
        # All that it uses counts against its share, whatever it is taken from in the end.
        alone = purse.share.take(amount, now)
        if not alone:
            return own, 0.0
        self._greedy.pop(purse, None)
        self._greedy[purse] = now
        beyond = min(amount, alone * rate)
        if self._for_all.wait(beyond, now) > alone:
            return own, alone
        return own, self._for_all.take(beyond, now)

    def forget(self, purse: _Purse) -> None:
        """Count one payer less among those who use more than their share."""
        self._greedy.pop(purse, None)

    def _share(self, now: float) -> float:
        """Return the rate at which a payer is not held up by others.

        It shrinks when many use more: else there would be no bound over all of those.
        """
        assert self._in_all is not None
        greedy = self._greedy
        for purse, when in list(itertools.islice(greedy.items(), 2)):
            if when < now - _MOST_DEBT:
                del greedy[purse]
        return min(self._most_share, self._in_all / max(len(greedy), 1))


class Account:
    """What one payer has used, on all its connections. Made by a Budget, under its lock."""

    __slots__ = ("_budget", "barred", "bytes", "connections", "controls", "doubt", "messages",
                 "payer", "processing", "rests_until")  # fmt: skip

    def __init__(self, budget: Budget, payer: str, now: float) -> None:
        config = budget.config
        self._budget = budget
        self.payer = payer
        self.connections = 0
        self.barred = False  # whether no connection is let in until the debt is paid
        self.rests_until = now  # because of what all have used
        self.messages = Bucket(config.max_message_rate, config.message_burst, _MOST_DEBT)
        self.controls = Bucket(config.max_control_rate, config.control_burst, _MOST_DEBT)
        self.doubt = Bucket(*_DOUBT, _MOST_DEBT)
        self.processing = budget.processing.purse(now)
        self.bytes = budget.bytes.purse(now)

    def charge(
        self, now: float, *, seconds: float, messages: int = 0, controls: int = 0, size: int = 0
    ) -> float | Flood:
        """Charge what was done for one connection; return for how long it must now rest.

        Args:
            now: monotonic seconds.
            seconds: of processing. More than a burst counts as one: no single request,
                however much an application makes of it, keeps its client waiting for long.
            messages: that came in.
            controls: pings, and pongs that were not asked for.
            size: bytes that were kept or sent because the client asked for it.
        """
        budget = self._budget
        with budget.lock:
            burst = budget.config.processing_burst
            own, rest = budget.process_locked(self, min(seconds, burst), now)
            rest = max(own, rest)
            if own > _MOST_WAIT or self.processing.own.overdrawn(now) > budget.patience:
                budget.bar_locked(self, now)
                return _PROCESSING
            if messages:
                rest = max(rest, self.messages.take(messages, now))
                if self.messages.overdrawn(now) > budget.patience:
                    budget.bar_locked(self, now)
                    return _MESSAGES
            if controls:
                rest = max(rest, self.controls.take(controls, now))
            if size:
                rest = max(rest, *budget.bytes.take(self.bytes, size, now))
            return rest

    def charge_bytes(self, size: int, now: float) -> float:
        """Charge bytes that are kept or sent; return the seconds until more may be."""
        budget = self._budget
        with budget.lock:
            return max(budget.bytes.take(self.bytes, size, now))

    def charge_processing(self, seconds: float, now: float) -> None:
        """Charge what another thread than its reader has done for a client."""
        budget = self._budget
        with budget.lock:
            budget.process_locked(self, seconds, now)

    def is_doubted(self, now: float) -> bool:
        """Say whether publishers have waited in vain for its clients for too long."""
        with self._budget.lock:
            return self.doubt.wait(0.0, now) > 0

    def charge_doubt(self, seconds: float, now: float) -> None:
        """Note that a publisher waited so long for a client that did not read."""
        with self._budget.lock:
            self.doubt.take(seconds, now)

    def full_locked(self, now: float) -> bool:
        """Say whether it is as new, for one who holds the budget's lock."""
        assert self._budget.lock.locked()
        return now >= self.rests_until and all(
            bucket.full(now)
            for bucket in (
                self.messages,
                self.controls,
                self.doubt,
                self.processing.own,
                self.bytes.own,
            )
        )


class Tab:
    """What one connection owes and has not paid yet: most receives are too little to charge.

    Args:
        config: the hub's settings. A small part of each burst may be owed.
    """

    __slots__ = ("_controls", "_messages", "_most", "_new", "_seconds", "_size")

    def __init__(self, config: HubConfig) -> None:
        self._most = (
            config.processing_burst * _UNPAID,
            config.message_burst * _UNPAID,
            config.control_burst * _UNPAID,
            config.byte_burst * _UNPAID,
        )
        self._seconds, self._messages, self._controls, self._size = 0.0, 0, 0, 0
        self._new = True

    def owe(self, size: int) -> None:
        """Add bytes that were kept or sent."""
        self._size += size

    def add(self, seconds: float, messages: int, controls: int) -> bool:
        """Add what was done; say whether it is to be paid now.

        At first it is: others may have left a debt, and a new connection begins with that.
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

    def pay(self, account: Account, now: float) -> float | Flood:
        """Charge all of it to an account; return for how long the connection must rest."""
        seconds, messages, controls, size = (
            self._seconds,
            self._messages,
            self._controls,
            self._size,
        )
        self._seconds, self._messages, self._controls, self._size = 0.0, 0, 0, 0
        self._new = False
        return account.charge(now, seconds=seconds, messages=messages, controls=controls, size=size)


class Budget:
    """The accounts of all payers, and what all of them may use together.

    Args:
        config: the hub's settings.

    Attributes:
        lock: guards what it and its accounts hold.
        patience: seconds for which an account may be overdrawn.
    """

    def __init__(self, config: HubConfig) -> None:
        self.config = config
        # guards: everything below, and all accounts. Taken after a transport's lock; nothing is
        # taken under it.
        self.lock = Lock()
        self.patience = math.inf if config.flood_timeout is None else config.flood_timeout
        self.processing = _Resource(
            config.max_processing_rate, config.processing_burst, config.max_processing_rate_in_all
        )
        self.bytes = _Resource(config.max_byte_rate, config.byte_burst, config.max_byte_rate_in_all)
        self._barred_until = -math.inf  # when the last one that is barred has paid; read without
        self._accounts: dict[str, Account] = {}
        # Those without a connection, whose debt is not paid: who left first, first.
        self._left: dict[str, Account] = {}

    def enter(self, payer: str, now: float) -> Account:
        """Return the account of a connection that has come, charged for that.

        `leave` takes it back. "" for a connection that pays alone.
        """
        with self.lock:
            account = self._accounts.get(payer) or self._left.pop(payer, None)
            if account is None:
                account = Account(self, payer, now)
            if payer:
                self._accounts[payer] = account
            account.connections += 1
            self.process_locked(account, _CONNECTION, now)
            return account

    def leave(self, account: Account, now: float) -> None:
        """Take note that a connection of an account has ended."""
        with self.lock:
            account.connections -= 1
            if account.connections:
                return
            # Those who are gone take no share from those who are here.
            self.processing.forget(account.processing)
            self.bytes.forget(account.bytes)
            if not account.payer:
                return
            del self._accounts[account.payer]
            self._left[account.payer] = account
            self._forget_locked(now)

    def _forget_locked(self, now: float) -> None:
        """Forget accounts that are as new: the oldest, of which two go for each that comes."""
        assert self.lock.locked()
        for payer in list(itertools.islice(self._left, 2)):
            if self._left[payer].full_locked(now) or len(self._left) > _MOST_LEFT:
                del self._left[payer]

    def wait(self, payer: str, now: float) -> float:
        """Return the seconds until a payer's debt lets one more connection in, mostly 0.0."""
        with self.lock:
            account = self._accounts.get(payer) or self._left.get(payer)
            if account is None:
                return 0.0
            debt = account.processing.own.wait(0.0, now)
            if debt > _MOST_WAIT:
                self.bar_locked(account, now)
            elif not debt:
                account.barred = False
            rest = account.rests_until - now - _MOST_REST  # until it may connect all the same
            return max(debt if account.barred else 0.0, rest, 0.0)

    def bars_anybody(self, now: float) -> bool:
        """Say whether there may be a payer that has to wait, without looking for it."""
        return now < self._barred_until

    def process_locked(self, account: Account, seconds: float, now: float) -> tuple[float, float]:
        """Charge processing; return the seconds until its own part and the rest is back."""
        assert self.lock.locked()
        own, rest = self.processing.take(account.processing, seconds, now)
        account.rests_until = max(account.rests_until, now + rest)
        if rest > _MOST_REST:
            self._barred_until = max(self._barred_until, now + _MOST_DEBT)
        return own, rest

    def bar_locked(self, account: Account, now: float) -> None:
        """Let in no more connections of an account until its debt is paid."""
        assert self.lock.locked()
        account.barred = True
        self._barred_until = now + _MOST_DEBT

    def __len__(self) -> int:
        """How many accounts are remembered."""
        with self.lock:
            return len(self._accounts) + len(self._left)
