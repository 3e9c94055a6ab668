"""Ends a program when the process that started it is no more: killed, crashed, replaced.

Must not know what the program is, or how it ends otherwise. A shell in a session of its own
waits at a pipe whose other end only we hold: when it closes without the shell having been
told to go, we are gone. (`PR_SET_PDEATHSIG` would tell of the end of the *thread* that
started the program, would need code between fork and exec, and reaches one process.)
"""

from __future__ import annotations

import os

from .launch import Launched, launch, pipe
from .log import get_logger

__all__ = ["Guard"]

logger = get_logger(__name__)

# SIGTERM to all of the session `$1`, and SIGKILL two seconds later, as `Process.close`.
# Where there is no /proc it is the process group.
_SCRIPT = r"""
read -r never
sid=$1
members() {
    for f in /proc/[0-9]*/stat; do
        read -r stat <"$f" || continue
        pid=${f#/proc/} pid=${pid%/stat}
        set -- ${stat##*)}
        [ "$1" != Z ] && [ "$4" = "$sid" ] && printf '%s ' "$pid"
    done
}
[ -e /proc/self/stat ] || members() { kill -0 -- "-$sid" && echo "-$sid"; }
rest() { sleep "$1" || sleep 1; }
kill -s TERM -- $(members)
for seconds in 0.2 0.3 0.5 1; do
    [ -n "$(members)" ] || exit
    rest $seconds
done
for seconds in 0.1 0.4 1 1; do
    left=$(members)
    [ -n "$left" ] || exit
    kill -s KILL -- $left
    rest $seconds
done
"""
_ENVIRONMENT = {"PATH": "/usr/bin:/bin"}


class Guard:
    """Watches over one session, by the number of its leader, until `close`.

    A system without a shell has none: its programs outlive us.

    Raises OSError when there is no descriptor, or no process, left for it.
    """

    def __init__(self, leader: int) -> None:
        self._shell: Launched | None = None
        self._ours: int | None = None
        theirs, ours = pipe()
        try:
            argv = ["ws-hub-guard", "-c", _SCRIPT, "ws-hub-guard", str(leader)]
            files: list[int | str] = [theirs, os.devnull, os.devnull]
            self._shell = launch("/bin/sh", argv, _ENVIRONMENT, files, "/")
            self._ours = ours
        except FileNotFoundError:
            logger.debug("no /bin/sh: program %d would outlive this process", leader)
            os.close(ours)
        except BaseException:
            os.close(ours)
            raise
        finally:
            os.close(theirs)

    def close(self) -> None:
        """End the watch; what it watched over is left alone. Idempotent.

        Before the leader is reaped: its number must not be another's while it is watched.
        """
        if self._shell is not None:
            self._shell.kill()
            self._shell.reap()
        self.forget()

    def forget(self) -> None:
        """Let go of the pipe in a forked child, or the guard would wait for that as well."""
        if self._shell is not None:
            self._shell.close()
            self._shell = None
        if self._ours is not None:
            os.close(self._ours)
            self._ours = None
