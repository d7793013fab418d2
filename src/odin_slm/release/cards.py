"""Cards: the README of a model release and of a dataset release, from measured values alone.

The front matter goes through ``huggingface_hub``'s card classes, the text through Jinja templates beside this module.
A card holds no time stamp, so that equal values give an equal card. Every figure comes from a report of the run.
"""

from __future__ import annotations

import html
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from odin_slm.core.markdown import number, table
from odin_slm.core.record import render_prompt
from odin_slm.hub.licensing import SOURCES, SourceTerms, terms_of
from odin_slm.inference.served_model import instructions
from odin_slm.release.checks import leak_counts, size_category
from odin_slm.release.facts import DatasetFacts, ModelFacts
from odin_slm.release.provenance import is_own_test_set
from odin_slm.tasks import Task
from odin_slm.tasks.card import CardParts, test_set_title

LANGUAGE = "en"
OVERRIDDEN = "overridden_gates"
"""Key of a card's front matter: gate -> reason why it was overridden."""

_LONGEST_EXAMPLE = 400
"""Characters of a text that a card quotes."""
_SPLIT_TITLES = {"train": "train", "val": "validation", "test": "test"}


def model_card(facts: ModelFacts) -> str:
    """Return the ``README.md`` of a model release."""
    sources = _sources(facts.data.manifest)
    asked = instructions(facts.task, facts.data.manifest)
    parts = facts.task.card(_titles(sources), asked, facts.results)
    return fill(
        "model_card.md.j2",
        front_matter=_model_front_matter(facts, parts),
        facts=facts,
        parts=parts,
        unit=facts.task.unit,
        sources=sources,
        synthetic=_tested_on_synthetic(facts, sources),
        run=_run_command(facts.experiment),
        **_origins(facts.data.manifest),
        prompt=_prompt_expression(next(iter(asked.values()))),
        data_table=_data_table(facts.data.manifest, facts.task.unit),
        leaks=_leak_sentence(facts.data.leakage, parts),
        quality=_quality_sentence(facts.data.quality),
        seen_table=_seen_table(facts.data.leakage, parts),
        training_table=_training_table(facts),
        test_set=facts.results["test_set"] if facts.results else None,
        test_set_title=test_set_title(facts.results) if facts.results else None,
    )


def _tested_on_synthetic(facts: ModelFacts, sources: Mapping[str, SourceTerms]) -> bool:
    if facts.results:
        return bool(facts.results["test_set"]["synthetic"])
    return set(sources) <= _synthetic(facts.data.manifest)


def dataset_card(facts: DatasetFacts) -> str:
    """Return the ``README.md`` of a dataset release."""
    sources = _sources(facts.data.manifest)
    parts = facts.task.card(_titles(sources), instructions(facts.task, facts.data.manifest))
    published = {file.split for file in facts.files}
    return fill(
        "dataset_card.md.j2",
        front_matter=_dataset_front_matter(facts, parts, sources),
        facts=facts,
        parts=parts,
        unit=facts.task.unit,
        sources=sources,
        withheld=[terms.title for terms in sources.values() if not terms.redistributable],
        missing_splits=[title for title in _SPLIT_TITLES.values() if title not in published],
        rebuilt_files=json.dumps(
            {title: f"{name}.json" for name, title in _SPLIT_TITLES.items() if title in published}
        ),
        wholly_synthetic=set(sources) <= _synthetic(facts.data.manifest),
        some_synthetic=bool(set(sources) & _synthetic(facts.data.manifest)),
        run=_run_command(facts.experiment, "--pipelines data"),
        **_origins(facts.data.manifest),
        terms_table=_terms_table(sources, facts.rows_by_source),
        data_table=_data_table(facts.data.manifest, facts.task.unit),
        statistics_table=_statistics_table(facts.data.statistics, facts.task, parts),
        leaks=_leak_sentence(facts.data.leakage, parts),
        quality=_quality_sentence(facts.data.quality),
        seen_table=_seen_table(facts.data.leakage, parts),
    )


def failure_examples(
    predictions: Sequence[Mapping[str, Any]], manifest: Mapping[str, Any], task: Task, most: int = 3
) -> list[dict[str, str]]:
    """Choose outputs that are wrong, for the card: short texts, of different sources where there are some.

    Only texts that may be published again are shown.

    Args:
        predictions: Rows of the predictions file.
        manifest: Says which sources are synthetic.
        task: Tells what is wrong.
        most: How many, at most.

    Returns:
        ``source``, ``input``, ``gold`` and ``prediction`` of each.
    """
    synthetic = _synthetic(manifest)
    wrong = [
        row
        for row in predictions
        if terms_of(row.get("source", ""), synthetic).redistributable
        and len(row["input"]) <= _LONGEST_EXAMPLE
        and not task.is_right(row["gold"], row["prediction"])
    ]
    wrong.sort(key=lambda row: (len(row["input"]), row["id"]))
    first = list({row["source"]: row for row in reversed(wrong)}.values())[::-1]
    chosen = [*first, *(row for row in wrong if row not in first)][:most]
    return [{key: row[key].rstrip() for key in ("source", "input", "gold", "prediction")} for row in chosen]


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
        "The rows of this dataset come from several sources. Texts and annotations are under the terms of the\n"
        "source that the column `source` names:\n\n" + "\n".join(lines) + "\n\n"
        "The selection, the splits, the instructions and all other parts are licensed under the Apache License 2.0:\n\n"
        + apache
    )


def license_fields(license_id: str, name: str | None) -> dict[str, str]:
    """Return what a card's front matter says of the licence; one without an id on the Hub has a name and a link."""
    if license_id != "other":
        return {"license": license_id}
    return {"license": license_id, "license_name": name or "", "license_link": "LICENSE"}


def read_front_matter(card: str) -> dict[str, Any]:
    """Return the parsed YAML block at the head of a card; empty where there is none."""
    from huggingface_hub import RepoCard

    return dict(RepoCard(card, ignore_metadata_errors=True).data.to_dict())


def _model_front_matter(facts: ModelFacts, parts: CardParts) -> str:
    from huggingface_hub import ModelCardData

    return ModelCardData(
        language=[LANGUAGE],
        **license_fields(facts.license, facts.license_name),
        library_name="transformers" if facts.whole else "peft",
        pipeline_tag="text-generation",
        base_model=facts.base.id,
        base_model_relation="finetune" if facts.whole else "adapter",
        datasets=[facts.dataset_repo] if facts.dataset_repo else None,
        metrics=list(dict.fromkeys(figure.type for figure in parts.results.figures)) if parts.results else None,
        tags=[*facts.task.tags, *([] if facts.whole else ["lora"])],
        model_name=facts.name if facts.results else None,
        eval_results=_eval_results(facts, facts.results, parts) if facts.results else None,
        **({OVERRIDDEN: dict(facts.overridden)} if facts.overridden else {}),
    ).to_yaml()


def _eval_results(facts: ModelFacts, results: Mapping[str, Any], parts: CardParts) -> list[Any]:
    """Return the task's figures for the card's ``model-index``."""
    from huggingface_hub import EvalResult

    own = is_own_test_set(results, facts.data.manifest)
    return [
        EvalResult(
            task_type="text-generation",
            task_name=facts.task.title,
            dataset_type=(own and facts.dataset_repo) or f"odin-slm-{facts.experiment}{'' if own else '-elsewhere'}",
            dataset_name=(f"{facts.experiment} test set" if own else "records from elsewhere")
            + (" (synthetic)" if results["test_set"]["synthetic"] else ""),
            dataset_split="test" if own else None,
            dataset_revision=facts.dataset_revision if own else None,
            metric_type=figure.type,
            metric_name=figure.name,
            metric_value=round(figure.value, 4),
            metric_args=(
                {"interval_95": [round(bound, 4) for bound in figure.interval]} if figure.interval is not None else None
            ),
        )
        for figure in (parts.results.figures if parts.results else ())
    ]


def _dataset_front_matter(facts: DatasetFacts, parts: CardParts, sources: Mapping[str, SourceTerms]) -> str:
    from huggingface_hub import DatasetCardData

    license_id = dataset_license(facts.data.manifest)
    synthetic = [terms.hub_id == "original" for terms in sources.values()]
    return DatasetCardData(
        language=[LANGUAGE],
        **license_fields(license_id, "terms-of-each-source"),
        pretty_name=facts.name,
        task_categories=list(parts.categories),
        task_ids=list(parts.task_ids) or None,
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
    environment.filters["number"] = number
    environment.filters["cell"] = _cell
    return environment.get_template(template).render(**values)


def _sources(manifest: Mapping[str, Any]) -> dict[str, SourceTerms]:
    synthetic = _synthetic(manifest)
    found = sorted({source for counts in manifest["counts"].values() for source in counts["by_source"]})
    return {source: terms_of(source, synthetic) for source in found}


def _origins(manifest: Mapping[str, Any]) -> dict[str, list[str]]:
    """Return which sources are published corpora that have to be got, and which are files of the author's own."""
    read = [source for source in _sources(manifest) if source not in _synthetic(manifest)]
    return {
        "corpora": [source for source in read if source in SOURCES],
        "own": [f"`{source}`" for source in read if source not in SOURCES],
    }


def _titles(sources: Mapping[str, SourceTerms]) -> dict[str, str]:
    return {source: terms.title for source, terms in sources.items()}


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


def _data_table(manifest: Mapping[str, Any], unit: str) -> str:
    sources = list(_sources(manifest))
    rows = [
        [
            _SPLIT_TITLES[split],
            *(number(counts["by_source"].get(source, 0)) for source in sources),
            number(counts["records"]),
            number(counts["documents"]),
        ]
        for split, counts in manifest["counts"].items()
    ]
    return table(["split", *(f"`{source}`" for source in sources), "examples", f"{unit}s"], rows)


def _terms_table(sources: Mapping[str, SourceTerms], rows_by_source: Mapping[str, int]) -> str:
    rows = [
        [
            f"`{source}`",
            terms.title,
            terms.terms,
            "published" if terms.redistributable else "**not published**, hashes only",
            number(rows_by_source.get(source, 0)),
        ]
        for source, terms in sources.items()
    ]
    return table(["source", "corpus", "terms", "text and output", "rows"], rows)


def _statistics_table(statistics: Mapping[str, Any], task: Task, parts: CardParts) -> str:
    of_splits = [counts["all"] for counts in statistics.values()]
    kinds = list(task.labels(""))

    def row(title: str, *keys: str) -> list[str]:
        cells = []
        for found in of_splits:
            for key in keys:
                found = found.get(key, 0)
            cells.append(number(found))
        return [title, *cells]

    rows = [row("examples", "records"), row(f"{task.unit}s", "documents")]
    if kinds:
        rows.append(row(f"examples without {kinds[0]}", f"without_{kinds[0]}"))
    rows += [
        row("words of an input, median", "words_of_input", "median"),
        row("words of an input, longest", "words_of_input", "longest"),
    ]
    for kind in kinds:
        labels = parts.labels.get(kind) or sorted({label for counts in of_splits for label in counts[kind]})
        rows += [row(f"{kind}: {label}", kind, label) for label in labels]
    return table(["", *statistics], rows)


def _training_table(facts: ModelFacts) -> str:
    training = facts.training
    rows = [[key.replace("_", " "), number(value)] for key, value in _flat(training["hyperparameters"])]
    rows += [
        ["trainable parameters", number(training["trainable_parameters"])],
        ["tokens seen", number(training["tokens"])],
        ["duration", f"{training['seconds']:.0f} s"],
        ["best step", number(training["best_step"])],
        ["validation loss at that step", number(training["best_eval_loss"])],
    ]
    if initial := training.get("from_adapter"):
        rows.insert(0, ["trained further from the adapter with sha256", f"`{initial['adapter_sha256']}`"])
    if chosen := training.get("task_metric"):
        title = f"{chosen['title']} of {chosen['records']} validation records at that step, by which it was chosen"
        rows.append([title, number(chosen["value"])])
    if facts.checkpoint:
        rows.append([f"validation loss of this checkpoint, {facts.checkpoint}", _checkpoint_loss(facts)])
    rows += [[f"{name} version", str(version)] for name, version in sorted(facts.data.manifest["versions"].items())]
    return table(["", "value"], rows)


def _checkpoint_loss(facts: ModelFacts) -> str:
    step = str(facts.checkpoint).rpartition("-")[2]
    losses = [e["eval_loss"] for e in facts.training["history"] if str(e.get("step")) == step and "eval_loss" in e]
    return number(losses[-1]) if losses else "not measured"


def _leak_sentence(leakage: Mapping[str, Any], parts: CardParts) -> str:
    counts = leak_counts(leakage)
    return (
        f"{counts['exact_inputs']} {parts.subjects}, {counts['pmids']} {parts.groups} and {counts['near_duplicates']} "
        "pairs of near-duplicates lie in more than one split"
    )


def _quality_sentence(quality: Mapping[str, Any]) -> str:
    return (
        f"Quality of the data: grade {quality['grade']}, {quality['score']:.1f} of 100 points, decision "
        f"{quality['decision']} (profile {quality['profile']}, at least {quality['minimum_score']:.0f} points and no "
        "critical check failed)."
    )


def _seen_table(leakage: Mapping[str, Any], parts: CardParts) -> str:
    """Return how much of what the test set says training says too, by source and kind."""
    seen = leakage["seen_in_training"]
    kinds = [key for key in next(iter(seen.values()), {}) if not key.endswith("_seen")]
    titles = [kind.removeprefix("test_") for kind in kinds]
    rows = [
        [f"`{source}`", *(cell for kind in kinds for cell in (number(counts[kind]), f"{counts[f'{kind}_seen']:.1%}"))]
        for source, counts in seen.items()
    ]
    headers = (cell for t in titles for cell in (f"distinct test {parts.titles.get(t, t)}", "of them seen"))
    return table(["source", *headers], rows)


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key} ")
        else:
            yield f"{prefix}{key}", value


def _cell(text: str) -> str:
    """Return an output as one cell of a table."""
    lines = [line.removeprefix("### ") for line in text.split("\n") if line.strip()]
    return "<br>".join(html.escape(line, quote=False).replace("|", "\\|") for line in lines)
