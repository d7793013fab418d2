"""The table of the documentation says what happens, and what happens is what should."""

from __future__ import annotations

import pytest

from reader_matrix import KINDS, OUTCOMES, READERS, outcome
from site_pages import generator

RIGHT = {
    # input: PubTator, BioC, ADE, IOB; JSONL, CSV, Parquet, PubMed XML, plain text
    "sound": "read read read read; read read read read read",
    "with a byte order mark": "read read read read; read read – read read",
    "with Windows line ends": "read read read read; read read – read read",
    "UTF-16": "refused refused refused refused; file file – read file",
    "Latin-1 in one place": "refused refused refused refused; record record – rest file",
    "empty": "refused refused refused refused; file file file file file",
    "an HTML page": "refused refused refused refused; file file file file read",
    "cut off": "refused refused refused refused; rest read file rest read",
    "`.gz`": "– – – –; read read – read read",
    "`.gz`, cut off": "– – – –; file file – file file",
    "without a record": "refused refused refused refused; file file file file –",
    "one record that is broken": "refused refused refused refused; record record record record –",
    "a text that is blank": "– – – –; record record record record file",
    "two records of one id": "refused refused – –; read read read read –",
    "a mention spelt otherwise (`TNF-a`)": "counted counted counted –; – – – – –",
    "a mention in several pieces": "– counted – –; – – – – –",
    "a mention of no characters": "counted counted – –; – – – – –",
    "overlapping mentions": "read – read –; – – – – –",
    "offsets that are shifted": "refused refused read –; – – – – –",
    "offsets outside the text": "refused refused read –; – – – – –",
    "a type that the corpus has not": "refused refused – read; – – – – –",
    "a relation to a concept that is not mentioned": "counted counted – –; – – – – –",
    "annotations before their text": "read read – –; – – – – –",
    "definitions of entities": "– – – –; – – – file –",
}


@pytest.mark.parametrize("kind", KINDS)
def test_each_reader_does_what_is_right(kind: str) -> None:
    found = [outcome(kind, reader).split()[0] for reader in READERS]
    assert found == RIGHT[kind].replace(";", "").split()


def test_the_page_shows_the_table() -> None:
    page = generator().readers()
    rows = [line.split(" | ") for line in page.splitlines() if line.startswith("| ")]
    assert rows[0][-1] == "plain text |"
    assert [row[0].removeprefix("| ") for row in rows[1 : len(KINDS) + 1]] == list(KINDS)
    assert [row[0].removeprefix("| ") for row in rows[len(KINDS) + 2 :]] == list(OUTCOMES)
