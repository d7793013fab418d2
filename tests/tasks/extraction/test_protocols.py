"""Published protocols, compared with their definitions written out in plain loops."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

import pytest

from extraction_values import TASK
from odin_slm.core.document import Document, Mention, Relation
from odin_slm.tasks.extraction.format import Entity, Extraction, RelationTriple, render
from odin_slm.tasks.extraction.metrics.protocols import PROTOCOLS

TEXT = (
    "Renal failure after naproxen. The kidney failure (RF) of two patients on naproxen or Aleve was acute renal "
    "failure; aspirin and ibuprofen relieved the fever, and RF ended."
)
NAMES = {
    "Renal failure": ("Disease", ("D1",)),
    "kidney failure": ("Disease", ("D1",)),
    "RF": ("Disease", ("D1",)),
    "acute renal failure": ("Disease", ("D2",)),
    "fever": ("Disease", ("D3", "D4")),
    "naproxen": ("Drug", ("C1",)),
    "Aleve": ("Drug", ("C1",)),
    "aspirin": ("Drug", ("C2",)),
    "ibuprofen": ("Drug", ("C3",)),
}
RELATIONS = (("causes", "C1", "D1"), ("causes", "C1", "D2"), ("treats", "C2", "D3"), ("interacts_with", "C2", "C3"))


def document(source: str, pmid: str = "1234", split: str | None = "test", text: str = TEXT) -> Document:
    mentions = []
    for name, (kind, concepts) in NAMES.items():
        begin = text.find(name)
        while begin >= 0:
            mentions.append(Mention(begin, begin + len(name), name, kind, concepts))
            begin = text.find(name, begin + 1)
    alive = {concept for mention in mentions for concept in mention.concepts}
    relations = tuple(Relation(*r) for r in RELATIONS if {r[1], r[2]} <= alive)
    return Document(f"{source}-{pmid}", text, source, pmid, split, tuple(sorted(mentions)), relations)


def row(gold: Document, entities: list[tuple[str, str]], relations: list[tuple[str, str, str]]) -> dict[str, Any]:
    """Return a document as it is read: one window."""
    output = render(Extraction(tuple(Entity(*e) for e in entities), tuple(RelationTriple(*r) for r in relations)))
    window = {"begin": 0, "end": len(gold.text), "output": output, "finished": True, "tokens": 9}
    return {"id": gold.id, "source": gold.source, "text": gold.text, "gold": [output], "windows": [window]}


def counted(found: list[set[Any]], gold: list[set[Any]]) -> tuple[int, int, int]:
    tp = fp = fn = 0
    for mine, gold_items in zip(found, gold, strict=True):
        for item in mine:
            if item in gold_items:
                tp += 1
            else:
                fp += 1
        for item in gold_items:
            if item not in mine:
                fn += 1
    return tp, fp, fn


def prf(tp: int, fp: int, fn: int) -> tuple[float, float, float]:
    return (
        tp / (tp + fp) if tp + fp else 0.0,
        tp / (tp + fn) if tp + fn else 0.0,
        2 * tp / (2 * tp + fp + fn) if tp + fp + fn else 0.0,
    )


def places(text: str, name: str) -> list[tuple[int, int]]:
    """Return where a name stands as a word, whatever its first letter; the names here need no more."""
    found = []
    for begin in range(len(text) - len(name) + 1):
        end = begin + len(name)
        around = text[begin - 1 : begin] + text[end : end + 1]
        if text[begin:end].lower() == name.lower() and not any(letter.isalnum() for letter in around):
            found.append((begin, end))
    return found


def spans(text: str, entities: list[tuple[str, str]], *, nested: bool) -> set[tuple[int, int, str]]:
    every = [(b, e, kind) for kind, name in entities for b, e in places(text, name)]
    kept = set()
    for begin, end, kind in every:
        beaten = False
        for b, e, _ in every:
            overlap = b < end and begin < e and (b, e) != (begin, end)
            if overlap and (e - b, -b) > (end - begin, -begin):
                beaten = True
        if nested or not beaten:
            kept.add((begin, end, kind))
    return kept


def read_at_random(seed: int, source: str) -> list[tuple[Document, list[tuple[str, str]], list[tuple[str, str, str]]]]:
    """Return documents with a noisy reading of each; no name overlaps two longer ones."""
    rng = random.Random(seed)
    cases = []
    for number in range(6):
        gold = document(source, str(4000 + number // 2), "test")
        gold = replace(gold, id=f"{gold.id}-{number}")
        known = [(kind, name) for name, (kind, _) in NAMES.items() if rng.random() < 0.6]
        wrong = [("Drug", "patients"), ("Disease", "patients"), ("Drug", "fever"), ("Disease", "failure")]
        entities = known + [one for one in wrong if rng.random() < 0.3]
        drugs = [name for kind, name in entities if kind == "Drug"]
        diseases = [name for kind, name in entities if kind == "Disease" and ("Drug", name) not in entities]
        relations = [(a, rng.choice(("causes", "treats")), b) for a in drugs for b in diseases if rng.random() < 0.4]
        relations += [(a, "interacts_with", b) for a in drugs for b in drugs if a != b and rng.random() < 0.2]
        cases.append((gold, entities, relations))
    return cases


def scores_of(cases: list[Any], corpus: list[Document] | None = None) -> dict[str, Any]:
    golds = [gold for gold, *_ in cases]
    rows = [row(*case) for case in cases]
    return TASK.score_protocols(rows, [one.to_dict() for one in [*golds, *(corpus or [])]], resamples=50)


def figures(values: dict[str, Any]) -> tuple[float, float, float]:
    return values["precision"], values["recall"], values["f1"]


@pytest.mark.parametrize("seed", range(8))
def test_bc5cdr_mentions_are_exact_offsets_and_types(seed: int) -> None:
    cases = read_at_random(seed, "bc5cdr")
    scores = scores_of(cases)["bc5cdr_mentions"]["scores"]
    for title, kinds in (("both types", {"Drug", "Disease"}), ("Chemical", {"Drug"}), ("Disease", {"Disease"})):
        found, gold_items = [], []
        for gold, entities, _ in cases:
            found.append({span for span in spans(gold.text, entities, nested=False) if span[2] in kinds})
            gold_items.append({(m.begin, m.end, m.type) for m in gold.mentions if m.type in kinds})
        tp, fp, fn = counted(found, gold_items)
        assert (scores[title]["tp"], scores[title]["fp"], scores[title]["fn"]) == (tp, fp, fn)
        assert figures(scores[title]) == pytest.approx(prf(tp, fp, fn))


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("source", ["bc5cdr", "biored"])
def test_relations_are_sets_of_concept_pairs(source: str, seed: int) -> None:
    """Once with the ids of the document, once with those of a training part that knows fewer names, and one wrongly."""
    training = document(source, "77", "train", "Aleve, aspirin or naproxen caused Renal failure and fever.")
    noise = [Mention(0, 5, "Aleve", "Drug", (concept,)) for concept in ("C9", "C9", "C0")]
    training = replace(training, mentions=(*training.mentions, *noise))
    other = replace(document(source, "78", "test"), mentions=(Mention(0, 3, "RF", "Disease", ("D1",)),), relations=())
    elsewhere = document("ade", "79", "train")
    cases = read_at_random(seed, source)
    taught = {"naproxen": ["C1"], "aspirin": ["C2"], "renal failure": ["D1"], "fever": ["D3", "D4"], "aleve": ["C9"]}
    given = {name.lower(): list(concepts) for name, (_, concepts) in NAMES.items()}
    results = scores_of(cases, [training, other, elsewhere])
    for how, ids in (("ids by the document's gold names", given), ("ids by the training part's names", taught)):
        typed: tuple[list[set[Any]], list[set[Any]]] = ([], [])
        untyped: tuple[list[set[Any]], list[set[Any]]] = ([], [])
        for gold, _, relations in cases:
            mine, gold_items = set(), set()
            for head, kind, tail in relations:
                for a in ids.get(head.lower(), [f"no id: {head}"]):
                    for b in ids.get(tail.lower(), [f"no id: {tail}"]):
                        mine.add((a, b, kind))
            for relation in gold.relations:
                gold_items.add((relation.head, relation.tail, relation.type))
            for sides, items in zip(typed, (mine, gold_items), strict=True):
                sides.append(items if source == "bc5cdr" else {(*sorted((a, b)), kind) for a, b, kind in items})
            for sides, items in zip(untyped, (mine, gold_items), strict=True):
                sides.append({tuple(sorted((a, b))) for a, b, _ in items})
        if source == "bc5cdr":
            expected = {f"pair, {how}": typed}
            scores = results["cdr_relations"]["scores"]
        else:
            expected = {f"pair, {how}": untyped, f"pair and type, {how}": typed}
            scores = results["biored_pairs"]["scores"]
        for title, sides in expected.items():
            counts = counted(*sides)
            assert (scores[title]["tp"], scores[title]["fp"], scores[title]["fn"]) == counts
            assert figures(scores[title]) == pytest.approx(prf(*counts))


@pytest.mark.parametrize("seed", range(8))
def test_ade_is_strict_over_entities_and_relations(seed: int) -> None:
    cases = [
        (replace(gold, split=None), entities, relations) for gold, entities, relations in read_at_random(seed, "ade")
    ]
    scores = scores_of(cases)["ade_strict"]["scores"]
    sides: dict[str, tuple[list[set[Any]], list[set[Any]]]] = {"entities": ([], []), "relations": ([], [])}
    for gold, entities, relations in cases:
        sides["entities"][0].append(spans(gold.text, entities, nested=True))
        sides["entities"][1].append({(m.begin, m.end, m.type) for m in gold.mentions})
        types = {name.lower(): kind for kind, name in reversed(entities)}
        found, gold_items = set(), set()
        for head, kind, tail in relations:
            ends = [(*places(gold.text, name)[0], types[name.lower()]) for name in (head, tail)]
            found.add((*ends, kind))
        for relation in gold.relations:
            first = []
            for concept in (relation.head, relation.tail):
                alone = [m for m in gold.mentions if m.concepts == (concept,)] or [
                    m for m in gold.mentions if concept in m.concepts
                ]
                first.append((alone[0].begin, alone[0].end, alone[0].type))
            gold_items.add((*first, relation.type))
        sides["relations"][0].append(found)
        sides["relations"][1].append(gold_items)
    for kind, (found_of, gold_of) in sides.items():
        assert figures(scores[f"{kind}, micro"]) == pytest.approx(prf(*counted(found_of, gold_of)))
        by_type = []
        for name in sorted({item[-1] for items in (*found_of, *gold_of) for item in items}):
            by_type.append(
                prf(
                    *counted(
                        [{i for i in items if i[-1] == name} for items in found_of],
                        [{i for i in items if i[-1] == name} for items in gold_of],
                    )
                )
            )
        means = [sum(values) / len(by_type) for values in zip(*by_type, strict=True)]
        assert figures(scores[f"{kind}, macro"]) == pytest.approx(means)
        assert "tp" not in scores[f"{kind}, macro"]


def test_gold_read_back_is_right_under_every_protocol() -> None:
    for source, relations in (
        ("bc5cdr", [("naproxen", "causes", "kidney failure"), ("Aleve", "causes", "acute renal failure")]),
        ("biored", [("Aleve", "causes", "RF"), ("naproxen", "causes", "acute renal failure")]),
    ):
        gold = document(source)
        gold = replace(gold, relations=gold.relations[:2])
        results = scores_of([(gold, [(kind, name) for name, (kind, _) in NAMES.items()], relations)])
        assert results
        for protocol in results.values():
            for title, values in protocol["scores"].items():
                if "training" not in title and protocol["title"] != "BC5CDR mentions, strict spans":
                    assert (values["f1"], values["f1_interval"]) == (1, [1, 1]), (protocol["title"], title)
    mentions = scores_of([(document("bc5cdr"), [("Disease", "nowhere"), ("Drug", "Aleve")], [])])["bc5cdr_mentions"]
    assert (mentions["scores"]["both types"]["tp"], mentions["scores"]["both types"]["fp"]) == (1, 1), (
        "a name in no text"
    )


def test_what_was_scored_is_said_and_what_cannot_be_is_left_out() -> None:
    test, train = document("bc5cdr", "1"), document("bc5cdr", "2", "train")
    cut, ours = document("bc5cdr", "3"), document("bc5cdr", "990000001")
    rows = [row(one, [("Drug", "naproxen")], []) for one in (test, train, cut, ours)]
    rows[2]["text"] = TEXT[:40]
    corpus = [one.to_dict() for one in (test, train, cut, ours)]
    found = TASK.score_protocols(rows, corpus, resamples=20)
    assert set(found) == {"bc5cdr_mentions", "cdr_relations"}
    for protocol in found.values():
        assert (protocol["documents"], protocol["official_documents"], protocol["share"]) == (1, 500, 1 / 500)
    assert TASK.score_protocols(rows, [], resamples=20) == {}
    assert TASK.score_protocols([], corpus, resamples=20) == {}
    sentences = [document("ade", "5", None), replace(document("ade", "6", None), relations=())]
    (ade,) = scores_of([(one, [("Drug", "naproxen")], []) for one in sentences]).values()
    assert (ade["documents"], ade["share"]) == (1, None), "a sentence without an adverse effect is none of SpERT's"
    assert [protocol.name for protocol in PROTOCOLS] == [
        "bc5cdr_mentions",
        "cdr_relations",
        "biored_pairs",
        "ade_strict",
    ]
