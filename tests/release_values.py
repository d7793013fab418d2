"""Small, complete inputs of the publishing pipeline; every text is made up for these tests."""

from __future__ import annotations

from typing import Any

from extraction_values import TASK
from odin_slm.core.hashing import canonical_json, sha256_text
from odin_slm.pipelines.combination.nodes import count_records
from odin_slm.tasks.extraction.format import Entity, Extraction, RelationTriple, render

_DRUGS = ("zumaprole", "kelvitan", "orbestine", "daxomil", "fenurate", "pliamol")


def record(source: str, pmid: int, number: int = 0) -> dict[str, Any]:
    """Return a made-up record of a source."""
    drug = _DRUGS[number % len(_DRUGS)]
    effect = "Symptom" if source == "ade" else "Disease"
    extraction = Extraction(
        (Entity("Drug", drug), Entity(effect, "mild rash")), (RelationTriple(drug, "causes", "mild rash"),)
    )
    return {
        "instruction": TASK.instruction(source),
        "input": f"Patient {number} noticed a mild rash after {drug} | twice “daily”.",
        "output": render(extraction),
        "id": f"{source}-{pmid}-{number}",
        "source": source,
        "document_id": f"{source}-{pmid}-{number}",
    }


def splits(*, synthetic: bool) -> dict[str, list[dict[str, Any]]]:
    """Return train, val and test records of all corpora, with ids of the generator or of real abstracts."""
    first = 990_000_000 if synthetic else 1_000
    sizes = {"train": 6, "val": 2, "test": 3}
    found: dict[str, list[dict[str, Any]]] = {}
    number = 0
    for name, size in sizes.items():
        found[name] = []
        for _ in range(size):
            for source in ("ade", "bc5cdr", "biored"):
                found[name].append(record(source, first + number, number))
                number += 1
    return found


def manifest(
    parts: dict[str, list[dict[str, Any]]], *, synthetic: bool, instruction: str = "per_schema"
) -> dict[str, Any]:
    return {
        "inputs": {"ade/DRUG-AE.rel": "0" * 64},
        "outputs": {f"{name}.json": sha256_text(canonical_json(records)) for name, records in parts.items()},
        "counts": {
            name: {
                "records": len(records),
                "documents": len({r["document_id"] for r in records}),
                "by_source": {s: sum(r["source"] == s for r in records) for s in ("ade", "bc5cdr", "biored")},
            }
            for name, records in parts.items()
        },
        "synthetic_sources": ["ade", "bc5cdr", "biored"] if synthetic else [],
        "seed": 42,
        "parameters": {"ingestion": {"instruction": instruction}, "combination": {"near_duplicate": 0.7}},
        "versions": {"odin-slm": "0.1.0"},
    }


def leakage(**changes: int) -> dict[str, Any]:
    seen = {"test_entities": 6, "test_entities_seen": 0.5, "test_triples": 3, "test_triples_seen": 0.3333}
    return {
        "exact_inputs": 0,
        "pmids": 0,
        "near_duplicates": 0,
        "seen_in_training": dict.fromkeys(("ade", "bc5cdr", "biored"), seen),
        **changes,
    }


def quality(decision: str = "pass") -> dict[str, Any]:
    return {
        "decision": decision,
        "score": 97.25,
        "grade": "A",
        "profile": "ml-training",
        "minimum_score": 80.0,
        "failed_critical": [] if decision == "pass" else ["record ids are unique"],
        "checks": [],
    }


def statistics(parts: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    def words(records: Any) -> list[int]:
        return [len(record["input"].split()) for record in records]

    return {"validation" if name == "val" else name: count_records(part, words, TASK) for name, part in parts.items()}


def _scores(f1: float) -> dict[str, Any]:
    return {"precision": f1, "recall": f1, "f1": f1, "tp": 9, "fp": 3, "fn": 3}


def _metrics(f1: float, types: tuple[str, ...]) -> dict[str, Any]:
    return {
        "micro": _scores(f1),
        "macro": {"precision": f1, "recall": f1, "f1": f1},
        "by_type": {name: {**_scores(f1), "support": 12} for name in types},
        "by_source": {source: {**_scores(f1), "support": 12} for source in ("ade", "bc5cdr", "biored")},
    }


def scored(entity: float, relation: float) -> dict[str, Any]:
    return {
        "entity_metrics": _metrics(entity, ("Drug", "Disease", "Symptom")),
        "relation_metrics": _metrics(relation, ("causes", "treats")),
        "output_quality": {
            "parse_failure_rate": 0.0125,
            "hallucinated_entity_rate": 0.04,
            "unfinished_rate": 0.0,
            "examples": 9,
        },
        "intervals": {
            "entity_f1_micro": [entity - 0.05, entity + 0.05],
            "relation_f1_micro": [relation - 0.06, relation + 0.06],
        },
    }


def evaluation_results(*, synthetic: bool, with_base: bool = True, **changes: Any) -> dict[str, Any]:
    return {
        "experiment": "demo",
        "test_set": {
            "description": "Held-out documents of ade, bc5cdr and biored",
            "examples": 9,
            "documents": 9,
            "sha256": "2" * 64,
            "synthetic": synthetic,
            "sources": {"ade": 3, "bc5cdr": 3, "biored": 3},
        },
        "decoding": "free",
        **scored(0.8642, 0.7531),
        "base": scored(0.1234, 0.0711) if with_base else None,
        "difference": {
            "entity_f1_micro": {"value": 0.7408, "interval": [0.7, 0.78]},
            "relation_f1_micro": {"value": 0.682, "interval": [0.6, 0.74]},
        }
        if with_base
        else None,
        **changes,
    }


def protocols() -> dict[str, Any]:
    """Return the scores under two protocols of the literature; one has no official test part."""
    micro = {"precision": 0.75, "recall": 0.5, "f1": 0.6, "tp": 3, "fp": 1, "fn": 3, "f1_interval": [0.4, 0.8]}
    macro = {name: value for name, value in micro.items() if name not in ("tp", "fp", "fn")}
    found = {"title": "CDR <pairs>", "source": "bc5cdr", "rule": "A pair of ids."}
    ade = {"title": "ADE, strict", "source": "ade", "rule": "Places and types."}
    return {
        "cdr": {**found, "documents": 125, "official_documents": 500, "share": 0.25, "scores": {"pair": micro}},
        "ade": {**ade, "documents": 36, "official_documents": None, "share": None, "scores": {"macro": macro}},
    }


def training_state() -> dict[str, Any]:
    return {
        "history": [{"step": 10, "epoch": 1.0, "loss": 0.5}],
        "best_step": 10,
        "best_eval_loss": 0.4321,
        "seconds": 12.3,
        "tokens": 34_567,
        "tokens_per_second": 2810.0,
        "hyperparameters": {
            "epochs": 3.0,
            "learning_rate": 0.002,
            "lora": {"r": 32, "target_modules": ["q_proj", "v_proj"]},
        },
        "trainable_parameters": 1_081_344,
    }
