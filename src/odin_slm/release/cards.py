"""Cards: the README of a model release and of a dataset release, from measured values alone.

The front matter goes through ``huggingface_hub``'s card classes, the text through Jinja templates beside this module.
A card holds no time stamp, so that equal values give an equal card. Every figure comes from a report of the run.
"""

from __future__ import annotations

import html
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from odin_slm.core.record import render_prompt
from odin_slm.hub.licensing import BaseTerms, SourceTerms, terms_of
from odin_slm.inference.served_model import instructions
from odin_slm.release.checks import leak_counts, size_category
from odin_slm.release.provenance import is_own_test_set
from odin_slm.tasks.extraction.format import (
    Entity,
    Extraction,
    RelationTriple,
    parse,
    render,
)
from odin_slm.tasks.extraction.schema import ENTITY_TYPES, RELATION_TYPES, SCHEMAS
from odin_slm.tasks.extraction.task import ExtractionTask

LANGUAGE = "en"
OVERRIDDEN = "overridden_gates"
"""Key of a card's front matter: gate -> reason why it was overridden."""

_KINDS = ("entity", "relation")
_LONGEST_EXAMPLE = 400
"""Characters of a text that a card quotes."""
_SPLIT_TITLES = {"train": "train", "val": "validation", "test": "test"}

_EXAMPLE_TEXT = "Two weeks after starting lisinopril for hypertension, the patient developed a dry cough."
_EXAMPLE = Extraction(
    (Entity("Drug", "lisinopril"), Entity("Disease", "hypertension"), Entity("Symptom", "dry cough")),
    (RelationTriple("lisinopril", "treats", "hypertension"), RelationTriple("lisinopril", "causes", "dry cough")),
)


@dataclass(frozen=True)
class ModelFacts:
    """Everything that a model card says.

    Attributes:
        name: Title of the card.
        experiment: Experiment that the commands on the card reproduce.
        repo_id: Hub id of the model, or None while it has no repository.
        dataset_repo: Hub id of the data, or None.
        base_id: Hub id of the base model.
        base_revision: Commit of the base on the Hub, where it is known.
        base_included: Whether the base lies in the release under ``base/``.
        base_conversion: What the base was converted from (``conversion.json``); None for one as its maker published it.
        license: Hub licence id of the adapter.
        base_terms: What the base's licence asks for, or None.
        results: ``evaluation_results``; None for a checkpoint that was not evaluated.
        training: ``training_state``.
        manifest: ``manifest``.
        leakage: ``leakage``.
        quality: ``quality``.
        checksums: File name -> sha256 of the other files of the release.
        dataset_revision: Commit of the published data, or None.
        checkpoint: Name of the training checkpoint, or None for the final adapter.
        failures: What :func:`failure_examples` found.
        overridden: Gate -> reason why it was overridden.
    """

    name: str
    experiment: str
    repo_id: str | None
    dataset_repo: str | None
    base_id: str
    base_revision: str | None
    base_included: bool
    license: str
    base_terms: BaseTerms | None
    results: Mapping[str, Any] | None
    training: Mapping[str, Any]
    manifest: Mapping[str, Any]
    leakage: Mapping[str, Any]
    quality: Mapping[str, Any]
    checksums: Mapping[str, str]
    base_conversion: Mapping[str, Any] | None = None
    dataset_revision: str | None = None
    checkpoint: str | None = None
    failures: Sequence[Mapping[str, str]] = ()
    overridden: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class SplitFile:
    """One Parquet file of a dataset release: split name, rows, bytes in memory and on disk."""

    split: str
    rows: int
    num_bytes: int
    file_bytes: int


@dataclass(frozen=True)
class DatasetFacts:
    """Everything that a dataset card says.

    Attributes:
        name: Title of the card.
        experiment: Experiment that the commands on the card reproduce.
        repo_id: Hub id of the data, or None while it has no repository.
        columns: Column names of every split; all of them are strings.
        files: One entry per split.
        rows_by_source: Source -> number of rows, all splits together.
        statistics: ``data_statistics``.
        manifest: ``manifest``.
        leakage: ``leakage``.
        quality: ``quality``.
        checksums: File name -> sha256 of the other files of the release.
        overridden: Gate -> reason why it was overridden.
    """

    name: str
    experiment: str
    repo_id: str | None
    columns: Sequence[str]
    files: Sequence[SplitFile]
    rows_by_source: Mapping[str, int]
    statistics: Mapping[str, Any]
    manifest: Mapping[str, Any]
    leakage: Mapping[str, Any]
    quality: Mapping[str, Any]
    checksums: Mapping[str, str]
    overridden: Mapping[str, str] = field(default_factory=dict)


def model_card(facts: ModelFacts) -> str:
    """Return the ``README.md`` of a model release."""
    sources = _sources(facts.manifest)
    asked = instructions(ExtractionTask(), facts.manifest)
    return fill(
        "model_card.md.j2",
        front_matter=_model_front_matter(facts),
        facts=facts,
        sources=sources,
        synthetic=_tested_on_synthetic(facts, sources),
        run=_run_command(facts.experiment),
        instructions=asked,
        prompt=_prompt_expression(next(iter(asked.values()))),
        example_text=_EXAMPLE_TEXT,
        example_output=render(_EXAMPLE),
        schema_table=_schema_table(sources),
        data_table=_data_table(facts.manifest),
        leaks=_leak_sentence(facts.leakage),
        quality=_quality_sentence(facts.quality),
        seen_table=_seen_table(facts.leakage),
        training_table=_training_table(facts),
        entity_types=_listed(ENTITY_TYPES),
        relation_types=_listed(RELATION_TYPES),
        **(_result_tables(facts.results) if facts.results else {}),
    )


def _tested_on_synthetic(facts: ModelFacts, sources: Mapping[str, SourceTerms]) -> bool:
    if facts.results:
        return bool(facts.results["test_set"]["synthetic"])
    return set(sources) <= _synthetic(facts.manifest)


def _result_tables(results: Mapping[str, Any]) -> dict[str, Any]:
    test_set = results["test_set"]
    scored_text = "synthetic test set" if test_set["synthetic"] else "test set"
    return {
        "test_set": test_set,
        "scored_text": scored_text,
        "headline_table": _headline_table(results, scored_text),
        "scores_table": _scores_table(results),
        "types_table": _groups_table(results, "by_type", "type"),
        "sources_table": _groups_table(results, "by_source", "source"),
        "output_table": _output_table(results),
    }


def dataset_card(facts: DatasetFacts) -> str:
    """Return the ``README.md`` of a dataset release."""
    sources = _sources(facts.manifest)
    return fill(
        "dataset_card.md.j2",
        front_matter=_dataset_front_matter(facts, sources),
        facts=facts,
        sources=sources,
        withheld=[terms.title for terms in sources.values() if not terms.redistributable],
        missing_splits=[title for title in _SPLIT_TITLES.values() if title not in {file.split for file in facts.files}],
        rebuilt_files=json.dumps(
            {title: f"{name}.json" for name, title in _SPLIT_TITLES.items() if title in {f.split for f in facts.files}}
        ),
        wholly_synthetic=set(sources) <= _synthetic(facts.manifest),
        some_synthetic=bool(set(sources) & _synthetic(facts.manifest)),
        run=_run_command(facts.experiment, "--pipelines data"),
        terms_table=_terms_table(sources, facts.rows_by_source),
        data_table=_data_table(facts.manifest),
        statistics_table=_statistics_table(facts.statistics),
        leaks=_leak_sentence(facts.leakage),
        quality=_quality_sentence(facts.quality),
        seen_table=_seen_table(facts.leakage),
    )


def failure_examples(
    predictions: Sequence[Mapping[str, Any]], manifest: Mapping[str, Any], number: int = 3
) -> list[dict[str, str]]:
    """Choose outputs that are wrong, for the card: short texts, of different sources where there are some.

    Only texts that may be published again are shown.

    Args:
        predictions: Rows of the predictions file.
        manifest: Says which sources are synthetic.
        number: How many, at most.

    Returns:
        ``source``, ``input``, ``gold`` and ``prediction`` of each.
    """
    synthetic = _synthetic(manifest)
    wrong = [
        row
        for row in predictions
        if terms_of(row.get("source", ""), synthetic).redistributable
        and len(row["input"]) <= _LONGEST_EXAMPLE
        and _said(row["gold"]) != _said(row["prediction"])
    ]
    wrong.sort(key=lambda row: (len(row["input"]), row["id"]))
    first = list({row["source"]: row for row in reversed(wrong)}.values())[::-1]
    chosen = [*first, *(row for row in wrong if row not in first)][:number]
    return [{key: row[key].rstrip() for key in ("source", "input", "gold", "prediction")} for row in chosen]


def _said(output: str) -> tuple[set[Any], set[Any]]:
    found = parse(output).extraction
    return set(found.entities), set(found.relations)


def dataset_license(manifest: Mapping[str, Any]) -> str:
    """Return the Hub licence id of a dataset release: ``other`` as soon as one source has terms of its own."""
    return "apache-2.0" if set(_sources(manifest)) <= _synthetic(manifest) else "other"


def dataset_license_text(manifest: Mapping[str, Any], apache: str) -> str:
    """Return the ``LICENSE`` of a dataset release.

    Args:
        manifest: Names the sources.
        apache: Text of the Apache License 2.0, under which everything stands that this project wrote.
    """
    if dataset_license(manifest) == "apache-2.0":
        return apache
    lines = [
        f"- {source} ({terms.title}): {terms.terms}; text {'published' if terms.redistributable else 'not published'}"
        for source, terms in _sources(manifest).items()
    ]
    return (
        "The rows of this dataset come from several sources. Texts and annotations stand under the terms of the\n"
        "source that the column `source` names:\n\n" + "\n".join(lines) + "\n\n"
        "The selection, the splits, the instructions and all other parts are licensed under the Apache License 2.0:\n\n"
        + apache
    )


def read_front_matter(card: str) -> dict[str, Any]:
    """Return the parsed YAML block at the head of a card; empty where there is none."""
    from huggingface_hub import RepoCard

    return dict(RepoCard(card, ignore_metadata_errors=True).data.to_dict())


def _model_front_matter(facts: ModelFacts) -> str:
    from huggingface_hub import ModelCardData

    return ModelCardData(
        language=[LANGUAGE],
        license=facts.license,
        library_name="peft",
        pipeline_tag="text-generation",
        base_model=facts.base_id,
        base_model_relation="adapter",
        datasets=[facts.dataset_repo] if facts.dataset_repo else None,
        metrics=["f1", "precision", "recall"] if facts.results else None,
        tags=["biomedical", "medical", "named-entity-recognition", "relation-extraction", "lora"],
        model_name=facts.name if facts.results else None,
        eval_results=_figures(facts, facts.results) if facts.results else None,
        **({OVERRIDDEN: dict(facts.overridden)} if facts.overridden else {}),
    ).to_yaml()


def _figures(facts: ModelFacts, results: Mapping[str, Any]) -> list[Any]:
    """Return the micro scores of every decoding for the card's ``model-index``."""
    from huggingface_hub import EvalResult

    test_set = results["test_set"]
    own = is_own_test_set(results, facts.manifest)
    scored = {results["decoding"]: results, **({"free": results["free"]} if "free" in results else {})}
    return [
        EvalResult(
            task_type="text-generation",
            task_name="entity and relation extraction",
            dataset_type=(own and facts.dataset_repo) or f"odin-slm-{facts.experiment}{'' if own else '-elsewhere'}",
            dataset_name=(f"{facts.experiment} test set" if own else "records from elsewhere")
            + (" (synthetic)" if test_set["synthetic"] else ""),
            dataset_split="test" if own else None,
            dataset_revision=facts.dataset_revision if own else None,
            metric_type=metric,
            metric_name=f"{kind} {metric} (micro, exact match, {decoding} decoding)",
            metric_value=round(scores[f"{kind}_metrics"]["micro"][metric], 4),
            metric_args=(
                {"interval_95": [round(bound, 4) for bound in scores["intervals"][f"{kind}_f1_micro"]]}
                if metric == "f1"
                else None
            ),
        )
        for decoding, scores in scored.items()
        for kind in _KINDS
        for metric in ("f1", "precision", "recall")
    ]


def _dataset_front_matter(facts: DatasetFacts, sources: Mapping[str, SourceTerms]) -> str:
    from huggingface_hub import DatasetCardData

    license_id = dataset_license(facts.manifest)
    synthetic = [terms.hub_id == "original" for terms in sources.values()]
    return DatasetCardData(
        language=[LANGUAGE],
        license=license_id,
        license_name="terms-of-each-source" if license_id == "other" else None,
        license_link="LICENSE" if license_id == "other" else None,
        pretty_name=facts.name,
        task_categories=["token-classification", "text-generation"],
        task_ids=["named-entity-recognition"],
        size_categories=[size_category(sum(file.rows for file in facts.files))],
        source_datasets=sorted({terms.hub_id for terms in sources.values()}),
        annotations_creators=[
            *(["machine-generated"] if any(synthetic) else []),
            *(["expert-generated"] if not all(synthetic) else []),
        ],
        language_creators=[
            *(["machine-generated"] if any(synthetic) else []),
            *(["found"] if not all(synthetic) else []),
        ],
        multilinguality=["monolingual"],
        configs=[
            {
                "config_name": "default",
                "data_files": [{"split": file.split, "path": f"data/{file.split}.parquet"} for file in facts.files],
            }
        ],
        dataset_info={
            "features": [{"name": column, "dtype": "string"} for column in facts.columns],
            "splits": [
                {"name": file.split, "num_bytes": file.num_bytes, "num_examples": file.rows} for file in facts.files
            ],
            "download_size": sum(file.file_bytes for file in facts.files),
            "dataset_size": sum(file.num_bytes for file in facts.files),
        },
        **({OVERRIDDEN: dict(facts.overridden)} if facts.overridden else {}),
    ).to_yaml()


def fill(template: str, **values: Any) -> str:
    """Return a card's template with its values in it; one that is missing is an error."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("odin_slm"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["number"] = _number
    environment.filters["cell"] = _cell
    return environment.get_template(template).render(**values)


def _sources(manifest: Mapping[str, Any]) -> dict[str, SourceTerms]:
    synthetic = _synthetic(manifest)
    found = sorted({source for counts in manifest["counts"].values() for source in counts["by_source"]})
    return {source: terms_of(source, synthetic) for source in found}


def _synthetic(manifest: Mapping[str, Any]) -> set[str]:
    return {"synthetic", *manifest["synthetic_sources"]}


def _run_command(experiment: str, options: str = "") -> str:
    """Return the command of an experiment; ``demo`` is the environment that needs no name."""
    environment = "" if experiment == "demo" else f"--env {experiment}"
    return " ".join(part for part in ("kedro run", environment, options) if part)


def _prompt_expression(instruction: str) -> str:
    """Return a Python expression over ``text`` that builds the prompt as training did."""
    before, _, after = render_prompt(instruction, "\0").partition("\0")
    return f"{json.dumps(before)} + text + {json.dumps(after)}"


def _schema_table(sources: Mapping[str, SourceTerms]) -> str:
    rows = [
        [f"`{source}`", terms.title, ", ".join(SCHEMAS[source].entities), ", ".join(SCHEMAS[source].relations)]
        for source, terms in sources.items()
        if source in SCHEMAS
    ]
    return _table(["source", "corpus", "entities", "relations"], rows)


def _data_table(manifest: Mapping[str, Any]) -> str:
    sources = list(_sources(manifest))
    rows = [
        [
            _SPLIT_TITLES[split],
            *(_number(counts["by_source"].get(source, 0)) for source in sources),
            _number(counts["records"]),
            _number(counts["documents"]),
        ]
        for split, counts in manifest["counts"].items()
    ]
    return _table(["split", *(f"`{source}`" for source in sources), "examples", "documents"], rows)


def _terms_table(sources: Mapping[str, SourceTerms], rows_by_source: Mapping[str, int]) -> str:
    rows = [
        [
            f"`{source}`",
            terms.title,
            terms.terms,
            "published" if terms.redistributable else "**not published**, hashes only",
            _number(rows_by_source.get(source, 0)),
        ]
        for source, terms in sources.items()
    ]
    return _table(["source", "corpus", "terms", "text and output", "rows"], rows)


def _statistics_table(statistics: Mapping[str, Any]) -> str:
    of_splits = [counts["all"] for counts in statistics.values()]
    rows = [
        ["examples", *(_number(counts["records"]) for counts in of_splits)],
        ["documents", *(_number(counts["documents"]) for counts in of_splits)],
        ["examples without entities", *(_number(counts["without_entities"]) for counts in of_splits)],
        ["words of an input, median", *(_number(counts["words_of_input"]["median"]) for counts in of_splits)],
        ["words of an input, longest", *(_number(counts["words_of_input"]["longest"]) for counts in of_splits)],
    ]
    for kind, names in (("entities", ENTITY_TYPES), ("relations", RELATION_TYPES)):
        for name in names:
            rows.append([f"{kind}: {name}", *(_number(counts[kind].get(name, 0)) for counts in of_splits)])
    return _table(["", *statistics], rows)


def _training_table(facts: ModelFacts) -> str:
    training = facts.training
    rows = [[key.replace("_", " "), _number(value)] for key, value in _flat(training["hyperparameters"])]
    rows += [
        ["trainable parameters", _number(training["trainable_parameters"])],
        ["tokens seen", _number(training["tokens"])],
        ["duration", f"{training['seconds']:.0f} s"],
        ["best step", _number(training["best_step"])],
        ["validation loss at that step", _number(training["best_eval_loss"])],
    ]
    if facts.checkpoint:
        rows.append([f"validation loss of this checkpoint, {facts.checkpoint}", _checkpoint_loss(facts)])
    rows += [[f"{name} version", str(version)] for name, version in sorted(facts.manifest["versions"].items())]
    return _table(["", "value"], rows)


def _checkpoint_loss(facts: ModelFacts) -> str:
    step = str(facts.checkpoint).rpartition("-")[2]
    losses = [e["eval_loss"] for e in facts.training["history"] if str(e.get("step")) == step and "eval_loss" in e]
    return _number(losses[-1]) if losses else "not measured"


def _scored(results: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """Return everything that was scored, by its title: the headline first; what was not evaluated is left out.

    Where outputs were also decoded freely, every title names its decoding.
    """
    found: dict[str, Mapping[str, Any]] = {}
    for title, scores in (("fine-tuned", results), ("base model alone", results.get("base"))):
        if scores and scores.get("free"):
            found[f"{title}, {results['decoding']} decoding"] = scores
            found[f"{title}, free decoding"] = scores["free"]
        elif scores:
            found[title] = scores
    return found


def _headline_table(results: Mapping[str, Any], scored_text: str) -> str:
    test_set = results["test_set"]
    title = f"{scored_text}, {_number(test_set['examples'])} examples of {_number(test_set['documents'])} documents"
    rows = [
        [name, *(_score(scores[f"{kind}_metrics"]["micro"]["f1"]) for kind in _KINDS)]
        for name, scores in _scored(results).items()
    ]
    return _table([title, *(f"{kind} F1" for kind in _KINDS)], rows)


def _scores_table(results: Mapping[str, Any]) -> str:
    rows = []
    for title, scores in _scored(results).items():
        cells = [title]
        for kind in _KINDS:
            precision, recall, f1 = _prf(scores[f"{kind}_metrics"]["micro"])
            cells += [precision, recall, f"**{f1}** {_interval(scores['intervals'][f'{kind}_f1_micro'])}"]
        rows.append(cells)
    if results.get("difference"):
        shown = []
        for kind in _KINDS:
            change = results["difference"][f"{kind}_f1_micro"]
            before = results[f"{kind}_metrics"]["micro"]["f1"] - change["value"]
            relative = f", {change['value'] / before:+.0%} of the base's" if before > 0 else ""
            shown.append(f"{change['value']:+.3f} {_interval(change['interval'])}{relative}")
        rows.append(["difference", "", "", shown[0], "", "", shown[1]])
    headers = ["", *(f"{kind} {name}" for kind in _KINDS for name in ("P", "R", "F1 [95 %]"))]
    return _table(headers, rows)


def _groups_table(results: Mapping[str, Any], key: str, title: str) -> str:
    """Return the scores of every group (type or source) of both kinds."""
    scored = _scored(results)
    rows = []
    for kind in _KINDS:
        for name, own in results[f"{kind}_metrics"][key].items():
            others = [scores[f"{kind}_metrics"][key].get(name) for scores in list(scored.values())[1:]]
            f1 = [_score(other["f1"]) if other else "" for other in others]
            rows.append([f"`{name}`", kind, *_prf(own), *f1, _number(own["support"])])
    return _table([title, "kind", "P", "R", "F1", *(f"F1, {t}" for t in list(scored)[1:]), "gold items"], rows)


def _output_table(results: Mapping[str, Any]) -> str:
    titles = {
        "parse_failure_rate": "outputs that break the format or do not end",
        "hallucinated_entity_rate": "entities that do not stand in the text",
        "unfinished_rate": "outputs that do not end within the budget",
    }
    scored = _scored(results)
    rows = [
        [title, *(f"{scores['output_quality'][key]:.1%}" for scores in scored.values())]
        for key, title in titles.items()
    ]
    return _table(["", *scored], rows)


def _leak_sentence(leakage: Mapping[str, Any]) -> str:
    counts = leak_counts(leakage)
    return (
        f"{counts['exact_inputs']} texts, {counts['pmids']} PubMed ids and {counts['near_duplicates']} pairs of "
        "near-duplicates lie in more than one split"
    )


def _quality_sentence(quality: Mapping[str, Any]) -> str:
    return (
        f"Quality of the data: grade {quality['grade']}, {quality['score']:.1f} of 100 points, decision "
        f"{quality['decision']} (profile {quality['profile']}, at least {quality['minimum_score']:.0f} points and no "
        "critical check failed)."
    )


def _seen_table(leakage: Mapping[str, Any]) -> str:
    rows = [
        [
            f"`{source}`",
            _number(seen["test_entities"]),
            f"{seen['test_entities_seen']:.1%}",
            _number(seen["test_triples"]),
            f"{seen['test_triples_seen']:.1%}",
        ]
        for source, seen in leakage["seen_in_training"].items()
    ]
    headers = ["source", "distinct test entities", "of them seen", "distinct test relations", "of them seen"]
    return _table(headers, rows)


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key} ")
        else:
            yield f"{prefix}{key}", value


def _prf(scores: Mapping[str, float]) -> list[str]:
    return [_score(scores[name]) for name in ("precision", "recall", "f1")]


def _score(value: float) -> str:
    return f"{value:.3f}"


def _interval(bounds: Sequence[float]) -> str:
    return f"[{bounds[0]:.3f}, {bounds[1]:.3f}]"


def _number(value: Any) -> str:
    """Return a count with thousands separators, a measure with four figures, a list by its items."""
    if isinstance(value, bool) or value is None:
        return str(value).lower()
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list | tuple):
        return ", ".join(_number(item) for item in value)
    return str(value)


def _cell(text: str) -> str:
    """Return an output as one cell of a table."""
    lines = [line.removeprefix("### ") for line in text.split("\n") if line.strip()]
    return "<br>".join(html.escape(line, quote=False).replace("|", "\\|") for line in lines)


def _listed(names: Sequence[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


def _table(headers: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [headers, ["---"] * len(headers), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)
