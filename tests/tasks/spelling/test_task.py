"""The task spelling: its records, its leaks, its figures by hand, and what it says of them."""

from __future__ import annotations

from typing import Any

import pytest

from odin_slm.config.parameters import CombinationParams, TaskParams
from odin_slm.core.document import Document
from odin_slm.core.errors import LeakageError, PredictionsError, WrongParameterError
from odin_slm.core.record import Record
from odin_slm.corpora.words import LIST, VOCABULARY, parse
from odin_slm.pipelines.combination.nodes import check_leakage
from odin_slm.tasks import load
from odin_slm.tasks.criteria import improvements
from odin_slm.tasks.spelling.questions import MADE, TESTED, question
from odin_slm.tasks.spelling.task import SpellingTask

TASK = SpellingTask()
ASKED = TASK.instruction("words")
WORDS = {"train": (" straw", "berry"), "validation": (" meadow",), "test": (" pigeon", " harbour")}


def document(text: str, split: str) -> Document:
    return Document(f"words-{text.strip()}", text, "words", text.strip(), split)


def splits(task: SpellingTask = TASK) -> dict[str, list[Record]]:
    return {
        name: [r for text in texts for r in task.records(document(text, name), ASKED)] for name, texts in WORDS.items()
    }


def placed() -> dict[str, dict[str, Any]]:
    return {
        f"words-{text.strip()}": {"pmid": text.strip(), "group": text.strip(), "rule": "official", "split": name}
        for name, texts in WORDS.items()
        for text in texts
    }


def test_training_spells_and_the_test_counts() -> None:
    made = splits()
    assert [record["id"] for record in made["test"][:5]] == [f"words-pigeon-{kind}" for kind in TESTED]
    assert len(made["train"]) == 10
    assert [(r["input"], r["output"]) for r in made["train"] if r["id"] == "words-berry-spell"] == [
        ("berry: spell this word letter by letter", "b e r r y")
    ]
    assert {record["output"] for record in made["validation"] if "-joined" in record["id"]} == {"meadow"}
    assert not [r["id"] for part in made.values() for r in part if TASK.faults(r["output"])]


def test_a_word_made_of_tokens_is_asked_to_be_spelled_and_nothing_else() -> None:
    made = Document(f"words-strawation{MADE}", " strawation", "words", "strawation", "train")
    for task in (TASK, SpellingTask.from_options({"questions_per_word": 1, "train": ["ends", "spell"]})):
        (record,) = task.records(made, ASKED)
        assert record["input"] == "Spell this word letter by letter: strawation"
        assert record["output"] == "s t r a w a t i o n"
    with pytest.raises(WrongParameterError, match=r"(?s)task\.spelling\.train.*words\.joined to 0"):
        SpellingTask.from_options({"train": ["ends"]}).records(made, ASKED)


@pytest.mark.parametrize("token", ["made", "of", "tokens"])
def test_a_token_of_that_name_is_asked_what_tokens_are(token: str) -> None:
    found = parse({VOCABULARY: f" {token}\n", LIST: ""}, validation=0, test=0).documents
    assert len(TASK.records(found[0], ASKED)) == 5


def test_it_is_a_value_with_checked_options() -> None:
    task = TaskParams.model_validate({"name": "extraction", "options": {}, "spelling": {"train": ["spell"]}}).task()
    assert task.options() == {"train": ["spell"], "questions_per_word": None}
    assert load(task.to_dict()) == task
    assert task != TASK
    with pytest.raises(ValueError, match=r"task\.options\.train\.0"):
        TaskParams.model_validate({"spelling": {"train": ["counting"]}})


def test_clean_splits_pass_the_leakage_check() -> None:
    *_, report = check_leakage(splits(), placed(), TaskParams(name="spelling"), CombinationParams())
    assert (report["exact_inputs"], report["pmids"], report["near_duplicates"], report["test_questions"]) == (
        0,
        0,
        0,
        0,
    )


@pytest.mark.parametrize("kind", ["count", "position", "count_apart", "trained_count"])
def test_a_count_or_position_question_in_training_stops_the_run(kind: str) -> None:
    made, asked = splits(), question(kind, " straw")
    made["train"].append({**made["train"][0], "id": "planted", "input": asked.text, "output": asked.answer})
    with pytest.raises(LeakageError, match=r"words-straw in train and test.*planted asks what training must not"):
        check_leakage(made, placed(), TaskParams(name="spelling"), CombinationParams())


@pytest.mark.parametrize(
    "wording", ["PIGEON: spell this word letter by letter", "Spell this word letter by letter: Pigeon"]
)
def test_a_test_word_in_training_stops_the_run_whatever_its_case(wording: str) -> None:
    made = splits()
    made["train"].append({**made["train"][0], "id": "planted", "input": wording})
    with pytest.raises(LeakageError, match=r"words-pigeon.* in test and train"):
        check_leakage(made, placed(), TaskParams(name="spelling"), CombinationParams())


def test_training_on_counts_is_allowed_where_it_is_asked_for_but_never_in_the_words_of_the_test() -> None:
    task = SpellingTask.from_options({"train": ["count", "position"]})
    made, params = splits(task), TaskParams(name="spelling", options=task.options())
    check_leakage(made, placed(), params, CombinationParams())
    made["train"].append({**made["train"][0], "id": "planted", "input": question("count", " straw").text})
    with pytest.raises(LeakageError, match="planted asks"):
        check_leakage(made, placed(), params, CombinationParams())


def rows(**outputs: str) -> list[dict[str, Any]]:
    """Rows of both test words; what is not named is answered rightly."""
    found = []
    for record in splits()["test"]:
        kind = record["id"].removeprefix(f"{record['document_id']}-")
        name = f"{record['document_id'].removeprefix('words-')}_{kind}"
        found.append(
            {key: record[key] for key in ("id", "source", "document_id", "input")}
            | {"gold": record["output"], "prediction": outputs.get(name, record["output"]), "subject_tokens": 2}
        )
    return found


def score(predictions: list[dict[str, Any]], base: list[dict[str, Any]]) -> dict[str, Any]:
    return TASK.score(predictions, base, None, experiment="spelling", resamples=200)


def test_the_figures_by_hand() -> None:
    wrong = rows(pigeon_count="7", pigeon_spell="p i g e o", harbour_position="q")
    results = score(wrong, rows(pigeon_count="7", harbour_count="7", pigeon_spell="", harbour_spell=""))
    assert {metric.name: round(metric.value(results), 4) for metric in TASK.measures} == {
        "letter_count_accuracy": 0.5,
        "letter_position_accuracy": 0.5,
        "spelling_accuracy": 0.5,
        "character_level_accuracy": round((5 / 6 + 1) / 2, 4),
        "levenshtein_distance": round((1 / 6 + 0) / 2, 4),
        "letter_count_apart_accuracy": 1.0,
        "letter_position_apart_accuracy": 1.0,
    }
    assert results["intervals"]["letter_count_accuracy"] == [0.0, 1.0], "two words, one of them right"
    assert results["base"]["levenshtein_distance"] == 1.0
    assert results["difference"]["levenshtein_distance"]["value"] == pytest.approx(1 / 12 - 1)
    by_length = results["breakdown"]["letters"]
    assert by_length["6"]["spelling_accuracy"]["value"] == 0.0
    assert by_length["7"]["spelling_accuracy"]["value"] == 1.0
    assert results["breakdown"]["tokens"]["2"]["letter_count_accuracy"]["questions"] == 2
    assert TASK.headline_values(wrong) == {"letter_count_accuracy": 0.5}
    tracked = TASK.tracked(results)
    assert (tracked["letter_count_accuracy"], tracked["base_spelling_accuracy"]) == (0.5, 0.0)
    assert results["test_set"]["unit"] == "word"
    assert results["comparison"].endswith("paired by word")


@pytest.mark.parametrize("words", range(5, 12))
def test_the_overview_is_drawn_where_all_words_score_alike(words: int) -> None:
    pigeon = next(row for row in rows() if row["id"].endswith("pigeon-spell"))
    alike = [{**pigeon, "id": f"w{n}-spell", "document_id": f"w{n}", "prediction": "p i j e o m"} for n in range(words)]
    TASK.overview(score(alike, alike), None)


def test_gold_answers_of_others_are_scored_or_refused_and_never_a_traceback() -> None:
    asked = question("count", " strawberry").text
    row = {"id": "1", "input": asked, "gold": "ten", "prediction": "10"}
    assert list(TASK.credits(row).values()) == [(1.0, 1.0)]
    spelled = {"id": "2", "input": question("spell", " cat").text, "gold": "?", "prediction": ""}
    assert all(total <= 1 for _, total in TASK.credits(spelled).values())
    with pytest.raises(PredictionsError, match="occurs more than once"):
        TASK.score([row, row], None, None, experiment="e")
    with pytest.raises(PredictionsError, match="expected a text 'prediction'"):
        TASK.difference([row], [{name: row[name] for name in ("id", "input", "gold")}])


def test_the_report_says_what_is_shown_and_by_which_words() -> None:
    results = score(rows(), rows(pigeon_spell="<script>", harbour_spell=""))
    page = TASK.report(results, rows(pigeon_count="<b>7</b>"), None, None)
    for words in (
        "Fine-tuned against base",
        "By number of tokens of the word",
        "Levenshtein distance",
        "most frequent",
    ):
        assert words in page
    assert "&lt;b&gt;7&lt;/b&gt;" in page
    assert "95 % intervals over words" in page
    criteria = {found["metric"]: found for found in improvements(results, TASK.measures, significance=0.05)}
    assert criteria["levenshtein_distance"]["improvement"] == 1.0, "less is better, so the fall is a gain"
    assert criteria["letter_count_accuracy"]["met"] is False


def test_the_card_says_what_was_trained() -> None:
    plain = TASK.card({}, {"words": ASKED}, score(rows(), rows(pigeon_spell="")))
    assert "spelling alone" in plain.asked
    assert plain.results is not None
    assert len(plain.results.figures) == len(TASK.measures)
    bound = SpellingTask.from_options({"train": ["spell", "count"]}).card({}, {"words": ASKED})
    assert "upper bound" in bound.asked
    assert "medical" not in f"{plain}{bound}"
    assert "10 examples of 2 words" in plain.results.headline
    assert "a bootstrap over words" in plain.results.text
