"""A dictionary and a CRF on every corpus, and their relations: what anybody has in seconds, beside a model's outputs.

    .venv/bin/kedro run --env smollm2-135m --pipelines data --params corpora=DIR,task.options.form=list
    .venv/bin/pip install -c requirements/constraints.txt -e ".[dev,benchmark]"
    .venv/bin/python benchmarks/baselines.py [--data FOLDER] [--sources ade bc5cdr biored] [--beside predictions.jsonl]

Each corpus has baselines of its own, which read its training records alone:

- a dictionary of the training mentions, longest match first, kept where at least half of its matches in training are
  mentions;
- a CRF (Lafferty et al., 2001; sklearn-crfsuite) on words;
- the relations of both: two types of names that training relates get the relation that they have there most often, and
  it holds between all names of these types in a text, between those in one sentence, or never, whichever has the best
  F1 on training's own mentions.

Nothing is chosen on the test split: it is scored once, by the same rule as a model's outputs. Prints micro F1 with 95 %
intervals over documents on all test records, on those that have entities, and by corpus; the share of entities that are
not in the text, and of faulty outputs; and the paired differences of the predictions that ``--beside`` names.
"""

from __future__ import annotations

import argparse
import itertools
import json
import re
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from odin_slm.core.folding import fold
from odin_slm.core.hashing import sha256_of
from odin_slm.core.record import Record
from odin_slm.core.sentences import sentence_spans
from odin_slm.tasks.extraction.format import Entity, Extraction, RelationTriple, locate, parse, render
from odin_slm.tasks.extraction.metrics import difference, ratios, score

ROOT = Path(__file__).resolve().parents[1]
WORD = re.compile(r"\w+|[^\w\s]")
Span = tuple[int, int, str]
Finder = Callable[[Record], list[Span]]
Rule = tuple[str, str, str, bool]
"""Type of the head, relation, type of the tail, and whether both names have to be in one sentence."""


def spans_of(record: Record) -> list[Span]:
    """Return the gold mentions with their places, longest first, none inside another."""
    found: list[Span] = []
    for entity in sorted(parse(record["output"]).extraction.entities, key=lambda e: -len(e.text)):
        for begin, end in locate(record["input"], entity.text):
            if not any(begin < e and b < end for b, e, _ in found):
                found.append((begin, end, entity.type))
    return found


def names_of(text: str, spans: Sequence[Span]) -> list[Entity]:
    """Return the spans' names in text order, each once."""
    found: dict[tuple[str, ...], Entity] = {}
    for begin, end, kind in sorted(spans):
        entity = Entity(kind, text[begin:end])
        found.setdefault(entity.key, entity)
    return list(found.values())


def related(text: str, spans: Sequence[Span], rule: Rule) -> dict[tuple[str, ...], RelationTriple]:
    """Return the relations of one rule; names of one type are related in text order."""
    head, relation, tail, together = rule
    found: dict[tuple[str, ...], RelationTriple] = {}
    for begin, end in sentence_spans(text) if together else [(0, len(text))]:
        names = names_of(text, [span for span in spans if begin <= span[0] < end])
        for one, other in itertools.permutations(names, 2) if head != tail else itertools.combinations(names, 2):
            if (one.type, other.type) == (head, tail) and fold(one.text) != fold(other.text):
                triple = RelationTriple(one.text, relation, other.text)
                found.setdefault(triple.key, triple)
    return found


def rules_of(train: Sequence[Record]) -> list[Rule]:
    """Return the rules that together have the best relation F1 on training's own mentions."""
    kinds: dict[tuple[str, str], Counter[str]] = {}
    texts = []
    for record in train:
        gold = parse(record["output"]).extraction
        types = {fold(entity.text): entity.type for entity in gold.entities}
        for triple in gold.relations:
            pair = (types.get(fold(triple.head), ""), types.get(fold(triple.tail), ""))
            kinds.setdefault(pair, Counter())[triple.type] += 1
        texts.append((record["input"], spans_of(record), set(gold.keys("relation"))))
    total = sum(len(gold) for *_, gold in texts)
    ways: list[list[tuple[Rule | None, int, int]]] = []
    for (head, tail), relations in kinds.items():
        relation = relations.most_common(1)[0][0]
        ways.append([(None, 0, 0)])
        for rule in ((head, relation, tail, False), (head, relation, tail, True)):
            found = [(related(text, spans, rule).keys(), gold) for text, spans, gold in texts]
            ways[-1].append((rule, sum(len(keys & gold) for keys, gold in found), sum(len(keys) for keys, _ in found)))

    def f1(chosen: Sequence[tuple[Rule | None, int, int]]) -> float:
        right, listed = sum(way[1] for way in chosen), sum(way[2] for way in chosen)
        return ratios(right, listed - right, total - right)["f1"]

    return [way[0] for way in max(itertools.product(*ways), key=f1) if way[0]]


def row_of(record: Record, spans: Sequence[Span], rules: Sequence[Rule]) -> dict[str, Any]:
    """Return a row of a predictions file: the spans' names in order, and their relations."""
    found = [triple for rule in rules for triple in related(record["input"], spans, rule).values()]
    fields = {name: record[name] for name in ("id", "source", "document_id", "input")}
    output = render(Extraction(tuple(names_of(record["input"], spans)), tuple(found)))
    return {**fields, "gold": record["output"], "prediction": output}


def dictionary(train: Sequence[Record]) -> Finder:
    """Return a matcher of the training mentions."""
    kinds: dict[str, Counter[str]] = {}
    for record in train:
        for begin, end, kind in spans_of(record):
            kinds.setdefault(record["input"][begin:end].casefold(), Counter())[kind] += 1

    def matcher(names: Sequence[str]) -> re.Pattern[str]:
        ordered = sorted(names, key=lambda name: (-len(name), name))
        return re.compile(rf"(?<!\w)(?:{'|'.join(map(re.escape, ordered))})(?!\w)", re.IGNORECASE)

    matches: Counter[str] = Counter()
    pattern = matcher(list(kinds))
    for record in train:
        matches.update(match[0].casefold() for match in pattern.finditer(record["input"]))
    kept = matcher([name for name in kinds if 2 * kinds[name].total() >= matches[name]])

    def find(record: Record) -> list[Span]:
        found = ((m.start(), m.end(), m[0].casefold()) for m in kept.finditer(record["input"]))
        return [(begin, end, kinds[name].most_common(1)[0][0]) for begin, end, name in found if name in kinds]

    return find


def words_of(text: str) -> list[tuple[int, int, str]]:
    """Return words and punctuation marks with their places."""
    return [(match.start(), match.end(), match[0]) for match in WORD.finditer(text)]


def features(words: Sequence[str]) -> list[dict[str, Any]]:
    """Describe every word by its form, its affixes and its neighbours."""

    def shape(word: str) -> str:
        return re.sub(r"[a-z]+", "a", re.sub(r"[A-Z]+", "A", re.sub(r"\d+", "0", word)))

    rows = []
    for position, word in enumerate(words):
        low = word.lower()
        row: dict[str, Any] = {"bias": 1.0, "word": low, "shape": shape(word)}
        row |= {f"prefix{n}": low[:n] for n in (2, 3, 4)} | {f"suffix{n}": low[-n:] for n in (2, 3, 4)}
        for offset in (-2, -1, 1, 2):
            near = words[position + offset] if 0 <= position + offset < len(words) else "<edge>"
            row |= {f"word{offset:+d}": near.lower(), f"suffix{offset:+d}": near.lower()[-3:]}
        rows.append(row)
    return rows


def crf(train: Sequence[Record]) -> Finder:
    """Train a CRF on begin, inside and outside tags and return its matcher."""
    from sklearn_crfsuite import CRF

    def tags(record: Record) -> list[str]:
        spans = spans_of(record)

        def tag(begin: int, end: int) -> str:
            for b, e, kind in spans:
                if b <= begin and end <= e:
                    return f"{'B' if begin == b else 'I'}-{kind}"
            return "O"

        return [tag(begin, end) for begin, end, _ in words_of(record["input"])]

    model = CRF(algorithm="lbfgs", c1=0.1, c2=0.01, max_iterations=100, all_possible_transitions=True)
    model.fit([features([w for *_, w in words_of(r["input"])]) for r in train], [tags(r) for r in train])

    def find(record: Record) -> list[Span]:
        words = words_of(record["input"])
        spans: list[Span] = []
        for (begin, end, _), tag in zip(words, model.predict_single(features([w for *_, w in words])), strict=True):
            if tag.startswith("B-") or (tag.startswith("I-") and (not spans or spans[-1][1] < begin - 3)):
                spans.append((begin, end, tag[2:]))
            elif tag.startswith("I-"):
                spans[-1] = (spans[-1][0], end, spans[-1][2])
        return spans

    return find


def systems_of(train: Sequence[Any], test: Sequence[Any]) -> dict[str, list[Any]]:
    """Return the rows of both baselines, fitted on each corpus for itself, by name and processor time."""
    parts = {source: [r for r in train if r["source"] == source] for source in sorted({r["source"] for r in train})}
    rules = {source: rules_of(part) for source, part in parts.items()}
    for source, found in rules.items():
        for head, relation, tail, together in found:
            print(f"{source}: {head} {relation} {tail}, {'in one sentence' if together else 'all pairs'}")
    systems = {}
    for title, fit in (("dictionary", dictionary), ("CRF", crf)):
        begin = time.process_time()
        finders = {source: fit(part) for source, part in parts.items()}
        seconds = time.process_time() - begin
        rows = [row_of(record, finders[record["source"]](record), rules[record["source"]]) for record in test]
        systems[f"{title} + pairs ({seconds:.0f} s)"] = rows
    return systems


def measured(title: str, rows: Sequence[dict[str, Any]]) -> Iterator[str]:
    """Yield the table's lines of one system."""
    parts = {"all": rows, "with entities": [row for row in rows if parse(row["gold"]).extraction.entities]}
    sources = sorted({row["source"] for row in rows})
    if len(sources) > 1:
        parts |= {source: [row for row in rows if row["source"] == source] for source in sources}
    for name, part in parts.items():
        result = score(part)
        cells = []
        for kind in ("entity", "relation"):
            micro, ends = result[f"{kind}_metrics"]["micro"], result["intervals"][f"{kind}_f1_micro"]
            figures = "/".join(f"{100 * micro[key]:4.1f}" for key in ("precision", "recall", "f1"))
            cells.append(f"{figures} [{100 * ends[0]:4.1f}, {100 * ends[1]:4.1f}]")
        quality = result["output_quality"]
        faulty = f"{quality['hallucinated_entity_rate']:6.1%} {quality['parse_failure_rate']:6.1%}"
        yield f"{title:28} {name:14} {len(part):5d}  {'   '.join(cells)}  {faulty}"


def show(systems: dict[str, list[Any]]) -> None:
    """Print the table of all systems."""
    heads = "entities P/R/F1 [95 %]         relations P/R/F1 [95 %]        not in text, faulty"
    print(f"{'system':28} {'records':14} {'n':>5}  {heads}")
    for title, rows in systems.items():
        for line in measured(title, rows):
            print(line, flush=True)


def main() -> None:
    """Fit, predict, and print the table."""
    parser = argparse.ArgumentParser(description="A dictionary and a CRF on every corpus.")
    parser.add_argument("--data", type=Path, default=ROOT / "data/05_model_input/smollm2-135m")
    parser.add_argument("--sources", nargs="+", default=["ade", "bc5cdr", "biored"])
    parser.add_argument("--beside", type=Path, help="predictions of a model on the same test records")
    given = parser.parse_args()
    if not (given.data / "test.json").is_file():
        raise SystemExit(f"There is no data in {given.data} yet; the head of this file says how to make it.")
    train, test = (
        [each for each in json.loads((given.data / f"{split}.json").read_text()) if each["source"] in given.sources]
        for split in ("train", "test")
    )
    print(f"{len(train)} training, {len(test)} test records of {', '.join(given.sources)}")
    manifest = sha256_of(given.data / "manifest.json")
    systems = {
        title: [{**row, "manifest_sha256": manifest} for row in rows] for title, rows in systems_of(train, test).items()
    }
    model = [json.loads(line) for line in given.beside.read_text().splitlines()] if given.beside else []
    model = [row for row in model if row["source"] in given.sources]
    show(systems | ({"the model": model} if model else {}))
    for title, rows in systems.items() if model else ():
        for source in (*given.sources, "all"):
            pair = ([row for row in part if source in (row["source"], "all")] for part in (model, rows))
            for name, found in difference(*pair, name=title).items():
                if name.endswith("f1_micro"):
                    value, low, high = (100 * figure for figure in (found["value"], *found["interval"]))
                    print(f"the model minus {title}, {source}: {name} {value:+.1f} [{low:+.1f}, {high:+.1f}]")


if __name__ == "__main__":
    main()
