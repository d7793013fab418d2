"""The generator: the same seed gives the same, correctly annotated documents in each corpus's style."""

from __future__ import annotations

import re
from collections import Counter
from itertools import combinations

import pytest

from extraction_values import make_record
from odin_slm.core.document import Document, is_synthetic
from odin_slm.corpora.synthetic import templates, vocabulary
from odin_slm.corpora.synthetic.generator import generate
from odin_slm.corpora.synthetic.templates import Template
from odin_slm.tasks.extraction.format import locate, parse
from odin_slm.tasks.extraction.schema import MEDICAL, SCHEMAS


@pytest.fixture(scope="module")
def generated() -> dict[str, list[Document]]:
    return {style: generate(200, 3, style) for style in SCHEMAS}


@pytest.mark.parametrize("style", SCHEMAS)
def test_annotations_are_verbatim_and_within_the_schema(generated: dict[str, list[Document]], style: str) -> None:
    documents = generated[style]
    assert len({d.id for d in documents}) == len(documents) == 200
    relations: Counter[str] = Counter()
    for document in documents:
        assert document.source == style
        assert is_synthetic(document.pmid)
        types = {}
        for mention in document.mentions:
            assert document.text[mention.begin : mention.end] == mention.text
            assert mention.type in SCHEMAS[style].entities
            types |= dict.fromkeys(mention.concepts, mention.type)
        for relation in document.relations:
            relations[relation.type] += 1
            assert (types[relation.head], types[relation.tail]) in MEDICAL.legal[relation.type]
        assert not re.search(r"[\[\]{}<>|]|  | \.", document.text), "a template's own marks are left over"
    assert set(relations) == set(SCHEMAS[style].relations)
    assert min(relations.values()) >= 15


@pytest.mark.parametrize("style", SCHEMAS)
def test_every_relation_can_be_written_and_every_entity_found_again(
    generated: dict[str, list[Document]], style: str
) -> None:
    for document in generated[style]:
        record = make_record(document)
        output = parse(record["output"])
        assert output.well_formed
        assert bool(output.extraction.relations) == bool(document.relations)
        for entity in output.extraction.entities:
            assert locate(record["input"], entity.text)


def test_seeds_decide() -> None:
    assert generate(20, 1) == generate(20, 1)
    assert generate(20, 1)[:10] == generate(10, 1)
    assert generate(20, 1) != generate(20, 2)
    assert {document.source for document in generate(40, 1)} == set(SCHEMAS)
    assert not {d.pmid for d in generate(200, 1, "ade")} & {d.pmid for d in generate(200, 2, "ade")}


def test_ade_marks_only_what_takes_part_in_an_adverse_event(generated: dict[str, list[Document]]) -> None:
    events = [document for document in generated["ade"] if document.mentions]
    assert 100 < len(events) < 160
    for document in events:
        involved = {end for relation in document.relations for end in (relation.head, relation.tail)}
        assert {concept for mention in document.mentions for concept in mention.concepts} == involved
    assert any(vocabulary_word in d.text for d in generated["ade"] for vocabulary_word in ("without signs", "no such"))
    assert max(Counter(document.pmid for document in generated["ade"]).values()) > 1


def test_abstracts_abbreviate_coordinate_and_leave_some_concepts_open(generated: dict[str, list[Document]]) -> None:
    for style in ("bc5cdr", "biored"):
        mentions = [mention for document in generated[style] for mention in document.mentions]
        assert any(len(mention.concepts) > 1 for mention in mentions)
        assert any(mention.text.isupper() for mention in mentions)
        assert any(mention.concepts[0].startswith("text:") for mention in mentions)
        surfaces = {
            (document.id, concept): {m.text for m in document.mentions if concept in m.concepts}
            for document in generated[style]
            for mention in document.mentions
            for concept in mention.concepts
        }
        assert any(len(texts) > 1 for texts in surfaces.values())


def test_names_are_mostly_new_in_later_documents(generated: dict[str, list[Document]]) -> None:
    def names(documents: list[Document]) -> set[str]:
        return {mention.text.casefold() for document in documents for mention in document.mentions}

    train, test = generated["biored"][:150], generated["biored"][150:]
    unseen = len(names(test) - names(train)) / len(names(test))
    assert 0.4 < unseen < 0.9, "some names repeat, as in real corpora, but a list of names is not enough"


@pytest.mark.parametrize("style", SCHEMAS)
def test_documents_are_no_near_duplicates_of_each_other(generated: dict[str, list[Document]], style: str) -> None:
    """Otherwise the leak-free split would have to keep most of the sample together."""
    shingles = [{d.text[i : i + 5] for i in range(len(d.text) - 4)} for d in generated[style][:120]]
    close = [1 for a, b in combinations(shingles, 2) if len(a & b) >= 0.7 * len(a | b)]
    assert len(close) <= 2


def all_templates() -> list[Template]:
    pools = [value for value in vars(templates).values() if isinstance(value, tuple)]
    return [template for pool in pools for template in pool if isinstance(template, Template)]


def test_templates_state_facts_about_their_own_slots() -> None:
    assert len(all_templates()) > 100
    for template in all_templates():
        slots = set(re.findall(r"\{(\w)\}", template.text))
        assert slots <= set("deck")
        for relation, head, tail in template.facts:
            assert relation in MEDICAL.relations
            assert {head, tail} <= slots | {"d"}  # An overlapping effect brings its drug along.
        assert template.text.count("[") == template.text.count("]")


def test_concept_ids_are_stable_and_no_mesh_ids() -> None:
    assert vocabulary.concept_id("Gout") == vocabulary.concept_id("gout")
    assert re.fullmatch(r"[DC]9\d{7}", vocabulary.concept_id("gout"))
