"""No secret comes out of random output that is cut at random places (`tests.mask_fuzz`)."""

from __future__ import annotations

import os
import random

from tests.mask_fuzz import run

CUTS = int(os.environ.get("WS_HUB_MASK_CUTS", "4000"))


def test_no_secret_comes_out_and_all_else_does() -> None:
    seed = random.randrange(2**32)  # the error names it
    cuts, _ = run(CUTS, seed)
    assert cuts >= CUTS
