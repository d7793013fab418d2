"""Prompt and output text: what is rendered is read back, and broken output costs only what is broken."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from odin_slm.core.record import render_prompt
from odin_slm.tasks.extraction.format import (
    Entity,
    Extraction,
    ParsedOutput,
    RelationTriple,
    instruction_for,
    item_places,
    locate,
    parse,
    read,
    render,
)
from odin_slm.tasks.extraction.schema import ENTITY_TYPES, RELATION_TYPES, SCHEMAS
from odin_slm.tasks.extraction.tagged import unescape

# everything that the format itself is made of, and what breaks line-based parsers
_PIECES = ["[Drug] ", " --[causes]--> ", "--[", "]-->", "1. ", "\\", "\\n", "\n", "\r", "None", "### Entities:"]
texts = st.one_of(
    st.text(min_size=1, max_size=20),
    st.lists(st.sampled_from([*_PIECES, "aspirin", "10", " ", "\u2028", "β"]), min_size=1, max_size=6).map("".join),
).filter(lambda text: not any(0xD800 <= ord(c) < 0xE000 for c in text))
extractions = st.builds(
    Extraction,
    st.lists(st.builds(Entity, st.sampled_from(ENTITY_TYPES), texts), max_size=4).map(tuple),
    st.lists(st.builds(RelationTriple, texts, st.sampled_from(RELATION_TYPES), texts), max_size=4).map(tuple),
)


@given(extractions)
def test_what_is_rendered_is_read_back(extraction: Extraction) -> None:
    assert parse(render(extraction)) == ParsedOutput(extraction)


@given(extractions)
def test_the_names_of_an_output_are_where_it_says(extraction: Extraction) -> None:
    output = render(extraction)
    found = [[unescape(output[begin:end]) for begin, end in names] for _, names in item_places(output)]
    assert found == [[e.text] for e in extraction.entities] + [[r.head, r.tail] for r in extraction.relations]
    assert [output[begin:end] for (begin, end), _ in item_places(output)] == [
        line for line in output.split("\n") if line[:1].isdigit()
    ]


@given(st.text(max_size=200))
def test_any_text_is_read_without_an_error(text: str) -> None:
    parse(text)


LINES = [
    *("### Entities:", "### Relations:", "None", "", "1. [Drug] aspirin", "2. [Disease] a\\nb", "3. [Gene] BRCA1"),
    *("1. a --[causes]--> b", "2. a --[--[treats]--> b", "x", "1. [Drug] --[causes]--> b", "1. [Drug] \r"),
]
outputs = st.lists(st.sampled_from(LINES), max_size=9).map("\n".join)
sections = st.builds("### Entities:\n{}\n\n### Relations:\n{}".format, outputs, outputs)


@given(st.one_of(outputs, sections))
def test_what_is_read_at_once_is_what_is_read_line_by_line(output: str) -> None:
    parsed = parse(output)
    entities = [(entity.type, entity.text) for entity in parsed.extraction.entities]
    relations = [(triple.head, triple.type, triple.tail) for triple in parsed.extraction.relations]
    assert read(output) == (entities, relations, list(parsed.malformed))


def test_the_format_is_the_documented_one() -> None:
    extraction = Extraction(
        (Entity("Drug", "enalapril"), Entity("Symptom", "acute renal failure")),
        (RelationTriple("enalapril", "causes", "acute renal failure"),),
    )
    assert render(extraction) == (
        "### Entities:\n1. [Drug] enalapril\n2. [Symptom] acute renal failure\n\n"
        "### Relations:\n1. enalapril --[causes]--> acute renal failure"
    )
    assert render(Extraction()) == "### Entities:\nNone\n\n### Relations:\nNone"


@pytest.mark.parametrize(
    ("line", "kept"),
    [
        ("1. [Gene] BRCA1", 0),
        ("[Drug] aspirin", 0),
        ("1. [Drug]aspirin", 0),
        ("7. [Drug] aspirin", 1),
    ],
)
def test_a_broken_line_costs_itself_alone(line: str, kept: int) -> None:
    parsed = parse(f"### Entities:\n{line}\n2. [Symptom] rash\n\n### Relations:\nNone")
    assert Entity("Symptom", "rash") in parsed.extraction.entities
    assert len(parsed.extraction.entities) == 1 + kept
    assert parsed.well_formed == bool(kept)


def test_missing_headers_are_noticed() -> None:
    assert not parse("").well_formed
    assert not parse("### Entities:\nNone").well_formed
    assert not parse("### Relations:\nNone\n\n### Entities:\nNone").well_formed


def test_prompt_and_instruction() -> None:
    instruction = instruction_for(SCHEMAS["ade"])
    assert instruction == "Extract entities: Drug, Symptom. Relations: causes."
    assert render_prompt(instruction, "A text.") == (
        f"### Instruction:\n{instruction}\n\n### Input:\nA text.\n\n### Output:\n"
    )


def test_locate_prefers_whole_words_and_exact_case() -> None:
    assert locate("toxicity and ototoxicity", "toxicity") == [(0, 8)]
    assert locate("only ototoxicity", "toxicity") == [(8, 16)]
    assert locate("Nephrotoxicity. Toxicity.", "toxicity") == [(16, 24)], "a whole word in other case goes before"
    assert locate("Ototoxicity, NEPHROTOXICITY", "toxicity") == [(3, 11)]
    assert locate("Aspirin, aspirin", "aspirin") == [(9, 16)]
    assert locate("ASPIRIN", "aspirin") == [(0, 7)]
    assert locate("nothing here", "aspirin") == []
    assert locate("text", "") == []
