"""What cards say of extraction: what is read and written down, for which sources, and how well."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from odin_slm.core.markdown import code, interval, number, score, table
from odin_slm.tasks.card import (
    INTERVALS,
    CardParts,
    CardResults,
    Figure,
    computed_in,
    decodings,
    headline_table,
    instruction_list,
    quality_table,
    scored,
    scores_table,
)
from odin_slm.tasks.extraction.format import Entity, Extraction, RelationTriple, render
from odin_slm.tasks.extraction.schema import MEDICAL, Types
from odin_slm.tasks.extraction.tagged import Form
from odin_slm.tasks.metric import Metric

if TYPE_CHECKING:
    from odin_slm.tasks.extraction.task import ExtractionTask

_KINDS = ("entity", "relation")
_WIDTH = 123
"""Characters of a line, at most."""
_TEXT = "Two weeks after starting lisinopril for hypertension, the patient developed a dry cough."
_OUTPUT = Extraction(
    (Entity("Drug", "lisinopril"), Entity("Disease", "hypertension"), Entity("Symptom", "dry cough")),
    (RelationTriple("lisinopril", "treats", "hypertension"), RelationTriple("lisinopril", "causes", "dry cough")),
)
_FORMS: Mapping[Form, str] = {
    "inline": "{} is the text over again, with the type of an entity in brackets before it and a line break\n"
    "behind it, and then the relations, or the line `None`:",
    "numbered": "{} lists every occurrence of an entity; an empty list is the line `None`:",
    "list": "{} has this form; an empty list is the line `None`:",
}
_QUALITY = {
    "parse_failure_rate": "outputs that break the format or do not end",
    "hallucinated_entity_rate": "entities that are not in the text",
    "unfinished_rate": "outputs that do not end within the budget",
}


def card_parts(
    task: ExtractionTask,
    sources: Mapping[str, str],
    instructions: Mapping[str, str],
    results: Mapping[str, Any] | None,
) -> CardParts:
    """Return the parts of a card; see :meth:`odin_slm.tasks.base.Task.card`."""
    entities, relations = task.types.entities, task.types.relations
    table_above = " (see the table above)" if results else ""
    shown = _OUTPUT if _is_medical(task.types) else _placeholder(task.types)
    text = _TEXT if _is_medical(task.types) else ", ".join(entity.text for entity in shown.entities)
    output_form, example_output = _output(task, sources, text, render(shown))
    return CardParts(
        does="reads an English biomedical text and writes\n"
        f"down its entities ({code(entities)}) and the relations between them ({code(relations)})",
        intended_use="Research on information extraction: drafts of annotations that a person checks, baselines, "
        "teaching, tests of pipelines.",
        example=_TEXT if _is_medical(task.types) else task.example,
        example_output=example_output,
        output_form=output_form,
        asked=_asked(task, sources, instructions),
        limitations=(
            f"Decoded freely, it may write what is not in the input{table_above}: look every entity up before\n"
            "  using it.",
            "It says nothing about negation, certainty, time or dose, and it links no entity to a database.",
            "It knows what its corpora annotate and inherits their gaps: not every "
            + ("drug, disease or relation" if _is_medical(task.types) else "entity or relation")
            + " of a text is marked there.",
            "Texts longer than a training example were cut into windows at sentence ends, or left out; relations "
            "between windows are lost.",
        ),
        data=f"that ask for the entities ({', '.join(entities)}) and relations ({', '.join(relations)}) of English "
        "biomedical texts, from several corpora in one format",
        instruction_field="what is asked: the entity and relation types that the corpus annotates",
        output_field="the entities and relations, in the output format",
        data_limitations=(
            "The corpora annotate different types under different guidelines; the instruction of each example says "
            "which.",
            "What a corpus does not mark is not thereby absent from the text.",
        ),
        labels={"entities": entities, "relations": relations},
        titles={"triples": "relations"},
        categories=("token-classification", "text-generation"),
        task_ids=("named-entity-recognition",),
        results=_results(results) if results else None,
    )


def _output(task: ExtractionTask, sources: Mapping[str, str], text: str, listed: str) -> tuple[str, str]:
    """Return what is said of outputs, and the one that follows it, which has the form that is named last."""
    known = set(sources) & set(task.schemas) or set(task.schemas)
    of_sources = {form: [name for name in named if name in known] for form, named in task.forms.items()}
    told = [form for form in _FORMS if of_sources.get(form)] or list(task.forms)
    one = len(told) == 1
    says = [_FORMS[form].format("The output" if one else f"The output for {code(of_sources[form])}") for form in told]
    shown = task.written(task.instruction(task.forms[told[-1]][0]), text, listed)
    return "\n".join([*(f"{said[:-1]}." for said in says[:-1]), says[-1]]), shown


def _is_medical(types: Types) -> bool:
    return types.entities == MEDICAL.entities and types.legal == MEDICAL.legal


def _placeholder(types: Types) -> Extraction:
    """Return what an output in types of one's own looks like."""
    names = {name: f"first {name.casefold()}" for name in types.entities}
    relations = []
    for relation in types.relations:
        head, tail = min(types.legal[relation])
        relations.append(RelationTriple(names[head], relation, names[tail]))
    return Extraction(tuple(Entity(name, text) for name, text in names.items()), tuple(relations))


def _asked(task: ExtractionTask, sources: Mapping[str, str], instructions: Mapping[str, str]) -> str:
    rows = [
        [f"`{name}`", title, ", ".join(task.schemas[name].entities), ", ".join(task.schemas[name].relations)]
        for name, title in sources.items()
        if name in task.schemas
    ]
    differ = (
        ": one calls every adverse effect a\nSymptom, the others call the same words a Disease"
        if _is_medical(task.types)
        else ""
    )
    blocks = (
        "## Schema",
        f"The instruction in the prompt names what is annotated, because the corpora differ in it{differ}.",
        table(["source", "corpus", "entities", "relations"], rows),
        instruction_list(instructions),
        *([_arguments(task.types)] if task.types.relations else []),
    )
    return "\n\n".join(blocks)


def _arguments(types: Types) -> str:
    """Say between what each relation may stand; relations of the same arguments go together."""
    by_pairs: dict[frozenset[tuple[str, str]], list[str]] = {}
    for relation in types.relations:
        by_pairs.setdefault(frozenset(types.legal[relation]), []).append(f"`{relation}`")
    sentences = []
    for pairs, names in by_pairs.items():
        tails: dict[tuple[str, ...], list[str]] = {}
        for head in types.entities:
            if found := tuple(tail for tail in types.entities if (head, tail) in pairs):
                tails.setdefault(found, []).append(head)
        ways = [_way(heads, found, types) for found, heads in tails.items()]
        sentences.append(f"{' and '.join(names)} {', or '.join(ways)}")
    return textwrap.fill(f"Relations point from head to tail: {', '.join(sentences)}.", _WIDTH, break_on_hyphens=False)


def _way(heads: Sequence[str], tails: Sequence[str], types: Types) -> str:
    if list(heads) == list(tails) and len(heads) == 1:
        return f"between two {heads[0]}s"
    everything = len(tails) == len(types.entities) > 1
    return f"from {_one(heads)} to {'any other entity' if everything else _one(tails)}"


def _one(names: Sequence[str]) -> str:
    return f"{'an' if names[0][0] in 'AEIOUaeiou' else 'a'} {' or '.join(names)}"


def _results(results: Mapping[str, Any]) -> CardResults:
    columns = [[_metric(kind, name) for name in ("precision", "recall", "f1")] for kind in _KINDS]
    headline = [metrics[-1] for metrics in columns]
    decoded = (
        "Decoding is greedy and free, as in the snippet above."
        if results["decoding"] == "free"
        else f"Decoding is greedy. With {results['decoding']} decoding a grammar holds every output to the format and "
        "every entity to the words of\nits input; the project's evaluation does that, **the snippet above decodes "
        "freely**."
    )
    if results["decoding"] == "constrained" and results.get("operating_point"):
        decoded += (
            " `calibrator.json` holds the operating\npoint of these figures: how readily lists end, and the least "
            "confidence of what they list."
        )
    decoded += computed_in(results)
    text = (
        "Micro averages. An entity counts when its type and text are right, a relation when its type, head and tail "
        f"are; texts are\ncompared without regard to case, Unicode form and white space. "
        f"{INTERVALS.format(unit='document')} Documents of one abstract are drawn\ntogether.\n{decoded}\n\n"
        f"{scores_table(results, columns)}\n\n"
        f"By type:\n\n{_groups_table(results, 'by_type', 'type')}\n\n"
        f"By source:\n\n{_groups_table(results, 'by_source', 'source')}\n\n"
        f"Quality of the output texts:\n\n{quality_table(results, _QUALITY)}"
        f"{_protocols(results)}"
    )
    figures = [
        Figure(
            name,
            f"{kind} {name} (micro, exact match, {decoding} decoding)",
            scores[f"{kind}_metrics"]["micro"][name],
            scores["intervals"][f"{kind}_f1_micro"] if name == "f1" else None,
        )
        for decoding, scores in decodings(results).items()
        for kind in _KINDS
        for name in ("f1", "precision", "recall")
    ]
    return CardResults(headline_table(results, headline), text, figures)


def _protocols(results: Mapping[str, Any]) -> str:
    """Return the scores under the protocols of the literature, each with its share and its rule; empty without any."""
    rows, rules = [], []
    for found in results.get("protocols", {}).values():
        official = found["official_documents"]
        part = f"{found['share']:.1%} of {official}" if official else "own split"
        for title, values in found["scores"].items():
            figures = [score(values[name]) for name in ("precision", "recall", "f1")]
            figures[-1] = f"{figures[-1]} {interval(values['f1_interval'])}"
            rows.append([f"{found['title']}: {title}", f"{number(found['documents'])} ({part})", *figures])
        rules.append(f"- {found['title']}: {found['rule']}")
    if not rows:
        return ""
    return (
        "\n\nWhole documents under the protocols of the literature. The share is that of the official test documents; "
        "a published figure\nis comparable only where it is all of them and the rule is the same:\n\n"
        f"{table(['protocol', 'documents (share)', 'P', 'R', 'F1 [95 %]'], rows)}\n\n" + "\n".join(rules)
    )


def _metric(kind: str, name: str) -> Metric:
    short = {"precision": "P", "recall": "R", "f1": "F1"}[name]
    return Metric(f"{kind}_{name}_micro", f"{kind} {short}", (f"{kind}_metrics", "micro", name))


def _groups_table(results: Mapping[str, Any], key: str, title: str) -> str:
    """Return the scores of every group (type or source) of both kinds."""
    models = scored(results)
    others = list(models)[1:]
    rows = []
    for kind in _KINDS:
        for name, own in results[f"{kind}_metrics"][key].items():
            beside = [models[other][f"{kind}_metrics"][key].get(name) for other in others]
            f1 = [score(found["f1"]) if found else "" for found in beside]
            exact = [score(own[figure]) for figure in ("precision", "recall", "f1")]
            rows.append([f"`{name}`", kind, *exact, *f1, number(own["support"])])
    return table([title, "kind", "P", "R", "F1", *(f"F1, {other}" for other in others), "gold items"], rows)
