"""Nodes of the combination pipeline."""

import random
from array import array
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import islice
from operator import itemgetter
from sys import intern
from typing import Any

from odin_slm.config.parameters import CombinationParams, IngestionParams, TaskParams
from odin_slm.core.document import Document, is_synthetic, surface_forms
from odin_slm.core.errors import CorpusFormatError, LeakageError, MissingInputError, ReviewError, required
from odin_slm.core.hashing import sha256_of_json
from odin_slm.core.record import SPLITS, Record
from odin_slm.core.rows import Joined, Mapped, chosen
from odin_slm.dataprep import cleaning
from odin_slm.dataprep.cleaning import Cleaned
from odin_slm.dataprep.quality import assess
from odin_slm.dataprep.splitting import Folds, assign_splits, find_leaks
from odin_slm.models.base_model import BaseModel
from odin_slm.models.tokens import RecordCounter, record_counter
from odin_slm.tasks import Task

# The check uses permutations of its own, so that a pair which the split's hashing missed is not missed twice.
_SECOND_OPINION = 7_919
_AT_ONCE = 1024
_BIN = 32
"""Width of the histogram of lengths, in tokens."""


def gather(*parts: Sequence[dict[str, Any]]) -> Sequence[dict[str, Any]]:
    """Join the documents, or the records, of all corpora."""
    return Joined(*parts)


def gather_reports(*parse_reports: dict[str, Any]) -> list[dict[str, Any]]:
    """Join the reports of all parsers, one a corpus; those by configuration come in one report."""
    return [one for report in parse_reports for one in report.get("corpora", {"": report}).values()]


def gather_sources(parse_reports: list[dict[str, Any]], params: IngestionParams) -> dict[str, Any]:
    """Say what the data were made of.

    Returns:
        ``inputs``: corpus and file -> sha256; ``dropped``: corpus -> what was left out, by reason; ``parameters``.
    """
    files = {
        f"{one['corpus']}/{file}": hashed for one in parse_reports for file, hashed in one.get("inputs", {}).items()
    }
    dropped = {one["corpus"]: one["dropped"] for one in parse_reports if one.get("dropped")}
    return {"inputs": files, "dropped": dropped, "parameters": params.model_dump(mode="json")}


def place_documents(
    documents: Sequence[dict[str, Any]] | None, params: CombinationParams, ingestion: IngestionParams
) -> dict[str, dict[str, Any]]:
    """Place every document of every corpus in one split.

    Returns:
        Document id -> ``split`` (None: not used), ``group``, ``rule``, ``pmid``, ``source``.

    Raises:
        CorpusFormatError: Two documents have one id.
        ReviewError: A document that was corrected beside a model's predictions would validate or test.
        MissingInputError: There are no documents.
    """
    given = required(documents, "documents.jsonl")
    parsed = [_without_text(values) for values in given]
    for identifier, count in Counter(document.id for document in parsed).items():
        if count > 1:
            sources = " and ".join(sorted({document.source for document in parsed if document.id == identifier}))
            raise CorpusFormatError(
                f"found {count} documents with the id {identifier!r}; expected one.",
                where=f"corpus {sources}",
                fix="Let the corpus' parser number the documents of one abstract.",
            )
    reviewed = [name for name, block in ingestion.own_corpora.items() if block.review]
    placements = assign_splits(
        parsed,
        seed=params.seed,
        validation_ratio=params.validation_ratio,
        official_validation=params.official_validation,
        test_ratio=params.test_ratio,
        near_duplicate=params.near_duplicate,
        folds=Folds(params.folds, params.fold, params.fold_by == "document") if params.folds else None,
        reviewed=reviewed,
        texts=Mapped(itemgetter("text"), given),
    )
    for document in parsed:
        split = placements[document.id].split
        if document.source in reviewed and split in ("validation", "test"):
            raise ReviewError(
                f"it was corrected beside a model's predictions, and is a {split} document here.",
                where=f"corpus {document.source}, document {document.id}",
                fix="Leave its corpus out of a cross-validation (combination.folds)."
                if params.folds
                else "Take it out, or split as when it was chosen: the same corpora, seed, ratios and near_duplicate.",
            )
    return {d.id: {**placements[d.id].to_dict(), "pmid": d.pmid, "source": d.source} for d in parsed}


def _without_text(values: dict[str, Any]) -> Document:
    """Return what of a document decides its place; the texts of a million have no room in memory."""
    split = values["split"] and intern(values["split"])
    return Document(values["id"], "", intern(values["source"]), values["pmid"], split)


def combine_records(
    records: Sequence[Record], splits: dict[str, dict[str, Any]], params: CombinationParams
) -> dict[str, Sequence[Record]]:
    """Put every record into its document's split, shuffled by the seed.

    Returns:
        Split -> records.

    Raises:
        MissingInputError: There is no record.
    """
    if not records:
        raise MissingInputError(
            "no record was made of the corpora.",
            where="ingestion",
            fix="*_records_report.json in data/03_primary says why: name other corpora (ingestion.corpora), raise "
            "ingestion.max_tokens, or set ingestion.overflow=window.",
        )
    parts: dict[str, list[int]] = {name: [] for name in SPLITS}
    for position, record in enumerate(records):
        split = splits[record["document_id"]]["split"]
        if split is not None:
            parts[split].append(position)
    for name, part in parts.items():
        random.Random(f"{params.seed}-{name}").shuffle(part)
    return {name: chosen(records, part) for name, part in parts.items()}


def clean_records(
    combined: dict[str, Sequence[Record]], task: TaskParams, params: CombinationParams
) -> tuple[dict[str, Sequence[Record]], dict[str, Any]]:
    """Apply the cleaning steps that the parameters switch on; without any, the records pass as they are.

    Returns:
        Split -> records, and the report: what each step changed or left out, by record id.
    """
    what = task.task()
    steps: list[tuple[str, bool, Callable[[dict[str, Sequence[Record]]], Cleaned]]] = [
        ("normalise_text", params.normalise_text, partial(cleaning.normalise_text, task=what)),
        ("drop_duplicates", params.drop_duplicates, cleaning.drop_duplicates),
        ("drop_empty", params.drop_empty, partial(cleaning.drop_empty, task=what)),
        (
            f"balance_by_{params.balance_by}",
            params.balance_by != "none",
            partial(cleaning.balance, task=what, by=params.balance_by, limit=params.balance_limit),
        ),
    ]
    report: dict[str, Any] = {}
    for name, enabled, step in steps:
        if enabled:
            cleaned = step(combined)
            combined = cleaned.records
            report[name] = {"changed": cleaned.changed, "left_out": cleaned.left_out}
    return combined, {"steps": report, "records": {name: len(part) for name, part in combined.items()}}


def check_leakage(
    cleaned: dict[str, Sequence[Record]], splits: dict[str, dict[str, Any]], task: TaskParams, params: CombinationParams
) -> tuple[Sequence[Record], Sequence[Record], Sequence[Record], dict[str, Any]]:
    """Prove that nothing leaks from one split into another.

    Returns:
        Train, validation and test records, and the leakage report.

    Raises:
        LeakageError: A document, an input or a near-duplicate lies in two splits, or something that the task forbids
            lies where it must not; nothing is saved then. Folds by document may leak: the report counts it, quality
            fails, and the data gate refuses a release.
    """
    pmids = {identifier: placed["pmid"] for identifier, placed in splits.items()}
    what, seed = task.task(), params.seed + _SECOND_OPINION
    leaks = find_leaks(cleaned, pmids, near_duplicate=params.near_duplicate, seed=seed, subject=what.subject)
    forbidden = what.leaks(cleaned)
    leaks |= forbidden
    found = [leak for kind in (forbidden if params.may_leak else leaks).values() for leak in kind]
    if found:
        first = found[0]
        records = (record for part in cleaned.values() for record in part)
        windowed = {r["document_id"] for r in records if r["id"].startswith(f"{r['document_id']}#w")}
        raise LeakageError(
            f"{len(found)} leaks between splits; the first: {what.unit}s {', '.join(first['documents'])} "
            f"in {' and '.join(first['splits'])}.",
            where="combination",
            # whole documents that are alike lie in one split; of others, short windows may be
            fix=first.get("fix")
            or (
                "Windows of these documents are alike: raise ingestion.max_tokens, or set ingestion.overflow=drop."
                if windowed.intersection(first["documents"])
                else f"Lower combination.near_duplicate, or take one of the {what.unit}s out of the corpus."
            ),
        )
    report = {
        **{kind: len(leaks[kind]) for kind in leaks},
        "leaks": leaks,
        "near_duplicate_threshold": params.near_duplicate,
        "rules": dict(sorted(Counter(p["rule"] for p in splits.values()).items())),
        "groups": len({p["group"] for p in splits.values()}),
        "not_used_because_another_corpus_annotates_the_abstract": sorted(
            identifier for identifier, placed in splits.items() if placed["rule"] == "shared abstract"
        ),
        "seen_in_training": _seen(what, cleaned["train"], cleaned["test"]),
    }
    return cleaned["train"], cleaned["validation"], cleaned["test"], report


def write_manifest(
    train: Sequence[Record],
    val: Sequence[Record],
    test: Sequence[Record],
    splits: dict[str, dict[str, Any]],
    data_sources: dict[str, Any],
    params: CombinationParams,
) -> dict[str, Any]:
    """Describe the dataset so that anyone can make it again and compare it byte for byte.

    Returns:
        ``inputs`` (corpus file -> sha256), ``dropped`` (corpus -> reason -> count), ``outputs`` (split file -> sha256),
        ``counts``, ``parameters``, ``seed``, ``versions``, and ``synthetic_sources``: the sources whose documents our
        own generator wrote.
    """
    from importlib.metadata import version

    from odin_slm import __version__

    parts = {"train": train, "val": val, "test": test}
    synthetic: dict[str, list[bool]] = defaultdict(list)
    for placed in splits.values():
        synthetic[placed["source"]].append(is_synthetic(placed["pmid"]))
    return {
        "inputs": data_sources["inputs"],
        "dropped": data_sources["dropped"],
        "outputs": {f"{name}.json": sha256_of_json(records) for name, records in parts.items()},
        "counts": {
            name: {
                "records": len(records),
                "documents": len({record["document_id"] for record in records}),
                "by_source": dict(sorted(Counter(record["source"] for record in records).items())),
            }
            for name, records in parts.items()
        },
        "synthetic_sources": sorted(source for source, flags in synthetic.items() if all(flags)),
        "seed": params.seed,
        "parameters": {
            "ingestion": data_sources["parameters"],
            "combination": params.model_dump(mode="json"),
        },
        "versions": {"odin-slm": __version__, **{name: version(name) for name in ("rensa", "tokenizers")}},
    }


def describe_test_set(
    documents: Sequence[dict[str, Any]],
    splits: dict[str, dict[str, Any]],
    manifest: dict[str, Any],
    params: CombinationParams,
) -> dict[str, Any]:
    """Gather what scoring must know of the test set beyond its records.

    Returns:
        ``manifest_sha256``, of the manifest's file; ``surface_forms``: test document -> the other names of its
        concepts (see :func:`odin_slm.core.document.surface_forms`), cleaned as the records are; and ``groups``: test
        document -> its abstract's PubMed id, which several sentences may share.
    """
    clean = cleaning.plain_text if params.normalise_text else str
    tested = [Document.from_dict(values) for values in documents if splits[values["id"]]["split"] == "test"]
    return {
        "manifest_sha256": sha256_of_json(manifest),
        "surface_forms": {
            document.id: {clean(name): [clean(o) for o in others] for name, others in surface_forms(document).items()}
            for document in tested
        },
        "groups": {document.id: document.pmid for document in tested},
    }


def assess_quality(
    train: Sequence[Record],
    val: Sequence[Record],
    test: Sequence[Record],
    leakage: dict[str, Any],
    task: TaskParams,
    params: CombinationParams,
) -> dict[str, Any]:
    """Score the dataset and decide whether it may be used; see :func:`odin_slm.dataprep.quality.assess`."""
    splits = {"train": train, "validation": val, "test": test}
    return assess(splits, leakage["leaks"], task.task(), profile=params.quality_profile)


def count_data(
    train: Sequence[Record], val: Sequence[Record], test: Sequence[Record], base_model: BaseModel, task: TaskParams
) -> dict[str, Any]:
    """Count records and labels per split and source, with lengths in words and in the base's tokens."""
    lengths_of = record_counter(base_model)
    splits = {"train": train, "validation": val, "test": test}
    return {name: count_records(records, lengths_of, task.task()) for name, records in splits.items()}


def count_records(records: Sequence[Record], lengths_of: RecordCounter, task: Task) -> dict[str, Any]:
    """Count one split, all of it and source by source."""
    kinds = list(task.labels(""))
    parts: dict[str, _Counts] = {}
    left = iter(records)
    while some := list(islice(left, _AT_ONCE)):
        for record, length in zip(some, lengths_of(some), strict=True):
            parts.setdefault(record["source"], _Counts(kinds)).add(record, task.labels(record["output"]), length)
    everything = _Counts(kinds)
    for part in parts.values():
        everything.join(part)
    return {name: part.figures() for name, part in [("all", everything), *sorted(parts.items())]}


class _Counts:
    """Counts of records, and of their labels of each kind."""

    def __init__(self, kinds: Sequence[str]) -> None:
        self._documents: set[str] = set()
        self._labels: dict[str, Counter[str]] = {kind: Counter() for kind in kinds}
        self._without = 0
        self._words, self._lengths = array("i"), array("i")

    def add(self, record: Record, labels: Mapping[str, Sequence[str]], length: int) -> None:
        """Count a record of so many tokens."""
        self._documents.add(record["document_id"])
        for kind, counts in self._labels.items():
            counts.update(labels[kind])
        self._without += bool(self._labels) and not labels[next(iter(self._labels))]
        self._words.append(len(record["input"].split()))
        self._lengths.append(length)

    def join(self, other: "_Counts") -> None:
        """Count what the other one has counted."""
        self._documents |= other._documents
        for kind, counts in other._labels.items():
            self._labels[kind] += counts
        self._without += other._without
        self._words += other._words
        self._lengths += other._lengths

    def figures(self) -> dict[str, Any]:
        """Return what was counted."""
        words = sorted(self._words)
        return {
            "records": len(words),
            "documents": len(self._documents),
            **{f"without_{kind}": self._without for kind in list(self._labels)[:1]},
            **{kind: dict(sorted(counts.items())) for kind, counts in self._labels.items()},
            "words_of_input": {
                "median": words[len(words) // 2] if words else 0,
                "longest": words[-1] if words else 0,
            },
            "tokens": _spread(self._lengths),
        }


def _spread(lengths: Sequence[int]) -> dict[str, Any]:
    """Return quantiles of lengths, and how many lie in each bin of 32 tokens."""
    ordered = sorted(lengths)
    if not ordered:
        return {"median": 0, "p90": 0, "p99": 0, "longest": 0, "total": 0, "histogram": {}}
    return {
        **{
            f"{name}": ordered[int(len(ordered) * share)]
            for name, share in (("median", 0.5), ("p90", 0.9), ("p99", 0.99))
        },
        "longest": ordered[-1],
        "total": sum(ordered),
        "histogram": {str(low): n for low, n in sorted(Counter(length // _BIN * _BIN for length in ordered).items())},
    }


def _seen(task: Task, train: Sequence[Record], test: Sequence[Record]) -> dict[str, dict[str, float | int]]:
    """Return, per source, the share of distinct things in the test outputs that training's say too."""
    tested: dict[str, dict[str, set[tuple[str, ...]]]] = defaultdict(lambda: defaultdict(set))
    for record in test:
        found = tested[record["source"]]
        for kind, items in task.items(record["output"]).items():
            found[kind] |= items
    unseen: dict[str, set[tuple[str, ...]]] = defaultdict(set)
    for found in tested.values():
        for kind, items in found.items():
            unseen[kind] |= items
    for record in train:
        for kind, items in task.items(record["output"]).items():
            unseen[kind] -= items
    shares: dict[str, dict[str, float | int]] = {}
    for source, found in sorted(tested.items()):
        shares[source] = {}
        for kind, items in found.items():
            shares[source][f"test_{kind}"] = len(items)
            shares[source][f"test_{kind}_seen"] = round(len(items - unseen[kind]) / len(items), 4) if items else 0.0
    return shares
