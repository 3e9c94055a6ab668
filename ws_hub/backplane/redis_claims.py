"""Names of which each is one process's alone, among all that name a Redis server.

A hash has the names and their owners. A process that is there renews a key of its own; where
that has expired, what it claims was abandoned. After a fault of the server nobody is judged
until all have had the time to renew theirs.
"""

from __future__ import annotations

from typing import Any

from ..errors import excerpt
from ..log import get_logger
from ..reentrant import Lock
from .reach import Reach
from .redis_links import Links
from .redis_server import RedisServer

__all__ = ["OWNER_SECONDS", "RedisClaims"]

logger = get_logger(__name__)

OWNER_SECONDS = 10.0  # without a sign of life, until a process counts as gone

# KEYS: the claims, the key of the owner. ARGV: the name, the owner, the beginning of such keys,
# milliseconds, and whether another one may be judged.
_CLAIM = """
redis.call('SET', KEYS[2], '1', 'PX', ARGV[4])
-- A sign of life of the owner itself may have come in between.
local owner = redis.call('HGET', KEYS[1], ARGV[1])
if owner and owner ~= ARGV[2] then
    if ARGV[5] == '0' or redis.call('EXISTS', ARGV[3] .. owner) == 1 then
        return 0
    end
end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
return 1
"""

# KEYS: the claims. ARGV: the owner, and the names.
_RELEASE = """
for place = 2, #ARGV do
    if redis.call('HGET', KEYS[1], ARGV[place]) == ARGV[1] then
        redis.call('HDEL', KEYS[1], ARGV[place])
    end
end
"""

# KEYS: the claims. ARGV: the beginning of the owners' keys.
_ABANDONED = """
local all, found, is_there = redis.call('HGETALL', KEYS[1]), {}, {}
for place = 1, #all, 2 do
    local owner = all[place + 1]
    if is_there[owner] == nil then
        is_there[owner] = redis.call('EXISTS', ARGV[1] .. owner)
    end
    if is_there[owner] == 0 then
        redis.call('HDEL', KEYS[1], all[place])
        table.insert(found, all[place])
    end
end
return found
"""


class RedisClaims:
    """The claims of one life of a backplane.

    Args:
        server: the server.
        owner: the name of this process.
        reach: whether the server is reached.

    Threads: any; waits for the server, at most some seconds.
    """

    def __init__(self, server: RedisServer, owner: str, reach: Reach) -> None:
        self._server = server
        self._owner = owner
        self._reach = reach
        self._key, self._owners = server.key("claims"), server.key("process", "")
        self._links = Links(server)
        # guards: _own, _ended. Nothing is taken under it.
        self._lock = Lock()
        self._own: set[str] = set()
        self._ended: set[str] = set()  # let go of, which the server does not know

    def claim(self, name: str) -> bool:
        """Claim a name; False where this process or another has it. Raises OSError."""
        with self._lock:
            if name in self._own:
                return False
            self._own.add(name)  # no other thread of this process claims it meanwhile
            self._ended.discard(name)
        is_claimed = False
        try:
            is_claimed = bool(
                self._run(
                    _CLAIM,
                    [self._key, self._owners + self._owner],
                    [name, self._owner, self._owners, _milliseconds(), int(self._may_judge())],
                )
            )
        except self._server.failures as error:
            raise OSError(
                f"{excerpt(name)} cannot be claimed: {self._server.label} is not reached: "
                f"{excerpt(str(error))}"
            ) from error
        finally:
            if not is_claimed:
                with self._lock:
                    self._own.discard(name)
        return is_claimed

    def release(self, name: str) -> None:
        """Let go of a name; idempotent. Where the server is away, once it is back."""
        with self._lock:
            if name not in self._own:
                return
            self._own.remove(name)
            self._ended.add(name)
        self._release([name])

    def close(self) -> None:
        """Let go of all names."""
        with self._lock:
            names, self._own = [*self._own, *self._ended], set()
        if self._reach.is_up:
            self._release(names)
        self._links.close()

    def abandoned(self) -> list[str]:
        """Return the names whose process has ended without letting go; they are free now.

        Each is returned to one caller alone.
        """
        if not self._may_judge():
            return []
        try:
            found = self._run(_ABANDONED, [self._key], [self._owners])
        except self._server.failures as error:
            logger.debug("abandoned claims cannot be read: %s", error)
            return []
        return [each.decode(errors="replace") for each in found]

    def beat(self) -> tuple[list[tuple[Any, ...]], list[str]]:
        """Return the commands that renew what this process has, and what they let go of."""
        with self._lock:
            own, ended = list(self._own), list(self._ended)
        commands: list[tuple[Any, ...]] = [
            ("SET", self._owners + self._owner, "1", "PX", _milliseconds())
        ]
        for name in own:  # where the server has lost it
            commands.append(("HSETNX", self._key, name, self._owner))
        if ended:
            commands.append(("EVAL", _RELEASE, 1, self._key, self._owner, *ended))
        return commands, ended

    def released(self, names: list[str]) -> None:
        """Note that the server has let go of names."""
        with self._lock:
            self._ended.difference_update(names)

    def _may_judge(self) -> bool:
        return self._reach.is_settled(OWNER_SECONDS)

    def _release(self, names: list[str]) -> None:
        try:
            if names:
                self._run(_RELEASE, [self._key], [self._owner, *names])
        except self._server.failures as error:
            logger.debug("claims cannot be released now: %s", error)
            return
        self.released(names)

    def _run(self, script: str, keys: list[str], arguments: list[str | int]) -> Any:
        words = ("EVAL", script, len(keys), *keys, *arguments)
        return self._links.run(lambda session: session.call(*words))


def _milliseconds() -> int:
    return int(OWNER_SECONDS * 1000)
