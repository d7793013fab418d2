"""The final report of an evaluation: one HTML page that needs no network and no other file."""

from __future__ import annotations

import base64
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from odin_slm.core.folding import fold
from odin_slm.core.markdown import interval, score
from odin_slm.tasks.criteria import improvements
from odin_slm.tasks.extraction.format import Extraction, locate, parse
from odin_slm.tasks.extraction.metrics import ERRORS, KINDS, RULES, errors_in
from odin_slm.tasks.extraction.reporting.confidence_figures import draw_confidence
from odin_slm.tasks.extraction.reporting.figures import draw_panels
from odin_slm.tasks.extraction.reporting.operating_figures import draw_operating_point
from odin_slm.tasks.extraction.schema import MEDICAL, Types

_EXAMPLES = 10
_EXAMPLES_PER_ERROR = 2

MARKS = {
    "right": "found, and gold",
    "missed": "gold, not found",
    "extra": "found, not gold",
    "wrong_type": "found as another type than gold",
}
"""Classes of highlighted text and what they mean."""


@dataclass(frozen=True, slots=True)
class Piece:
    """A stretch of an input text.

    Attributes:
        text: The characters.
        mark: A key of :data:`MARKS`, or empty for text outside entities.
        label: The entity's type; for a wrong one, "predicted, not gold".
    """

    text: str
    mark: str = ""
    label: str = ""


@dataclass(frozen=True, slots=True)
class Failure:
    """One example in which something went wrong, ready to be shown.

    Attributes:
        id: The record's id.
        source: Its corpus.
        errors: What went wrong, as phrases of :data:`odin_slm.tasks.extraction.metrics.ERRORS`.
        disagreements: (predicted, gold) as texts, of every error that stands for a gold item.
        pieces: The input, cut at the borders of entities.
        foreign: Predicted entities that are not in the text.
        hidden: (mark, entity) of wrong ones that a longer marked name covers.
        relations: (mark, relation as text) of every relation, gold or predicted.
        malformed: Lines of the output that break the format.
    """

    id: str
    source: str
    errors: tuple[str, ...]
    disagreements: tuple[tuple[str, str], ...]
    pieces: tuple[Piece, ...]
    foreign: tuple[str, ...]
    hidden: tuple[tuple[str, str], ...]
    relations: tuple[tuple[str, str], ...]
    malformed: tuple[str, ...]


def render_report(
    results: Mapping[str, Any],
    predictions: Sequence[Mapping[str, Any]],
    training_state: Mapping[str, Any] | None,
    promotion: Mapping[str, Any] | None = None,
    types: Types = MEDICAL,
    significance: float = 0.05,
) -> str:
    """Return the report as HTML.

    Args:
        results: ``evaluation_results``.
        predictions: The rows that were scored; failures are shown in their texts.
        training_state: How the adapter was trained; None where it comes from elsewhere.
        types: The types that outputs may name.
        promotion: The decision about the champion's place; see :func:`odin_slm.tracking.promotion.decide`.
        significance: Level below which an adjusted p-value shows a difference from the base.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("odin_slm"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        autoescape=True,
    )
    environment.filters.update(
        score=score,
        percent="{:.1%}".format,
        interval=interval,
        number=_number,
        signed="{:+.3f}".format,
        p_value=_p_value,
        percents=lambda bounds: f"[{bounds[0]:.1%}, {bounds[1]:.1%}]",
    )
    drawn = {**draw_panels(results, training_state), **draw_confidence(results), **draw_operating_point(results)}
    return environment.get_template("report.html.j2").render(
        results=results,
        test_set=results["test_set"],
        state=training_state,
        kinds=KINDS,
        plural={"entity": "Entities", "relation": "Relations"},
        systems=list(_systems(results)),
        verdict=_verdict(results, significance),
        comparisons=list(_comparisons(results, promotion)),
        promotion=promotion,
        variants=list(_variants(results)),
        error_meanings=ERRORS,
        marks=MARKS,
        failures=list(choose_failures(results, predictions, types)),
        limitations=list(_limitations(results)),
        figures={name: _data_uri(svg) for name, svg in drawn.items()},
        thresholds={kind: found["at_most"] for kind, found in (results.get("confidence") or {}).items()},
    )


def choose_failures(
    results: Mapping[str, Any], predictions: Sequence[Mapping[str, Any]], types: Types = MEDICAL
) -> Iterator[Failure]:
    """Yield up to ten examples, so that every kind of error that occurred is shown before one is shown again."""
    by_id = {row["id"]: row for row in predictions}
    chosen: dict[str, None] = {}
    for turn in range(_EXAMPLES_PER_ERROR):
        for found in results["errors"].values():
            chosen.update(dict.fromkeys(found["examples"][turn : turn + 1]))
    for record in [name for name in chosen if name in by_id][:_EXAMPLES]:
        yield _failure(by_id[record], types)


def _failure(row: Mapping[str, Any], types: Types) -> Failure:
    gold, parsed = parse(row["gold"], types).extraction, parse(row["prediction"], types)
    predicted = parsed.extraction
    text = fold(row["input"])
    surfaces = dict.fromkeys(entity.text for entity in predicted.entities)
    pieces = tuple(highlight(row["input"], gold, predicted))
    errors = errors_in(row, types)
    counts = Counter(error.kind for error in errors)
    return Failure(
        id=row["id"],
        source=row.get("source", "unknown"),
        errors=tuple(
            f"{counts[name]} × {ERRORS[name]}" if counts[name] > 1 else ERRORS[name] for name in ERRORS if counts[name]
        ),
        disagreements=tuple((_as_text(e.predicted), _as_text(e.gold)) for e in errors if e.predicted and e.gold),
        pieces=pieces,
        foreign=tuple(surface for surface in surfaces if fold(surface) not in text),
        hidden=tuple(_hidden(row["input"], pieces, gold, predicted)),
        relations=tuple(_marked_relations(gold, predicted)),
        malformed=parsed.malformed,
    )


def _as_text(item: Sequence[str]) -> str:
    return " ".join(item) if len(item) == 3 else f"[{item[0]}] {item[1]}"


def highlight(text: str, gold: Extraction, predicted: Extraction) -> Iterator[Piece]:
    """Cut a text at the borders of its entities; of overlapping ones the longer is marked.

    Joined, the pieces are the text.
    """
    expected, found = _types(gold), _types(predicted)
    surfaces = {fold(e.text): e.text for e in (*predicted.entities, *gold.entities)}
    spans = sorted(
        ((begin, end, key) for key, surface in surfaces.items() for begin, end in locate(text, surface)),
        key=lambda span: (span[0] - span[1], span[0]),
    )
    kept: list[tuple[int, int, str]] = []
    for begin, end, key in spans:
        if all(end <= other[0] or other[1] <= begin for other in kept):
            kept.append((begin, end, key))
    position = 0
    for begin, end, key in sorted(kept):
        if begin > position:
            yield Piece(text[position:begin])
        yield Piece(text[begin:end], *_mark(expected.get(key, []), found.get(key, [])))
        position = end
    if position < len(text):
        yield Piece(text[position:])


def _hidden(text: str, pieces: Sequence[Piece], gold: Extraction, predicted: Extraction) -> Iterator[tuple[str, str]]:
    """Yield (mark, entity) of every missed or extra entity of the text that no piece shows."""
    shown = {fold(piece.text) for piece in pieces if piece.mark}
    sides = (("extra", predicted, gold), ("missed", gold, predicted))
    for mark, here, there in sides:
        for key in sorted(_types(here).keys() - _types(there).keys() - shown):
            if locate(text, key):
                yield mark, key


def _types(extraction: Extraction) -> dict[str, list[str]]:
    types: dict[str, list[str]] = {}
    for entity in extraction.entities:
        types.setdefault(fold(entity.text), []).append(entity.type)
    return types


def _mark(expected: list[str], found: list[str]) -> tuple[str, str]:
    if not found:
        return "missed", ", ".join(expected)
    if not expected:
        return "extra", ", ".join(found)
    if set(expected) == set(found):
        return "right", ", ".join(found)
    return "wrong_type", f"{', '.join(found)}, not {', '.join(expected)}"


def _marked_relations(gold: Extraction, predicted: Extraction) -> Iterator[tuple[str, str]]:
    expected, found = ({r.key: r for r in side.relations} for side in (gold, predicted))
    for key, relation in {**expected, **found}.items():
        mark = "right" if key in expected and key in found else "missed" if key in expected else "extra"
        yield mark, f"{relation.head} {relation.type} {relation.tail}"


# What the template shows


def _systems(results: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield (title, scores) of every model and decoding that was scored."""
    for title, scores in (("Fine-tuned", results), ("Base alone", results.get("base"))):
        if scores:
            yield f"{title}, {scores['decoding']}", scores
            if "free" in scores:
                yield f"{title}, free", scores["free"]


def _verdict(results: Mapping[str, Any], significance: float) -> str:
    """Say which model is better, as ``final_report.json`` does."""
    from odin_slm.tasks.extraction.task import ExtractionTask

    shown = improvements(results, ExtractionTask.headline, significance=significance)
    if not results.get("difference"):
        return f"There is no comparison with the base model: {results['comparison']}."
    sentences = []
    for found in shown:
        verb = found["why"] if found["why"].endswith("base") else "not distinguishable from the base"
        figures = f"{found['improvement']:+.3f}, {interval(found['interval'])}, {_p_value(found['p_value_adjusted'])}"
        sentences.append(f"by {found['title']} it is {verb} alone ({figures})")
    return f"The fine-tuned model: {'; '.join(sentences)}; p-values are adjusted for there being {len(shown)}."


def _comparisons(
    results: Mapping[str, Any], promotion: Mapping[str, Any] | None
) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield (title, differences by metric) of every pair of systems that was compared."""
    decoding = results["decoding"]
    found = {
        f"Fine-tuned minus base, {decoding}": results.get("difference"),
        "Fine-tuned minus base, free": results.get("free_difference"),
        "Constrained minus free, fine-tuned": results.get("decoding_difference"),
        "Constrained minus free, base": (results.get("base") or {}).get("decoding_difference"),
        f"Fine-tuned minus champion, {decoding}": (promotion or {}).get("metrics"),
    }
    yield from ((title, metrics) for title, metrics in found.items() if metrics)


def _variants(results: Mapping[str, Any]) -> Iterator[tuple[str, str, Mapping[str, Any]]]:
    meanings = {rule.name: rule.meaning for rule in RULES}
    for name, scores in results["variants"].items():
        yield name.replace("_", " "), meanings[name], scores


def _limitations(results: Mapping[str, Any]) -> Iterator[str]:
    test_set = results["test_set"]
    if test_set["synthetic"]:
        yield (
            "The test set is synthetic: a generator with a limited stock of sentences wrote it. The figures show that "
            "the pipeline works and say nothing about real texts."
        )
    if (groups := test_set.get("groups", test_set["documents"])) < 100:
        yield f"The documents of {groups} abstracts are few; the intervals show how little they can tell apart."
    yield (
        "Intervals cover the choice of test documents, not that of the training seed; another training run may differ "
        "by more."
    )
    yield (
        "Scores compare strings, not concepts: a synonym of a gold name counts as an error, and nothing is linked to "
        "MeSH or any other vocabulary"
        + (", but by a corpus' own names under published protocols." if results.get("protocols") else ".")
    )
    yield (
        "Each corpus annotates its own choice of types. A prediction that its corpus does not annotate counts as wrong "
        "even where it is true."
    )
    if results["decoding"] == "constrained":
        yield (
            "Part of a constrained score is the grammar's own: it rules out invented names and impossible relations. "
            "The free figures show what the model does by itself."
        )
    unreachable = results["output_quality"].get("unreachable_gold", {"count": 0})
    if unreachable["count"]:
        yield (
            f"The grammar cannot write the gold of {unreachable['count']} examples (a name that is part of a word, or "
            f"that stands nowhere in the text): {', '.join(unreachable['ids'][:10])}."
        )


def _data_uri(svg: str) -> str:
    return f"data:image/svg+xml;base64,{base64.b64encode(svg.encode('utf-8')).decode('ascii')}"


def _p_value(value: float) -> str:
    return f"p = {value:.3f}" if value >= 0.001 else "p < 0.001"


def _number(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:,.1f}".removesuffix(".0")
