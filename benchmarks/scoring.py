"""Scoring many predictions with 1,000 bootstrap resamples: predictions per second, peak memory, against a plain loop.

    .venv/bin/python benchmarks/scoring.py [PREDICTIONS]

Scores everything that `evaluation_results.json` holds about one model under one decoding (all modes, types, sources,
intervals, errors) on 1,000,000 predictions. They are made from documents of the synthetic generator, four from each, by
dropping, cutting, retyping and inventing entities, and by turning, retyping, dropping and adding relations. Making them
is not counted. The plain loop computes the two headline figures alone, with Python sets and with 1,000 resamples drawn
and summed document by document; the ratio compares the two on 20,000 predictions, though the loop does only a small
part of the work. CPU seconds are those of one core, whatever else the machine does.
"""

from __future__ import annotations

import json
import random
import resource
import subprocess
import sys
import time
from typing import Any

from odin_slm.core.document import surface_forms
from odin_slm.core.folding import fold
from odin_slm.corpora.synthetic.generator import generate
from odin_slm.tasks.extraction.format import Entity, Extraction, RelationTriple, parse, render
from odin_slm.tasks.extraction.metrics import ratios, score, strings_of
from odin_slm.tasks.extraction.records import extraction_of
from odin_slm.tasks.extraction.schema import ENTITY_TYPES, RELATION_TYPES

RESAMPLES = 1000
PER_DOCUMENT = 4
FEW = 20_000

Row = dict[str, Any]


def predictions(count: int) -> list[Row]:
    """Return rows of a predictions file."""
    rng = random.Random(1)
    rows: list[Row] = []
    for number, document in enumerate(generate(-(-count // PER_DOCUMENT), seed=1)):
        gold = extraction_of(document)
        for copy in range(PER_DOCUMENT):
            rows.append(
                {
                    "id": f"{document.id}-{copy}-{number}",
                    "document_id": f"{document.pmid}-{copy}",
                    "source": document.source,
                    "input": document.text,
                    "gold": render(gold),
                    "prediction": disturbed(gold, rng),
                    "surface_forms": surface_forms(document),
                    "finished": rng.random() < 0.98,
                }
            )
    return rows[:count]


def disturbed(gold: Extraction, rng: random.Random) -> str:
    """Return an output that gets about two thirds of an extraction right."""
    entities, relations = [], []
    for entity in gold.entities:
        draw = rng.random()
        words = entity.text.split()
        if draw < 0.1:
            continue
        if draw < 0.18 and len(words) > 1:
            entities.append(Entity(entity.type, " ".join(words[1:] if rng.random() < 0.5 else words[:-1])))
        elif draw < 0.22:
            entities.append(Entity(rng.choice(ENTITY_TYPES), entity.text))
        elif draw < 0.26:
            entities.append(Entity(entity.type, f"{entity.text[::-1]}"))
        else:
            entities.append(entity)
    for relation in gold.relations:
        draw = rng.random()
        if draw < 0.15:
            continue
        if draw < 0.2:
            relations.append(RelationTriple(relation.tail, relation.type, relation.head))
        elif draw < 0.25:
            relations.append(RelationTriple(relation.head, rng.choice(RELATION_TYPES), relation.tail))
        else:
            relations.append(relation)
    if len(entities) > 1 and rng.random() < 0.15:
        head, tail = rng.sample(entities, 2)
        relations.append(RelationTriple(head.text, rng.choice(RELATION_TYPES), tail.text))
    output = render(Extraction(tuple(entities), tuple(relations)))
    return output if rng.random() < 0.98 else f"{output}\nand so on"


def plain(rows: list[Row]) -> dict[str, Any]:
    """Compute micro F1 and its interval for entities and relations by the definition, resample by resample."""
    rng = random.Random(42)
    counts: dict[str, dict[str, list[int]]] = {"entity": {}, "relation": {}}
    for row in rows:
        sides = [parse(row[side]).extraction for side in ("gold", "prediction")]
        entities = [{(e.type, fold(e.text)) for e in side.entities} for side in sides]
        relations = [{(fold(r.head), r.type, fold(r.tail)) for r in side.relations} for side in sides]
        items: dict[str, list[set[Any]]] = {"entity": entities, "relation": relations}
        for kind, (gold, predicted) in items.items():
            total = counts[kind].setdefault(row["document_id"], [0, 0, 0])
            for place, count in enumerate((gold & predicted, predicted - gold, gold - predicted)):
                total[place] += len(count)
    results = {}
    for kind, documents in counts.items():
        each = list(documents.values())
        drawn = []
        for _ in range(RESAMPLES):
            sample = rng.choices(each, k=len(each))
            drawn.append(ratios(*(sum(one[column] for one in sample) for column in range(3)))["f1"])
        drawn.sort()
        value = ratios(*(sum(one[column] for one in each) for column in range(3)))["f1"]
        results[kind] = [value, drawn[int(RESAMPLES * 0.025)], drawn[int(RESAMPLES * 0.975)]]
    return results


def measure(count: int) -> dict[str, Any]:
    """Score ``count`` predictions; seconds, predictions per second, GB held before and at the peak."""
    rows = predictions(count)
    seen = strings_of([{"output": row["gold"]} for row in rows[: count // 10]])
    before = _peak()
    begin, used = time.perf_counter(), time.process_time()
    results = score(rows, seen=seen, resamples=RESAMPLES)
    seconds, cpu = time.perf_counter() - begin, time.process_time() - used
    return {
        "predictions": count,
        "seconds": round(seconds, 1),
        "cpu_seconds": round(cpu, 1),
        "predictions_per_second": round(count / seconds),
        "gb_of_the_predictions": before,
        "peak_gb": _peak(),
        "entity_f1": [results["entity_metrics"]["micro"]["f1"], *results["intervals"]["entity_f1_micro"]],
        "relation_f1": [results["relation_metrics"]["micro"]["f1"], *results["intervals"]["relation_f1_micro"]],
    }


def compare() -> dict[str, Any]:
    """Time the plain loop and :func:`score` on the same few predictions."""
    rows = predictions(FEW)
    times = []
    for work in (lambda: plain(rows), lambda: score(rows, resamples=RESAMPLES)):
        begin = time.process_time()
        work()
        times.append(time.process_time() - begin)
    return {
        "predictions": FEW,
        "plain_loop_cpu_seconds": round(times[0], 2),
        "score_cpu_seconds": round(times[1], 2),
        "ratio": round(times[0] / times[1], 1),
    }


def _peak() -> float:
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024**2, 2)


def main() -> None:
    """Measure in processes of their own, and print."""
    if sys.argv[1:2] == ["--one"]:
        print(json.dumps(measure(int(sys.argv[2])) if sys.argv[2:] else compare()))
        return
    whole = sys.argv[1] if len(sys.argv) > 1 else "1000000"
    for arguments in ([], [whole]):
        command = [sys.executable, __file__, "--one", *arguments]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        print(json.dumps(json.loads(done.stdout.strip().splitlines()[-1]), indent=1), flush=True)


if __name__ == "__main__":
    main()
