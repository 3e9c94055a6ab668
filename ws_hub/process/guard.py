"""Ends a program when the process that started it is no more: killed, crashed, replaced.

Must not know what the program is, or how it ends otherwise. A shell in a session of its own
waits at a pipe whose other end only we hold: when it closes without the shell having been
told to go, we are gone. (`PR_SET_PDEATHSIG` would tell of the end of the *thread* that
started the program, would need code between fork and exec, and reaches one process.)
"""

from __future__ import annotations

import contextlib
import os

from ..log import get_logger
from .launch import Launched, launch, pipe

__all__ = ["Guard"]

logger = get_logger(__name__)

# SIGTERM to all of the session whose number it was told, and to the descendants that have
# left it while their parents live; SIGKILL two seconds later, as `Process.close`. Where there
# is no /proc it is the process group. A process is known by its number and its start.
# One that was being started when we ended is found by its standard output, a pipe of ours.
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
    """Watches over one session, from `expect` and `watch` until `close`.

    It is there before the program is, so that no program is ever without one. A system
    without a shell has none: its programs outlive us.

    Raises OSError when there is no descriptor, or no process, left for it.
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
        """Tell it the pipe that will be the standard output of a program. Does not wait.

        None for a terminal, whose name may be another's soon; its end is a SIGHUP.
        """
        name = b""
        if output is not None:
            with contextlib.suppress(OSError):  # no /proc
                name = os.fsencode(os.readlink(f"/proc/self/fd/{output}"))
        self._tell(name)

    def watch(self, leader: int) -> None:
        """Tell it the session, by the number of its leader. Does not wait."""
        self._tell(b"%d" % leader)

    def _tell(self, text: bytes) -> None:
        if self._ours is not None:
            with contextlib.suppress(BrokenPipeError):  # somebody has killed it
                os.write(self._ours, text + b"\n")

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
