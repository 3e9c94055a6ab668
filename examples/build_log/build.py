"""Something to build: prints what a compiler might, in colour, with a bar that moves."""

from __future__ import annotations

import time

PARTS = ("parser", "planner", "storage", "network", "console")

for number, part in enumerate(PARTS, 1):
    print(f"\x1b[36m[{number}/{len(PARTS)}]\x1b[0m compiling \x1b[1m{part}\x1b[0m")
    time.sleep(0.3)
    if part == "storage":
        print("\x1b[33mwarning:\x1b[0m 'pages' is written and never read")
for percent in range(0, 101, 4):
    print(f"\rlinking {'█' * (percent // 5):<20} {percent:3}%", end="", flush=True)
    time.sleep(0.05)
print("\n\x1b[32mbuilt\x1b[0m in 3 seconds")
