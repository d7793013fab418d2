"""The closing summary tells a newcomer what was found, what it is worth, and where to go on."""

from __future__ import annotations

import io
from dataclasses import replace
from typing import Any

from rich.console import Console

from extraction_values import TASK
from hooks.test_tracking import RESULTS
from odin_slm.reporting.summary import RunSummary, print_summary

STATISTICS = {
    split: {"all": {"records": 30, "documents": 28}, "ade": {"records": 1234, "documents": 28}}
    for split in ("train", "validation", "test")
}
CLEAN = {"exact_inputs": 0, "pmids": 0, "near_duplicates": 0}


def printed(**values: Any) -> str:
    stream = io.StringIO()
    print_summary(
        RunSummary(**{"experiment": "demo", "headline": TASK.headline, **values}), Console(file=stream, width=120)
    )
    return stream.getvalue()


def test_everything_a_default_run_leaves_is_named() -> None:
    text = printed(
        values={
            "data_statistics": STATISTICS,
            "leakage": CLEAN,
            "manifest": {"synthetic_sources": ["ade"]},
            "evaluation_results": RESULTS,
        },
        places={"report": "data/report.html", "model_release": "data/release/model"},
        tracking=("odin-slm", "0123abcd"),
        seconds={"training": 150.0, "evaluation": 50.0},
    )
    for words in (
        "1,234 (28)",
        "Synthetic, written by this project's generator: ade.",
        "0 exact inputs, 0 pmids, 0 near duplicates",
        "fine-tuned, constrained decoding   0.333 (0.200-0.400)",
        "fine-tuned, free decoding          0.123 (0.110-0.150)",
        "base, constrained decoding",
        "0.000 (0.000-0.100)",
        "n = 9 examples of 8 documents (ade 9); synthetic texts",
        "data/report.html",
        "data/release/model",
        "0123abcd in experiment odin-slm",
        "3.3 min: training 2.5 min, evaluation 50 s",
        "make viz",
        "make ui",
        "--env nano --params corpora=DIR",
    ):
        assert words in text


def test_texts_are_called_what_the_task_calls_them() -> None:
    text = printed(values={"data_statistics": STATISTICS, "evaluation_results": RESULTS}, unit="word")
    assert "records (of words)" in text
    assert "9 examples of 8 words" in text
    assert "documents" not in text.replace(RESULTS["test_set"]["description"], "")


def test_real_texts_are_not_called_synthetic() -> None:
    results = {**RESULTS, "test_set": {**RESULTS["test_set"], "synthetic": False}}
    text = printed(values={"evaluation_results": results}, env="nano")
    assert "real texts" in text
    assert "ynthetic" not in text
    assert 'make viz ARGS="--env nano"' in text


def test_what_is_absent_is_left_out() -> None:
    text = printed()
    assert "Next" in text
    for words in ("Scores", "Data:", "MLflow run", "Leakage"):
        assert words not in text


def test_many_figures_stand_below_each_other() -> None:
    one = TASK.headline[0]
    many = tuple(replace(one, title=f"figure {number}") for number in range(7))
    lines = printed(values={"evaluation_results": RESULTS}, headline=many).splitlines()
    rows = [line for line in lines if line.strip().startswith("figure ")]
    assert [row.split()[1] for row in rows] == [str(number) for number in range(7)]
    assert all("0.333 (0.200-0.400)" in row and "0.123 (0.110-0.150)" in row for row in rows)
