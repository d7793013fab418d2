"""Faults that are collected: in order, in one message, and not without end."""

from __future__ import annotations

import pytest

from odin_slm.core.errors import CorpusFormatError
from odin_slm.corpora.faults import Faults


def collected(count: int) -> Faults:
    faults = Faults()
    for number in range(1, count + 1):
        with faults.collected(), faults.collected():
            raise CorpusFormatError(f"fault {number}.", where=f"a.txt:{number}", fix="Mend the line.")
    return faults


def message(count: int) -> str:
    with pytest.raises(CorpusFormatError) as raised:
        collected(count).stop()
    return str(raised.value)


def test_no_fault_stops_nothing() -> None:
    collected(0).stop()


def test_one_fault_is_the_error_itself() -> None:
    assert message(1) == "a.txt:1: fault 1. Mend the line."


def test_several_faults_are_lines_and_their_advice_is_given_once() -> None:
    assert message(2) == "a.txt:1: fault 1.\na.txt:2: fault 2.\n2 faults in all. Mend the line."


def test_a_long_list_ends_with_a_number() -> None:
    lines = message(1234).splitlines()
    assert lines[99:] == ["a.txt:100: fault 100.", "1134 more faults. Mend the line."]


def test_what_is_no_corpus_at_all_is_not_read_to_its_end() -> None:
    with pytest.raises(CorpusFormatError, match=r"Reading stopped at fault 10000\."):
        collected(10**6)


def test_another_error_is_not_collected() -> None:
    with pytest.raises(ZeroDivisionError), Faults().collected():
        raise ZeroDivisionError
