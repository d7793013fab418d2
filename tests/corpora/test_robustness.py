"""Whatever a parser is given, it returns sound documents or names the place; nothing else comes out of it."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable, Mapping
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from odin_slm.core.errors import CorpusFormatError, MissingInputError
from odin_slm.corpora import PARSERS, ParsedCorpus, ade, bc5cdr, biored
from odin_slm.tasks.extraction.schema import MEDICAL, SCHEMAS

FILES = {
    "ade": ade.FILES,
    "bc5cdr": tuple(bc5cdr.FILES.values()),
    "biored": biored.BIOC_MEMBERS,
    "biored as PubTator": biored.PUBTATOR_MEMBERS,
}
STRANGE = (
    *("", "\x00", "\ud800", "\x85", "\u2028", "\r", "\n", "\t", "|", "-1"),
    *("²", "٣", "9" * 20, "\ufeff", "é", '"', "{"),
)


def assert_sound(parsed: ParsedCorpus) -> None:
    corpus = parsed.report["corpus"]
    assert len({document.id for document in parsed.documents}) == len(parsed.documents)
    for document in parsed.documents:
        assert document.source == corpus
        assert document.mentions == tuple(sorted(document.mentions))
        types: dict[str, set[str]] = {}
        for mention in document.mentions:
            assert document.text[mention.begin : mention.end] == mention.text
            assert mention.text.strip()
            assert mention.type in SCHEMAS[corpus].entities
            assert mention.concepts
            for concept in mention.concepts:
                types.setdefault(concept, set()).add(mention.type)
        for relation in document.relations:
            assert relation.type in SCHEMAS[corpus].relations
            ends = {(head, tail) for head in types[relation.head] for tail in types[relation.tail]}
            assert ends & MEDICAL.legal[relation.type]
        json.dumps(document.to_dict(), ensure_ascii=False).encode("utf-8")
    json.dumps(parsed.report, ensure_ascii=False).encode("utf-8")


def parse_or_refuse(corpus: str, files: Mapping[str, str]) -> bool:
    refusal = None
    try:
        assert_sound(PARSERS[corpus.split()[0]](files))
    except CorpusFormatError as error:
        refusal = error
    assert refusal is None or (re.match(r"[^:]+:[0-9]+", refusal.where) and refusal.fix)
    return refusal is None


def mutated(text: str, rng: random.Random) -> str:
    """Break a text in one place, as transfers, editors and converters do."""
    begin = rng.randrange(len(text) + 1)
    end = min(len(text), begin + rng.choice((0, 1, 1, 2, 10, 200)))
    lines = text.split("\n")
    row = rng.randrange(len(lines))
    return rng.choice(
        (
            lambda: text[:begin],
            lambda: text[begin:],
            lambda: text[:begin] + rng.choice(STRANGE) + text[end:],
            lambda: text[:begin] + text[end:begin:-1] + text[end:],
            lambda: text[:begin] + chr(rng.randrange(32, 127)) + text[begin + 1 :],
            lambda: text[:begin] + text[begin:].replace("\t", " ", 1),
            lambda: (
                re.sub(r"\d+", lambda m: str(int(m[0]) + rng.choice((-1, 1, 1000))), text[:begin], count=1)
                + text[begin:]
            ),
            lambda: text[:begin] + re.sub(r"\d+", lambda m: str(int(m[0]) + 1), text[begin:], count=1),
            lambda: "\n".join([*lines[:row], *lines[row + 1 :]]),
            lambda: "\n".join([*lines[:row], lines[row], *lines[row:]]),
            lambda: "\n".join([*lines[:row], "", *lines[row:]]),
            lambda: text.encode().decode("latin-1"),
            lambda: text.replace("\n", "\r"),
            lambda: "\ufeff" + text,
            lambda: text.encode("utf-16").decode("latin-1"),
        )
    )()


def broken_json(value: Any, rng: random.Random) -> Any:
    """Replace one value somewhere in decoded JSON by another kind of value."""
    if rng.random() < 0.15 or not isinstance(value, (dict, list)) or not value:
        return rng.choice((None, True, -1, 0, 10**30, 1.5, "", "\ud800", "x", [], {}, [[]], {"id": 3}))
    key = rng.choice(list(value)) if isinstance(value, dict) else rng.randrange(len(value))
    changed = value.copy()
    if rng.random() < 0.15:
        del changed[key]
    else:
        changed[key] = broken_json(value[key], rng)
    return changed


@pytest.mark.parametrize("corpus", FILES)
def test_mutated_files_give_sound_documents_or_a_named_place(corpus: str, small: dict[str, dict[str, str]]) -> None:
    rng = random.Random(corpus)
    files = {name: small[corpus.split()[0]][name] for name in FILES[corpus]}
    accepted = [parse_or_refuse(corpus, files | {n: mutated(files[n], rng)}) for _ in range(60) for n in files]
    assert 0.02 < sum(accepted) / len(accepted) < 0.98, "some mutations are harmless, some are not"


def test_mutated_json_values_give_sound_documents_or_a_named_place(small: dict[str, dict[str, str]]) -> None:
    rng = random.Random(5)
    name = biored.BIOC_MEMBERS[1]
    files = {member: small["biored"][member] for member in biored.BIOC_MEMBERS}
    collection = json.loads(files[name])
    for _ in range(150):
        parse_or_refuse("biored", files | {name: json.dumps(broken_json(collection, rng))})


@pytest.mark.parametrize("corpus", FILES)
@settings(max_examples=50, deadline=None)
@given(data=st.data())
def test_any_text_gives_sound_documents_or_a_named_place(corpus: str, data: st.DataObject) -> None:
    number = st.sampled_from(["1", "0", "7", "25", "3x", "-2", "9" * 10])
    word = st.one_of(number, st.sampled_from(["Chemical", "CID", "D1|D2", "a b", "NEG", "t", "a"]), st.text(max_size=8))
    line = st.builds(str.join, st.sampled_from(["\t", "|", " "]), st.lists(word, max_size=9))
    text = st.one_of(st.text(st.characters(exclude_categories=[]), max_size=60), st.builds("\n".join, st.lists(line)))
    parse_or_refuse(corpus, {name: data.draw(text) for name in FILES[corpus]})


@pytest.mark.parametrize("corpus", ["ade", "bc5cdr", "biored"])
def test_any_subset_of_the_files_is_refused_by_name(corpus: str, small: dict[str, dict[str, str]]) -> None:
    for missing in FILES[corpus]:
        files = {name: small[corpus][name] for name in FILES[corpus] if name != missing}
        with pytest.raises(MissingInputError, match=re.escape(missing)):
            PARSERS[corpus](files)
    with pytest.raises(MissingInputError, match="found nothing"):
        PARSERS[corpus]({})


@pytest.mark.parametrize("corpus", FILES)
def test_mutated_real_files(corpus: str, real: Mapping[str, Mapping[str, str]]) -> None:
    """The same on real text: the first documents of each file, 720 inputs; benchmarks/fuzz.py takes thousands."""
    rng = random.Random(corpus)
    cut: dict[str, Callable[[str], str]] = {
        "ade": lambda text: "\n".join(text.split("\n")[:60]),
        "bc5cdr": lambda text: "\n\n".join(text.split("\n\n")[:3]) + "\n\n",
        "biored": lambda text: json.dumps({"documents": json.loads(text)["documents"][:2]}),
        "biored as PubTator": lambda text: "\n\n".join(text.split("\n\n")[:3]) + "\n\n",
    }
    files = {name: cut[corpus](real[corpus.split()[0]][name]) for name in FILES[corpus]}
    assert parse_or_refuse(corpus, files)
    for name in files:
        for _ in range(60):
            parse_or_refuse(corpus, files | {name: mutated(files[name], rng)})
