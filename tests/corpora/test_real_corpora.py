"""The public corpora themselves, where they lie beside the repository."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

import pytest

from odin_slm.corpora import PARSERS, ParsedCorpus, biored

from .test_robustness import assert_sound


@pytest.fixture(scope="module")
def parsed(real: Mapping[str, Mapping[str, str]]) -> dict[str, ParsedCorpus]:
    return {corpus: PARSERS[corpus](files) for corpus, files in real.items()}


@pytest.mark.parametrize("corpus", ["ade", "bc5cdr", "biored"])
def test_every_mention_is_verbatim_and_every_relation_typed(parsed: dict[str, ParsedCorpus], corpus: str) -> None:
    assert_sound(parsed[corpus])


def test_ade(parsed: dict[str, ParsedCorpus]) -> None:
    report = parsed["ade"].report
    assert report["sentences"] == {
        "rows": 6189,
        "with_adverse_event": 3865,
        "without_adverse_event": 1932,
        "without_adverse_event_available": 14968,
    }
    assert report["mentions"] == {"Drug": 4586, "Symptom": 5241}
    assert report["relations"] == {"causes": 6005}
    assert report["rows_with_inexact_offsets"] == 0
    assert report["duplicates"]["negative_sentences"] == 15030 - 14968
    assert report["dosages"]["rows"] == 256


def test_ade_relations_hold_between_what_the_rows_say(
    parsed: dict[str, ParsedCorpus], real: Mapping[str, Mapping[str, str]]
) -> None:
    rows = {
        (row.split("|")[0], "|".join(row.split("|")[1:-6]), row.split("|")[-6], row.split("|")[-3])
        for row in real["ade"]["DRUG-AE.rel"].splitlines()
    }
    found = set()
    for document in parsed["ade"].documents:
        surfaces = [(m.type, m.concepts[0], m.text) for m in document.mentions]
        for relation in document.relations:
            found |= {
                (document.pmid, document.text, effect, drug)
                for kind, concept, effect in surfaces
                if (kind, concept) == ("Symptom", relation.tail)
                for other, head, drug in surfaces
                if (other, head) == ("Drug", relation.head)
            }
    assert rows <= found


def test_bc5cdr(parsed: dict[str, ParsedCorpus]) -> None:
    report = parsed["bc5cdr"].report
    assert report["splits"] == {"train": 500, "validation": 500, "test": 273}
    assert report["mentions"] == {"Drug": 13619, "Disease": 10972}
    assert report["relations"] == {"causes": 1038 + 1012 + 599}
    assert report["dropped"] == {}


def test_bc5cdr_with_a_training_file_that_holds_the_development_set(real: Mapping[str, Mapping[str, str]]) -> None:
    train, development, _ = sorted(real["bc5cdr"], key=lambda name: ("Training" not in name, "Test" in name))
    both = real["bc5cdr"][train] + real["bc5cdr"][development]
    parsed = PARSERS["bc5cdr"]({**real["bc5cdr"], train: both})
    assert parsed.report["splits"] == {"train": 500, "validation": 500, "test": 273}
    assert parsed.report["duplicates"] == {"in train and validation, kept in validation": 500}


def test_biored(parsed: dict[str, ParsedCorpus]) -> None:
    report = parsed["biored"].report
    assert report["splits"] == {"train": 400, "validation": 100, "test": 60}
    assert report["mentions"] == {"Drug": 4197, "Disease": 5161}
    assert report["relations"] == {"causes": 576, "treats": 430, "associated_with": 334, "interacts_with": 266}
    kept_or_dropped = Counter({kind: n for kind, n in report["dropped"].items() if kind.startswith("relation")})
    assert set(kept_or_dropped) == {
        "relation: with a gene, variant, species or cell line",
        "relation: chemical-chemical Bind",
        "relation: chemical-chemical Comparison",
        "relation: chemical-chemical Conversion",
    }
    # 4,178 + 1,162 + 664 relations, five of which hold for both parts of a composite mention.
    assert sum(kept_or_dropped.values()) + sum(report["relations"].values()) == 6004 + 5


def test_biored_is_the_same_from_bioc_and_from_pubtator(
    parsed: dict[str, ParsedCorpus], real: Mapping[str, Mapping[str, str]]
) -> None:
    members = {name: real["biored"][name] for name in biored.PUBTATOR_MEMBERS}
    from_pubtator = PARSERS["biored"](members)
    assert from_pubtator.documents == parsed["biored"].documents
    assert from_pubtator.report["inputs"].keys() == members.keys()
