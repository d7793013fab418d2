"""An experiment with types of its own needs no Python: the types by configuration, the corpus in a known format."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from odin_slm.config.parameters import TaskParams

OPTIONS = {
    "entities": ["Gene", "Dose"],
    "relations": [{"type": "inhibits", "head": ["Dose"], "tail": ["Gene"]}],
    "sources": {"mine": {"entities": ["Gene", "Dose"], "relations": ["inhibits"]}},
}


def test_the_types_are_checked_before_anything_runs() -> None:
    for changed, named in (
        ({"entities": ["Gene", "Gene"]}, "entities: Gene occurs more than once"),
        ({"entities": ["a gene"]}, "entities"),
        ({"entities": []}, "entities"),
        ({"relations": [{"type": "inhibits", "head": ["Drug"], "tail": ["Gene"]}]}, "'Drug' is no entity type"),
        ({"sources": {"mine": {"entities": ["Protein"]}}}, "sources.mine: 'Protein' is no entity type"),
        ({"sources": {"mine": {"entities": ["Gene"], "relations": ["treats"]}}}, "'treats' is no relation type"),
        ({"synonyms": {"Gene": "Protein"}}, "synonyms: 'Protein' is no entity type"),
        (
            {"entities": ["Gene", "Dose", "Drug"], "synonyms": {"Drug": "Dose", "Dose": "Gene"}},
            "synonyms: Drug stands for Dose, which stands for another type itself",
        ),
        ({"relations": [{"type": "none", "head": ["Dose"], "tail": ["Gene"]}]}, "rename this type"),
        ({"default_source": "yours"}, "there is no source 'yours'; there are mine"),
        ({"types": []}, "types"),
    ):
        with pytest.raises(ValueError, match=named):
            TaskParams(options={**OPTIONS, **changed})


def test_a_relation_of_several_pairs_is_the_union_of_its_rows() -> None:
    rows = [
        {"type": "binds", "head": ["Gene"], "tail": ["Gene"]},
        {"type": "binds", "head": ["Dose"], "tail": ["Gene", "Dose"]},
    ]
    task = TaskParams(options={**OPTIONS, "relations": [*OPTIONS["relations"], *rows]}).task()
    assert task.types.legal["binds"] == {("Gene", "Gene"), ("Dose", "Gene"), ("Dose", "Dose")}
    assert TaskParams(options=task.options()).task() == task


def test_instruction_grammar_reading_and_scores_follow_the_types() -> None:
    task = TaskParams(options=OPTIONS).task()
    assert task.sources == ("all", "mine")
    assert task.default_source == "mine"
    asked = task.instruction("mine")
    assert asked == "Extract entities: Gene, Dose. Relations: inhibits."
    text = "TP53 falls at 5 mg."
    gold = "### Entities:\n1. [Gene] TP53\n2. [Dose] 5 mg\n\n### Relations:\n1. 5 mg --[inhibits]--> TP53"
    assert task.faults(gold) == ()
    assert task.faults(gold.replace("[Gene]", "[Drug]")) == ("1. [Drug] TP53",)
    grammar = task.grammar(asked, text)
    assert grammar.accepts(gold)
    assert not grammar.accepts(gold.replace("[Gene]", "[Drug]"))
    assert not grammar.accepts(gold.replace("5 mg --[inhibits]--> TP53", "TP53 --[inhibits]--> 5 mg"))
    rows = [{"id": "1", "input": text, "gold": gold, "prediction": gold, "source": "mine"}]
    results = task.score(rows, None, None, experiment="genes", resamples=100)
    assert results["entity_metrics"]["by_type"]["Gene"]["f1"] == 1.0
    assert "collapsed" not in results["variants"]


@pytest.fixture
def own_types(project: Path) -> Path:
    """A project whose corpus ``bc5cdr`` holds genes and doses, in PubTator."""
    listed = {**OPTIONS, "sources": {"bc5cdr": OPTIONS["sources"]["mine"]}}
    (project / "conf/test/parameters_task.yml").write_text(
        "# Genes and doses.\n" + json.dumps({"task": {"options": listed}}) + "\n"
    )
    return project


def test_corpora_of_other_types_are_refused_by_name(own_types: Path, run: Callable[..., dict[str, Any]]) -> None:
    with pytest.raises(Exception, match=r"corpus ade, document .*annotates types that task\.options does not list"):
        run("data")
