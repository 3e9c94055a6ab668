"""The rules that the processes of one application share: kept in their backplane as JSON.

Whether a channel keeps history is in the rules of the hubs. A process without a hub, which a
cron job is, finds them here; and a hub that has others than those that run is warned of.

    {"history":"","rules":[{"pattern":"chat:*","history_messages":100,...}],"v":1}

Each rule has all fields of a ChannelRule. `history` is the path of a file that is not the
backplane's own, or the type of another store. Fields of a rule that are not known are skipped;
another version is refused.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..config import ChannelRule, HubConfig, as_rules
from ..errors import ConfigError, excerpt
from ..log import get_logger
from .sqlite import SqliteHistory

if TYPE_CHECKING:
    from .bus import Backplane

__all__ = ["SharedRules", "compare", "share"]

logger = get_logger(__name__)

_VERSION = 1
_UNSHARED = "the rules of the channels cannot be shared in %r: %s"
_FIELDS = tuple(each.name for each in dataclasses.fields(ChannelRule))


@dataclass(frozen=True, slots=True)
class SharedRules:
    """What all processes of an application must have in common.

    Args:
        rules: the rules for channels.
        history: the path of the file of the history, or the type of another store; "" for the
            one that the backplane shares.
    """

    rules: tuple[ChannelRule, ...]
    history: str = ""

    @classmethod
    def of(cls, config: HubConfig) -> SharedRules:
        """Return those of a hub."""
        store, history = config.history, ""
        if isinstance(store, SqliteHistory):
            history = str(store.path)
        elif store is not None:
            history = type(store).__name__
        return cls(as_rules(config.rules), history)

    @classmethod
    def parse(cls, text: str) -> SharedRules:
        """Return what `text` has written; raises ConfigError for anything else."""
        try:
            found: Any = json.loads(text)
            history = found["history"]
            is_ours = found["v"] == _VERSION and isinstance(history, str)
            given = [{name: each[name] for name in _FIELDS if name in each}
                     for each in found["rules"]]  # fmt: skip
            rules = as_rules(given)
        except (ValueError, LookupError, TypeError, RecursionError) as error:
            raise _unreadable(text) from error
        if not is_ours:
            raise _unreadable(text)
        return cls(rules, history)

    def text(self) -> str:
        """Return them as JSON, the same for the same rules."""
        fields = {
            "v": _VERSION,
            "history": self.history,
            "rules": [dataclasses.asdict(each) for each in self.rules],
        }
        return json.dumps(fields, sort_keys=True, separators=(",", ":"))

    def difference(self, there: SharedRules) -> str:
        """Return the first difference to those of another process, as a sentence; "" for none."""
        for own, other in zip(self.rules, there.rules, strict=False):
            if own.pattern != other.pattern:
                return (
                    f"where the rule for {excerpt(own.pattern)} stands here, there is one for "
                    f"{excerpt(other.pattern)} there"
                )
            for name in _FIELDS:
                here, elsewhere = getattr(own, name), getattr(other, name)
                if here != elsewhere:
                    return (
                        f"the rule for {excerpt(own.pattern)} has {name}={here!r} here, and "
                        f"{name}={elsewhere!r} there"
                    )
        few, many = len(there.rules), len(self.rules)
        if few != many:
            longer, where = (self, "here") if many > few else (there, "there")
            pattern = longer.rules[min(few, many)].pattern
            return f"there is a rule for {excerpt(pattern)} {where} alone"
        if self.history != there.history:
            return (
                f"the history is in {excerpt(self.history or 'the backplane')} here, and in "
                f"{excerpt(there.history or 'the backplane')} there"
            )
        return ""


def _unreadable(text: str) -> ConfigError:
    return ConfigError(
        f"the rules that the application has left, {excerpt(text)}, cannot be read: use the same "
        "version of ws_hub in all processes, and start the application again, which writes them; "
        "or pass rules="
    )


def share(backplane: Backplane, config: HubConfig) -> None:
    """Leave the rules of a hub in its backplane; warn where others run that have other ones.

    Threads: the one that starts the hub; waits for the backplane.
    """
    own = SharedRules.of(config).text()
    try:
        before = backplane.keep_rules(own)
    except OSError as error:  # the hub needs them not
        logger.warning(_UNSHARED, backplane, error)
        return
    if before is not None:
        compare(backplane, own, before)


def compare(backplane: object, own: str, before: str) -> None:
    """Warn of the first difference between the rules of a hub and those from before.

    Threads: any; does not wait.
    """
    try:
        difference = SharedRules.parse(own).difference(SharedRules.parse(before))
    except ConfigError as error:
        logger.warning(_UNSHARED, backplane, error)
        return
    if difference:
        logger.warning(
            "other processes of %r run with other rules: %s. Give all processes of a backplane "
            "the same rules; a Publisher goes by those of this process, which has begun last",
            backplane,
            difference,
        )
