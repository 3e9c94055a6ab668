"""RFC 6455, by the Autobahn cases: once each. `make conformance` repeats them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conformance.suite import KOSOKU, Verdicts, client_cases, server_cases


@pytest.mark.skipif(KOSOKU is None, reason="kosoku, which drives the cases, is not installed")
@pytest.mark.parametrize("run", [server_cases, client_cases], ids=["server", "client"])
def test_every_autobahn_case_passes_and_closes_as_it_should(
    run: Callable[[Path], Verdicts], tmp_path: Path
) -> None:
    assert run(tmp_path) == {}
