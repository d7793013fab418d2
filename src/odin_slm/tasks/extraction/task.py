"""Extraction as a task: its types, records, outputs and scores; the parts are the other modules of this package."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from odin_slm.core.document import Document
from odin_slm.core.errors import WrongParameterError
from odin_slm.core.folding import fold
from odin_slm.core.record import Record
from odin_slm.tasks.base import Task
from odin_slm.tasks.check import Check
from odin_slm.tasks.extraction import pairs
from odin_slm.tasks.extraction.abbreviations import KEY as ABBREVIATIONS
from odin_slm.tasks.extraction.abbreviations import completed
from odin_slm.tasks.extraction.format import (
    Entity,
    Extraction,
    Listed,
    RelationTriple,
    instruction_for,
    parse,
    read,
    render,
    schema_in,
)
from odin_slm.tasks.extraction.grammar import ExtractionGrammar
from odin_slm.tasks.extraction.grounding import Grounded, ground, merge
from odin_slm.tasks.extraction.records import extraction_of, make_record, window, written
from odin_slm.tasks.extraction.renaming import names_of, renamed
from odin_slm.tasks.extraction.schema import (
    MEDICAL,
    SCHEMAS,
    ExtractionOptions,
    RelationOptions,
    Schema,
    SourceOptions,
    Types,
    require_tellable,
)
from odin_slm.tasks.extraction.tagged import HEADERS, Form
from odin_slm.tasks.metric import Metric
from odin_slm.tasks.operating_point import point_of
from odin_slm.tasks.rows import Rows, group_of

if TYPE_CHECKING:
    from plotly.graph_objects import Figure
    from pydantic import BaseModel

    from odin_slm.tasks.card import CardParts

ALL = "all"
"""The source that asks for every type."""


@dataclass(frozen=True)
class ExtractionTask(Task):
    """Entities and relations of a text, as structured text.

    Attributes:
        types: What outputs may name.
        schemas: Source -> what it annotates.
        chosen_source: Source whose types a request without one asks for; empty for the widest.
        metrics: Rules to score by beside ``exact``; None for all of them.
        judged_pairs: Pairs of a record that training asks about, at most; 0 where models are not taught to judge.
        form: How models write an output, one of :data:`.tagged.FORMS`, or source -> its form, and ``list`` for those
            that are not named; an instruction tells by its types. Records are lists.
        judge: How a model's relations are found; None as it lists them. It is the model's, and no option.
        abbreviations: Whether outputs are completed with the other forms of abbreviated names. It is the model's, too.
    """

    name: ClassVar[str] = "extraction"
    title: ClassVar[str] = "entity and relation extraction"
    tags: ClassVar[tuple[str, ...]] = ("biomedical", "medical", "named-entity-recognition", "relation-extraction")
    headline: ClassVar[tuple[Metric, ...]] = (
        Metric("entity_f1_micro", "entity F1", ("entity_metrics", "micro", "f1")),
        Metric("relation_f1_micro", "relation F1", ("relation_metrics", "micro", "f1")),
    )
    scores_documents: ClassVar[bool] = True
    example: ClassVar[str] = "Cough and rash developed after the second dose of enalapril."

    types: Types = MEDICAL
    schemas: Mapping[str, Schema] = field(default_factory=lambda: SCHEMAS)
    chosen_source: str = ""
    metrics: tuple[str, ...] | None = None
    judged_pairs: int = 0
    form: Form | Mapping[str, Form] = "list"
    judge: pairs.Judge | None = field(default=None, compare=False)
    abbreviations: bool = field(default=False, compare=False)

    def __hash__(self) -> int:
        return hash((self.types, tuple(self.schemas.items()), self.chosen_source, self.metrics))

    def __getstate__(self) -> dict[str, Any]:  # a mapping proxy cannot be pickled
        return {**self.__dict__, "schemas": dict(self.schemas)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        for name, value in {**state, "schemas": MappingProxyType(state["schemas"])}.items():
            object.__setattr__(self, name, value)

    # As a value

    @classmethod
    def from_options(cls, options: Mapping[str, Any], sources: Mapping[str, Any] | None = None) -> ExtractionTask:
        """See :meth:`Task.from_options`; a source's own options go before what its parser says."""
        given = ExtractionOptions.model_validate(dict(options))
        types = given.types()
        named = {name: Schema(chosen.entities, chosen.relations) for name, chosen in given.sources.items()}
        # What a shipped corpus annotates is a fact about the shipped types: other types need sources of their own.
        parsed = sources if sources is not None else (SCHEMAS if types.entities == MEDICAL.entities else {})
        schemas = {**{name: schema for name, schema in parsed.items() if _known(types, schema)}, **named}
        if given.default_source and given.default_source not in schemas:
            known = ", ".join(schemas) or "none"
            raise ValueError(f"default_source: there is no source {given.default_source!r}; there are {known}.")
        if given.metrics is not None:
            from odin_slm.tasks.extraction.metrics import RULES

            rules = [rule.name for rule in RULES]
            for name in given.metrics:
                if name not in rules:
                    raise ValueError(f"metrics: there is no rule {name!r}; there are {', '.join(rules)}.")
        require_tellable(given.form, schemas)
        chosen = given.default_source, given.metrics, given.judged_pairs, given.form
        return cls(types, MappingProxyType(schemas), *chosen)

    def options(self) -> dict[str, Any]:
        """See :meth:`Task.options`."""
        return ExtractionOptions(
            entities=self.types.entities,
            relations=tuple(
                RelationOptions(type=name, head=(head,), tail=tuple(t for h, t in pairs if h == head))
                for name, pairs in self.types.signatures
                for head in sorted({h for h, _ in pairs})
            ),
            synonyms=dict(self.types.synonyms),
            sources={
                name: SourceOptions(entities=s.entities, relations=s.relations) for name, s in self.schemas.items()
            },
            metrics=self.metrics,
            default_source=self.chosen_source,
            judged_pairs=self.judged_pairs,
            form=self.form if isinstance(self.form, str) else dict(self.form),
        ).model_dump(mode="json")

    # Data

    def instruction(self, source: str) -> str:
        """See :meth:`Task.instruction`; ``all`` asks for every type."""
        return instruction_for(self.types.everything if source == ALL else self.schemas[source])

    @property
    def sources(self) -> tuple[str, ...]:
        """See :attr:`Task.sources`."""
        return (ALL, *self.schemas)

    @property
    def default_source(self) -> str:
        """The chosen one, or the source that annotates the most types; generated text goes last.

        No record asks for all types at once, and a small model cannot guess.
        """
        if self.chosen_source:
            return self.chosen_source
        natural = [name for name in self.schemas if name != "synthetic"] or list(self.schemas)
        return max(natural, key=lambda name: sum(map(len, self.describe_source(name).values())), default=ALL)

    @property
    def shared_instruction(self) -> str:
        """See :attr:`Task.shared_instruction`."""
        return instruction_for(self.types.everything)

    @property
    def needs_own_instructions(self) -> bool:
        """See :attr:`Task.needs_own_instructions`: where sources have forms of their own."""
        return not isinstance(self.form, str)

    def document_fault(self, document: Document) -> str:
        """See :meth:`Task.document_fault`: its types are those of its source, its relations have legal arguments."""
        schema = self.schemas.get(document.source)
        if schema is None:
            listed = ", ".join((*self.types.entities, *self.types.relations))
            return f"its corpus annotates types that task.options does not list; it lists {listed}"
        types: dict[str, set[str]] = {}
        for m in document.mentions:
            if m.type not in schema.entities:
                return f"the mention {m.text[:60]!r} is a {m.type}; expected one of {', '.join(schema.entities)}"
            for concept in m.concepts:
                types.setdefault(concept, set()).add(m.type)
        for r in document.relations:
            if r.type not in schema.relations:
                return f"a relation is {r.type!r}; expected one of {', '.join(schema.relations)}"
            pairs = {(head, tail) for head in types[r.head] for tail in types[r.tail]}
            if not pairs & self.types.legal[r.type]:
                found, legal = (" or ".join(map(" to ".join, sorted(p))) for p in (pairs, self.types.legal[r.type]))
                return f"{r.type} relates {r.head[:60]!r} to {r.tail[:60]!r}, {found}; expected {legal}"
        return ""

    def records(
        self,
        document: Document,
        instruction: str,
        *,
        relation_mentions: Literal["canonical", "all"] = "canonical",
        **options: Any,
    ) -> list[Record]:
        """See :meth:`Task.records`."""
        return [make_record(document, instruction=instruction, relation_mentions=relation_mentions, types=self.types)]

    def windows(self, document: Document, fits: Callable[[Document], bool], *, characters: int) -> Iterator[Document]:
        """See :meth:`Task.windows`: cut at sentence ends."""
        return window(document, fits, characters=characters)

    def written(self, instruction: str, text: str, output: str) -> str:
        """See :meth:`Task.written`: the list in the form that the instruction's answers have."""
        form = self.form_of(schema_in(instruction, self.types))
        if form == "list" or output.startswith(HEADERS):
            return output
        return written(text, parse(output, self.types).extraction, form, self.types)

    def form_of(self, schema: Schema) -> Form:
        """Return the form of answers to an instruction that names a schema."""
        if isinstance(self.form, str):
            return self.form
        forms: Iterable[Form] = (form for name, form in self.form.items() if self.schemas[name] == schema)
        return next(iter(forms), "list")

    @property
    def forms(self) -> dict[Form, list[str]]:
        """Form -> the sources whose answers have it."""
        found: dict[Form, list[str]] = {}
        for name, schema in (self.schemas or {ALL: self.types.everything}).items():
            found.setdefault(self.form_of(schema), []).append(name)
        return found

    def exercises(self, record: Record, fits: Callable[[Record], bool], seed: int) -> list[Record]:
        """See :meth:`Task.exercises`: pairs of its entities to judge, see :func:`.pairs.exercise`."""
        if not self.judged_pairs:
            return []
        listed = parse(record["output"], self.types).extraction
        legal = self.grammar(record["instruction"], record["input"]).legal_pairs(record["output"])
        made = pairs.exercise(record, listed.entities, listed.relations, legal, self.judged_pairs, seed, fits)
        return [made] if made else []

    def renaming(self, train: Sequence[Record], share: float, seed: int) -> Callable[[Record], Record]:
        """See :meth:`Task.renaming` and :func:`.renaming.renamed`."""
        names, rng = names_of(train, self.types), random.Random(seed)
        return lambda record: renamed(record, names, share, rng, self.types)

    def labels(self, output: str) -> dict[str, list[str]]:
        """See :meth:`Task.labels`."""
        entities, relations, _ = read(output, self.types)
        return {"entities": [kind for kind, _ in entities], "relations": [kind for _, kind, _ in relations]}

    def items(self, output: str) -> dict[str, set[tuple[str, ...]]]:
        """See :meth:`Task.items`."""
        entities, relations, _ = read(output, self.types)
        return {
            "entities": {(kind, fold(text)) for kind, text in entities},
            "triples": {(fold(head), kind, fold(tail)) for head, kind, tail in relations},
        }

    def checks(self) -> Iterable[Check]:
        """See :meth:`Task.checks`."""
        parsed = lru_cache(maxsize=1)(lambda output: parse(output, self.types))  # one record is checked several times

        def found(record: Record) -> Extraction:
            return parsed(record["output"]).extraction

        def written_back(record: Record) -> bool:
            read_back = parsed(record["output"])
            return read_back.well_formed and render(read_back.extraction) == record["output"]

        return (
            Check(
                "outputs parse and render back",
                "critical",
                written_back,
                "Write outputs with odin_slm.tasks.extraction.format alone.",
            ),
            Check(
                "every mention is verbatim in its input",
                "critical",
                lambda record: all(entity.text in record["input"] for entity in found(record).entities),
                "Mend the mention's offsets in the corpus.",
            ),
            Check(
                "types and relations are of the source's schema",
                "critical",
                lambda record: self._in_schema(record["source"], found(record)),
                "Map or drop the label in the parser.",
            ),
            Check(
                "relation arguments are listed and legal",
                "critical",
                lambda record: self._arguments_listed(found(record)),
                "Mend the parser's mapping of relations.",
            ),
            Check(
                "outputs name entities",
                "medium",
                lambda record: bool(found(record).entities),
                "Set combination.drop_empty=true, or lower ingestion.options.ade.negative_ratio.",
                limit="empty",
            ),
        )

    def cleaned(self, record: Record, clean: Callable[[str], str]) -> Record:
        """See :meth:`Task.cleaned`.

        Entities that become equal apart from case are listed once, by the first, and so are relations of them. A
        record whose mentions would no longer stand verbatim in its input stays as it is.
        """
        text = clean(record["input"])
        plain = _cleaned(parse(record["output"], self.types).extraction, clean)
        if all(entity.text in text for entity in plain.entities):
            return {**record, "input": text, "output": render(plain)}
        return record

    def gold(self, document: Document) -> Extraction:
        """Return what a model should write of a document."""
        return extraction_of(document, types=self.types)

    def _in_schema(self, source: str, found: Extraction) -> bool:
        schema = self.schemas.get(source)
        return (
            schema is not None
            and all(e.type in schema.entities for e in found.entities)
            and all(r.type in schema.relations for r in found.relations)
        )

    def _arguments_listed(self, found: Extraction) -> bool:
        types: dict[str, set[str]] = {}
        for entity in found.entities:
            types.setdefault(entity.text, set()).add(entity.type)
        legal = self.types.legal
        return all(
            any((head, tail) in legal[r.type] for head in types.get(r.head, ()) for tail in types.get(r.tail, ()))
            for r in found.relations
        )

    # Inference

    def grammar(
        self, instruction: str, text: str, point: Mapping[str, Any] = MappingProxyType({})
    ) -> ExtractionGrammar:
        """See :meth:`Task.grammar`; an instruction of unknown wording allows all of the task's types."""
        schema, bias = schema_in(instruction, self.types), point.get("end_bias")
        form = self.form_of(schema)
        if point.get("alone") == "entity":  # as entities are explored
            schema = Schema(schema.entities, ())
        biases = (bias["entity"], bias["relation"]) if bias else None
        return ExtractionGrammar(text, schema, self.types, biases, self.judge, self.judged_pairs > 0, form)

    def output_tokens(self, most: int, window_tokens: int) -> int:
        """See :meth:`Task.output_tokens`: an output with tags holds its text, too."""
        return most + window_tokens if "inline" in self.forms else most

    def kept(
        self, text: str, output: str, lines: Sequence[float | None], calibrator: Mapping[str, Any] | None
    ) -> tuple[str, tuple[float | None, ...]]:
        """See :func:`odin_slm.tasks.extraction.operating_point.kept`; with both forms of abbreviated names."""
        from odin_slm.tasks.extraction.operating_point import kept

        output, left = kept(output, lines, calibrator, self.types)
        listed = Listed.of(parse(output, self.types), left)
        both = completed(text, listed) if self.abbreviations else listed
        return (output, left) if both == listed else both.output()

    def with_calibrator(self, calibrator: Mapping[str, Any] | None) -> ExtractionTask:
        """See :meth:`Task.with_calibrator`: pairs are judged, and names completed, where the calibrator says so."""
        judge = pairs.Judge.of(calibrator)
        names = bool((calibrator or {}).get(ABBREVIATIONS))
        return replace(self, judge=judge if judge and judge.mode != "list" else None, abbreviations=names)

    @property
    def reading(self) -> dict[str, Any]:
        """See :attr:`Task.reading`."""
        return {ABBREVIATIONS: True} if self.abbreviations else {}

    def to_calibrate(self, relations: str = "list") -> ExtractionTask:
        """See :meth:`Task.to_calibrate`: outputs stay as the model lists them, and pairs are weighed beside."""
        if relations != "list" and (others := self.forms.keys() - {"list"}):
            raise WrongParameterError(
                f"pairs are judged behind lists of entities, and this model writes the form {min(others)}.",
                where="evaluation.relations",
                fix="Set it to list.",
            )
        return replace(self, judge=None if relations == "list" else pairs.Judge())

    def read(
        self,
        text: str,
        output: str,
        *,
        begin: int = 0,
        end: int | None = None,
        lines: Sequence[float | None] = (),
        calibrator: Mapping[str, Any] | None = None,
    ) -> Grounded:
        """See :meth:`Task.read`."""
        return ground(text, output, begin, end, lines, calibrator, self.types, self.abbreviations)

    def merge(self, text: str, readings: Sequence[Grounded]) -> Grounded:
        """See :meth:`Task.merge`."""
        return merge(text, readings)

    def answer_model(self) -> type[BaseModel]:
        """See :meth:`Task.answer_model`."""
        from odin_slm.tasks.extraction.answer import ExtractionAnswer

        return ExtractionAnswer

    def table_row(self, reading: Grounded) -> dict[str, Any]:
        """See :meth:`Task.table_row`."""
        return {
            "entities": [
                {
                    "type": entity.type,
                    "text": entity.text,
                    "offsets": [[place.begin, place.end] for place in entity.occurrences],
                    "confidence": entity.confidence,
                }
                for entity in reading.entities
            ],
            "relations": [
                {
                    "head": relation.head.text,
                    "type": relation.type,
                    "tail": relation.tail.text,
                    "confidence": relation.confidence,
                }
                for relation in reading.relations
            ],
        }

    def table_columns(self) -> list[Any]:
        """See :meth:`Task.table_columns`."""
        from mlflow.types import ColSpec, DataType
        from mlflow.types.schema import Array, Object, Property

        def rows(*properties: Property) -> Array:
            return Array(Object(list(properties)))

        text = DataType.string
        offsets = Property("offsets", Array(Array(DataType.long)))
        confidence = Property("confidence", DataType.double, required=False)
        return [
            ColSpec(rows(Property("type", text), Property("text", text), offsets, confidence), "entities"),
            ColSpec(rows(*(Property(name, text) for name in ("head", "type", "tail")), confidence), "relations"),
        ]

    def describe_source(self, source: str) -> dict[str, list[str]]:
        """See :meth:`Task.describe_source`."""
        schema = self.types.everything if source == ALL else self.schemas[source]
        return {"entities": list(schema.entities), "relations": list(schema.relations)}

    # Evaluation

    def faults(self, output: str) -> tuple[str, ...]:
        """See :meth:`Task.faults`."""
        return parse(output, self.types).malformed

    def columns(self, text: str, output: str, lines: Sequence[float | None]) -> dict[str, Any]:
        """See :meth:`Task.columns`: ``entities`` and ``relations`` with places and log-probability, ``malformed``.

        The places of an entity are those that the service gives it (:meth:`read`).
        """
        from odin_slm.tasks.extraction.grounding import occurrences

        parsed = parse(output, self.types)
        chances = [None if chance is None else round(chance, 4) + 0.0 for chance in lines]  # no -0.0

        def chance(line: int) -> float | None:
            return chances[line] if line < len(chances) else None

        return {
            "entities": [
                {
                    "type": e.type,
                    "text": e.text,
                    "offsets": [list(span) for span in occurrences(text, e.text)],
                    "log_probability": chance(line),
                }
                for e, line in zip(parsed.extraction.entities, parsed.entity_lines, strict=True)
            ],
            "relations": [
                {"head": r.head, "type": r.type, "tail": r.tail, "log_probability": chance(line)}
                for r, line in zip(parsed.extraction.relations, parsed.relation_lines, strict=True)
            ],
            "malformed": list(parsed.malformed),
        }

    def exploration(self, explored: Rows, method: str, objective: str | None) -> dict[str, Any] | None:
        """See :func:`odin_slm.tasks.extraction.operating_point.exploration`."""
        from odin_slm.tasks.extraction.operating_point import exploration

        return exploration(explored, method, objective, self.types, entities_listed="list" in self.forms)

    def fit_calibration(
        self,
        predictions: Rows,
        method: str,
        objective: str | None = None,
        relations: str = "list",
        *,
        abbreviations: bool = False,
    ) -> dict[str, Any]:
        """See ``fit`` of :mod:`odin_slm.tasks.extraction.calibration`, or of ``operating_point`` for an objective.

        Where pairs are judged, confidences are those of what is then found; see :mod:`odin_slm.tasks.extraction.pairs`.
        """
        from odin_slm.tasks.extraction import calibration, operating_point

        said = {ABBREVIATIONS: True} if abbreviations else {}
        if relations != "list":
            found = pairs.fit(predictions, relations, self.types)
            rows = [pairs.with_judged(row, found, self.types) for row in predictions]
            return {**calibration.fit(rows, method, self.types), pairs.KEY: found, **said}
        if objective is None:
            return {**calibration.fit(predictions, method, self.types), **said}
        return {**operating_point.fit(predictions, method, objective, self.types), **said}

    def with_confidence(self, row: dict[str, Any], calibrator: Mapping[str, Any] | None) -> dict[str, Any]:
        """See :meth:`Task.with_confidence`."""
        from odin_slm.tasks.extraction.calibration import confidence

        def judged(kind: str, entry: dict[str, Any]) -> dict[str, Any]:
            if entry["log_probability"] is None:
                return entry
            return {**entry, "confidence": round(confidence(calibrator, kind, entry["log_probability"]), 4)}

        return {
            **row,
            "entities": [judged("entity", entry) for entry in row["entities"]],
            "relations": [judged("relation", entry) for entry in row["relations"]],
        }

    def score(
        self,
        predictions: Rows,
        base_predictions: Rows | None,
        training_records: Rows | None,
        *,
        experiment: str,
        calibrator: Mapping[str, Any] | None = None,
        resamples: int = 1000,
        seed: int = 42,
    ) -> dict[str, Any]:
        """See :func:`odin_slm.tasks.extraction.metrics.evaluate`.

        Beside, ``confidence`` as of its calibration's ``assess``, and the ``operating_point`` of the fine-tuned model's
        constrained decoding (:func:`odin_slm.tasks.extraction.operating_point.fit`), None where there is none.
        """
        from odin_slm.tasks.extraction.calibration import assess
        from odin_slm.tasks.extraction.metrics import evaluate

        results = evaluate(
            predictions,
            base_predictions,
            training_records,
            experiment=experiment,
            resamples=resamples,
            seed=seed,
            types=self.types,
            rules=self.metrics,
        )
        confidence = assess(predictions, calibrator, self.types)
        return {**results, "confidence": confidence, "operating_point": point_of(calibrator) or None}

    def difference(
        self, predictions: Rows, others: Rows, *, resamples: int = 1000, seed: int = 42, name: str = "other model"
    ) -> dict[str, dict[str, Any]]:
        """See :func:`odin_slm.tasks.extraction.metrics.difference`."""
        from odin_slm.tasks.extraction.metrics import difference

        return difference(predictions, others, resamples=resamples, seed=seed, name=name, types=self.types)

    def headline_values(self, predictions: Rows) -> dict[str, float]:
        """See :meth:`Task.headline_values`."""
        from odin_slm.tasks.extraction.metrics import micro_f1

        return micro_f1(predictions, self.types)

    def score_documents(self, documents: Rows, *, resamples: int = 1000, seed: int = 42) -> dict[str, Any]:
        """See :meth:`Task.score_documents`.

        What is to be found is all that the texts of ``gold`` list, under the rule ``exact``. Of a document's records
        that leaves out relations between two of them.

        Returns:
            ``documents`` and ``windows``: how many; ``entity_metrics`` and ``relation_metrics`` with ``micro``;
            ``intervals``; under ``several_windows`` the same of the documents of more than one window alone, None
            where there are none.

        Raises:
            PredictionsError: There is no document.
        """
        from odin_slm.tasks.extraction.metrics import micro

        def scored(some: Rows) -> dict[str, Any]:
            rows = [self._as_example(document) for document in some]
            scores = micro(rows, resamples=resamples, seed=seed, types=self.types)
            return {"documents": len(some), "windows": sum(len(one["windows"]) for one in some), **scores}

        several = [document for document in documents if len(document["windows"]) > 1]
        return {**scored(documents), "several_windows": scored(several) if several else None}

    def score_protocols(
        self, documents: Rows, corpus: Iterable[Mapping[str, Any]], *, resamples: int = 1000, seed: int = 42
    ) -> dict[str, Any]:
        """See :meth:`Task.score_protocols` and :func:`odin_slm.tasks.extraction.metrics.protocols.score_protocols`.

        A document whose text is not that of the corpus (cleaned, or read in part) has other offsets: it is left out.
        """
        from odin_slm.tasks.extraction.metrics.protocols import ReadDocument, score_protocols

        known = [Document.from_dict(dict(values)) for values in corpus]
        rows = {row["id"]: row for row in documents}
        read = [
            ReadDocument(document, self._whole(rows[document.id]))
            for document in known
            if document.id in rows and rows[document.id]["text"] == document.text
        ]
        return score_protocols(read, known, resamples=resamples, seed=seed)

    def _whole(self, document: Mapping[str, Any]) -> Grounded:
        """Return what the windows of a document say together."""
        text, read = document["text"], replace(self, abbreviations=document.get(ABBREVIATIONS, False)).read
        return self.merge(text, [read(text, w["output"], begin=w["begin"], end=w["end"]) for w in document["windows"]])

    def _as_example(self, document: Mapping[str, Any]) -> dict[str, Any]:
        """Return a document as one row of a predictions file."""
        text, found = document["text"], self._whole(document)
        gold = [parse(output, self.types).extraction for output in document["gold"]]
        predicted = Extraction(
            tuple(Entity(entity.type, entity.text) for entity in found.entities),
            tuple(RelationTriple(r.head.text, r.type, r.tail.text) for r in found.relations),
        )
        listed = Extraction(
            tuple(entity for one in gold for entity in one.entities),
            tuple(relation for one in gold for relation in one.relations),
        )
        whole = {"id": document["id"], "input": text, "gold": render(listed), "prediction": render(predicted)}
        return {**whole, "group": group_of(document)}

    def tracked(self, results: Mapping[str, Any]) -> dict[str, float]:
        """See :func:`odin_slm.tasks.extraction.reporting.tracked.tracked_metrics`."""
        from odin_slm.tasks.extraction.reporting.tracked import tracked_metrics

        return tracked_metrics(results)

    def figures(self, results: Mapping[str, Any], training_state: Mapping[str, Any] | None) -> dict[str, Figure]:
        """See :meth:`Task.figures`."""
        from odin_slm.tasks.extraction.reporting import confidence_figures, figures, operating_figures

        return {
            "type_scores": figures.plot_type_scores(results),
            "errors": figures.plot_errors(results),
            "length_scores": figures.plot_length_scores(results),
            "reliability": confidence_figures.plot_reliability(results),
            "risk_coverage": confidence_figures.plot_risk_coverage(results),
            "operating_point": operating_figures.plot_operating_point(results),
            "training_curve": figures.plot_training_curve(training_state),
        }

    def overview(self, results: Mapping[str, Any], training_state: Mapping[str, Any] | None) -> Any:
        """See :func:`odin_slm.tasks.extraction.reporting.figures.draw_overview`."""
        from odin_slm.tasks.extraction.reporting.figures import draw_overview

        return draw_overview(results, training_state)

    def report(
        self,
        results: Mapping[str, Any],
        predictions: Rows,
        training_state: Mapping[str, Any] | None,
        promotion: Mapping[str, Any] | None,
        *,
        significance: float = 0.05,
    ) -> str:
        """See :func:`odin_slm.tasks.extraction.reporting.report.render_report`."""
        from odin_slm.tasks.extraction.reporting.report import render_report

        return render_report(results, predictions, training_state, promotion, self.types, significance)

    # Publishing

    def card(
        self,
        sources: Mapping[str, str],
        instructions: Mapping[str, str],
        results: Mapping[str, Any] | None = None,
    ) -> CardParts:
        """See :meth:`Task.card`."""
        from odin_slm.tasks.extraction.reporting.card import card_parts

        return card_parts(self, sources, instructions, results)


TASK = ExtractionTask


def _known(types: Types, schema: Schema) -> bool:
    return set(schema.entities) <= set(types.entities) and set(schema.relations) <= set(types.relations)


def _cleaned(extraction: Extraction, clean: Callable[[str], str]) -> Extraction:
    entities: dict[tuple[str, str], Entity] = {}
    names: dict[str, str] = {}
    for entity in extraction.entities:
        text = clean(entity.text)
        first = entities.setdefault((entity.type, fold(text)), Entity(entity.type, text))
        names.setdefault(entity.text, first.text)

    def name(text: str) -> str:
        return names.get(text, clean(text))

    relations = (RelationTriple(name(r.head), r.type, name(r.tail)) for r in extraction.relations)
    return Extraction(tuple(entities.values()), tuple(dict.fromkeys(relations)))
