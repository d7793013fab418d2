"""The corpus of words: the vocabulary trains, the list tests, and the two have nothing in common."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from conftest import ROOT
from odin_slm.core.errors import CorpusFormatError, MissingInputError
from odin_slm.corpora.words import LIST, VOCABULARY, parse
from odin_slm.datasets.corpus_files import VocabularyDataset
from odin_slm.tasks.spelling.stem import stem

LISTED = (ROOT / "data/01_raw/words" / LIST).read_text(encoding="utf-8")
TOKENS = (
    " the",
    "the",
    " straw",
    "berry",
    " Berry",
    "ing",
    "s",
    " govern",
    "<|endoftext|>",
    " 12",
    " Mango",
    " walk",
)
FILES = {VOCABULARY: "".join(f"{token}\n" for token in TOKENS), LIST: LISTED}


def test_the_list_is_the_file_that_its_readme_names() -> None:
    digest = hashlib.sha256(LISTED.encode()).hexdigest()
    assert digest in (ROOT / "data/01_raw/words/README.md").read_text(encoding="utf-8")
    assert "Permission to use, copy, modify, distribute" in (ROOT / "data/01_raw/words/COPYRIGHT").read_text()


def test_tokens_of_small_letters_train_as_they_stand_in_the_vocabulary() -> None:
    train = [document for document in parse(FILES).documents if document.split == "train"]
    assert {(d.id, d.text) for d in train} == {
        ("words-the", " the"),
        ("words-the-inside", "the"),
        ("words-straw", " straw"),
        ("words-berry-inside", "berry"),
        ("words-ing-inside", "ing"),
        ("words-govern", " govern"),
        ("words-walk", " walk"),
    }
    first = [d.text for d in parse(FILES, train=3).documents if d.split == "train"]
    assert first == [" the", "the", " straw"], "the most frequent ones"


def test_validation_and_test_have_nothing_of_the_vocabulary() -> None:
    parsed = parse(FILES, validation=2000, test=8000)
    held_out = [document for document in parsed.documents if document.split != "train"]
    assert [d.split for d in held_out].count("validation") == 2000
    words = {document.text.strip() for document in held_out}
    assert not words & {"walk", "walks", "walked", "walking", "berry", "berries", "government", "governs", "mangoes"}
    assert not {stem(word) for word in words} & {stem(token.strip()) for token in TOKENS}
    assert len({document.pmid for document in held_out}) == len(held_out), "no two share a stem"
    assert all(5 <= len(word) <= 12 and word.isascii() and word.islower() for word in words)
    assert parsed.report["dropped"]["in the vocabulary, or alike"] > 0


def test_the_vocabulary_is_the_bases_own(tiny_base: Path) -> None:
    from transformers import AutoTokenizer

    files = {"filepath": str(ROOT / "data/01_raw/words"), "files": [LIST]}
    raw = VocabularyDataset(base={"source": str(tiny_base)}, **files).load()
    assert raw.name == "words"
    assert raw[LIST] == LISTED
    tokens = raw[VOCABULARY].splitlines()
    tokenizer = AutoTokenizer.from_pretrained(tiny_base)
    for text in ("Extract entities", " aspirin --[causes]--> nausea"):
        assert {tokenizer.decode([token]) for token in tokenizer(text)["input_ids"]} <= set(tokens)
    assert "<|endoftext|>" not in tokens


def test_equal_seeds_draw_equal_words() -> None:
    assert parse(FILES, seed=1).documents == parse(FILES, seed=1).documents
    assert parse(FILES, seed=1).documents != parse(FILES, seed=2).documents


def test_a_list_that_is_too_short_says_so() -> None:
    with pytest.raises(CorpusFormatError, match=r"found 2 words .* expected 500"):
        parse({**FILES, LIST: "walking\nstrawberry\nmeadow\nberries\nmeadows\n"})
    with pytest.raises(MissingInputError, match=r"missing vocabulary\.txt"):
        parse({LIST: LISTED})
