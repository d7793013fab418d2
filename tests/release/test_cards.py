"""Cards say what was measured, no more, and say plainly what the figures are worth."""

from __future__ import annotations

import re
from typing import Any

import pytest

import release_values as values
from extraction_values import TASK
from odin_slm.config.parameters import PublishingParams
from odin_slm.dataprep.quality import assess
from odin_slm.hub.licensing import base_terms
from odin_slm.pipelines.combination.nodes import count_records
from odin_slm.release.cards import dataset_card, failure_examples, model_card, read_front_matter
from odin_slm.release.checks import validate_card
from odin_slm.release.facts import BaseFacts, DataReports, DatasetFacts, ModelFacts, SplitFile
from odin_slm.tasks.extraction.metrics import evaluate
from odin_slm.tasks.extraction.task import ExtractionTask
from tasks.another.first_word import FirstWordTask


def _reports(parts: Any, *, synthetic: bool = True, **changes: Any) -> DataReports:
    reports = {
        "manifest": values.manifest(parts, synthetic=synthetic),
        "leakage": values.leakage(),
        "quality": values.quality(),
        "statistics": values.statistics(parts),
    }
    return DataReports(**{**reports, **changes})


def _model_facts(*, synthetic: bool = True, **changes: Any) -> ModelFacts:
    facts = {
        "name": "odin",
        "experiment": "demo" if synthetic else "nano",
        "repo_id": None,
        "dataset_repo": None,
        "base": BaseFacts("odin-slm/odin-nano", included=True),
        "license": "apache-2.0",
        "results": values.evaluation_results(synthetic=synthetic),
        "training": values.training_state(),
        "data": _reports(values.splits(synthetic=synthetic), synthetic=synthetic),
        "task": TASK,
        "checksums": {"LICENSE": "3" * 64},
    }
    return ModelFacts(**{**facts, **changes})


def _dataset_facts(*, synthetic: bool = True, **changes: Any) -> DatasetFacts:
    parts = values.splits(synthetic=synthetic)
    facts = {
        "name": "odin-data",
        "experiment": "demo" if synthetic else "nano",
        "repo_id": None,
        "columns": ("id", "input"),
        "files": [SplitFile("train", 18, 100, 50), SplitFile("validation", 6, 40, 20), SplitFile("test", 9, 60, 30)],
        "rows_by_source": {"ade": 11, "bc5cdr": 11, "biored": 11},
        "data": _reports(parts, synthetic=synthetic),
        "task": TASK,
        "checksums": {"LICENSE": "3" * 64},
    }
    return DatasetFacts(**{**facts, **changes})


def _body(card: str) -> str:
    return card.split("\n---\n", 1)[1]


@pytest.mark.parametrize("synthetic", [True, False])
def test_cards_are_valid_for_the_hub(synthetic: bool) -> None:
    assert validate_card(read_front_matter(model_card(_model_facts(synthetic=synthetic))), "model") == []
    assert validate_card(read_front_matter(dataset_card(_dataset_facts(synthetic=synthetic))), "dataset") == []


def test_the_model_index_holds_the_measured_figures() -> None:
    front_matter = read_front_matter(model_card(_model_facts()))
    (result,) = front_matter["model-index"][0]["results"]
    figures = {metric["name"]: metric for metric in result["metrics"]}
    entity = figures["entity f1 (micro, exact match, free decoding)"]
    assert entity["value"] == pytest.approx(0.8642)
    assert entity["args"] == {"interval_95": [0.8142, 0.9142]}
    assert figures["relation f1 (micro, exact match, free decoding)"]["value"] == pytest.approx(0.7531)
    assert front_matter["base_model"] == "odin-slm/odin-nano"
    assert front_matter["base_model_relation"] == "adapter"
    assert "datasets" not in front_matter


def test_a_synthetic_test_set_is_named_in_the_first_lines_and_in_the_heading() -> None:
    card = _body(model_card(_model_facts(synthetic=True)))
    assert "synthetic" in " ".join(card.split("\n")[:6]).lower()
    assert "## Results on the synthetic test set (n = 9 examples, 9 documents)" in card
    real = _body(model_card(_model_facts(synthetic=False)))
    assert "## Results on the test set (n = 9 examples, 9 documents)" in real
    assert "ynthetic" not in real


def test_results_stand_beside_the_base_with_intervals() -> None:
    card = model_card(_model_facts())
    assert "**0.864** [0.814, 0.914]" in card
    assert "**0.071** [0.011, 0.131]" in card
    assert "+0.741 [0.700, 0.780]" in card
    assert "| `Symptom` | entity | 0.864 | 0.864 | 0.864 | 0.123 | 12 |" in card
    assert "| `biored` | relation | 0.753 | 0.753 | 0.753 | 0.071 | 12 |" in card
    assert "| entities that are not in the text | 4.0% | 4.0% |" in card


def test_without_a_scored_base_the_card_does_not_speak_of_one() -> None:
    card = model_card(_model_facts(results=values.evaluation_results(synthetic=True, with_base=False)))
    assert "base model alone" not in card
    assert "| difference |" not in card
    assert "**0.864** [0.814, 0.914]" in card


def test_published_protocols_stand_with_their_share_and_their_rule() -> None:
    plain = values.evaluation_results(synthetic=False)
    card = model_card(_model_facts(synthetic=False, results={**plain, "protocols": values.protocols()}))
    assert "| CDR <pairs>: pair | 125 (25.0% of 500) | 0.750 | 0.500 | 0.600 [0.400, 0.800] |" in card
    assert "| ADE, strict: macro | 36 (own split) | 0.750 | 0.500 | 0.600 [0.400, 0.800] |" in card
    assert "\n- CDR <pairs>: A pair of ids.\n- ADE, strict: Places and types.\n" in card
    assert "protocols of the literature" not in model_card(_model_facts(synthetic=False, results=plain))


def test_two_decodings_are_told_apart_everywhere() -> None:
    results = values.evaluation_results(synthetic=True, decoding="constrained", free=values.scored(0.6, 0.5))
    results["base"]["free"] = values.scored(0.02, 0.01)
    card = model_card(_model_facts(results=results))
    assert "| fine-tuned, constrained decoding | 0.864 | 0.753 |" in card
    assert "| fine-tuned, free decoding | 0.600 | 0.500 |" in card
    assert "| base model alone, free decoding | 0.020 | 0.010 |" in card
    assert "| `Drug` | entity | 0.864 | 0.864 | 0.864 | 0.600 | 0.123 | 0.020 | 12 |" in card
    assert "**the snippet above decodes freely**" in card
    (result,) = read_front_matter(card)["model-index"][0]["results"]
    figures = {metric["name"]: metric["value"] for metric in result["metrics"]}
    assert figures["entity f1 (micro, exact match, constrained decoding)"] == pytest.approx(0.8642)
    assert figures["entity f1 (micro, exact match, free decoding)"] == pytest.approx(0.6)


def test_the_reports_of_the_other_pipelines_fill_a_card() -> None:
    parts = values.splits(synthetic=True)
    rows = [
        {**record, "gold": record["output"], "prediction": record["output"], "finished": True}
        for record in parts["test"]
    ]
    base = [{**row, "prediction": "nothing useful"} for row in rows]
    results = evaluate(rows, base, parts["train"], experiment="demo", resamples=20)
    leaks: dict[str, list[Any]] = {"exact_inputs": [], "pmids": [], "near_duplicates": []}
    quality = assess(parts, leaks, TASK, profile="exploration")
    card = model_card(_model_facts(results=results, data=_reports(parts, quality=quality)))
    assert validate_card(read_front_matter(card), "model") == []
    assert "| fine-tuned | 1.000 | 1.000 |" in card
    assert "| base model alone | 0.000 | 0.000 |" in card


def test_the_card_tells_data_training_and_how_to_reproduce() -> None:
    card = model_card(_model_facts(synthetic=False, dataset_repo="me/data"))
    assert "| train | 6 | 6 | 6 | 18 | 18 |" in card
    assert "0 texts, 0 PubMed ids and 0 pairs of near-duplicates" in card
    assert "grade A, 97.2 of 100 points" in card
    assert "| trainable parameters | 1,081,344 |" in card
    assert "| lora target modules | q_proj, v_proj |" in card
    assert "kedro run --env nano" in card
    assert read_front_matter(card)["datasets"] == ["me/data"]
    assert "Gurulingappa" in card
    assert "baw068" in card
    assert "bbac282" in card
    assert "not a medical device" in card


def test_the_card_tells_by_what_the_checkpoint_was_chosen() -> None:
    assert "lowest validation loss is the one" in model_card(_model_facts())
    chosen = {"name": "entity_f1_micro", "title": "entity F1", "value": 0.75, "records": 64}
    card = model_card(_model_facts(training={**values.training_state(), "task_metric": chosen}))
    assert "lowest validation loss is the one" not in card
    assert "The checkpoint with the best entity F1 on a sample of validation records" in card
    assert "| entity F1 of 64 validation records at that step, by which it was chosen | 0.75 |" in card


def test_the_card_says_so_where_the_last_step_was_kept() -> None:
    state = values.training_state()
    last = {**state, "hyperparameters": {**state["hyperparameters"], "load_best_model_at_end": False}}
    card = model_card(_model_facts(training=last))
    assert "The weights of the last step are published here" in card
    assert "lowest validation loss is the one" not in card


def test_a_licence_without_an_id_of_the_hub_has_a_name_and_a_link() -> None:
    card = model_card(_model_facts(license="other", license_name="qwen-research"))
    front_matter = read_front_matter(card)
    assert (front_matter["license_name"], front_matter["license_link"]) == ("qwen-research", "LICENSE")
    assert validate_card(front_matter, "model") == []
    with pytest.raises(ValueError, match="license=other needs license_name=NAME"):
        PublishingParams(experiment="demo", license="other")


def test_cards_of_own_corpora_send_nobody_to_a_publisher() -> None:
    parts = values.splits(synthetic=False)
    made = values.manifest(parts, synthetic=False)
    for counts in made["counts"].values():
        counts["by_source"] = {"ward": counts["records"]}
    reports = _reports(parts, synthetic=False, manifest=made)
    task = ExtractionTask.from_options(
        {"sources": {"ward": {"entities": ["Drug", "Symptom"], "relations": ["causes"]}}}
    )
    own: dict[str, Any] = {"synthetic": False, "data": reports, "task": task}
    data, model = dataset_card(_dataset_facts(**own, rows_by_source={"ward": 33})), model_card(_model_facts(**own))
    assert "The terms of ward do not say" in data
    assert "Get the files of `ward` and the environment `nano`, which names them, from the author" in data
    assert "kedro run --env nano --pipelines data\n```" in data
    assert "The files of `ward` and the environment that names them are the author's." in model
    assert "cite the corpora" not in model
    assert not [card for card in (data, model) if "corpora=DIR" in card]
    both = {**made, "counts": {name: {**c, "by_source": {"ward": 1, "ade": 1}} for name, c in made["counts"].items()}}
    card = dataset_card(_dataset_facts(**{**own, "data": _reports(parts, manifest=both)}))
    assert "file names), get the files of `ward` and the environment that names them from the author, and run" in card
    assert "--pipelines data --params corpora=DIR\n```" in card


def test_a_card_names_the_adapter_that_training_went_on_from() -> None:
    initial = {"adapter_sha256": "ab" * 32, "learned": None}
    card = model_card(_model_facts(training={**values.training_state(), "from_adapter": initial}))
    assert f"| trained further from the adapter with sha256 | `{'ab' * 32}` |" in card
    assert "trained further" not in model_card(_model_facts())


def test_the_prompt_of_the_snippet_is_the_one_of_training() -> None:
    assert "Extract entities: Drug, Symptom. Relations: causes." in model_card(_model_facts())
    parts = values.splits(synthetic=True)
    made = values.manifest(parts, synthetic=True, instruction="shared")
    shared = model_card(_model_facts(data=_reports(parts, manifest=made)))
    assert TASK.shared_instruction in shared
    assert "Extract entities: Drug, Symptom. Relations: causes." not in shared


def test_a_base_on_the_hub_is_loaded_from_there_at_its_revision() -> None:
    terms = base_terms("meta-llama/Llama-3.1-8B")
    facts = _model_facts(
        base=BaseFacts("meta-llama/Llama-3.1-8B", "abc123", terms=terms),
        license="llama3.1",
        repo_id="me/Llama-odin",
    )
    card = model_card(facts)
    assert "**Built with Llama**" in card
    assert '"meta-llama/Llama-3.1-8B", revision="abc123", dtype="bfloat16", device_map="auto"' in card
    assert 'snapshot_download("me/Llama-odin")' in card
    assert "`base/" not in card
    assert '/base"' not in card
    assert validate_card(read_front_matter(card), "model") == []


def test_withheld_texts_are_announced_with_the_way_to_rebuild_them() -> None:
    card = dataset_card(_dataset_facts(synthetic=False))
    assert "ADE Corpus V2, BioRED" in " ".join(_body(card).split("\n")[:6])
    assert "kedro run --env nano --pipelines data --params corpora=DIR" in card
    assert "| `ade` | ADE Corpus V2 | free for research; no terms of redistribution given | **not published**" in card
    front_matter = read_front_matter(card)
    assert front_matter["license"] == "other"
    assert front_matter["license_link"] == "LICENSE"
    assert front_matter["annotations_creators"] == ["expert-generated"]
    assert front_matter["source_datasets"] == ["ade-benchmark-corpus/ade_corpus_v2", "bigbio/bc5cdr", "bigbio/biored"]


def test_synthetic_data_is_ours_to_license_and_says_what_it_is() -> None:
    card = dataset_card(_dataset_facts(synthetic=True))
    assert "**Synthetic text.**" in " ".join(_body(card).split("\n")[:6])
    assert "withheld" not in card
    front_matter = read_front_matter(card)
    assert front_matter["license"] == "apache-2.0"
    assert front_matter["source_datasets"] == ["original"]
    assert front_matter["annotations_creators"] == ["machine-generated"]


def test_the_dataset_card_describes_its_files() -> None:
    front_matter = read_front_matter(dataset_card(_dataset_facts()))
    assert front_matter["size_categories"] == ["n<1K"]
    assert front_matter["dataset_info"]["download_size"] == 100
    assert front_matter["dataset_info"]["splits"][0] == {"name": "train", "num_bytes": 100, "num_examples": 18}
    assert front_matter["configs"][0]["data_files"][1] == {"split": "validation", "path": "data/validation.parquet"}


def test_equal_values_give_an_equal_card() -> None:
    assert model_card(_model_facts()) == model_card(_model_facts())
    assert dataset_card(_dataset_facts()) == dataset_card(_dataset_facts())


def _row(source: str, number: int, prediction: str, **more: Any) -> dict[str, Any]:
    found = values.record(source, 990_000_000 + number, number)
    row = {"id": found["id"], "source": source, "input": found["input"], "gold": found["output"]}
    return {**row, "prediction": prediction, **more}


def test_failures_are_shown_where_the_text_may_be() -> None:
    nothing = "### Entities:\nNone\n\n### Relations:\nNone"
    parts = values.splits(synthetic=False)
    real = values.manifest(parts, synthetic=False)
    right = _row("bc5cdr", 1, "")
    rows = [
        _row("ade", 0, nothing),
        {**right, "prediction": right["gold"]},
        _row("bc5cdr", 2, nothing, input="long " * 100),
        _row("bc5cdr", 3, nothing),
        _row("bc5cdr", 4, nothing),
    ]
    assert [e["input"] for e in failure_examples(rows, real, TASK)] == [rows[3]["input"], rows[4]["input"]]
    synthetic = values.manifest(values.splits(synthetic=True), synthetic=True)
    assert {e["source"] for e in failure_examples(rows, synthetic, TASK, 2)} == {"ade", "bc5cdr"}
    examples = failure_examples(rows, real, TASK, 1)
    card = model_card(_model_facts(synthetic=False, failures=examples))
    assert rows[3]["input"] in card
    assert "| Entities:<br>1. [Drug] daxomil<br>2. [Disease] mild rash<br>Relations:<br>" in card
    assert "| Entities:<br>None<br>Relations:<br>None |" in card


def test_the_gain_over_the_base_is_given_in_points_and_in_per_cent() -> None:
    assert "+0.741 [0.700, 0.780], +600% of the base's" in model_card(_model_facts(synthetic=True))


def test_types_of_ones_own_are_what_the_cards_speak_of() -> None:
    options = {
        "entities": ["Gene", "Dose"],
        "relations": [
            {"type": "inhibits", "head": ["Dose"], "tail": ["Gene"]},
            {"type": "binds", "head": ["Gene"], "tail": ["Gene"]},
        ],
        "sources": {
            source: {"entities": ["Gene", "Dose"], "relations": ["binds"]} for source in ("ade", "bc5cdr", "biored")
        },
    }
    own = ExtractionTask.from_options(options)
    card = model_card(_model_facts(task=own))
    assert "its entities (`Gene`, `Dose`) and the relations between them (`inhibits`, `binds`)" in card
    assert "`inhibits` from a Dose to a Gene, `binds` between two Genes." in card
    assert "1. [Gene] first gene" in card
    data = dataset_card(_dataset_facts(task=own))
    assert "the entities (Gene, Dose) and relations (inhibits, binds)" in data
    assert "| relations: binds | 0 | 0 | 0 |" in data
    for word in ("Symptom", "lisinopril", "treats"):
        assert word not in _body(card).replace("| `Symptom` |", "").replace("| `treats` |", "")
        assert word not in data


def test_cards_of_another_task_speak_of_it_alone() -> None:
    task = FirstWordTask()
    parts = values.splits(synthetic=True)
    records = {
        name: [{**r, "instruction": task.instruction(""), "output": r["input"].split()[0]} for r in rows]
        for name, rows in parts.items()
    }
    rows = [
        {**r, "gold": r["output"], "prediction": "Nobody" if number < 3 else r["output"].upper(), "finished": True}
        for number, r in enumerate(records["test"])
    ]
    base = [{**row, "prediction": "a b"} for row in rows]
    results = task.score(rows, base, records["train"], experiment="demo", resamples=20)
    made = values.manifest(records, synthetic=True)
    leakage = {**values.leakage(), "seen_in_training": {"ade": {"test_outputs": 1, "test_outputs_seen": 1.0}}}
    shown = failure_examples(rows, made, task)
    assert {example["prediction"] for example in shown} == {"Nobody"}
    counts = {"test": count_records(records["test"], lambda rows: [1] * len(rows), task)}
    known = {"task": task, "data": _reports(parts, manifest=made, leakage=leakage, statistics=counts)}
    card = model_card(_model_facts(results=results, failures=shown, **known))
    assert validate_card(read_front_matter(card), "model") == []
    low, high = results["intervals"]["accuracy"]
    assert f"| fine-tuned | **0.667** [{low:.3f}, {high:.3f}] |" in card
    assert "is fine-tuned for naming the first word" in card
    assert 'text = "Cough and rash developed."' in card
    assert "- `bc5cdr`: Write the first word." in card
    assert "| `ade` | 1 | 100.0% |" in card
    (result,) = read_front_matter(card)["model-index"][0]["results"]
    assert result["task"]["name"] == "naming the first word"
    assert [(m["name"], m["value"]) for m in result["metrics"]] == [("accuracy (free decoding)", 0.6667)]
    data = dataset_card(_dataset_facts(**known))
    assert validate_card(read_front_matter(data), "dataset") == []
    assert "Instruction examples for naming the first word" in data
    for text in (card, data):
        body = _body(text).partition("## Licence and citation")[0]  # titles of papers speak of relations
        assert not re.search("entit|relation|symptom", body, re.IGNORECASE)


def test_arguments_that_do_not_all_go_together_are_told_apart() -> None:
    options = {
        "entities": ["A", "B", "C"],
        "relations": [
            {"type": "meets", "head": ["A"], "tail": ["B"]},
            {"type": "meets", "head": ["B"], "tail": ["C"]},
        ],
        "sources": {},
    }
    parts = ExtractionTask.from_options(options).card({}, {})
    assert "`meets` from an A to a B, or from a B to a C." in parts.asked
