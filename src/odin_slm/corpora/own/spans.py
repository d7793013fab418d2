"""JSON Lines of texts with spans, as Prodigy, doccano, spaCy and Label Studio write them; which, each row shows.

- Prodigy (https://prodi.gy/docs/api-interfaces): ``spans`` of start, end and label, ``relations`` between the spans of
  their tokens, and an ``answer``, of which only ``accept`` counts.
- doccano: ``label`` of ``[start, end, type]``, or ``entities`` and ``relations`` with ids.
- spaCy (https://spacy.io/api/data-formats): ``[text, {"entities": [[start, end, type]]}]``, or ``Doc.to_json`` with
  ``ents``.
- Label Studio (https://labelstud.io/guide/export): tasks with ``data`` and ``annotations``, or JSON-MIN. The first
  annotation that was not cancelled counts. Offsets are JavaScript's, so UTF-16 units.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from odin_slm.corpora.faults import Faults
from odin_slm.corpora.json_values import JsonValues, kind_of, line_of, rows
from odin_slm.corpora.own.block import OwnCorpus
from odin_slm.corpora.own.given import GivenMention, GivenRelation, GivenText, fault

_WHAT = "texts with spans, as Prodigy, doccano, spaCy or Label Studio write them"

_EMPTY = {"_task_hash", "annotation_id"}
"""Fields of Prodigy and of JSON-MIN, which leave out what is empty."""


def read(files: Mapping[str, str], block: OwnCorpus, faults: Faults) -> Iterator[GivenText]:
    """Read a folder; see :data:`odin_slm.corpora.own.READERS`."""
    for name in sorted(files):
        with faults.collected():
            for number, value in rows(name, files[name], _WHAT, faults):
                with faults.collected("document"):
                    yield _Row(name, number, value, block, many=len(files) > 1, faults=faults).text()


def identifier(name: str, number: int, found: Any, *, many: bool) -> str:
    """Return the id of a row: its own, or its line; with the file where there are several, as tools count from 1."""
    if isinstance(found, bool) or not isinstance(found, str | int) or not f"{found}".strip():
        return f"{name}:{number}"
    return f"{name}#{found}" if many else f"{found}"


class _Row(JsonValues):
    """One row of a file on its way to a given text."""

    def __init__(self, name: str, number: int, value: Any, block: OwnCorpus, *, many: bool, faults: Faults) -> None:
        self._place = lambda found: f"{name}:{line_of(found, line_of(value, number))}"
        super().__init__(self._place(value))
        self._faults = faults
        self._value, self._fields, self._split = value, block.fields, block.split
        self._made = GivenText(identifier(name, number, None, many=many), "", name, self.where)
        self._named = lambda found: identifier(name, number, found, many=many)
        self._seen: set[tuple[Any, ...]] = set()

    def text(self) -> GivenText:
        """Return the text; it does not count where the annotator has rejected it, or there is no annotation."""
        value, made = self._value, self._made
        if isinstance(value, list) and len(value) == 2 and isinstance(value[1], dict):
            made.text = self.string({"text": value[0]}, "text", "the pair")
            self._spans(value[1], "entities")
            return made
        if not isinstance(value, dict):
            raise self.error(f"found {kind_of(value)}; expected {_WHAT}")
        data, meta = value.get("data"), value.get("meta")
        merged = {**(meta if isinstance(meta, dict) else {}), **value, **(data if isinstance(data, dict) else {})}
        made.id = self._named(merged.get(self._fields.id))  # of a task's data before Label Studio's own number
        if self._split and self._split.field:
            found = merged.get(self._split.field)
            made.split = found if isinstance(found, str) else None
        made.text = self.string(merged, self._fields.text, "a row")
        if isinstance(data, dict):
            self._label_studio(value)
        elif (answer := value.get("answer", "accept")) != "accept":
            self._left_out(f"document: answered {str(answer)[:20]}")
        else:
            self._annotations(value)
        return made

    def _left_out(self, reason: str) -> None:
        self._made.dropped[reason] += 1
        self._made.counts = False

    def _annotations(self, value: dict[str, Any]) -> None:
        keys = [key for key in ("ents", "spans", "entities", "label", "labels", "annotations") if key in value]
        lists = [key for key, found in value.items() if _is_min(found)]
        if lists:  # Label Studio's JSON-MIN has the names of its controls as keys
            for key in lists:
                for found in value[key]:
                    with self._faults.collected("mention"):
                        self._labelled("", found)
        elif not keys and not _EMPTY.intersection(value):
            raise self.error(f"found {', '.join(map(str, list(value)[:8]))[:80]}; expected {_WHAT}")
        elif keys:
            self._spans(value, keys[0])
            if keys[0] == "ents" and isinstance(value.get("spans"), dict):
                self._made.dropped["span group: not read"] += sum(1 for group in value["spans"].values() if group)
            for relation in self.perhaps(value, "relations", "a row"):
                with self._faults.collected("relation"):
                    self._relation(relation, value)

    def _spans(self, value: dict[str, Any], key: str) -> None:
        for found in self.items(value, key, "a row"):
            with self._faults.collected("mention"):
                self._span(found)

    def _span(self, found: Any) -> None:
        self.where = self._place(found)
        if isinstance(found, list):
            if len(found) not in (3, 4):
                raise self.error(f"found a span of {len(found)} values; expected start, end and label")
            found = {"start": found[0], "end": found[1], "label": found[2]}
        keys = (
            ("start_offset", "end_offset") if isinstance(found, dict) and "start_offset" in found else ("start", "end")
        )
        begin, end = (self.number(found, key, "a span") for key in keys)
        kind = self._kind(self.get(found, "label", "a span"))
        surface = self.string(found, "text", "a span") if isinstance(found.get("text"), str) else None
        # doccano's relations name the ids of its spans, Prodigy's their places
        key = f"{found['id']}" if keys[0] == "start_offset" and found.get("id") is not None else _key(begin, end, kind)
        self._add(GivenMention(key, begin, end, kind, surface, self.where))

    def _kind(self, found: Any) -> str:
        if isinstance(found, bool) or not isinstance(found, str | int) or not f"{found}".strip():
            raise self.error(f"found the label {str(found)[:40]!r}; expected a name")
        return self.string({"label": f"{found}"}, "label", "a span")

    def _add(self, mention: GivenMention) -> None:
        """Keep a mention, once: a key of our own says all of it."""
        content = (mention.key, mention.begin, mention.end, mention.type)
        if content in self._seen:
            self._made.dropped["mention: repeated"] += 1
        else:
            self._seen.add(content)
            self._made.mentions.append(mention)

    def _relation(self, found: Any, row: dict[str, Any]) -> None:
        self.where = self._place(found)
        if isinstance(found, dict) and "from_id" in found:  # doccano
            kind, head, tail = self._kind(self.get(found, "type", "a relation")), found["from_id"], found.get("to_id")
        else:
            kind = self._kind(self.get(found, "label", "a relation"))
            head, tail = (self._end(found, row, name) for name in ("head", "child"))
        self._made.relations.append(GivenRelation(kind, f"{head}", f"{tail}", self.where))

    def _end(self, found: dict[str, Any], row: dict[str, Any], name: str) -> str:
        """Return the key of the span that Prodigy's relation begins or ends at, which names one of its tokens."""
        span = found.get(f"{name}_span")
        if isinstance(span, dict):
            begin, end = (self.number(span, key, f"{name}_span") for key in ("start", "end"))
            return _key(begin, end, self._kind(self.get(span, "label", f"{name}_span")))
        token = self.number(found, name, "a relation")
        for one in self.perhaps(row, "spans", "a row"):
            if self.number(one, "token_start", "a span") <= token <= self.number(one, "token_end", "a span"):
                return _key(one.get("start"), one.get("end"), one.get("label"))
        raise self.error(f"the relation's {name} is token {token}, which no span has")

    def _label_studio(self, task: dict[str, Any]) -> None:
        key = next((name for name in ("annotations", "completions") if name in task), None)
        if key is None:
            raise fault(
                "a task has no 'annotations': it was made for Label Studio, and was not exported from it",
                self.where,
                "Export the project as JSON, and name that file alone by files.",
            )
        done = [
            one for one in self.items(task, key, "a task") if not (isinstance(one, dict) and one.get("was_cancelled"))
        ]
        if not done:
            self._left_out("document: without an annotation")
            return
        if len(done) > 1:
            self._made.dropped["annotation: another one of its document"] += len(done) - 1
        for result in self.items(done[0], "result", "an annotation"):
            with self._faults.collected("mention"):
                self._result(result)

    def _result(self, result: Any) -> None:
        self.where = self._place(result)
        kind = self.string(result, "type", "a result")
        if kind == "relation":
            ends = [self.get(result, key, "a relation") for key in ("from_id", "to_id")]
            if result.get("direction") == "left":
                ends.reverse()
            for label in self.perhaps(result, "labels", "a relation") or ["relation"]:
                self._made.relations.append(GivenRelation(self._kind(label), f"{ends[0]}", f"{ends[1]}", self.where))
        elif kind in ("labels", "hypertextlabels"):
            self._labelled(f"{self.get(result, 'id', 'a result')}", self.mapping(result, "value", "a result"))
        else:
            self._made.dropped[f"result: {kind[:40]}"] += 1

    def _labelled(self, key: str, value: dict[str, Any]) -> None:
        place = value.get("globalOffsets") if isinstance(value.get("globalOffsets"), dict) else value
        begin, end = (self.number(place, name, "a region") for name in ("start", "end"))
        surface = self.string(value, "text", "a region") if value.get("text") is not None else None
        names = value.get("labels", value.get("hypertextlabels"))
        if not isinstance(names, list) or not names:
            raise self.error("a region has no labels; expected some")
        for number, label in enumerate(names):
            self._add(GivenMention(key if not number else "", begin, end, self._kind(label), surface, self.where))


def _key(begin: Any, end: Any, kind: Any) -> str:
    """Return what a span without an id is called by."""
    return f"{begin}-{end} {kind}"


def _is_min(found: Any) -> bool:
    """Tell whether a value is a list of regions of Label Studio's JSON-MIN."""
    return isinstance(found, list) and bool(found) and all(isinstance(one, dict) and "labels" in one for one in found)
