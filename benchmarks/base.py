"""What the embedded base is worth on real ADE, beside two baselines that anybody has in seconds.

    .venv/bin/kedro run --env nano --pipelines data --params corpora=DIR
    .venv/bin/pip install -c requirements/constraints.txt -e ".[dev,benchmark]"
    .venv/bin/python benchmarks/base.py [--data data/05_model_input/nano] [--epochs 1] [--work FOLDER]

Trains on the ADE records of the training split and scores on those of the test split (documents are disjoint):

- a dictionary of the training mentions, longest match first, kept where at least half of its matches in training are
  mentions, with every Drug x Symptom pair as a relation;
- a CRF (Lafferty et al., 2001; sklearn-crfsuite) on words, with the same relations;
- the base alone, and the base with a LoRA adapter; both decodings.

Prints micro F1 with 95 % intervals over documents on all test records, and on those that have entities, the share of
entities that are not in the text, of faulty outputs, the paired difference of adapter and dictionary, and how many of
1,000 spans marked in test texts the base copies exactly, where the marks stand apart and where they touch the span, so
that its first word has other tokens than in the output. A run that was stopped goes on in its ``--work`` folder.
"""

from __future__ import annotations

import argparse
import json
import logging
import re
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from odin_slm.config.parameters import EvaluationParams, LoraParams, TaskParams, TrainingParams
from odin_slm.core.record import Record
from odin_slm.models.base_model import resolve_base_model
from odin_slm.pipelines.evaluation.nodes import TunedAdapter, generate_base_predictions, generate_predictions
from odin_slm.pretraining.curriculum import Sources
from odin_slm.pretraining.probes import probe_base
from odin_slm.tasks.extraction.format import Entity, Extraction, RelationTriple, locate, parse, render
from odin_slm.tasks.extraction.metrics import difference, score
from odin_slm.training.lora import train_lora

ROOT = Path(__file__).resolve().parents[1]
WORD = re.compile(r"\w+|[^\w\s]")
Span = tuple[int, int, str]


def spans_of(record: Record) -> list[Span]:
    """Return the gold mentions with their places, longest first, none inside another."""
    found: list[Span] = []
    for entity in sorted(parse(record["output"]).extraction.entities, key=lambda e: -len(e.text)):
        for begin, end in locate(record["input"], entity.text):
            if not any(begin < e and b < end for b, e, _ in found):
                found.append((begin, end, entity.type))
    return found


def row_of(record: Record, spans: Sequence[Span]) -> dict[str, Any]:
    """Return a row of a predictions file: the spans' texts in order, and every Drug x Symptom pair as a relation."""
    named = [(kind, record["input"][begin:end]) for begin, end, kind in sorted(spans)]
    entities = tuple({(kind, text.casefold()): Entity(kind, text) for kind, text in reversed(named)}.values())[::-1]
    drugs, symptoms = ([e.text for e in entities if e.type == kind] for kind in ("Drug", "Symptom"))
    relations = tuple(RelationTriple(drug, "causes", symptom) for drug in drugs for symptom in symptoms)
    fields = {name: record[name] for name in ("id", "source", "document_id", "input")}
    return {**fields, "gold": record["output"], "prediction": render(Extraction(entities, relations))}


def dictionary(train: Sequence[Record]) -> Callable[[Record], list[Span]]:
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


def crf(train: Sequence[Record]) -> Callable[[Record], list[Span]]:
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


def measured(title: str, rows: Sequence[dict[str, Any]]) -> Iterator[str]:
    """Yield the table's line of one system."""
    for name, part in (("all", rows), ("with entities", [r for r in rows if parse(r["gold"]).extraction.entities])):
        result = score(part)
        cells = []
        for kind in ("entity", "relation"):
            micro, ends = result[f"{kind}_metrics"]["micro"], result["intervals"][f"{kind}_f1_micro"]
            figures = "/".join(f"{100 * micro[key]:4.1f}" for key in ("precision", "recall", "f1"))
            cells.append(f"{figures} [{100 * ends[0]:4.1f}, {100 * ends[1]:4.1f}]")
        quality = result["output_quality"]
        faulty = f"{quality['hallucinated_entity_rate']:6.1%} {quality['parse_failure_rate']:6.1%}"
        yield f"{title:28} {name:14} {len(part):5d}  {'   '.join(cells)}  {faulty}"


def main() -> None:
    """Train, predict, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--data", type=Path, default=ROOT / "data/05_model_input/nano")
    parser.add_argument("--base", default="data/06_models/odin-nano")
    parser.add_argument("--epochs", type=float, default=1.0)
    parser.add_argument("--learning-rate", type=float, default=5e-4)
    parser.add_argument("--rank", type=int, default=32)
    parser.add_argument("--spans", type=int, default=1000, help="marked spans to copy")
    parser.add_argument("--seed", type=int, default=42)
    parser.add_argument("--work", type=Path, help="keep adapter and outputs there")
    given = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")

    def ade(split: str) -> list[Any]:
        records = json.loads((given.data / f"{split}.json").read_text(encoding="utf-8"))
        return [record for record in records if record["source"] == "ade"]

    train, validation, test = ade("train"), ade("val"), ade("test")
    systems: dict[str, list[dict[str, Any]]] = {}
    for title, fit in (("dictionary", dictionary), ("CRF", crf)):
        begin = time.monotonic()
        find = fit(train)
        systems[f"{title} + all pairs ({time.monotonic() - begin:.0f} s)"] = [row_of(r, find(r)) for r in test]

    base = resolve_base_model(given.base, root=ROOT)
    options = EvaluationParams(experiment="ade")
    with tempfile.TemporaryDirectory() as folder:
        work = given.work or Path(folder)
        adapter, state = train_lora(
            base,
            train,
            validation,
            work / "training",
            TrainingParams(
                max_seq_length=512,
                learning_rate=given.learning_rate,
                epochs=given.epochs,
                validation_samples=200,
                seed=given.seed,
                lora=LoraParams(r=given.rank, alpha=given.rank),
                resume=given.work is not None,
            ),
            lambda *_: None,  # training logs its own progress
        )
        tuned = generate_predictions(base, TunedAdapter(adapter), test, work, TaskParams(), options)
        alone = generate_base_predictions(base, test, work, TaskParams(), options)
        copied = probe_base(
            base,
            Sources([], [], [record["input"] for record in test]),
            kinds=dict.fromkeys(("copy_one", "copy_glued"), given.spans),
            seed=given.seed,
        )
    for title, rows in (("base", alone), (f"base + LoRA ({state['seconds']:.0f} s)", tuned)):
        systems[f"{title}, free"] = [{**row, **row["free"]} for row in rows]
        systems[f"{title}, constrained"] = rows

    print(
        f"\n{len(train)} training, {len(validation)} validation, {len(test)} test records of ADE; {given.epochs} epochs"
    )
    heads = "entities P/R/F1 [95 %]         relations P/R/F1 [95 %]        not in text, faulty"
    print(f"{'system':28} {'records':14} {'n':>5}  {heads}")
    for title, rows in systems.items():
        for line in measured(title, rows):
            print(line)
    known = next(iter(systems.values()))
    for name, found in difference(tuned, known).items():
        value, low, high = (100 * figure for figure in (found["value"], *found["interval"]))
        print(f"adapter, constrained, minus dictionary: {name} {value:+.1f} [{low:+.1f}, {high:+.1f}]")
    for where, figures in zip(("apart from", "touching"), copied.values(), strict=True):
        print(
            f"base alone, free: {figures['identical_outputs']:.1%} of {figures['examples']} spans of 1-5 words, marks "
            f"{where} them, copied exactly; {figures['not_in_text']:.1%} of the names not in the text"
        )


if __name__ == "__main__":
    main()
