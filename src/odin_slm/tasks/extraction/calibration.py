"""From the log-probability of an extraction's line to the chance that it is right, and how far that can be relied on.

The raw confidence is the probability of the line: exp of the sum over its tokens. It is mapped to the share of such
extractions that were right on the validation split, entities and relations apart: by isotonic regression (Zadrozny &
Elkan, 2002), or by temperature scaling (Guo et al., 2017), sigmoid(logit(p) / T). Both keep the order. Right means
right under ``exact`` (see :mod:`odin_slm.tasks.extraction.metrics`); what an output repeats counts once.

A calibrator is a plain mapping, so that it can be stored as JSON and applied without a library.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from odin_slm.tasks.extraction.format import Entity, RelationTriple, parse
from odin_slm.tasks.extraction.metrics import KINDS
from odin_slm.tasks.extraction.schema import MEDICAL, Types

if TYPE_CHECKING:
    from numpy.typing import NDArray

FEWEST = 50
"""Extractions below which nothing is fitted: a handful says little about a curve."""
_FEWEST_OF_EACH = 5
_BINS = 10
_POINTS = 50
_RISKS = (0.02, 0.05, 0.1, 0.2)
_TINY = 1e-6
_PLURAL = {"entity": "entities", "relation": "relations"}


def fit(predictions: Sequence[Mapping[str, Any]], method: str, types: Types = MEDICAL) -> dict[str, Any]:
    """Fit a calibrator on predictions for the validation split.

    Args:
        predictions: Rows as the evaluation pipeline writes them, extractions with ``log_probability``.
        method: ``isotonic``, ``temperature`` or ``none``.
        types: The types that outputs may name.

    Returns:
        ``records`` and, for ``entity`` and ``relation``, ``method`` (``none`` where nothing could be fitted),
        ``extractions``, ``right``, ``why`` (why there is none, or empty) and the parameters: ``x``, ``y`` (raw
        confidences and what they become, linear between) or ``temperature``.
    """
    calibrator: dict[str, Any] = {"records": len(predictions)}
    for kind in KINDS:
        judged = [(chance, correct) for chance, _, correct in _judged(predictions, kind, types)]
        calibrator[kind] = fit_kind(kind, judged, len(predictions), method)
    return calibrator


def fit_kind(kind: str, judged: Sequence[tuple[float, bool]], records: int, method: str) -> dict[str, Any]:
    """Fit a calibrator's part for one kind.

    Args:
        kind: ``entity`` or ``relation``.
        judged: Log-probability of every extraction, and whether it is right.
        records: How many records they are from.
        method: See :func:`fit`.
    """
    right = sum(correct for _, correct in judged)
    why = _why_not(kind, records, len(judged), right, method)
    part: dict[str, Any] = {"method": "none" if why else method}
    if not why:
        raw, labels = [math.exp(chance) for chance, _ in judged], [correct for _, correct in judged]
        part |= _fit_isotonic(raw, labels) if method == "isotonic" else _fit_temperature(raw, labels)
    return {**part, "extractions": len(judged), "right": right, "why": why}


def confidence(calibrator: Mapping[str, Any] | None, kind: str, log_probability: float) -> float:
    """Return the chance that an extraction is right, from 0 to 1; without a calibrator the raw confidence.

    Args:
        calibrator: As :func:`fit` returns it, or None.
        kind: ``entity`` or ``relation``.
        log_probability: Natural logarithm of the probability of its line.
    """
    import numpy

    raw = math.exp(log_probability)
    part: Mapping[str, Any] = calibrator[kind] if calibrator else {"method": "none"}
    if part["method"] == "isotonic":
        return float(numpy.interp(raw, part["x"], part["y"]))
    if part["method"] == "temperature":
        return _sigmoid(_logit(raw) / part["temperature"])
    return raw


def assess(
    predictions: Sequence[Mapping[str, Any]],
    calibrator: Mapping[str, Any] | None = None,
    types: Types = MEDICAL,
) -> dict[str, Any] | None:
    """Say how far the confidences of predictions can be relied on.

    Args:
        predictions: Rows of a predictions file; extractions carry ``log_probability`` and ``confidence``.
        calibrator: What made ``confidence``, or None where it is not at hand.
        types: The types that outputs may name.

    Returns:
        None where the rows hold no confidences. Else, for ``entity`` and ``relation``: ``n`` (extractions), ``right``,
        ``calibration`` (method, validation records, why there is none), ``before`` and ``after`` calibration with
        ``ece`` (expected calibration error over ten equal bins; Guo et al., 2017), ``brier`` (Brier, 1950) and
        ``bins`` (mean ``confidence``, share ``right``, ``n``); ``aurc``, the area under the risk-coverage curve
        (Geifman & El-Yaniv, 2017), and ``risk_coverage``: at most 50 points with the least ``confidence`` that is
        kept, the ``coverage`` (share of the extractions kept) and the ``risk`` (share of them that is wrong); under
        ``at_most`` the point of the most coverage for each of some risks, of all points; one that no point has is out.
    """
    if not any(entry.get("confidence") is not None for row in predictions for entry in _entries(row)):
        return None
    found: dict[str, Any] = {}
    for kind in KINDS:
        judged = sorted(_judged(predictions, kind, types), key=lambda item: -item[1])
        part = calibrator[kind] if calibrator else {"method": "unknown", "extractions": 0, "why": ""}
        found[kind] = {
            "n": len(judged),
            "right": sum(correct for _, _, correct in judged),
            "calibration": {
                "method": part["method"],
                "records": calibrator["records"] if calibrator else 0,
                "extractions": part["extractions"],
                "why": part["why"],
            },
            "before": _reliability([(math.exp(raw), correct) for raw, _, correct in judged]),
            "after": _reliability([(chance, correct) for _, chance, correct in judged]),
            **_risk_coverage(judged),
        }
    return found


def _entries(row: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return [*row.get("entities", ()), *row.get("relations", ())]


def _judged(rows: Sequence[Mapping[str, Any]], kind: str, types: Types) -> Iterator[tuple[float, float, bool]]:
    """Yield (log-probability, confidence, right) of every extraction; a repeated one counts where it is likeliest."""
    for row in rows:
        gold = set(parse(row["gold"], types).extraction.keys(kind))
        best: dict[tuple[str, ...], tuple[float, float]] = {}
        for entry in row.get(_PLURAL[kind], ()):
            if entry.get("log_probability") is None:
                continue
            key = key_of(kind, entry)
            chance = entry.get("confidence", math.exp(entry["log_probability"]))
            best[key] = max(best.get(key, (-math.inf, 0.0)), (entry["log_probability"], chance))
        for key, (log_probability, chance) in best.items():
            yield log_probability, chance, key in gold


def key_of(kind: str, entry: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the key of an entry of a predictions row; see :meth:`odin_slm.tasks.extraction.format.Extraction.keys`."""
    if kind == "entity":
        return Entity(entry["type"], entry["text"]).key
    return RelationTriple(entry["head"], entry["type"], entry["tail"]).key


def _why_not(kind: str, records: int, extractions: int, right: int, method: str) -> str:
    if method == "none":
        return "calibration is switched off"
    if why := too_few(kind, records, extractions):
        return why
    if min(right, extractions - right) < _FEWEST_OF_EACH:
        return f"{right} of {extractions} {_PLURAL[kind]} in the validation records are right: nothing to tell apart"
    return ""


def too_few(kind: str, records: int, extractions: int) -> str:
    """Return why nothing is fitted on so many extractions of a kind; empty where something is."""
    if not records:
        return "there is no validation split"
    if extractions < FEWEST:
        return f"{extractions} {_PLURAL[kind]} in {records} validation records are fewer than {FEWEST}"
    return ""


def _fit_isotonic(raw: Sequence[float], right: Sequence[bool]) -> dict[str, Any]:
    from sklearn.isotonic import IsotonicRegression

    # No finite sample proves a certainty: the ends stay as far from 0 and 1 as by the rule of succession.
    edge = 1 / (len(raw) + 2)
    model = IsotonicRegression(y_min=edge, y_max=1 - edge, out_of_bounds="clip").fit(raw, [float(r) for r in right])
    return {
        "x": [round(float(value), 6) for value in model.X_thresholds_],
        "y": [round(float(value), 6) for value in model.y_thresholds_],
    }


def _fit_temperature(raw: Sequence[float], right: Sequence[bool]) -> dict[str, Any]:
    import numpy
    from scipy.optimize import minimize_scalar

    logits = numpy.array([_logit(value) for value in raw])
    signs = numpy.where(right, 1.0, -1.0)

    def loss(log_temperature: float) -> float:
        return float(numpy.logaddexp(0, -signs * logits / math.exp(log_temperature)).mean())

    found = minimize_scalar(loss, bounds=(math.log(0.05), math.log(100)), method="bounded")
    return {"temperature": round(math.exp(found.x), 6)}


def _reliability(judged: Sequence[tuple[float, bool]]) -> dict[str, Any]:
    import numpy

    if not judged:
        return {"ece": None, "brier": None, "bins": []}
    confidences: NDArray[Any] = numpy.array([value for value, _ in judged])
    right: NDArray[Any] = numpy.array([correct for _, correct in judged], dtype=float)
    place = numpy.minimum((confidences * _BINS).astype(int), _BINS - 1)
    bins = [
        {"confidence": float(confidences[inside].mean()), "right": float(right[inside].mean()), "n": int(inside.sum())}
        for number in range(_BINS)
        if (inside := place == number).any()
    ]
    return {
        "ece": sum(b["n"] * abs(b["confidence"] - b["right"]) for b in bins) / len(judged),
        "brier": float(((confidences - right) ** 2).mean()),
        "bins": bins,
    }


def _risk_coverage(judged: Sequence[tuple[float, float, bool]]) -> dict[str, Any]:
    """Walk down the confidences; equal ones, as isotonic regression makes them, are kept together or not at all."""
    import numpy

    if not judged:
        return {"aurc": None, "risk_coverage": [], "at_most": []}
    number = len(judged)
    levels = numpy.array([chance for _, chance, _ in judged])
    wrong = numpy.cumsum([not correct for _, _, correct in judged])
    ends = numpy.flatnonzero(numpy.append(levels[1:] != levels[:-1], True))
    risks = wrong[ends] / (ends + 1)
    shares = numpy.diff(ends, prepend=-1) / number
    chosen = ends if len(ends) <= _POINTS else ends[numpy.linspace(0, len(ends) - 1, _POINTS).round().astype(int)]

    def point(end: int) -> dict[str, float]:
        share = {"coverage": float((end + 1) / number), "risk": float(wrong[end] / (end + 1))}
        return {"confidence": judged[end][1], **share}

    last = ((risk, ends[risks <= risk]) for risk in _RISKS)
    return {
        "aurc": float((risks * shares).sum()),
        "risk_coverage": [point(end) for end in chosen.tolist()],
        "at_most": [{"at_most": risk, **point(int(within[-1]))} for risk, within in last if len(within)],
    }


def _logit(p: float) -> float:
    p = min(max(p, _TINY), 1 - _TINY)
    return math.log(p / (1 - p))


def _sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x)) if x >= 0 else math.exp(x) / (1 + math.exp(x))
