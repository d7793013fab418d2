"""Relations judged pair by pair against relations as the model lists them, with the same entities.

    .venv/bin/kedro run --env smollm2-135m --pipelines data,training --params corpora=DIR,task.options.form=list
    .venv/bin/python benchmarks/pairs.py --work FOLDER [--documents 80] [--adapter DIR]

Reads as many validation documents of BC5CDR and of BioRED under the grammar, as lists, and then has every legal pair of
the listed entities weighed in one pass. On one half of the documents it fits the thresholds, for each score that is
tried, and judges the other half by them. An adapter that was taught to judge (``judged_pairs`` in its ``task.json``) is
asked for yes or no. The test set is not read.

Prints for each score and mode micro F1 of relations with its 95 % interval over documents, and the paired difference
from the lists; then the tokens that pairs cost. With ``--timed 16`` it prints instead what so many of the records take
in each mode. What FOLDER holds already is not done again.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import random
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from odin_slm.config.parameters import EvaluationParams, TaskParams
from odin_slm.models.base_model import BaseModel
from odin_slm.tasks import load
from odin_slm.tasks.extraction import pairs
from odin_slm.tasks.extraction.format import RelationTriple
from odin_slm.tasks.extraction.metrics import micro
from odin_slm.tasks.extraction.pairs import Judge
from odin_slm.tasks.extraction.task import ExtractionTask

ROOT = Path(__file__).resolve().parents[1]
SOURCES = ("bc5cdr", "biored")


def within(group: Callable[[RelationTriple], Any], nothing: bool) -> Callable[..., list[float]]:
    """Return a score: the log-probability of a line given one of its group, or nothing, comes first."""

    def scores(found: Sequence[RelationTriple], log_shares: Sequence[float]) -> list[float]:
        totals: dict[Any, float] = {}
        for pair, share in zip(found, log_shares, strict=False):
            totals[group(pair)] = totals.get(group(pair), math.exp(log_shares[-1]) * nothing) + math.exp(share)
        return [share - math.log(totals[group(pair)] or 1) for pair, share in zip(found, log_shares, strict=False)]

    return scores


SCORES: dict[str, Callable[..., list[float]]] = {
    "of all lines and nothing": within(lambda pair: 0, True),
    "of all lines": within(lambda pair: 0, False),
    "of its head's and nothing": pairs.scores,
    "of its head's": within(lambda pair: pair.head, False),
    "of its head's and type's": within(lambda pair: (pair.head, pair.type), False),
    "of its tail's": within(lambda pair: pair.tail, False),
}
"""What the log-probability of a line is compared with."""


def taught(found: Sequence[RelationTriple], log_shares: Sequence[float]) -> list[float]:
    """Return the score of a model that was taught to judge."""
    return pairs.answers(log_shares)


def main() -> None:
    """Read, weigh, fit, judge and print."""
    parser = argparse.ArgumentParser(description="Judged pairs against lists of relations.")
    parser.add_argument("--base", type=Path, default=ROOT / "data/06_models/smollm2-135m-instruct")
    parser.add_argument("--adapter", type=Path, default=ROOT / "data/06_models/smollm2-135m/adapter")
    parser.add_argument("--data", type=Path, default=ROOT / "data/05_model_input/smollm2-135m")
    parser.add_argument("--work", type=Path, required=True, help="folder for outputs")
    parser.add_argument("--documents", type=int, default=80, help="validation documents of each corpus, at most")
    parser.add_argument("--minutes", type=float, default=math.inf, help="weigh no longer, and compare what there is")
    parser.add_argument("--timed", type=int, help="measure the time of so many records instead")
    options = parser.parse_args()
    if not (options.data / "val.json").is_file():
        raise SystemExit(f"There is no data in {options.data} yet; the head of this file says how to make it.")
    logging.basicConfig(level=logging.INFO)
    options.work.mkdir(parents=True, exist_ok=True)
    said = options.adapter / "task.json"
    options.task = load(json.loads(said.read_text(encoding="utf-8"))) if said.is_file() else ExtractionTask()
    records = sampled(json.loads((options.data / "val.json").read_text(encoding="utf-8")), options.documents)
    rows = listed(records, options)
    if options.timed:
        measure(random.Random(2).sample(records, options.timed), options)
        return
    weighed = weigh(records, rows, options)
    compare(records, rows, weighed, options.task)
    count(records, rows, options)


def sampled(records: list[dict[str, Any]], documents: int) -> list[dict[str, Any]]:
    """Return the records of some documents of each source."""
    chosen: set[str] = set()
    for source in SOURCES:
        names = sorted({record["document_id"] for record in records if record["source"] == source})
        chosen.update(random.Random(0).sample(names, min(documents, len(names))))
    return [record for record in records if record["document_id"] in chosen and record["source"] in SOURCES]


def listed(records: list[dict[str, Any]], options: argparse.Namespace) -> list[dict[str, Any]]:
    """Return the rows of all records, read as lists."""
    from odin_slm.pipelines.evaluation.nodes import TunedAdapter, generate_predictions

    file = options.work / "lists.json"
    if not file.is_file():
        params = EvaluationParams(experiment="pairs", decoding="constrained", max_new_tokens=320)
        base = BaseModel(options.base.name, options.base)
        rows = generate_predictions(base, TunedAdapter(options.adapter), records, options.work, TaskParams(), params)
        file.write_text(json.dumps({"rows": rows}), encoding="utf-8")
    found: list[dict[str, Any]] = json.loads(file.read_text(encoding="utf-8"))["rows"]
    return found


def measure(records: list[dict[str, Any]], options: argparse.Namespace) -> None:
    """Print what a record takes in each mode, loading not counted."""
    from odin_slm.core.record import render_prompt
    from odin_slm.inference.generation import Generator, generate

    base = BaseModel(options.base.name, options.base)
    generator = Generator(base, options.adapter)
    prompts = [render_prompt(record["instruction"], record["input"]) for record in records]
    for mode in ("list", *pairs.MODES):  # the first round warms up
        task = options.task.with_calibrator({pairs.KEY: {"mode": mode, "thresholds": {}}})
        grammars = [task.grammar(record["instruction"], record["input"]) for record in records]
        begin, busy = time.perf_counter(), time.process_time()
        asked: dict[str, Any] = {"batch_size": 32, "max_new_tokens": 320, "grammars": grammars}
        outputs = generate(base, None, prompts, loaded=generator, **asked)
        seconds, busy = (time.perf_counter() - begin) / len(records), (time.process_time() - busy) / len(records)
        tokens = sum(output.tokens for output in outputs) / len(records)
        print(
            f"{mode:8}{seconds:7.2f} s and {busy:6.2f} s of processor time a record, {tokens:4.0f} tokens", flush=True
        )


def count(records: list[dict[str, Any]], rows: list[dict[str, Any]], options: argparse.Namespace) -> None:
    """Print how many tokens a model reads to weigh the pairs of a record, beside those that it writes."""
    from odin_slm.inference.decoding.scoring import TokenTree
    from odin_slm.models.base_model import load_tokenizer
    from odin_slm.models.tokens import completion_ids

    tokenizer = load_tokenizer(BaseModel(options.base.name, options.base))
    read = 0.0
    for record, row in zip(records, rows, strict=True):
        tree = TokenTree()
        for output in grammar_of(record, options.task).alternatives(row["prediction"]):
            tree.add(completion_ids(tokenizer, output))
        if forks := tree.forks:  # all up to the first fork has been read, but for its last token
            nodes = {node for fork in forks for node in tree.path(fork)}
            read += len(nodes) - len(tree.path(forks[0])) + 1
    written, read = sum(row["tokens"] for row in rows) / len(rows), read / len(rows)
    print(f"tokens a record: {written:.0f} written as a list, {read:.0f} read to weigh its pairs")


def weigh(
    records: list[dict[str, Any]], rows: list[dict[str, Any]], options: argparse.Namespace
) -> dict[str, dict[str, Any]]:
    """Return, by record, the log-probability of each of its alternatives."""
    from odin_slm.core.record import render_prompt
    from odin_slm.inference.decoding.scoring import log_shares
    from odin_slm.inference.generation import Generator
    from odin_slm.models.tokens import prompt_ids

    file = options.work / "weighed.jsonl"
    lines = file.read_text(encoding="utf-8").splitlines() if file.is_file() else []
    done = {one["id"]: one for one in map(json.loads, lines)}
    left = [pair for pair in zip(records, rows, strict=True) if pair[0]["id"] not in done]
    if not left or not options.minutes:
        return done
    generator = Generator(BaseModel(options.base.name, options.base), options.adapter)
    with file.open("a", encoding="utf-8") as log:
        begin = time.monotonic()
        for record, row in left:
            if time.monotonic() - begin > options.minutes * 60:
                break
            outputs = grammar_of(record, options.task).alternatives(row["prediction"])
            prompt = prompt_ids(generator.tokenizer, render_prompt(record["instruction"], record["input"]))
            shares = log_shares(generator, prompt, outputs)
            done[record["id"]] = {"id": record["id"], "shares": shares}
            log.write(json.dumps(done[record["id"]]) + "\n")
            log.flush()
    return done


def grammar_of(record: dict[str, Any], task: ExtractionTask) -> Any:
    """Return a record's grammar, which weighs and changes nothing."""
    return task.to_calibrate("both").grammar(record["instruction"], record["input"])


def compare(
    records: list[dict[str, Any]],
    rows: list[dict[str, Any]],
    weighed: dict[str, dict[str, Any]],
    task: ExtractionTask,
) -> None:
    """Fit each score on one half of the documents, judge the other, and print."""
    known = [pair for pair in zip(records, rows, strict=True) if pair[0]["id"] in weighed]
    records, rows = [record for record, _ in known], [row for _, row in known]
    names = sorted({row["document_id"] for row in rows})
    random.Random(1).shuffle(names)
    half = set(names[: len(names) // 2])
    lists = [row for row in rows if row["document_id"] not in half]
    counts = [f"{sum(row['source'] == source for row in rows)} of {source}" for source in SOURCES]
    print(f"records: {', '.join(counts)}; {len(half)} documents to fit on, {len(names) - len(half)} to judge")
    print(f"{'score: the line as a share':28}{'mode':8}{'fitted on':>10}   {'relation F1':22}minus the list")
    print(f"{'':28}{'list':18}   {figures(task, lists, lists)}")
    for title, score in ({"yes against no": taught} if task.judged_pairs else SCORES).items():
        scored = []
        for record, row in zip(records, rows, strict=True):
            found = grammar_of(record, task).legal_pairs(row["prediction"])
            scores = score(found, weighed[record["id"]]["shares"])
            scored.append({**row, "pairs": found, "scores": scores} | {"weighed": lines(found, scores)})
        for mode in ("pairs", "both"):
            fitted = pairs.fit([row for row in scored if row["document_id"] in half], mode)
            if fitted["why"]:
                print(f"{title:28}{mode:8}{fitted['why']}", flush=True)
                continue
            judge = Judge.of({pairs.KEY: fitted}) or Judge()
            others = [row for row in scored if row["document_id"] not in half]
            changed = [{**row, "prediction": judged(row, judge)} for row in others]
            print(f"{title:28}{mode:8}{fitted['f1'][mode]:10.3f}   {figures(task, changed, lists)}", flush=True)


def lines(found: Sequence[RelationTriple], scores: Sequence[float]) -> list[list[Any]]:
    """Return what a row holds under ``weighed``."""
    return [[pairs.line_of(pair), score] for pair, score in zip(found, scores, strict=True)]


def judged(row: dict[str, Any], judge: Judge) -> str:
    """Return a row's output with the relations that a judge finds."""
    return pairs.judged(row["prediction"], (), row["pairs"], row["scores"], judge)[0]


def figures(task: ExtractionTask, rows: list[dict[str, Any]], lists: list[dict[str, Any]]) -> str:
    """Return relation F1 with its interval, and the paired difference from the lists."""
    name = "relation_f1_micro"
    low, high = micro(rows)["intervals"][name]
    text = f"{f'{task.headline_values(rows)[name]:.3f} [{low:.3f}, {high:.3f}]':22}"
    if rows is lists:
        return text
    gap = task.difference(rows, lists)[name]
    return f"{text}{gap['value']:+.3f} [{gap['interval'][0]:+.3f}, {gap['interval'][1]:+.3f}]"


if __name__ == "__main__":
    main()
