"""Two minutes of faults, and a proof that nothing is lost in silence: `make chaos`.

A server whose history is in a file is killed and stopped, its clock is moved, and its clients
of four kinds are behind a network that cuts, holds back and tears. At the end each client must
have what the store has, each message once and in order, but for gaps of which it was told.
Exits with 1 when that is not so.
"""

from __future__ import annotations

import argparse
import functools
import sys
import time

from tests.chaos.peers import PEERS, run_peer
from tests.chaos.plan import Plan
from tests.chaos.run import run, table
from tests.redis_servers import SERVERS


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos")
    parser.add_argument("--seconds", type=float, default=120.0, help="of faults (120)")
    parser.add_argument("--clients", type=int, default=50, help="in all (50)")
    parser.add_argument("--seed", type=int, help="what the faults are drawn from (the time)")
    parser.add_argument("--quiet", action="store_true", help="print no faults as they happen")
    parser.add_argument("--disk", action="store_true", help="lock the server's file now and then")
    parser.add_argument("--workers", type=int, default=1, help="processes of the server (1)")
    parser.add_argument(
        "--backplane",
        choices=("local", *SERVERS),
        default="local",
        help="what connects them (local)",
    )
    parser.add_argument("--no-page", action="store_true", help="start no Chromium")
    parser.add_argument("--peer", choices=PEERS, help="the same faults for another library")
    given = parser.parse_args()
    seed = int(time.time()) if given.seed is None else given.seed
    print(f"seed {seed}, {given.seconds:g} s, {given.clients} clients", flush=True)
    plan = Plan(
        given.seconds,
        given.clients,
        seed,
        page=not given.no_page,
        disk=given.disk,
        workers=given.workers,
        bus="" if given.backplane == "local" else given.backplane,
    )
    try:
        play = run if given.peer is None else functools.partial(run_peer, given.peer)
        outcome = play(plan, lambda line: None if given.quiet else print(line, flush=True))
    except KeyboardInterrupt:
        print("interrupted: all has ended, nothing was judged", file=sys.stderr)
        return 130
    print(table(outcome))
    return 0 if outcome.is_well else 1


if __name__ == "__main__":
    sys.exit(main())
