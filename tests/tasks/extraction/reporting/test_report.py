"""The report and the figures, drawn from a small fabricated run."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from typing import Any

import pytest

from extraction_values import TASK
from odin_slm.tasks.criteria import improvements
from odin_slm.tasks.extraction.format import Entity, Extraction, RelationTriple, render
from odin_slm.tasks.extraction.metrics import evaluate
from odin_slm.tasks.extraction.operating_point import fit
from odin_slm.tasks.extraction.reporting.figures import (
    draw_overview,
    draw_panels,
    plot_errors,
    plot_length_scores,
    plot_training_curve,
    plot_type_scores,
)
from odin_slm.tasks.extraction.reporting.report import MARKS, choose_failures, highlight, render_report
from odin_slm.tracking.promotion import decide
from release_values import protocols

TEXT = "Naproxen <b>& co</b> caused acute renal failure; fever and a rash followed, and rash again."


def extraction(*entities: tuple[str, str], relations: tuple[tuple[str, str, str], ...] = ()) -> Extraction:
    return Extraction(tuple(Entity(*e) for e in entities), tuple(RelationTriple(*r) for r in relations))


GOLD = extraction(
    ("Drug", "Naproxen"),
    ("Symptom", "acute renal failure"),
    ("Symptom", "fever"),
    ("Symptom", "rash"),
    relations=(("Naproxen", "causes", "acute renal failure"), ("Naproxen", "causes", "rash")),
)
FOUND = extraction(
    ("Drug", "naproxen"),
    ("Symptom", "renal failure"),
    ("Disease", "fever"),
    ("Drug", "meopurinol"),
    ("Symptom", "followed"),
    relations=(("Naproxen", "causes", "acute renal failure"), ("meopurinol", "causes", "fever")),
)


def rows(prediction: str, number: int = 3, document: str = "ade-99000000{}") -> list[dict[str, Any]]:
    return [
        {
            "id": f"ade-{k}",
            "source": "ade" if k else "bc5cdr",
            "document_id": document.format(k),
            "input": TEXT,
            "gold": render(GOLD),
            "decoding": "constrained",
            "prediction": prediction,
            "gold_reachable": k != 1,
            "free": {"prediction": "### Entities:\n1. [Drug] aspirin\nbroken line", "finished": k > 0},
        }
        for k in range(number)
    ]


STATE = {
    "history": [{"step": 10, "loss": 1.2}, {"step": 20, "loss": 0.8}, {"step": 20, "eval_loss": 0.9}],
    "best_step": 20,
    "best_eval_loss": 0.9,
    "seconds": 12.3,
    "tokens": 34_567,
    "tokens_per_second": 2810.0,
    "trainable_parameters": 1_081_344,
    "hyperparameters": {"epochs": 3.0, "max_steps": None, "lora": {"r": 32, "target_modules": ["q_proj", "v_proj"]}},
}


@pytest.fixture(scope="module")
def predictions() -> list[dict[str, Any]]:
    return rows(render(FOUND))


@pytest.fixture(scope="module")
def results(predictions: list[dict[str, Any]]) -> dict[str, Any]:
    train = [{"output": render(GOLD), "source": "ade"}]
    return evaluate(predictions, rows(render(extraction())), train, experiment="demo", resamples=20)


class Page(HTMLParser):
    """Collects what a browser would fetch, and checks that tags close."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.fetched: list[str] = []
        self.images: list[str] = []
        self.words: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        self.fetched += [value or "" for name, value in attrs if name in ("src", "href", "srcset", "data")]
        if tag == "img":
            self.images.append(values["alt"] or "")
        if tag not in ("meta", "img", "br", "link"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)


def test_the_report_is_whole_and_needs_no_network(results: dict[str, Any], predictions: list[dict[str, Any]]) -> None:
    html = render_report(results, predictions, STATE)
    page = Page(html)
    assert page.open == []
    assert all(address.startswith(("data:image/svg+xml;base64,", "#")) for address in page.fetched)
    assert "<script" not in html
    assert "@import" not in html
    assert "url(" not in html
    headings = re.findall(r"<h2 id=\"(\w+)\"", html)
    assert headings == ["summary", "method", "data", "training", "results", "comparison", "failures", "limitations"]
    assert len(page.images) == 4
    assert any("every type" in alt for alt in page.images)


def test_the_report_shows_published_protocols_with_their_share(
    results: dict[str, Any], predictions: list[dict[str, Any]]
) -> None:
    page = Page(render_report({**results, "protocols": protocols()}, predictions, STATE))
    words = " ".join(" ".join(page.words).split())
    assert page.open == []
    assert "CDR <pairs> : 125 of the 500 official test documents (25.0%). A pair of ids." in words
    assert "ADE, strict : 36 test documents of this project’s own split; there is no official one." in words
    assert "pair 0.750 0.500 0.600 [0.400, 0.800] 3 1 3" in words
    assert "nothing is linked to MeSH or any other vocabulary, but by a corpus' own names" in words
    words = " ".join(Page(render_report(results, predictions, STATE)).words)
    assert "Published protocols" not in words
    assert "MeSH or any other vocabulary." in words


def test_report_and_curve_show_what_chose_the_checkpoint(
    results: dict[str, Any], predictions: list[dict[str, Any]]
) -> None:
    chosen = {"name": "entity_f1_micro", "title": "entity F1", "value": 0.75, "records": 64}
    scored = [{"step": 10, "eval_entity_f1_micro": 0.5}, {"step": 20, "eval_entity_f1_micro": 0.75}]
    state = {**STATE, "history": [*STATE["history"], *scored], "task_metric": chosen}
    words = " ".join(Page(render_report(results, predictions, state)).words)
    assert "entity F1 0.750 on 64 validation records" in words
    (line,) = (line for line in plot_training_curve(state).to_dict()["data"] if line["name"] == "entity F1")
    assert (list(line["x"]), list(line["y"]), line["yaxis"]) == ([10, 20], [0.5, 0.75], "y2")
    assert len(draw_overview(results, state).axes) == 5  # the second scale of the training panel


def test_a_model_is_called_better_only_where_the_test_says_so(results: dict[str, Any]) -> None:
    difference = results["difference"]["entity_f1_micro"]
    assert difference["interval"][0] > 0, "three equal documents make the interval a point"
    assert difference["p_value"] > 0.05
    found = render_report(results, rows(render(FOUND)), STATE)
    assert "it is better than the base alone" not in found
    assert "not distinguishable from the base alone" in found
    more, nothing = rows(render(FOUND), 12), rows(render(extraction()), 12)
    better = evaluate(more, nothing, experiment="demo", resamples=200)
    assert "by entity F1 it is better than the base alone" in render_report(better, more, STATE)
    worse = evaluate(nothing, more, experiment="demo", resamples=200)
    assert "by entity F1 it is worse than the base alone" in render_report(worse, nothing, STATE)
    chance = {"value": 0.1, "interval": [0.01, 0.2], "p_value": 0.03}
    close = {**better, "difference": {**better["difference"], "entity_f1_micro": chance, "relation_f1_micro": chance}}
    for level, verb in ((0.05, "not distinguishable from"), (0.07, "better than")):
        assert f"by entity F1 it is {verb} the base alone" in render_report(close, more, STATE, significance=level)
        criteria = improvements(close, TASK.headline, significance=level)
        assert criteria[0]["met"] is (verb == "better than"), "final_report.json says the same"


def test_the_report_says_what_counts(results: dict[str, Any], predictions: list[dict[str, Any]]) -> None:
    html = render_report(results, predictions, STATE)
    text = " ".join(" ".join(Page(html).words).split())
    assert f"{results['entity_metrics']['micro']['f1']:.3f}" in text
    low, high = results["intervals"]["relation_f1_micro"]
    assert f"[{low:.3f}, {high:.3f}]" in text
    assert "Measured on synthetic text." in text
    for title in ("Fine-tuned, constrained", "Fine-tuned, free", "Base alone, constrained", "Base alone, free"):
        assert title in text
    for name in ("strict", "boundaries", "collapsed", "partial", "with gold", "unseen", "is not in the text"):
        assert name in text
    for pair in ("Fine-tuned minus base, constrained", "Fine-tuned minus base, free", "Constrained minus free, base"):
        assert pair in text
    assert "champion" not in text
    assert "1,081,344" in text
    assert "r 32; target modules q_proj, v_proj" in text
    assert "The grammar cannot write the gold of 1 examples" in text
    assert "ade-1." in text


def test_the_report_says_who_takes_the_champions_place(
    results: dict[str, Any], predictions: list[dict[str, Any]]
) -> None:
    options = {"significance": 0.05, "resamples": 100, "seed": 1}
    for champion, words in (
        (
            rows(render(extraction())),
            "Keep the champion: no significant difference: the champion stays (at 0.05, on 3",
        ),
        (None, "Promote: there is no champion to compare with."),
    ):
        html = render_report(results, predictions, STATE, decide(predictions, champion, TASK, **options))
        text = " ".join(" ".join(Page(html).words).split())
        assert words in text
        assert ("Fine-tuned minus champion, constrained" in text) == (champion is not None)


def test_a_real_test_set_is_not_called_synthetic() -> None:
    predictions = rows(render(FOUND), document="ade-1234{}")
    html = render_report(evaluate(predictions, experiment="real", resamples=5), predictions, None)
    assert "synthetic" not in html.lower()
    assert "There is no comparison with the base model: there are no predictions of the base model." in html
    assert "trained elsewhere" in html


def test_texts_are_escaped(results: dict[str, Any], predictions: list[dict[str, Any]]) -> None:
    html = render_report(results, predictions, STATE)
    assert "<b>& co</b>" not in html
    assert "&lt;b&gt;&amp; co&lt;/b&gt;" in html


def test_the_report_is_the_same_for_the_same_values(results: dict[str, Any], predictions: list[dict[str, Any]]) -> None:
    assert render_report(results, predictions, STATE) == render_report(results, predictions, STATE)


def test_entities_are_highlighted_where_they_stand() -> None:
    pieces = list(highlight(TEXT, GOLD, FOUND))
    assert "".join(piece.text for piece in pieces) == TEXT
    marked = [(piece.text, piece.mark, piece.label) for piece in pieces if piece.mark]
    assert marked == [
        ("Naproxen", "right", "Drug"),
        ("acute renal failure", "missed", "Symptom"),  # hides the shorter, wrong one inside
        ("fever", "wrong_type", "Disease, not Symptom"),
        ("rash", "missed", "Symptom"),
        ("followed", "extra", "Symptom"),
        ("rash", "missed", "Symptom"),
    ]
    assert {mark for _, mark, _ in marked} <= set(MARKS)


def test_failures_show_every_kind_of_error(results: dict[str, Any], predictions: list[dict[str, Any]]) -> None:
    failures = list(choose_failures(results, predictions))
    assert {failure.id for failure in failures} == {"ade-0", "ade-1"}
    assert failures[0].foreign == ("meopurinol",)
    assert ("[Symptom] renal failure", "[Symptom] acute renal failure") in failures[0].disagreements
    assert ("[Disease] fever", "[Symptom] fever") in failures[0].disagreements
    assert failures[0].hidden == (("extra", "renal failure"),)
    assert ("missed", "Naproxen causes rash") in failures[0].relations
    assert ("extra", "meopurinol causes fever") in failures[0].relations
    assert "entity with the right text and another type" in failures[0].errors


def test_figures_name_what_they_show(results: dict[str, Any]) -> None:
    types, errors = plot_type_scores(results).to_dict(), plot_errors(results).to_dict()
    assert [bar["name"] for bar in types["data"]] == ["base alone", "fine-tuned"]
    assert types["data"][1]["x"] == ["Drug", "Disease", "Symptom", "causes"]
    assert "n = 3 synthetic examples" in types["layout"]["title"]["text"]
    assert "wrong type" in errors["data"][0]["y"]
    assert [line["name"] for line in plot_length_scores(results).to_dict()["data"]] == ["entities", "relations"]
    assert [line["name"] for line in plot_training_curve(STATE).to_dict()["data"]] == ["training", "validation"]
    assert "trained elsewhere" in plot_training_curve(None).to_dict()["layout"]["annotations"][0]["text"]


@pytest.mark.parametrize("state", [STATE, None])
def test_panels_and_overview_can_be_drawn(results: dict[str, Any], state: dict[str, Any] | None) -> None:
    panels = draw_panels(results, state)
    assert set(panels) == {"types", "errors", "length", "training"}
    assert all(svg.rstrip().endswith("</svg>") for svg in panels.values())
    assert panels == draw_panels(results, state)
    assert len(draw_overview(results, state).axes) == 4


def test_the_report_says_at_which_operating_point_its_figures_are(
    results: dict[str, Any], predictions: list[dict[str, Any]]
) -> None:
    assert "Operating point" not in render_report(results, predictions, None)
    point = fit([], "none", "precision=0.9")["operating_point"]
    point |= {"end_bias": {"entity": -1.5, "relation": 0.5}, "threshold": {"entity": 0.25, "relation": 0.0}}
    text = render_report({**results, "operating_point": point}, predictions, None)
    assert "a precision of at least 0.9 and the highest recall" in text
    assert "<td>-1.5</td><td>0.250</td>" in text
    assert "<td>+0.5</td><td>0.000</td>" in text
    assert "Precision, recall and F1 on validation against the bias" in text
    assert "<td>none</td><td>0.250</td>" in render_report(
        {**results, "operating_point": {**point, "end_bias": None}}, predictions, None
    )
