"""RFC 6455 and 7692, by the Autobahn cases. `make conformance` repeats them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conformance.suite import (
    ALL,
    KOSOKU,
    SOME_COMPRESSED,
    Verdicts,
    client_cases,
    server_cases,
)


@pytest.mark.skipif(KOSOKU is None, reason="kosoku, which drives the cases, is not installed")
@pytest.mark.parametrize("run", [server_cases, client_cases], ids=["server", "client"])
@pytest.mark.parametrize("cases", [ALL, SOME_COMPRESSED], ids=["all", "compressed"])
def test_every_autobahn_case_passes_and_closes_as_it_should(
    run: Callable[..., Verdicts], cases: tuple[str, ...], tmp_path: Path
) -> None:
    assert run(tmp_path, cases) == {}
