"""Takes the samples: who is measured when, how often, and what becomes of failures.

Rows with the same setup share their processes. The repeats of a row go around the servers,
so that what else the machine does meets all of them alike; whose turn it is not is
stopped. Each server has a warm-up sample that does not count.
"""

from __future__ import annotations

import contextlib
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence

from .result import Result, relate, result_of
from .rows import Incomplete, Plan, Row, Sample, Setup
from .servers import FLOORS, RIVALS
from .stage import ProcessFailed, Stage, installed, missing

__all__ = ["measure"]

Progress = Callable[[str, Mapping[str, float] | None], object]


def measure(
    rows: Sequence[Row], plan: Plan, progress: Progress = lambda row, seconds: None
) -> list[Result]:
    """Return the results of the rows, in their order, with ratios.

    Args:
        rows: what to measure.
        plan: how much of it.
        progress: called with a row's name and None when it begins, and with the seconds
            that each server took when it has ended.
    """
    order = [(row.name, server) for row in rows for server in row.servers]
    setups: dict[Setup, list[Row]] = {}
    for row in rows:
        setups.setdefault(row.setup, []).append(row)
    results: list[Result] = []
    for setup, members in setups.items():
        for company in _companies(setup, members):
            with _Stages(setup, plan) as stages:
                for row in members:
                    present = [name for name in row.servers if name in company]
                    if not present:
                        continue
                    progress(row.name, None)
                    seconds = dict.fromkeys(present, 0.0)
                    results += _measure_row(row, present, stages, plan, seconds)
                    progress(row.name, seconds)
    results.sort(key=lambda result: order.index((result.row, result.server)))
    relate(results, floors=FLOORS, peers=RIVALS)
    return results


def _companies(setup: Setup, members: Sequence[Row]) -> list[list[str]]:
    """Return which servers run at the same time: all, or one after the other."""
    everybody = list(dict.fromkeys(name for row in members for name in row.servers))
    return [[name] for name in everybody] if setup.alone else [everybody]


class _Stages:
    """The stages of one setup: started when first needed, ended together."""

    def __init__(self, setup: Setup, plan: Plan) -> None:
        self._setup = setup
        self._plan = plan
        self._stages: dict[str, Stage] = {}
        self._unseated: dict[str, str] = {}

    def __enter__(self) -> _Stages:
        return self

    def __exit__(self, *exc_info: object) -> None:
        for name in list(self._stages):
            self.drop(name)

    def get(self, name: str) -> Stage:
        """Return the stage of a server, with its clients connected.

        Raises ProcessFailed when they could not be, for each row that asks, but it is
        tried once: a server that does not take so many clients is long about it.
        """
        if name in self._unseated:
            raise ProcessFailed(self._unseated[name])
        if name not in self._stages:
            stage = self._stages[name] = Stage(name, spinner=self._setup.spinner)
            try:
                self._setup.seat(stage, self._plan)
            except ProcessFailed as failure:
                self._unseated[name] = str(failure)
                raise
        return self._stages[name]

    def drop(self, name: str) -> None:
        """End a stage: after a failure nobody knows what is still under way in it."""
        stage = self._stages.pop(name, None)
        if stage is not None:
            stage.close()


def _measure_row(
    row: Row, servers: Sequence[str], stages: _Stages, plan: Plan, seconds: dict[str, float]
) -> Iterator[Result]:
    """Take the samples of these servers; add what each takes to its seconds."""
    samples: dict[str, list[Sample]] = {}
    failures: dict[str, str] = {}
    for name in servers:
        if installed(name):
            samples[name] = []
        else:
            failures[name] = f"{missing(name)} is not installed"
    for turn in range(1 if row.once else plan.repeats + 1):
        for name, found in samples.items():
            if name in failures:
                continue
            began = time.monotonic()
            try:
                stage = stages.get(name)
                with stage.turn():
                    sample = row.sample(stage, plan)
            except (Incomplete, ProcessFailed) as failure:
                failures[name] = str(failure)
                with contextlib.suppress(ProcessFailed):
                    stages.drop(name)
                continue
            finally:
                seconds[name] += time.monotonic() - began
            if turn or row.once:  # the first is the warm-up
                found.append(sample)
    for name in servers:
        yield _result(row, name, samples.get(name, []), failures.get(name))


def _result(row: Row, name: str, samples: Sequence[Sample], failure: str | None) -> Result:
    if failure is not None:
        return result_of(row.name, name, row.unit, (), higher=row.higher, note=failure)
    result = result_of(
        row.name,
        name,
        row.unit,
        [sample.value for sample in samples],
        higher=row.higher,
        note=samples[-1].note,
    )
    for key in samples[-1].extra:
        result.extra[key] = statistics.median(sample.extra[key] for sample in samples)
    return result
