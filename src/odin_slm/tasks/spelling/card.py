"""What cards say of the task ``spelling``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from odin_slm.core.markdown import interval, score, table
from odin_slm.tasks.card import CardParts, CardResults, card_results, instruction_list

if TYPE_CHECKING:
    from odin_slm.tasks.spelling.task import SpellingTask

_TRAINED = "It was trained on letter counts and positions too: its figures on them are an upper bound, and no transfer."
_UNTRAINED = "It was trained on spelling alone: whatever it can say of counts and positions, it was not taught."


def spelling_card(task: SpellingTask, instructions: Mapping[str, str], results: Mapping[str, Any] | None) -> CardParts:
    """Return the parts of a card; see :meth:`odin_slm.tasks.base.Task.card`."""
    bound = {"count", "position"} & set(task.options()["train"])
    return CardParts(
        does="is fine-tuned to spell English\nwords, and is asked how often a letter occurs in a word and which letter "
        "stands where",
        intended_use="Research on what a language model knows of the letters in its tokens; teaching; tests of "
        "pipelines.",
        example=task.example,
        asked=f"## Instructions\n\n{instruction_list(instructions)}\n\n{_TRAINED if bound else _UNTRAINED}",
        limitations=(
            "It answers questions in the wordings of its data; others may get any answer.",
            "Its words are single ones in small letters from a to z.",
        ),
        data="about the letters of English words: training spells the tokens of a language model's vocabulary, the "
        "test asks about words that are none of them, and about the few tokens that resemble one of these too much",
        instruction_field="what is asked of every question",
        output_field="the right answer: letters, a word, or a number",
        data_limitations=(
            "Regular inflections of a training word are kept out of validation and test; irregular ones are not told.",
            "Training words are tokens, or made of tokens: many are parts of words, and no words of English.",
        ),
        results=_results(task, results) if results else None,
        out_of_scope="Use a string function to count letters. The model is wrong at times and does not say when; it "
        "knows\nEnglish words in small letters alone.",
        subjects="words",
        groups="word stems",
        reads_corpora=False,
        document_field="word that the example is about; `-inside` marks a token without a space before it, "
        "`-of-tokens` a word made of several",
    )


def _results(task: SpellingTask, results: Mapping[str, Any]) -> CardResults:
    shown = card_results(results, [(metric,) for metric in task.measures])
    titles = {metric.name: metric.title for metric in task.measures}
    constant = [[titles[name], score(value)] for name, value in results["breakdown"]["one_answer"].items()]
    tokens = [
        [number, *(_cell(figures.get(name)) for name in titles)]
        for number, figures in results["breakdown"]["tokens"].items()
    ]
    text = (
        f"{shown.text}\n\nGiving every question of a kind the most frequent right answer would get:\n\n"
        f"{table(['', 'accuracy'], constant)}\n\n"
        f"Fine-tuned, by number of tokens of the word:\n\n{table(['tokens', *titles.values()], tokens)}"
    )
    return CardResults(shown.headline, text, shown.figures)


def _cell(figure: Mapping[str, Any] | None) -> str:
    return f"{score(figure['value'])} {interval(figure['interval'])}" if figure else ""
