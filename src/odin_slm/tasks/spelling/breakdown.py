"""Figures by the length of the word and by the number of its tokens, and what one answer for all would get."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from odin_slm.tasks.answers import AnswerTask, table
from odin_slm.tasks.metric import Metric
from odin_slm.tasks.rows import Rows
from odin_slm.tasks.spelling.questions import kind_and_word

if TYPE_CHECKING:
    from odin_slm.tasks.resampling import Numbers

_GROUPS = {"letters": "by length of the word", "tokens": "by number of tokens of the word"}


def breakdown(task: AnswerTask, rows: Rows, *, resamples: int = 1000, seed: int = 42) -> dict[str, Any]:
    """Return the figures of one model by group of words.

    Args:
        task: What is counted.
        rows: Rows of a predictions file; those of an older one may lack ``subject_tokens``.
        resamples: Bootstrap resamples.
        seed: Seed of the bootstrap.

    Returns:
        ``letters`` and ``tokens``: number -> metric -> ``value``, 95 % ``interval`` over words, ``questions``; and
        ``one_answer``: metric -> what giving every such question the most frequent right answer would get.
    """
    return {
        "letters": _by(task, rows, [len(_word(row)) for row in rows], resamples, seed),
        "tokens": _by(task, rows, [row.get("subject_tokens") for row in rows], resamples, seed),
        "one_answer": _one_answer(task, rows),
    }


def details(results: Mapping[str, Any], measures: Sequence[Metric]) -> str:
    """Return the sections of the report, as HTML."""
    found = results["breakdown"]
    models = {"base": (results.get("base") or {}).get("breakdown"), "fine-tuned": found}
    titles = {metric.name: metric.title for metric in measures}
    constant = [[titles[name], f"{value:.3f}"] for name, value in found["one_answer"].items()]
    parts = ["<h2>Always the most frequent answer</h2>", table(["", "accuracy"], constant)]
    for group, title in _GROUPS.items():
        parts.append(f"<h2>{title.capitalize()}</h2>")
        for metric in measures:
            rows = [
                [number, str(figures[metric.name]["questions"]), *_cells(models.values(), group, number, metric.name)]
                for number, figures in found[group].items()
                if metric.name in figures
            ]
            parts += [f"<h3>{metric.title}</h3>", table([group, "questions", *models], rows)]
    return "".join(parts)


def _cells(models: Any, group: str, number: str, name: str) -> list[str]:
    found = [(model or {}).get(group, {}).get(number, {}).get(name) for model in models]
    return [f"{f['value']:.3f} [{f['interval'][0]:.3f}, {f['interval'][1]:.3f}]" if f else "" for f in found]


def _word(row: Mapping[str, Any]) -> str:
    return (kind_and_word(row["input"]) or ("", ""))[1].strip()


def _by(task: AnswerTask, rows: Rows, groups: Sequence[int | None], resamples: int, seed: int) -> dict[str, Any]:
    import numpy

    from odin_slm.tasks.resampling import Resampling, share

    credits: dict[tuple[int, str], list[tuple[str, float, float]]] = defaultdict(list)
    for row, group in zip(rows, groups, strict=True):
        for name, credit in task.credits(row).items() if group else ():
            credits[group or 0, name].append((row.get("document_id") or row["id"], *credit))
    found: dict[str, Any] = {}
    for (group, name), added in sorted(credits.items()):
        words: Numbers = numpy.unique([word for word, *_ in added], return_inverse=True)[1]
        columns = numpy.array([credit for _, *credit in added])
        found.setdefault(str(group), {})[name] = {
            "value": float(share(columns.sum(axis=0))),
            "interval": Resampling(words, resamples, seed).interval(columns, share),
            "questions": len(added),
        }
    return found


def _one_answer(task: AnswerTask, rows: Rows) -> dict[str, float]:
    golds: dict[str, Counter[str]] = defaultdict(Counter)
    for row in rows:
        for name in task.credits(row):
            golds[name][row["gold"]] += 1
    return {name: max(counts.values()) / counts.total() for name, counts in golds.items() if name.startswith("letter_")}
