"""Ends a program when our own process has ended without doing so: killed, crashed, replaced.

A shell in a session of its own reads from a pipe whose other end only our process holds.
When that end closes and the shell has not been killed before, our process has ended.
(`PR_SET_PDEATHSIG` reports the end of the *thread* that started the program, needs code
between fork and exec, and reaches one process.)
"""

from __future__ import annotations

import contextlib
import os

from ..log import get_logger
from .launch import Launched, launch, pipe

__all__ = ["Guard"]

logger = get_logger(__name__)

# Reads the program's standard output (a name in /proc), then its session id. At the end of
# its input it sends SIGTERM to the session and to the descendants that have left it while
# their parents live, and SIGKILL two seconds later, as `Process.close` does. Without /proc it
# signals the process group. A process is identified by its id and its start time.
# A program that was being started when our process ended has told no session id: it is found
# by its standard output, a pipe that no other program has.
_SCRIPT = r"""
read -r output || exit
find_session() {
    for seconds in 0.1 0.3 0.6; do
        ls -l /proc/[0-9]*/fd/1 | while read -r line; do
            case $line in *" -> $output") ;; *) continue ;; esac
            pid=${line##* /proc/} stat=
            while read -r line; do stat=$stat$line; done <"/proc/${pid%%/*}/stat"
            set -- ${stat##*)}
            echo "$4"
        done
        rest "$seconds"
    done
}
rest() { sleep "$1" || sleep 1; }
if read -r sid; then
    read -r never
else
    [ -n "$output" ] || exit
    sid=$(find_session)
    sid=${sid%%[!0-9]*}
    [ -n "$sid" ] || exit
fi
all() {
    for f in /proc/[0-9]*/stat; do
        stat=
        while read -r line; do stat=$stat$line; done <"$f"  # a name may hold newlines
        pid=${f#/proc/} pid=${pid%/stat}
        set -- ${stat##*)}
        [ -n "${20}" ] || continue
        [ "$1" != Z ] || [ "${18}" -gt 1 ] || continue  # other threads live on
        printf '%s ' "$pid:$2:$4:${20}"
    done
}
known=' '
look() {
    present=$(all) found=' ' pids= before=
    while [ "$found" != "$before" ]; do
        before=$found
        for each in $present; do
            pid=${each%%:*} each=${each#*:}
            parent=${each%%:*} each=${each#*:}
            it=$pid:${each#*:}
            case $found in *" $it "*) continue ;; esac
            case "${each%%:*}/$known/$found" in
                "$sid"/* | */*" $it "*/* | */*/*" $parent:"*) ;;
                *) continue ;;
            esac
            found="$found$it " pids="$pids $pid"
        done
    done
    known=$found
}
[ -e /proc/self/stat ] || look() { pids=; kill -0 -- "-$sid" && pids=-$sid; }
look
kill -s TERM -- $pids
for seconds in 0.2 0.3 0.5 1; do
    look
    [ -n "$pids" ] || exit
    rest $seconds
done
for seconds in 0.1 0.4 1 1; do
    look
    [ -n "$pids" ] || exit
    kill -s KILL -- $pids
    rest $seconds
done
"""
_ENVIRONMENT = {"PATH": "/usr/bin:/bin"}


class Guard:
    """Guards one session, from `expect` and `watch` until `close`.

    It is started before the program, so that no program is ever unguarded. On a system
    without /bin/sh it does nothing: a program may outlive our process.

    Raises OSError when no descriptor or no process is available.
    """

    def __init__(self) -> None:
        self._shell: Launched | None = None
        self._ours: int | None = None
        theirs, ours = pipe()
        try:
            argv = ["ws-hub-guard", "-c", _SCRIPT, "ws-hub-guard"]
            files: list[int | str] = [theirs, os.devnull, os.devnull]
            self._shell = launch("/bin/sh", argv, _ENVIRONMENT, files, "/")
            self._ours = ours
        except FileNotFoundError:
            logger.debug("no /bin/sh: programs would outlive this process")
            os.close(ours)
        except BaseException:
            os.close(ours)
            raise
        finally:
            os.close(theirs)

    def expect(self, output: int | None) -> None:
        """Announce the pipe that becomes a program's standard output. Does not wait.

        None for a terminal: its name may be reused soon, and its end sends SIGHUP anyway.
        """
        name = b""
        if output is not None:
            with contextlib.suppress(OSError):  # no /proc
                name = os.fsencode(os.readlink(f"/proc/self/fd/{output}"))
        self._tell(name)

    def watch(self, leader: int) -> None:
        """Announce the session, by the process id of its leader. Does not wait."""
        self._tell(b"%d" % leader)

    def _tell(self, text: bytes) -> None:
        if self._ours is not None:
            with contextlib.suppress(BrokenPipeError):  # the shell was killed
                os.write(self._ours, text + b"\n")

    def close(self) -> None:
        """Stop guarding, and leave the session alone. Idempotent.

        Called before the leader is reaped: its process id must not be reused while it is
        guarded.
        """
        if self._shell is not None:
            self._shell.kill()
            self._shell.reap()
        self.forget()

    def forget(self) -> None:
        """Close the pipe in a forked child: the guard would wait for the child's end too."""
        if self._shell is not None:
            self._shell.close()
            self._shell = None
        if self._ours is not None:
            os.close(self._ours)
            self._ours = None
