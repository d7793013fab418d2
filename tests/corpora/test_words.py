"""The corpus of words: the vocabulary trains, the list tests, and the two have nothing in common."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from pathlib import Path

import pytest

from conftest import ROOT
from odin_slm.core.document import Document
from odin_slm.core.errors import CorpusFormatError, MissingInputError, WrongParameterError
from odin_slm.corpora.words import LIST, VOCABULARY, parse
from odin_slm.dataprep.splitting import near_duplicates
from odin_slm.datasets.corpus_files import VocabularyDataset
from odin_slm.tasks.spelling.questions import MADE
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


SYLLABLES = [a + b + c for a in "bdfgklmnprst" for b in "aeou" for c in ("", "n", "rt")]
SPACED = [f" {syllable}ol" for syllable in SYLLABLES]
MANY = {
    VOCABULARY: "".join(f"{token}\n" for token in (*SPACED, *SYLLABLES, " electroencephalographically")),
    LIST: LISTED,
}


def joined(files: dict[str, str], count: int, **options: int) -> list[Document]:
    return [d for d in parse(files, joined=count, **options).documents if d.id.endswith(MADE)]


def test_joined_words_are_all_that_the_tokens_make() -> None:
    files = {VOCABULARY: " straw\nberry\nno\n", LIST: "meadow\n"}
    options = {"validation": 0, "test": 1}
    texts = {d.text for d in joined(files, 8, **options)}
    parts = (" straw", "berry", "no")
    two = {a + b for a in parts for b in parts[1:]}
    assert all(re.fullmatch("( straw|berry|no)(berry|no)+", text) for text in texts)
    assert all(5 <= len(text.strip()) <= 24 for text in texts)
    assert len({text.strip() for text in texts}) == 8
    assert two & {d.text for d in joined(files, 40, **options)}
    with pytest.raises(CorpusFormatError, match=r"make \d+ words .* expected 2000.*words\.joined=\d+"):
        parse(files, joined=2000, **options)
    with pytest.raises(CorpusFormatError, match="make 0 words"):
        parse({**files, VOCABULARY: " straw\n"}, joined=1, **options)


def test_joined_words_take_every_token_about_equally_often() -> None:
    made = joined(MANY, 2000)
    assert len({d.text.strip() for d in made}) == len(made) == 2000
    heads = Counter(next(t for t in sorted(SPACED, key=len) if d.text.startswith(t)) for d in made if d.text[0] == " ")
    assert set(heads) == set(SPACED)
    assert max(heads.values()) <= 2 * min(heads.values())
    assert not [d.text for d in made if "electroencephalographically" in d.text], "it leaves no room for another"
    assert any(not d.text.startswith(" ") for d in made)
    assert all(re.fullmatch(" ?[a-z]{5,24}", d.text) for d in made)


def test_joined_words_change_no_other_word_and_are_drawn_with_the_seed() -> None:
    plain, more = parse(MANY).documents, parse(MANY, joined=300).documents
    assert [d for d in more if not d.id.endswith(MADE)] == plain
    assert len(more) == len(plain) + 300
    assert joined(MANY, 300) == joined(MANY, 300)
    assert joined(MANY, 300) != joined(MANY, 300, seed=7)


def test_a_joined_word_is_unlike_all_words_of_validation_and_test() -> None:
    # two syllables of three make a word of the list: most joined words hold one, or most of one
    syllables = ["me", "ado", "pi", "geon", "har", "bour", "zu", "xok"]
    listed = "meadow\npigeon\nharbours\n"
    vocabulary = "".join(f"{space}{syllable}\n" for syllable in syllables for space in ("", " "))
    parsed = parse({VOCABULARY: vocabulary, LIST: listed}, validation=1, test=2, joined=200)
    held_out = [d.text.strip() for d in parsed.documents if d.split != "train"]
    made = [d.text.strip() for d in parsed.documents if d.id.endswith(MADE)]
    assert sorted(held_out) == ["harbours", "meadow", "pigeon"]
    assert len(made) == 200
    assert not [w for w in made if re.search("meado|eadow|pigeo|igeon|harbou|arbour|rbours", w)]
    assert any("pigeo" in a + b for a in syllables for b in syllables), "such words could be made"
    assert not {stem(w) for w in made} & {stem(w) for w in held_out}
    assert parsed.report["dropped"]["joined: like a word of validation or test"] > 0
    texts = [*held_out, *made]
    sides = [0] * len(held_out) + [1] * len(made)
    assert not list(near_duplicates(texts, texts, threshold=0.7, seed=1, sides=sides))


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
    with pytest.raises(WrongParameterError, match=r"shortest is 8 and longest 5"):
        parse(FILES, shortest=8, longest=5)
