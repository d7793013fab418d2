"""Whatever a reader of annotations is given, it returns sound documents or names the place, and invents no mention."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Mapping

import pytest

from corpora.own.reading import read
from corpora.test_robustness import mutated
from odin_slm.config.parameters import TaskParams
from odin_slm.core.errors import CorpusFormatError
from odin_slm.corpora import own
from odin_slm.corpora.parsed import require_sound
from own_corpora_files import LAYOUTS, NOTES

TEXTS = {name: layout for name, layout in LAYOUTS.items() if layout.format != "parquet"}
NUMBERS = {
    "brat": r"(?<=[ ;])\d+(?=[ \t])",
    "PubTator, own": r"(?<=\t)\d+(?=\t)",
    "BioC XML": r'(?:(?<=length=")|(?<=location offset="))\d+',
    "BioC JSON, own": r'(?:(?<="length": )\d+|\d+(?=,\s*"length"))',
    "Label Studio": r'(?:(?<="start": )|(?<="end": ))\d+',
    "CSV, own": r'(?:(?<=""start"": )|(?<=""end"": ))\d+',
}
"""Layout -> the numbers in it that are offsets of mentions, which say their text as well."""


def files_of(name: str) -> dict[str, str]:
    return {file: content.decode() for file, content in LAYOUTS[name].write(NOTES).items()}


def read_or_refuse(name: str, files: Mapping[str, str], on_fault: str) -> own.ParsedCorpus | None:
    layout = LAYOUTS[name]
    block = layout.block(on_fault=on_fault)
    refusal = None
    try:
        parsed = own.parse("notes", block, files, {})
    except CorpusFormatError as error:
        refusal = error
    if refusal is not None:
        assert re.match(r"[^:]+:[0-9]+", refusal.where)
        assert refusal.fix
        return None
    require_sound("notes", parsed.documents, TaskParams.model_validate({"own_corpora": {"notes": block}}).task())
    json.dumps([document.to_dict() for document in parsed.documents], ensure_ascii=False).encode()
    json.dumps(parsed.report, ensure_ascii=False).encode()
    return parsed


@pytest.mark.parametrize("name", TEXTS)
def test_mutated_files_give_sound_documents_or_a_named_place(name: str) -> None:
    rng = random.Random(name)
    files = files_of(name)
    accepted = []
    for _ in range(40):
        file = rng.choice(sorted(files))
        damaged = files | {file: mutated(files[file], rng)}
        strictly, leniently = (read_or_refuse(name, damaged, way) for way in ("stop", "drop"))
        assert strictly is None or leniently is not None
        assert strictly is None or strictly.documents == (leniently and leniently.documents)
        accepted.append(strictly is not None)
    assert 0.02 < sum(accepted) / len(accepted) < 0.98, "some mutations are harmless, some are not"


@pytest.mark.parametrize("name", NUMBERS)
def test_a_wrong_offset_never_makes_another_mention_without_a_word(name: str) -> None:
    rng = random.Random(name)
    files = files_of(name)
    layout = LAYOUTS[name]
    whole, _, _ = read(layout.format, files)
    known = {(d.text, m.begin, m.end, m.type) for d in whole.documents for m in d.mentions}
    places = [(file, match) for file, text in files.items() for match in re.finditer(NUMBERS[name], text)]
    places = [(file, match) for file, match in places if name != "brat" or file.endswith(".ann")]
    assert len(places) >= 10
    for file, match in places:
        for number in {rng.randrange(60), int(match[0]) + 1, max(0, int(match[0]) - 1), 10**6} - {int(match[0])}:
            text = f"{files[file][: match.start()]}{number}{files[file][match.end() :]}"
            found, faults, _ = read(layout.format, files | {file: text})
            read_now = {(d.text, m.begin, m.end, m.type) for d in found.documents for m in d.mentions}
            assert read_now <= known or found.normalised, (file, match[0], number)
            assert read_now == known or faults or found.normalised or found.dropped != whole.dropped


@pytest.mark.parametrize("name", [name for name, layout in TEXTS.items() if layout.format in ("jsonl", "bioc_json")])
def test_a_number_in_place_of_a_list_is_named(name: str) -> None:
    for file, content in files_of(name).items():
        for key in re.findall(r'"(\w+)": \[', content):
            for on_fault in ("stop", "drop"):
                read_or_refuse(name, {file: re.sub(rf'"{key}": \[', f'"{key}": 5, "was": [', content)}, on_fault)
