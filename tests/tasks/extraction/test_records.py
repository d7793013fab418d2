"""Documents become records: canonical names, windows at sentence ends, nothing cut silently."""

import re
from dataclasses import replace
from typing import Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from extraction_values import make_record
from odin_slm.core import sentences
from odin_slm.core.document import Document, Mention, Relation, crop, surface_concept, surface_forms
from odin_slm.core.errors import RecordTooLongError
from odin_slm.core.sentences import sentence_spans
from odin_slm.tasks.extraction.format import Entity, RelationTriple
from odin_slm.tasks.extraction.records import extraction_of, window

TEXT = "Methotrexate (MTX) was given. MTX caused renal and hepatic failure. Renal failure resolved."


def mention(text: str, kind: str, *concepts: str, nth: int = 0) -> Mention:
    begin = -1
    for _ in range(nth + 1):
        begin = TEXT.index(text, begin + 1)
    return Mention(begin, begin + len(text), text, kind, concepts or (surface_concept(text),))


DOCUMENT = Document(
    id="bc5cdr-1",
    text=TEXT,
    source="bc5cdr",
    pmid="1",
    split="train",
    mentions=(
        mention("Methotrexate", "Drug", "M"),
        mention("MTX", "Drug", "M"),
        mention("MTX", "Drug", "M", nth=1),
        mention("renal and hepatic failure", "Disease", "R", "H"),
        mention("Renal failure", "Disease", "R"),
    ),
    relations=(Relation("causes", "M", "R"), Relation("causes", "M", "H"), Relation("causes", "R", "M")),
)


def test_a_concept_is_named_once_by_its_first_mention_of_its_own() -> None:
    extraction = extraction_of(DOCUMENT)
    assert extraction.entities == (
        Entity("Drug", "Methotrexate"),
        Entity("Drug", "MTX"),
        Entity("Disease", "renal and hepatic failure"),
        Entity("Disease", "Renal failure"),
    )
    assert extraction.relations == (
        RelationTriple("Methotrexate", "causes", "renal and hepatic failure"),
        RelationTriple("Methotrexate", "causes", "Renal failure"),
    )


def test_a_document_keeps_its_id_even_where_it_ends_as_a_windows_does() -> None:
    numbered = replace(DOCUMENT, id="notes-a.jsonl#w1")
    assert make_record(numbered)["document_id"] == "notes-a.jsonl#w1"
    (piece,) = window(numbered, lambda _: True)
    assert piece.id == "notes-a.jsonl#w1#w0"


@pytest.mark.parametrize("relation_mentions", ["canonical", "all"])
def test_a_concept_of_several_types_is_named_by_the_one_that_the_relation_takes(
    relation_mentions: Literal["canonical", "all"],
) -> None:
    iron = (mention("MTX", "Disease", "M"), mention("MTX", "Drug", "M", nth=1))
    two = replace(DOCUMENT, mentions=(*iron, *DOCUMENT.mentions[3:]))
    assert extraction_of(two, relation_mentions).relations == (
        RelationTriple("MTX", "causes", "renal and hepatic failure"),
        RelationTriple("MTX", "causes", "Renal failure"),
    )
    assert extraction_of(two, relation_mentions).entities[:2] == (Entity("Disease", "MTX"), Entity("Drug", "MTX"))


def test_no_name_is_related_to_itself() -> None:
    text = "Alcohol was stopped, alcohol being the cause."
    mentions = tuple(
        Mention(begin, begin + 7, text[begin : begin + 7], kind, (f"alcohol|{kind}",))
        for begin, kind in ((0, "Drug"), (21, "Disease"))
    )
    relation = Relation("causes", "alcohol|Drug", "alcohol|Disease")
    found = extraction_of(Document("a", text, "ade", "1", None, mentions, (relation,)))
    assert (len(found.entities), found.relations) == (2, ())


def test_all_surfaces_on_request() -> None:
    heads = [r.head for r in extraction_of(DOCUMENT, "all").relations]
    assert heads.count("MTX") == heads.count("Methotrexate") == 2


def test_the_other_names_of_a_concept_stay_with_the_document() -> None:
    assert surface_forms(DOCUMENT) == {
        "Methotrexate": ["MTX"],
        "Renal failure": ["renal and hepatic failure"],
        "renal and hepatic failure": [],  # names another concept, too
    }


def test_a_document_survives_json() -> None:
    assert Document.from_dict(DOCUMENT.to_dict()) == DOCUMENT


def test_windows_end_at_sentences_and_keep_what_lies_inside() -> None:
    pieces = list(window(DOCUMENT, lambda d: len(d.text) <= 70))
    assert [p.text for p in pieces] == [TEXT[:67], "Renal failure resolved."]
    assert [p.id for p in pieces] == ["bc5cdr-1#w0", "bc5cdr-1#w1"]
    assert sum(len(p.mentions) for p in pieces) == len(DOCUMENT.mentions)
    for piece in pieces:
        assert all(piece.text[m.begin : m.end] == m.text for m in piece.mentions)


def test_a_sentence_that_cannot_fit_is_refused_by_name() -> None:
    with pytest.raises(RecordTooLongError, match=r"bc5cdr-1.*ingestion\.max_tokens"):
        list(window(DOCUMENT, lambda d: len(d.text) <= 10))


@settings(max_examples=200)
@given(st.text(alphabet="ab AB.?!()\n", max_size=60).filter(str.strip), st.integers(1, 60), st.integers(0, 80))
def test_windows_lose_no_word_wherever_the_search_for_their_ends_starts(text: str, budget: int, guess: int) -> None:
    document = Document(id="d", text=text, source="ade", pmid="1")

    def fits(piece: Document) -> bool:
        return len(piece.text) <= budget

    try:
        pieces = list(window(document, fits))
    except RecordTooLongError:
        with pytest.raises(RecordTooLongError):
            list(window(document, fits, characters=guess))
        return
    assert list(window(document, fits, characters=guess)) == pieces
    assert "".join("".join(p.text.split()) for p in pieces) == "".join(text.split())
    assert all(len(p.text) <= budget for p in pieces)


def test_sentences() -> None:
    spans = sentence_spans('Dr. A. Smith gave 5 mg vs. 10 mg. It helped (p < 0.05). "Why?" Nobody knew')
    assert len(spans) == 4


def slow_sentence_spans(text: str) -> list[tuple[int, int]]:
    """The same rule, with every abbreviation looked for in the whole sentence so far."""
    abbreviation = r"\b(?:[A-Z]|e\.g|i\.e|vs|al|Fig|Dr|St|No|approx|ca|cf|resp)\.$"
    spans, begin = [], 0
    for match in re.finditer(r"(?<=[.?!])[\"')\]]*\s+(?=[\"'(\[]?[A-Z0-9])", text):
        if not re.search(abbreviation, text[begin : match.start()]):
            spans.append((begin, match.end() - len(match[0]) + len(match[0].rstrip())))
            begin = match.end()
    spans.append((begin, len(text.rstrip()) if text.strip() else len(text)))
    return [span for span in spans if span[1] > span[0]] or [(0, len(text))]


_ENDS = ["approx", "resp", "e.g", "i.e", "Fig", "al", "Dr", ".", ".", ". ", "A", "x", "_", "1", "β"]


@settings(max_examples=500)
@given(st.lists(st.sampled_from([*_ENDS, " ", "\n", "\u2003", '"', ")", "(", "?", "!"]), max_size=40).map("".join))
def test_sentences_end_where_a_look_at_the_whole_sentence_says_so(text: str) -> None:
    assert sentence_spans(text) == slow_sentence_spans(text)


def test_abbreviations_are_looked_for_at_the_boundary_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    class Counting:
        read = 0

        def search(self, text: str, begin: int = 0, end: int | None = None) -> re.Match[str] | None:
            end = len(text) if end is None else end
            self.read += end - begin
            return abbreviation.search(text, begin, end)

    abbreviation, counting = sentences._ABBREVIATION, Counting()
    monkeypatch.setattr(sentences, "_ABBREVIATION", counting)
    text = "Dr. " * 5000 + "A"
    assert sentence_spans(text) == [(0, len(text))]
    assert counting.read <= 2 * len(text)


def test_crop_keeps_relations_whose_concepts_are_still_named() -> None:
    piece = crop(DOCUMENT, 30, 67, "#x")
    assert [m.text for m in piece.mentions] == ["MTX", "renal and hepatic failure"]
    assert len(extraction_of(piece).relations) == 1
