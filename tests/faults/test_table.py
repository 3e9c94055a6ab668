"""The table of docs/faults.md says what the tests prove, neither more nor less."""

from __future__ import annotations

import re

import pytest

from tests.faults.table import BEGIN, DOCUMENT, END, ROWS, numbers, proofs, written


def test_the_table_is_the_one_that_the_tests_make() -> None:
    text = DOCUMENT.read_text(encoding="utf-8")
    assert written(text) == text, "write it anew: python -m tests.faults.table"


def test_only_the_table_is_written() -> None:
    made = written(f"before\n{BEGIN}\nold\n{END}\nafter\n")
    assert made.startswith(f"before\n{BEGIN}\n| ") and made.endswith(f"|\n{END}\nafter\n")
    assert "old\n" not in made and made.count("\n| ") == len(ROWS) + 2
    assert written(made) == made


@pytest.mark.parametrize(
    ("name", "rows"),
    [
        ("test_fault_09_a_frame", [9]),
        ("test_fault_16_57_a_frame", [16, 57]),
        ("test_fault_14_15_16_frames", [14, 15, 16]),
        ("test_fault_21_to_24_json", [21, 22, 23, 24]),
        ("test_fault_40_a_fork_of_2_hubs", [40]),
        ("test_fault_1b_bytes", []),
        ("test_a_fault_12", []),
    ],
)
def test_a_name_says_which_rows_it_proves(name: str, rows: list[int]) -> None:
    assert numbers(name) == rows


def test_what_has_an_answer_has_a_proof() -> None:
    """A row without a test is a promise of somebody's: it must be known to be one."""
    known = {8, 29, 53, 55, 56, *range(45, 50), *range(78, 83), 91, *range(103, 111)}
    assert {number for number, tests in proofs().items() if not tests} <= known


def test_a_row_stands_in_one_line_without_bars() -> None:
    assert list(ROWS) == list(range(1, 134))
    assert not [row for row in ROWS.values() for cell in row if re.search(r"[|\n]", cell)]
