"""The split: groups stay together, official test sets win, added documents move nobody, leaks are found."""

import random
import unicodedata
from dataclasses import replace

import pytest
from pydantic import ValidationError

from extraction_values import make_record
from odin_slm.config.parameters import CombinationParams, IngestionParams, TaskParams
from odin_slm.core.document import Document
from odin_slm.core.errors import LeakageError
from odin_slm.core.record import SPLITS, Record
from odin_slm.dataprep.splitting import Folds, assign_splits, contained, find_leaks, near_duplicates
from odin_slm.pipelines.combination.nodes import assess_quality, check_leakage, place_documents

LEAK_OPTIONS = {"near_duplicate": 0.7, "seed": 1}
OPTIONS = {"seed": 42, "validation_ratio": 0.1, "test_ratio": 0.1, "near_duplicate": 0.7}


def sentence(number: int, pmid: str | None = None, text: str | None = None) -> Document:
    unlike = f"Case {number * 7919 % 10007}: patient {number * 104729 % 99991} took drug{number * 31 % 977}x daily."
    return Document(id=f"ade-{number}", text=text or unlike, source="ade", pmid=pmid or str(1000 + number))


def abstract(source: str, pmid: str, split: str) -> Document:
    text = " ".join(f"word{int(pmid) * k % 9973}" for k in range(1, 60))
    return Document(id=f"{source}-{pmid}", text=text, source=source, pmid=pmid, split=split)


MANY = [sentence(n) for n in range(600)]


def test_every_document_of_an_abstract_lies_in_one_split() -> None:
    documents = [sentence(n, pmid=str(n // 5)) for n in range(300)]
    placed = assign_splits(documents, **OPTIONS)
    for pmid in {d.pmid for d in documents}:
        assert len({placed[d.id].split for d in documents if d.pmid == pmid}) == 1
    assert {p.split for p in placed.values()} == set(SPLITS)


def test_near_duplicates_stay_together() -> None:
    text = "Severe hepatic necrosis developed in a young woman two weeks after the third course of treatment."
    pairs = [sentence(n, text=f"{text} Case {n} was reported.") for n in range(600, 640)]
    placed = assign_splits(MANY + pairs, **OPTIONS)
    assert len({placed[d.id].split for d in pairs}) == 1


WITHIN = "In two of the patients GSK-3beta was raised by the drug, and fell again later."


def holder(pmid: str, split: str) -> Document:
    """An abstract that holds the sentence, set otherwise."""
    document = abstract("biored", pmid, split)
    return replace(document, text=f"{document.text}. {WITHIN.replace('-', ' - ').replace(',', ' ,')} {document.text}")


def test_a_sentence_without_pubmed_id_stays_with_the_abstract_that_holds_it() -> None:
    mine = replace(sentence(1, pmid="notes-1", text=WITHIN), id="notes-1", source="notes", split="train")
    numbered = replace(mine, id="notes-2", pmid="2")
    other = replace(sentence(3, pmid="notes-3"), id="notes-3", source="notes", split="train")
    placed = assign_splits([mine, numbered, other, holder("7", "test")], **OPTIONS)
    assert {name: place.split for name, place in placed.items()} == {
        "notes-1": "test",
        "notes-2": "test",  # it has the text of the first
        "notes-3": "train",
        "biored-7": "test",
    }
    assert assign_splits([numbered, holder("7", "test")], **OPTIONS)["notes-2"].split == "train", "ids tell them apart"


def test_texts_within_others_are_found_whole_and_across_sides_alone() -> None:
    texts = [WITHIN, holder("7", "test").text, WITHIN.upper(), " ".join(WITHIN.split()[:8]), "x", f"Un{WITHIN}"]
    names = [f"n{number}" for number in range(len(texts))]
    assert list(contained(texts, names)) == [(0, 1), (2, 1)], "not of equal texts, of phrases, or within words"
    assert list(contained(texts, names, {2})) == [(2, 1)]
    assert list(contained(texts, names, sides=[0, 0, 1, 1, 1, 1])) == [(2, 1)]
    assert list(contained(texts, ["1", "2", "3", "4", "5", "6"])) == []
    assert list(contained(texts, ["1", "2", "n", "4", "5", "6"])) == [(2, 1)]
    assert list(contained([], [])) == []


def test_one_text_in_two_unicode_forms_is_one() -> None:
    text = "Café-au-lait spots, naïve überdosing and Ménière's disease in Curaçao: ﬁve cases, {}."
    documents = [
        sentence(800 + n, text=unicodedata.normalize(form, text.format(name)))
        for n, (name, form) in enumerate((name, form) for name in ("Zoë", "Noël", "José") for form in ("NFC", "NFKD"))
    ]
    parts = [[make_record(document) for document in documents[first::2]] for first in (0, 1)]
    leaks = find_leaks(dict(zip(SPLITS, parts, strict=False)), {d.id: d.pmid for d in documents}, **LEAK_OPTIONS)
    assert len(leaks["exact_inputs"]) == 3
    for first in (0, 2, 4):
        pair = documents[first : first + 2]
        placed = assign_splits(pair, **OPTIONS)
        assert len({placed[d.id].group for d in pair}) == 1


def test_official_splits_win_and_pull_their_abstract_along() -> None:
    documents = [abstract("bc5cdr", "7", "train"), abstract("biored", "7", "test"), sentence(1, pmid="7")]
    placed = assign_splits(documents, **OPTIONS)
    assert placed["ade-1"].split == placed["biored-7"].split == "test"
    assert placed["bc5cdr-7"].split is None
    assert placed["bc5cdr-7"].rule == "shared abstract"


def test_a_number_that_two_corpora_share_by_chance_costs_no_document() -> None:
    one, other = abstract("alpha", "7", "train"), replace(abstract("beta", "8", "train"), pmid="7")
    placed = assign_splits([one, other], **OPTIONS)
    assert [placed[d.id].split for d in (one, other)] == ["train", "train"]


def test_without_an_owner_of_the_split_biored_annotates() -> None:
    placed = assign_splits([abstract("bc5cdr", "7", "train"), abstract("biored", "7", "train")], **OPTIONS)
    assert (placed["bc5cdr-7"].split, placed["biored-7"].split) == (None, "train")


def test_of_an_official_validation_part_a_share_validates_and_the_rest_trains() -> None:
    fixed = [abstract("bc5cdr", "7", "train"), abstract("bc5cdr", "8", "test")]
    part = [abstract("bc5cdr", str(n), "validation") for n in range(100, 300)]
    everything = [*MANY, *fixed, *part]
    before = assign_splits(everything, **OPTIONS)
    assert {before[d.id].split for d in part} == {"validation"}
    few = assign_splits(everything, **OPTIONS, official_validation=0.2)
    splits = [few[d.id].split for d in part]
    assert (set(splits), 20 <= splits.count("validation") <= 60) == ({"validation", "train"}, True)
    more = assign_splits(everything, **OPTIONS, official_validation=0.4)
    assert all(more[d.id].split == "validation" for d in part if few[d.id].split == "validation"), "one in the other"
    assert [few[d.id] for d in [*MANY, *fixed]] == [before[d.id] for d in [*MANY, *fixed]], "nobody else moves"


def test_folds_test_every_document_once_and_tear_no_abstract() -> None:
    real = [*(sentence(n, pmid=str(n // 3)) for n in range(300)), abstract("bc5cdr", "7000", "test")]
    synthetic = [replace(sentence(n), id=f"synthetic-{n}", source="synthetic", split="train") for n in range(900, 950)]
    runs = [assign_splits([*real, *synthetic], **OPTIONS, folds=Folds(5, test)) for test in range(5)]
    for document in real:
        assert [run[document.id].split for run in runs].count("test") == 1
        assert {run[document.id].rule for run in runs} == {"fold"}
    for run in runs:
        splits = {d.pmid: {run[o.id].split for o in real if o.pmid == d.pmid} for d in real}
        assert all(len(found) == 1 for found in splits.values())
        assert 0 < [run[d.id].split for d in real].count("validation") < 100
        assert {run[d.id].split for d in synthetic} == {"train"}


def test_folds_by_document_tear_abstracts_and_test_every_document_once() -> None:
    documents = [sentence(n, pmid=str(n // 3)) for n in range(300)]
    runs = [assign_splits(documents, **OPTIONS, folds=Folds(5, test, by_document=True)) for test in range(5)]
    assert all([run[d.id].split for run in runs].count("test") == 1 for d in documents)
    torn = {d.pmid for d in documents if len({runs[0][o.id].split for o in documents if o.pmid == d.pmid}) > 1}
    assert len(torn) > 50


def test_folds_by_document_say_what_leaks_and_the_quality_refuses_them() -> None:
    documents = [sentence(n, pmid=str(n // 3)) for n in range(300)]
    params = CombinationParams(folds=5, fold=2, fold_by="document")
    placed = place_documents([d.to_dict() for d in documents], params, IngestionParams())
    parts: dict[str, list[Record]] = {name: [] for name in SPLITS}
    for document in documents:
        parts[placed[document.id]["split"]].append(make_record(document))
    *splits, report = check_leakage(parts, placed, TaskParams(), params)
    assert report["pmids"] == len(report["leaks"]["pmids"]) > 50
    assert report["rules"] == {"fold": 300}
    quality = assess_quality(*splits, report, TaskParams(), params)
    assert quality["failed_critical"][:1] == ["no document lies in two splits"]
    with pytest.raises(LeakageError):
        check_leakage(parts, placed, TaskParams(), CombinationParams(folds=5, fold=2))


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"folds": 1}, "name 2 or more"),
        ({"folds": 10, "fold": 10}, "expected from 0 to 9"),
        ({"fold": 1}, "expected 0, as folds is 0"),
    ],
)
def test_a_fold_that_is_none_is_refused(given: dict[str, int], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        CombinationParams(**given)


def test_synthetic_documents_never_leave_training() -> None:
    real = [abstract("bc5cdr", "7", "test"), abstract("bc5cdr", "8", "train")]
    synthetic = [
        replace(d, id=f"synthetic-{d.pmid}", source="synthetic", pmid=f"99{d.pmid}", split="train") for d in real
    ]
    placed = assign_splits([*real, *synthetic], **OPTIONS)
    assert [placed[d.id].split for d in real] == ["test", "train"]
    assert (placed["synthetic-7"].split, placed["synthetic-7"].rule) == (None, "synthetic")
    assert placed["synthetic-8"].split == "train"


def test_added_documents_move_nobody() -> None:
    before = assign_splits(MANY[:300], **OPTIONS)
    after = assign_splits(MANY, **OPTIONS)
    assert all(after[key] == placement for key, placement in before.items())


def test_order_does_not_matter_and_the_seed_does() -> None:
    forward, backward = assign_splits(MANY, **OPTIONS), assign_splits(MANY[::-1], **OPTIONS)
    assert forward == backward
    assert assign_splits(MANY, **{**OPTIONS, "seed": 1}) != forward


def test_ratios() -> None:
    splits = [p.split for p in assign_splits(MANY, **OPTIONS).values()]
    assert 0.06 < splits.count("test") / len(splits) < 0.14


@pytest.mark.parametrize("planted", ["exact_inputs", "pmids", "near_duplicates"])
def test_a_planted_leak_is_found(planted: str) -> None:
    train = [make_record(d) for d in MANY[:50]]
    pmids = {d.id: d.pmid for d in MANY}
    victim = MANY[0]
    leak = replace(victim, id="ade-900")
    pmids["ade-900"] = victim.pmid if planted == "pmids" else "999999"
    if planted == "pmids":
        leak = replace(leak, text="Quite another sentence of the very same abstract, about nothing.")
    if planted == "near_duplicates":
        long = "After the second infusion the boy complained of dizziness and a metallic taste in his mouth for days."
        train.append(make_record(sentence(700, text=long)))
        pmids["ade-700"] = "700"
        leak = replace(leak, text=long.replace("boy", "girl"))
    leaks = find_leaks({"train": train, "test": [make_record(leak)]}, pmids, near_duplicate=0.7, seed=1)
    assert any("ade-900" in found["documents"] for found in leaks[planted])


def test_an_undivided_document_within_another_one_is_a_leak() -> None:
    mine = replace(sentence(1, pmid="notes-1", text=WITHIN), id="notes-1")
    splits = {"train": [make_record(mine)], "test": [make_record(holder("7", "test"))]}
    pmids = {"notes-1": "notes-1", "biored-7": "7"}
    leaks = find_leaks(splits, pmids, near_duplicate=0.7, seed=1)
    assert leaks["near_duplicates"] == [
        {"documents": ["notes-1", "biored-7"], "splits": ["train", "test"], "contained": True}
    ]
    window = {**make_record(mine), "id": "notes-1#w1"}
    more = {**make_record(mine), "id": "notes-1#w2", "input": "Nothing else was seen."}
    windows = find_leaks({**splits, "train": [window, more]}, pmids, near_duplicate=0.7, seed=1)
    assert windows["near_duplicates"] == [], "a short last window of another document proves nothing"


def test_a_leak_is_refused_with_a_way_out() -> None:
    """Lowering the threshold keeps whole documents together, but not those that only share a window's sentence."""
    params = CombinationParams()
    alike = [sentence(1), sentence(2, text=MANY[1].text)]
    splits = {d.id: {"split": "?", "group": d.pmid, "rule": "hash", "pmid": d.pmid} for d in alike}
    train, test = (make_record(d) for d in alike)

    def refusal(train: Record, test: Record) -> str:
        with pytest.raises(LeakageError, match="ade-1, ade-2 in test and train") as raised:
            check_leakage({"train": [train], "validation": [], "test": [test]}, splits, TaskParams(), params)
        return raised.value.fix

    assert "combination.near_duplicate" in refusal(train, test)
    assert "ingestion.max_tokens" in refusal({**train, "id": "ade-1#w2"}, test)


def test_no_false_alarm() -> None:
    parts = {"train": [make_record(d) for d in MANY[:300]], "test": [make_record(d) for d in MANY[300:]]}
    leaks = find_leaks(parts, {d.id: d.pmid for d in MANY}, near_duplicate=0.7, seed=1)
    assert leaks == {"exact_inputs": [], "pmids": [], "near_duplicates": []}


def test_near_duplicates_are_confirmed_by_their_exact_similarity() -> None:
    texts = ["The quick brown fox jumps over the lazy dog today.", "The quick brown fox jumps over the lazy dog now."]
    found = list(near_duplicates(texts, ["a", "b"], threshold=0.5, seed=1))
    grams = [{t.lower()[i : i + 5] for i in range(len(t) - 5)} for t in (s.rstrip(".") + " " for s in texts)]
    assert found[0][2] == pytest.approx(len(grams[0] & grams[1]) / len(grams[0] | grams[1]), abs=0.05)
    assert list(near_duplicates(texts, ["a", "a"], threshold=0.5, seed=1)) == []


def test_pairs_of_one_side_are_left_out_and_the_others_come_in_order() -> None:
    text = "Severe hepatic necrosis developed in a young woman two weeks after the {} course of treatment."
    texts = [text.format(number) for number in ("first", "second", "third", "fourth")]
    every = [(left, right) for left in range(4) for right in range(left + 1, 4)]
    found = near_duplicates(texts, range(4), threshold=0.7, seed=1)
    assert [(left, right) for left, right, _ in found] == every
    across = near_duplicates(texts, range(4), threshold=0.7, seed=1, sides=[0, 1, 0, 1])
    assert [(left, right) for left, right, _ in across] == [(0, 1), (0, 3), (1, 2), (2, 3)]
    assert list(near_duplicates([], [], threshold=0.7, seed=1)) == []


@pytest.mark.parametrize("threshold", [0.05, 0.3, 0.5, 0.6, 0.7, 1.0])
def test_near_duplicates_are_found_at_every_threshold(threshold: float) -> None:
    rng = random.Random(3)
    texts = []
    for _ in range(60):
        words = [f"w{rng.randrange(10_000)}" for _ in range(60)]
        other = list(words)
        for place in range(60):
            changed = [*other[:place], f"w{rng.randrange(10_000)}", *other[place + 1 :]]
            if similarity(" ".join(words), " ".join(changed)) < threshold:
                break
            other = changed
        texts += [" ".join(words), " ".join(other)]
    owners = [str(n) for n in range(len(texts))]
    found = {(left, right) for left, right, _ in near_duplicates(texts, owners, threshold=threshold, seed=42)}
    assert found >= {(n, n + 1) for n in range(0, len(texts), 2)}


def similarity(left: str, right: str) -> float:
    grams = [{text[i : i + 5] for i in range(len(text) - 4)} for text in (left, right)]
    return len(grams[0] & grams[1]) / len(grams[0] | grams[1])


def test_a_task_says_what_of_a_record_must_not_lie_in_two_splits() -> None:
    def asked(text: str, document: str) -> Record:
        return Record(instruction="Spell.", input=text, output="o", id=document, source="s", document_id=document)

    splits = {"train": [asked("Spell the word pigeon", "a")], "test": [asked("Write out: PIGEON", "b")]}
    pmids = {"a": "1", "b": "2"}
    assert find_leaks(splits, pmids, near_duplicate=0.7, seed=1)["exact_inputs"] == []
    leaks = find_leaks(splits, pmids, near_duplicate=0.7, seed=1, subject=lambda record: record["input"].split()[-1])
    assert leaks["exact_inputs"] == [{"documents": ["a", "b"], "splits": ["test", "train"]}]


def test_a_corrected_annotation_takes_the_place_of_the_one_it_corrects() -> None:
    sentences = [sentence(901, pmid="7"), sentence(902, pmid="7")]
    whole = [abstract("biored", "8", "train"), abstract("bc5cdr", "8", "train")]
    whole[1] = replace(whole[1], text=f"{whole[1].text}.")
    corrected = [
        replace(sentences[0], id="checked-1", source="checked"),
        replace(whole[0], id="checked-8", source="checked"),
    ]
    again = replace(corrected[0], id="second-1", source="second")
    before = assign_splits([*MANY, *sentences, *whole], **OPTIONS)
    options = {**OPTIONS, "reviewed": ("checked", "second")}
    placed = assign_splits([*MANY, *sentences, *whole, *corrected, again], **options)
    assert [(placed[name].split, placed[name].rule) for name in ("ade-901", "checked-1", "biored-8")] == [
        *[(None, "corrected")] * 3
    ]
    assert placed["second-1"].split == before["ade-901"].split == placed["ade-902"].split
    assert (placed["checked-8"].split, placed["bc5cdr-8"].rule) == ("train", "shared abstract")
    assert [placed[one.id] for one in MANY] == [before[one.id] for one in MANY], "nobody else moves"
