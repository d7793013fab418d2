"""Scores of predictions: pure functions on rows of a predictions file.

Everything is recomputed from the raw texts ``gold`` and ``prediction``. The headline rule, ``exact``, compares sets per
example: an entity is its type and its text, a relation its head, type and tail; texts are compared without regard to
case and to the amount of white space. Where nothing was predicted or nothing was to be found, a ratio is 0.

Micro averages add up true positives, false positives and false negatives over all examples. Macro averages are means
over examples; an example without gold and without prediction is right and counts 1. Intervals are percentiles of a
bootstrap over documents (Efron & Tibshirani, 1993, chapter 13): the examples of one document are drawn together.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from odin_slm.errors import PredictionsError
from odin_slm.prompt import Entity, Extraction, RelationTriple, parse
from odin_slm.schema import ENTITY_TYPES, RELATION_TYPES, SIGNATURES, is_synthetic
from odin_slm.serialization import canonical_json, sha256_text

if TYPE_CHECKING:
    from numpy.typing import NDArray

KINDS = ("entity", "relation")
COLLAPSED = {"Symptom": "Disease"}
"""The ``collapsed`` view: corpora call the same strings one or the other."""

ERRORS = {
    "hallucinated": "entity that does not stand in the text",
    "boundary": "entity that shares words with a missed one of its type",
    "wrong_type": "entity with the right text and another type",
    "spurious_entity": "entity that stands in the text and is not gold",
    "missed": "gold entity that was not predicted",
    "dangling_argument": "relation whose head or tail is no listed entity",
    "reversed_direction": "relation with head and tail exchanged",
    "wrong_relation_type": "relation with the right arguments and another type",
    "spurious_relation": "relation between listed entities that is not gold",
    "missed_relation": "gold relation that was not predicted",
}
"""Every false positive and every false negative under ``exact`` is of one of these kinds."""

_EXAMPLES_PER_ERROR = 5
_LENGTH_BINS = 5
_WORD = re.compile(r"\w+")

_Item = TypeVar("_Item", bound=Hashable)
_EntityItem = tuple[str, str]
_RelationItem = tuple[str, str, str]
_Counts = list[tuple[float, float, float]]


@dataclass(frozen=True, slots=True)
class Example:
    """One row of a predictions file, parsed.

    Attributes:
        id: The record's id.
        source: Its corpus.
        document_id: The document it comes from.
        text: Its input, normalised as :func:`normalise` does.
        gold: What was to be found.
        predicted: What the model wrote.
        well_formed: Whether every line of the prediction follows the format.
        finished: Whether the model ended the output itself.
    """

    id: str
    source: str
    document_id: str
    text: str
    gold: Extraction
    predicted: Extraction
    well_formed: bool
    finished: bool


@dataclass(frozen=True, slots=True)
class Strings:
    """The strings that training has shown, normalised."""

    entities: frozenset[str]
    relations: frozenset[_RelationItem]


def normalise(text: str) -> str:
    """Return a text as scores compare it: case-folded, single-spaced."""
    return " ".join(text.casefold().split())


def read_examples(rows: Sequence[Mapping[str, Any]]) -> list[Example]:
    """Parse the rows of a predictions file.

    Args:
        rows: Mappings with at least ``id``, ``input``, ``gold`` and ``prediction``; ``source``, ``document_id`` and
            ``finished`` if known.

    Raises:
        PredictionsError: There is no row, a field is missing, or an id occurs twice.
    """
    if not rows:
        raise PredictionsError("there is no prediction to score.", fix="Run the evaluation pipeline on a test set.")
    examples = [_example(row, number) for number, row in enumerate(rows, start=1)]
    repeated = [name for name, count in Counter(example.id for example in examples).items() if count > 1]
    if repeated:
        raise PredictionsError(f"the id {repeated[0]} occurs more than once.", fix="Give every record its own id.")
    return examples


def strings_of(records: Iterable[Mapping[str, Any]]) -> Strings:
    """Return the entity texts and triples of records' gold outputs."""
    entities: set[str] = set()
    relations: set[_RelationItem] = set()
    for record in records:
        extraction = parse(record["output"]).extraction
        entities.update(normalise(entity.text) for entity in extraction.entities)
        relations.update(_relations(extraction))
    return Strings(frozenset(entities), frozenset(relations))


def evaluate(
    predictions: Sequence[Mapping[str, Any]],
    base_predictions: Sequence[Mapping[str, Any]] | None = None,
    training_records: Sequence[Mapping[str, Any]] | None = None,
    *,
    experiment: str,
    resamples: int = 1000,
    seed: int = 42,
) -> dict[str, Any]:
    """Score a model's predictions and compare them with the base model's on the same examples.

    Args:
        predictions: Rows of the fine-tuned model. ``decoding`` says how ``prediction`` came about; ``free`` may hold
            the fields of a second, free decoding.
        base_predictions: Rows of the base model alone, or None. Rows of other examples are not compared.
        training_records: Records whose strings count as seen, or None.
        experiment: Name of the experiment.
        resamples: Bootstrap resamples.
        seed: Seed of the bootstrap.

    Returns:
        ``evaluation_results``: ``experiment``, ``test_set``, ``training_set``, ``decoding``, everything of
        :func:`score` for the headline decoding, the same under ``free`` for the other one, with
        ``decoding_difference`` between the two, and for the base under ``base`` (None where there is none);
        ``difference`` is fine-tuned minus base, ``comparison`` why there is none.

    Raises:
        PredictionsError: See :func:`read_examples`.
    """
    seen = strings_of(training_records) if training_records else None

    def scored(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        return _scored(rows, seen, resamples, seed)

    own = scored(predictions)
    results = {
        "experiment": experiment,
        "test_set": _test_set(predictions),
        "training_set": _training_set(training_records),
        **own,
    }
    refusal = _not_comparable(predictions, base_predictions)
    base = None if refusal or base_predictions is None else base_predictions
    results["base"] = scored(base) if base else None
    results["difference"] = difference(predictions, base, resamples=resamples, seed=seed) if base else None
    results["comparison"] = refusal or "fine-tuned minus base, paired by document"
    return results


def score(
    predictions: Sequence[Mapping[str, Any]], *, seen: Strings | None = None, resamples: int = 1000, seed: int = 42
) -> dict[str, Any]:
    """Score predictions under ``exact`` and its variants.

    Args:
        predictions: Rows of a predictions file.
        seen: Strings that training has shown; adds the variant ``unseen``.
        resamples: Bootstrap resamples.
        seed: Seed of the bootstrap.

    Returns:
        ``entity_metrics`` and ``relation_metrics``, each with ``micro``, ``macro``, ``by_type`` and ``by_source``;
        ``output_quality``; ``intervals`` of 95 %; ``variants``; ``errors``; ``by_length``.

    Raises:
        PredictionsError: See :func:`read_examples`.
    """
    examples = read_examples(predictions)
    bootstrap = _Bootstrap(examples, resamples, seed)
    pairs = _Pairs.of(examples, _entities, _relations)
    return {
        "entity_metrics": _metrics(examples, pairs.entities, lambda item: item[0], ENTITY_TYPES, bootstrap),
        "relation_metrics": _metrics(examples, pairs.relations, lambda item: item[1], RELATION_TYPES, bootstrap),
        "output_quality": _output_quality(examples, predictions),
        "intervals": {
            "entity_f1_micro": bootstrap.interval(_counts(pairs.entities)),
            "relation_f1_micro": bootstrap.interval(_counts(pairs.relations)),
        },
        "variants": dict(_variants(examples, pairs, seen, bootstrap)),
        "errors": _errors(examples, pairs),
        "by_length": _by_length(examples, pairs, resamples, seed),
    }


def difference(
    predictions: Sequence[Mapping[str, Any]],
    others: Sequence[Mapping[str, Any]],
    *,
    resamples: int = 1000,
    seed: int = 42,
) -> dict[str, dict[str, Any]]:
    """Compare two models on the same examples: paired bootstrap over documents of the difference in micro F1.

    Returns:
        ``entity_f1_micro`` and ``relation_f1_micro``, each with ``value`` (predictions minus others) and the 95 %
        ``interval``.

    Raises:
        PredictionsError: The rows are not of the same examples.
    """
    bootstrap, counts = _paired(predictions, others, resamples, seed)
    return {name: bootstrap.difference(*pair) for name, pair in counts.items()}


def exchanged(
    predictions: Sequence[Mapping[str, Any]],
    others: Sequence[Mapping[str, Any]],
    *,
    resamples: int = 1000,
    seed: int = 42,
) -> dict[str, float]:
    """Test two models on the same examples by paired approximate randomisation over documents.

    Returns:
        ``entity_f1_micro`` and ``relation_f1_micro``: two-sided p-values, (exchanges at least as far apart + 1) /
        (``resamples`` + 1).

    Raises:
        PredictionsError: The rows are not of the same examples.
    """
    bootstrap, counts = _paired(predictions, others, resamples, seed)
    return {name: bootstrap.exchange(*pair) for name, pair in counts.items()}


def _paired(
    predictions: Sequence[Mapping[str, Any]], others: Sequence[Mapping[str, Any]], resamples: int, seed: int
) -> tuple[_Bootstrap, dict[str, tuple[_Counts, _Counts]]]:
    """Return the resampling of the examples' documents and, by metric, both models' counts per example."""
    refusal = _not_comparable(predictions, others, "other model")
    if refusal:
        raise PredictionsError(refusal, fix="Make both with the same test set.")
    mine = read_examples(predictions)
    by_id = {example.id: example for example in read_examples(others)}
    theirs = [by_id[example.id] for example in mine]
    my_pairs, their_pairs = (_Pairs.of(examples, _entities, _relations) for examples in (mine, theirs))
    return _Bootstrap(mine, resamples, seed), {
        "entity_f1_micro": (_counts(my_pairs.entities), _counts(their_pairs.entities)),
        "relation_f1_micro": (_counts(my_pairs.relations), _counts(their_pairs.relations)),
    }


def errors_in(row: Mapping[str, Any]) -> Counter[str]:
    """Count the errors of one row of a predictions file, by the keys of :data:`ERRORS`."""
    example = _example(row, 1)
    pairs = _Pairs.of([example], _entities, _relations)
    return Counter(_errors_of(example, pairs.entities[0], pairs.relations[0]))


def ratios(tp: float, fp: float, fn: float) -> dict[str, float]:
    """Return precision, recall and F1 of counts; 0 where a ratio has no denominator."""
    return {
        "precision": tp / (tp + fp) if tp + fp else 0.0,
        "recall": tp / (tp + fn) if tp + fn else 0.0,
        "f1": 2 * tp / (2 * tp + fp + fn) if tp + fp + fn else 0.0,
    }


# Rows


def _example(row: Mapping[str, Any], number: int) -> Example:
    for name in ("id", "input", "gold", "prediction"):
        if not isinstance(row.get(name), str):
            raise PredictionsError(
                f"expected a text {name!r}, found {row.get(name)!r}.",
                where=f"predictions, row {number}",
                fix="Make the predictions again with the evaluation pipeline.",
            )
    predicted = parse(row["prediction"])
    return Example(
        id=row["id"],
        source=row.get("source") or "unknown",
        document_id=row.get("document_id") or row["id"],
        text=normalise(row["input"]),
        gold=parse(row["gold"]).extraction,
        predicted=predicted.extraction,
        well_formed=predicted.well_formed,
        finished=row.get("finished", True),
    )


def _scored(rows: Sequence[Mapping[str, Any]], seen: Strings | None, resamples: int, seed: int) -> dict[str, Any]:
    results: dict[str, Any] = {"decoding": rows[0].get("decoding", "free") if rows else "free"}
    results |= score(rows, seen=seen, resamples=resamples, seed=seed)
    if all("free" in row for row in rows):
        free = [{**row, **row["free"]} for row in rows]
        results["free"] = score(free, seen=seen, resamples=resamples, seed=seed)
        results["decoding_difference"] = difference(rows, free, resamples=resamples, seed=seed)
    return results


def _not_comparable(
    predictions: Sequence[Mapping[str, Any]], others: Sequence[Mapping[str, Any]] | None, name: str = "base model"
) -> str | None:
    """Return why two files must not be compared, or None."""
    if not others:
        return f"there are no predictions of the {name}"
    mine, theirs = _fingerprint(predictions), _fingerprint(others)
    if mine != theirs:
        return f"the {name}'s predictions are of other examples (sha256 {theirs[:12]}…, here {mine[:12]}…)"
    return None


def _fingerprint(rows: Sequence[Mapping[str, Any]]) -> str:
    return sha256_text(canonical_json(sorted([str(row.get(name)) for name in ("id", "input", "gold")] for row in rows)))


def _test_set(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    documents = {row.get("document_id") or row["id"] for row in rows}
    written = {name for name in documents if any(is_synthetic(part) for part in name.split("-"))}
    sources = Counter(row.get("source") or "unknown" for row in rows)
    names = " and ".join([", ".join(sorted(sources)[:-1]), sorted(sources)[-1]] if len(sources) > 1 else sources)
    if written == documents:
        description = f"Held-out synthetic documents in the format of {names}"
    elif written:
        description = f"Held-out documents of {names}, {len(written)} of them synthetic"
    else:
        description = f"Held-out documents of {names}"
    return {
        "description": description,
        "examples": len(rows),
        "documents": len(documents),
        "sha256": _fingerprint(rows),
        "synthetic": bool(written),
        "sources": dict(sorted(sources.items())),
    }


def _training_set(records: Sequence[Mapping[str, Any]] | None) -> dict[str, Any] | None:
    if not records:
        return None
    return {
        "examples": len(records),
        "sources": dict(sorted(Counter(r.get("source", "unknown") for r in records).items())),
    }


# Sets to compare


def _entities(extraction: Extraction) -> set[_EntityItem]:
    return {(entity.type, normalise(entity.text)) for entity in extraction.entities}


def _relations(extraction: Extraction) -> set[_RelationItem]:
    return {(normalise(r.head), r.type, normalise(r.tail)) for r in extraction.relations}


def _typed_relations(extraction: Extraction) -> set[_RelationItem]:
    """Relations whose arguments carry their entity types, as one text each (SpERT's "with NEC").

    An output names arguments by text alone. Where several entities have that text, the first pair in listed order that
    fits the relation's signature counts, or else the first pair; an argument that is not listed has no type.
    """
    types: dict[str, list[str]] = defaultdict(list)
    for entity in extraction.entities:
        types[normalise(entity.text)].append(entity.type)
    return {_with_types(relation, types) for relation in extraction.relations}


def _with_types(relation: RelationTriple, types: Mapping[str, list[str]]) -> _RelationItem:
    head, tail = normalise(relation.head), normalise(relation.tail)
    pairs = [(h, t) for h in types.get(head, ["?"]) for t in types.get(tail, ["?"])]
    chosen = next((pair for pair in pairs if pair in SIGNATURES[relation.type]), pairs[0])
    return f"[{chosen[0]}] {head}", relation.type, f"[{chosen[1]}] {tail}"


def _collapse(extraction: Extraction) -> Extraction:
    return Extraction(
        tuple(Entity(COLLAPSED.get(entity.type, entity.type), entity.text) for entity in extraction.entities),
        extraction.relations,
    )


@dataclass(frozen=True, slots=True)
class _Pairs:
    """Per example the (predicted, gold) sets of entities and of relations."""

    entities: list[tuple[set[_EntityItem], set[_EntityItem]]]
    relations: list[tuple[set[_RelationItem], set[_RelationItem]]]

    @classmethod
    def of(
        cls,
        examples: Iterable[Example],
        entities: Callable[[Extraction], set[_EntityItem]],
        relations: Callable[[Extraction], set[_RelationItem]],
    ) -> _Pairs:
        pairs = cls([], [])
        for example in examples:
            pairs.entities.append((entities(example.predicted), entities(example.gold)))
            pairs.relations.append((relations(example.predicted), relations(example.gold)))
        return pairs


# Counting


def _count(predicted: Set[_Item], gold: Set[_Item]) -> tuple[float, float, float]:
    right = len(predicted & gold)
    return right, len(predicted) - right, len(gold) - right


def _counts(pairs: Iterable[tuple[Set[_Item], Set[_Item]]]) -> list[tuple[float, float, float]]:
    """Return per example (true positives, false positives, false negatives)."""
    return [_count(predicted, gold) for predicted, gold in pairs]


def _kept(
    pairs: Iterable[tuple[set[_Item], set[_Item]]], keep: Callable[[_Item], bool]
) -> Iterator[tuple[set[_Item], set[_Item]]]:
    """Yield the pairs with only those items in them that ``keep`` accepts."""
    for predicted, gold in pairs:
        yield {item for item in predicted if keep(item)}, {item for item in gold if keep(item)}


def _total(counts: Sequence[tuple[float, float, float]]) -> dict[str, float]:
    tp, fp, fn = (sum(count[column] for count in counts) for column in range(3))
    return {**ratios(tp, fp, fn), "tp": tp, "fp": fp, "fn": fn}


def _metrics(
    examples: Sequence[Example],
    pairs: Sequence[tuple[set[_Item], set[_Item]]],
    type_of: Callable[[_Item], str],
    types: Sequence[str],
    bootstrap: _Bootstrap,
) -> dict[str, Any]:
    counts = _counts(pairs)
    by_type = {}
    for name in types:

        def is_of_type(item: _Item, name: str = name) -> bool:
            return type_of(item) == name

        own = _counts(_kept(pairs, is_of_type))
        totals = _total(own)
        support = totals["tp"] + totals["fn"]
        if support or totals["fp"]:
            by_type[name] = {**totals, "support": support, "f1_interval": bootstrap.interval(own)}
    by_source = {}
    for source in sorted({example.source for example in examples}):
        chosen = [example.source == source for example in examples]
        own = [count if mine else (0, 0, 0) for count, mine in zip(counts, chosen, strict=True)]
        totals = _total(own)
        support = totals["tp"] + totals["fn"]
        by_source[source] = {
            **totals,
            "support": support,
            "examples": sum(chosen),
            "f1_interval": bootstrap.interval(own),
        }
    return {"micro": _total(counts), "macro": _macro(counts), "by_type": by_type, "by_source": by_source}


def _macro(counts: Sequence[tuple[float, float, float]]) -> dict[str, float]:
    right = {"precision": 1.0, "recall": 1.0, "f1": 1.0}
    each = [ratios(*count) if any(count) else right for count in counts]
    return {name: sum(values[name] for values in each) / len(each) for name in right}


def _output_quality(examples: Sequence[Example], rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    said = foreign = 0
    for example in examples:
        texts = {normalise(entity.text) for entity in example.predicted.entities}
        said += len(texts)
        foreign += sum(text not in example.text for text in texts)
    number = len(examples)
    quality: dict[str, Any] = {
        "parse_failure_rate": sum(not (e.well_formed and e.finished) for e in examples) / number,
        "unfinished_rate": sum(not e.finished for e in examples) / number,
        "hallucinated_entity_rate": foreign / said if said else 0.0,
        "examples": number,
    }
    if all("gold_reachable" in row for row in rows):
        ids = [row["id"] for row in rows if not row["gold_reachable"]]
        quality["unreachable_gold"] = {"count": len(ids), "ids": ids}
    return quality


# Variants


def _variants(
    examples: Sequence[Example], pairs: _Pairs, seen: Strings | None, bootstrap: _Bootstrap
) -> Iterator[tuple[str, dict[str, Any]]]:
    def block(counts: list[tuple[float, float, float]]) -> dict[str, Any]:
        return {"micro": {**_total(counts), "f1_interval": bootstrap.interval(counts)}}

    strict = _Pairs.of(examples, _entities, _typed_relations)
    yield "strict", {"relation_metrics": block(_counts(strict.relations))}
    collapsed = _Pairs.of(
        examples, lambda said: _entities(_collapse(said)), lambda said: _typed_relations(_collapse(said))
    )
    yield (
        "collapsed",
        {
            "entity_metrics": block(_counts(collapsed.entities)),
            "relation_metrics": block(_counts(collapsed.relations)),
        },
    )
    yield (
        "partial",
        {
            "entity_metrics": block([_partial(*pair, _entity_credit) for pair in pairs.entities]),
            "relation_metrics": block([_partial(*pair, _relation_credit) for pair in pairs.relations]),
        },
    )
    yield (
        "with_gold",
        {
            "entity_metrics": block([c if gold else (0, 0, 0) for c, (_, gold) in _zipped(pairs.entities)]),
            "relation_metrics": block([c if gold else (0, 0, 0) for c, (_, gold) in _zipped(pairs.relations)]),
        },
    )
    if seen is not None:
        yield (
            "unseen",
            {
                "entity_metrics": block(_counts(_kept(pairs.entities, lambda i: i[1] not in seen.entities))),
                "relation_metrics": block(_counts(_kept(pairs.relations, lambda i: i not in seen.relations))),
            },
        )


def _zipped(pairs: list[Any]) -> Iterator[tuple[tuple[float, float, float], Any]]:
    return zip(_counts(pairs), pairs, strict=True)


def _partial(
    predicted: set[_Item], gold: set[_Item], credit: Callable[[_Item, _Item], float]
) -> tuple[float, float, float]:
    """Count as SemEval-2013 task 9 does under "partial": half a point for an overlap, whatever the type.

    Predictions and gold are paired one to one, the most similar first.
    """
    candidates = sorted(
        ((-credit(mine, wanted), mine, wanted) for mine in predicted for wanted in gold if credit(mine, wanted)),
    )
    right = 0.0
    taken: set[_Item] = set()
    found: set[_Item] = set()
    for negative, mine, wanted in candidates:
        if mine not in taken and wanted not in found:
            taken.add(mine)
            found.add(wanted)
            right += 1.0 if negative == -1.0 else 0.5
    return right, len(predicted) - right, len(gold) - right


def _entity_credit(mine: _EntityItem, wanted: _EntityItem) -> float:
    return _similarity(mine[1], wanted[1])


def _relation_credit(mine: _RelationItem, wanted: _RelationItem) -> float:
    if mine[1] != wanted[1]:
        return 0.0
    head, tail = _similarity(mine[0], wanted[0]), _similarity(mine[2], wanted[2])
    return (head + tail) / 2 if head and tail else 0.0


def _similarity(one: str, other: str) -> float:
    """Return the Jaccard similarity of two texts' words; 1 only for equal texts."""
    if one == other:
        return 1.0
    mine, theirs = set(_WORD.findall(one)), set(_WORD.findall(other))
    shared = len(mine & theirs)
    return min(shared / len(mine | theirs), 0.99) if shared else 0.0


# Errors


def _errors(examples: Sequence[Example], pairs: _Pairs) -> dict[str, dict[str, Any]]:
    found: dict[str, list[str]] = {name: [] for name in ERRORS}
    for example, entities, relations in zip(examples, pairs.entities, pairs.relations, strict=True):
        for name in _errors_of(example, entities, relations):
            found[name].append(example.id)
    return {
        name: {"count": len(ids), "examples": list(dict.fromkeys(ids))[:_EXAMPLES_PER_ERROR]}
        for name, ids in found.items()
    }


def _errors_of(
    example: Example,
    entities: tuple[set[_EntityItem], set[_EntityItem]],
    relations: tuple[set[_RelationItem], set[_RelationItem]],
) -> list[str]:
    return [*_entity_errors(example.text, *entities), *_relation_errors(entities[0], *relations)]


def _entity_errors(text: str, predicted: set[_EntityItem], gold: set[_EntityItem]) -> Iterator[str]:
    """Name every wrong entity, each once; a boundary or type error explains the gold entity that it missed, too."""
    missed = sorted(gold - predicted)
    for kind, surface in sorted(predicted - gold):
        same_text = next((item for item in missed if item[1] == surface), None)
        overlapping = next((i for i in missed if i[0] == kind and _similarity(i[1], surface)), None)
        if same_text:
            missed.remove(same_text)
            yield "wrong_type"
        elif surface not in text:
            yield "hallucinated"
        elif overlapping:
            missed.remove(overlapping)
            yield "boundary"
        else:
            yield "spurious_entity"
    yield from ("missed" for _ in missed)


def _relation_errors(
    listed: set[_EntityItem], predicted: set[_RelationItem], gold: set[_RelationItem]
) -> Iterator[str]:
    """Name every wrong relation, each once; a wrong type or direction explains the gold relation that it missed."""
    missed = sorted(gold - predicted)
    texts = {text for _, text in listed}
    for head, kind, tail in sorted(predicted - gold):
        retyped = next((item for item in missed if (item[0], item[2]) == (head, tail)), None)
        if head not in texts or tail not in texts:
            yield "dangling_argument"
        elif (tail, kind, head) in missed:
            missed.remove((tail, kind, head))
            yield "reversed_direction"
        elif retyped:
            missed.remove(retyped)
            yield "wrong_relation_type"
        else:
            yield "spurious_relation"
    yield from ("missed_relation" for _ in missed)


# Length


def _by_length(examples: Sequence[Example], pairs: _Pairs, resamples: int, seed: int) -> list[dict[str, Any]]:
    """Score bins of equal size by the number of words of the input, shortest first; equal lengths share a bin."""
    lengths = [len(example.text.split()) for example in examples]
    ordered = sorted(lengths)
    edges = sorted({ordered[min(len(ordered) - 1, len(ordered) * k // _LENGTH_BINS)] for k in range(_LENGTH_BINS)})
    rows = []
    for low, following in zip(edges, [*edges[1:], ordered[-1] + 1], strict=True):
        chosen = [index for index, length in enumerate(lengths) if low <= length < following]
        own = [examples[index] for index in chosen]
        bootstrap = _Bootstrap(own, resamples, seed)
        row: dict[str, Any] = {
            "words": [low, max(lengths[index] for index in chosen)],
            "examples": len(own),
            "documents": len({example.document_id for example in own}),
        }
        for kind, all_pairs in (("entity", pairs.entities), ("relation", pairs.relations)):
            counts = _counts([all_pairs[index] for index in chosen])
            row[f"{kind}_f1"] = _total(counts)["f1"]
            row[f"{kind}_f1_interval"] = bootstrap.interval(counts)
        rows.append(row)
    return rows


# Uncertainty


class _Bootstrap:
    """Resampling of documents, over counts per example.

    Documents with equal counts are interchangeable, so a resample is one multinomial draw over the distinct counts.
    That is the same distribution as drawing documents one by one, at a cost that does not grow with their number.
    """

    def __init__(self, examples: Sequence[Example], resamples: int, seed: int) -> None:
        numbers: dict[str, int] = {}
        self._document = [numbers.setdefault(example.document_id, len(numbers)) for example in examples]
        self._documents = len(numbers)
        self._resamples = resamples
        self._seed = seed

    def interval(self, counts: Sequence[tuple[float, float, float]]) -> list[float]:
        """Return the 95 % interval of micro F1."""
        return _middle(_f1(self._draw(counts)))

    def difference(
        self, mine: Sequence[tuple[float, float, float]], theirs: Sequence[tuple[float, float, float]]
    ) -> dict[str, Any]:
        """Return the difference of two models' micro F1 and its 95 % interval; every draw takes both."""
        drawn = self._draw([(*one, *other) for one, other in zip(mine, theirs, strict=True)])
        return {
            "value": _total(mine)["f1"] - _total(theirs)["f1"],
            "interval": _middle(_f1(drawn[:, :3]) - _f1(drawn[:, 3:])),
        }

    def exchange(
        self, mine: Sequence[tuple[float, float, float]], theirs: Sequence[tuple[float, float, float]]
    ) -> float:
        """Return the two-sided p-value of the difference of two models' micro F1 under random exchange of documents."""
        import numpy

        kinds, number = self._distinct([(*one, *other) for one, other in zip(mine, theirs, strict=True)])
        rng = numpy.random.default_rng(self._seed)
        # of equal documents only the number that is exchanged matters
        swapped = rng.binomial(number, 0.5, size=(self._resamples, len(number)))
        kept = number - swapped
        drawn = _f1(kept @ kinds[:, :3] + swapped @ kinds[:, 3:]) - _f1(swapped @ kinds[:, :3] + kept @ kinds[:, 3:])
        found = abs(_total(mine)["f1"] - _total(theirs)["f1"])
        beyond = int((numpy.abs(drawn) >= found - 1e-12).sum())
        return (beyond + 1) / (self._resamples + 1)

    def _distinct(self, counts: Sequence[tuple[float, ...]]) -> tuple[NDArray[Any], NDArray[Any]]:
        """Return the distinct counts of documents, shape (kinds, columns), and how many documents have them."""
        import numpy

        values = numpy.asarray(counts, dtype=float)
        per_document = numpy.zeros((self._documents, values.shape[1]))
        numpy.add.at(per_document, self._document, values)
        kinds, number = numpy.unique(per_document, axis=0, return_counts=True)
        return kinds, number

    def _draw(self, counts: Sequence[tuple[float, ...]]) -> NDArray[Any]:
        """Return the summed counts of every resample, shape (resamples, columns of ``counts``)."""
        import numpy

        kinds, number = self._distinct(counts)
        rng = numpy.random.default_rng(self._seed)
        drawn: NDArray[Any] = rng.multinomial(self._documents, number / self._documents, size=self._resamples) @ kinds
        return drawn


def _f1(counts: NDArray[Any]) -> NDArray[Any]:
    import numpy

    tp, fp, fn = counts.T
    whole = 2 * tp + fp + fn
    result: NDArray[Any] = numpy.divide(2 * tp, whole, out=numpy.zeros_like(whole), where=whole > 0)
    return result


def _middle(values: NDArray[Any]) -> list[float]:
    import numpy

    low, high = numpy.quantile(values, [0.025, 0.975])
    return [float(low), float(high)]
