"""Outputs with places: what is written is read back, the grammar holds it to its text, and lists stay what they are."""

import json
import pickle
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from odin_slm.config.parameters import IngestionParams, TaskParams, TrainingParams
from odin_slm.core.errors import WrongParameterError
from odin_slm.core.folding import fold
from odin_slm.core.record import Record
from odin_slm.corpora.synthetic.generator import generate
from odin_slm.models.base_model import BaseModel
from odin_slm.pipelines.evaluation.nodes import require_same_form
from odin_slm.pipelines.ingestion.nodes import write_records
from odin_slm.tasks.extraction.format import (
    Entity,
    Extraction,
    RelationTriple,
    instruction_for,
    parse,
    render,
)
from odin_slm.tasks.extraction.records import written
from odin_slm.tasks.extraction.schema import SCHEMAS
from odin_slm.tasks.extraction.tagged import FORMS, apart, inline, rest
from odin_slm.tasks.extraction.task import ExtractionTask

PLACED = [form for form in FORMS if form != "list"]
TEXT = "Cough and rash [grade 2] developed after enalapril.\nEnalapril was stopped; the rash went."
FOUND = Extraction(
    (Entity("Symptom", "Cough"), Entity("Symptom", "rash"), Entity("Drug", "enalapril")),
    (RelationTriple("enalapril", "causes", "rash"),),
)
INLINE = (
    "### Text:\n[Symptom]Cough\n and[Symptom] rash\n \\[grade 2] developed after[Drug] enalapril\n"
    ".[Drug]\\nEnalapril\n was stopped; the[Symptom] rash\n went.\n\n"
    "### Relations:\n1. enalapril --[causes]--> rash"
)
NUMBERED = (
    "### Mentions:\n1. [Symptom] Cough #1\n2. [Symptom] rash #1\n3. [Drug] enalapril #1\n4. [Drug] Enalapril #2\n"
    "5. [Symptom] rash #2\n\n### Relations:\n1. enalapril --[causes]--> rash"
)
_WORDS = ["rash", "Rash", "β-blocker", "10", "#1", "[Drug]"]
_SIGNS = [" ", "\n", "\r", "[", "]", "\\", "\\n", "--[", "/", "-"]
texts = st.lists(st.sampled_from(_WORDS + _SIGNS), min_size=1, max_size=12).map("".join).filter(str.strip)


@st.composite
def annotated(draw: Any) -> tuple[str, Extraction]:
    """A text, and entities that stand in it from word to word, some related."""
    text = draw(texts)
    words = [match.span() for match in re.finditer(r"\w+|[^\w\s]", text)]
    ends = st.tuples(st.integers(0, len(words) - 1), st.integers(0, 2))
    spans = [(words[a][0], words[min(a + more, len(words) - 1)][1]) for a, more in draw(st.lists(ends, max_size=4))]
    entities: dict[Any, Entity] = {}
    for number, (begin, end) in enumerate(spans):
        entity = Entity("Drug" if number % 2 else "Symptom", text[begin:end])
        entities.setdefault((entity.type, fold(entity.text)), entity)
    drugs, symptoms = ([e.text for e in entities.values() if e.type == kind] for kind in ("Drug", "Symptom"))
    return text, Extraction(
        tuple(entities.values()),
        tuple(RelationTriple(d, "causes", s) for d in drugs for s in symptoms if fold(d) != fold(s)),
    )


def task(form: str) -> ExtractionTask:
    """The task in a form."""
    return ExtractionTask.from_options({"form": form})


@pytest.mark.parametrize(("form", "output"), [("inline", INLINE), ("numbered", NUMBERED)])
def test_a_form_says_where_entities_stand_and_is_read_as_the_list_is(form: str, output: str) -> None:
    assert task(form).written("", TEXT, render(FOUND)) == output
    found = parse(output)
    assert found.well_formed
    assert found.extraction == FOUND
    lines = output.split("\n")
    assert [FOUND.entities[0].text in lines[found.entity_lines[0]], lines[found.relation_lines[0]]] == [
        True,
        "1. enalapril --[causes]--> rash",
    ]


@pytest.mark.parametrize("form", PLACED)
@settings(max_examples=40, deadline=None)
@given(values=annotated())
def test_what_is_written_is_read_back_and_can_be_written_under_the_grammar(
    form: str, values: tuple[str, Extraction]
) -> None:
    text, listed = values
    output = written(text, listed, form)
    found = parse(output)
    assert found.well_formed
    for kind in ("entity", "relation"):  # what lies within something longer is lost; nothing comes to it
        assert set(found.extraction.keys(kind)) <= set(listed.keys(kind))
    grammar = task(form).grammar("everything", text)
    escaped = form == "numbered" and any(sign in text for sign in ("\\", "\n", "\r", "--["))  # as lists: no such spans
    assert grammar.accepts(output) or escaped
    lost = any(set(found.extraction.keys(kind)) != set(listed.keys(kind)) for kind in ("entity", "relation"))
    assert not (lost and grammar.accepts(render(listed)))


@given(values=annotated())
def test_the_text_can_be_taken_from_an_output_with_tags(values: tuple[str, Extraction]) -> None:
    text, listed = values
    body = written(text, listed, "inline").partition("\n\n### Relations:\n")[0].removeprefix("### Text:\n")
    plain = re.sub(r"(?<!\\)((?:\\\\)*)\[(?:Drug|Symptom)\]", r"\1", body.replace("\n", ""))
    assert re.sub(r"\\(.)", lambda sign: {"n": "\n", "r": "\r"}.get(sign[1], sign[1]), plain) == text.rstrip()


@given(values=annotated(), share=st.floats(0, 1))
def test_what_probably_follows_is_the_rest_of_the_text(values: tuple[str, Extraction], share: float) -> None:
    text, listed = values
    output = written(text, listed, "inline")
    body = output.partition("\n\n")[0]
    cut = body[: round(len(body) * share)]
    ended = re.sub(r"(\\.)|\n", lambda sign: sign[1] or "", body[len(cut) :])
    expected = re.sub(r"(\\.)|\[[^]]*\]", lambda sign: sign[1] or "", ended)
    within = re.search(r"(?<!\\)(?:\\\\)*(\\|\[[A-Za-z]*)$", cut)  # of a tag, or of an escaped sign
    assert within or rest(text, cut) == (expected if cut.startswith("### Text:\n") else "")
    for whole in (f"{body}\n\n", output, "### Text:", f"{body}[Dr"):
        assert rest(text, whole) == ""


@given(st.lists(st.sampled_from([*INLINE.split("\n"), *NUMBERED.split("\n"), "x", "1. [Gene] a #1"])).map("\n".join))
def test_any_text_is_read_without_an_error(text: str) -> None:
    for header in ("### Text:\n", "### Mentions:\n"):
        parse(header + text)


@pytest.mark.parametrize(
    ("output", "faults"),
    [
        (INLINE.replace("[Symptom]Cough", "[Cause]Cough"), ("[Cause]Cough",)),
        (INLINE.replace("[Drug] enalapril\n.", "[Drug] enalapril.\n."), ()),  # the tag closes later: another entity
        (INLINE.partition("\n\n")[0], ("<headers: ### Text:>",)),
        (INLINE.replace(" went.", "\n went."), ("",)),
        (NUMBERED.replace("### Mentions:", "### Mentions: 5"), ("### Mentions: 5",)),
        (NUMBERED.replace(" #1\n2.", "\n2."), ("1. [Symptom] Cough",)),
        (NUMBERED + " or", ()),
        (NUMBERED.replace("1. enalapril --", "1. enalapril -"), ("1. enalapril -[causes]--> rash",)),
    ],
)
def test_what_breaks_the_form_is_named_and_costs_itself_alone(output: str, faults: tuple[str, ...]) -> None:
    assert parse(output).malformed == faults


def test_of_places_that_overlap_the_longer_one_is_kept() -> None:
    text = "renal failure and failure"
    places = [(6, 13, "Symptom"), (0, 13, "Disease"), (18, 25, "Symptom"), (1, 4, "Drug"), (17, 25, "Drug")]
    assert apart(places, text) == [(0, 13, "Disease"), (18, 25, "Symptom")]
    assert inline(text, apart(places, text)) == "### Text:\n[Disease]renal failure\n and[Symptom] failure"


@pytest.mark.parametrize("form", PLACED)
def test_the_grammar_ends_a_text_that_ends_with_an_entity(form: str) -> None:
    text = "after enalapril"
    listed = Extraction((Entity("Drug", "enalapril"),))
    grammar = task(form).grammar("everything", text)
    output = written(text, listed, form)
    section = output.partition("\n\n")[0]
    assert grammar.accepts(output)
    assert grammar.accepts(render(listed))
    assert not grammar.accepts(output.replace("enalapril", "enalaprilat"))
    assert not grammar.accepts(output.replace("[Drug]", "[Gene]"))
    step = grammar.step(0, f"{section}\n\n")
    assert step is not None
    assert "None" in step.lark  # nothing can be related
    for cut in (f"{section}\n", f"{section}\n 2. [D", f"{section}\n\n### Rel", f"{section}\n\n### Relations:\n1. en"):
        assert grammar.complete(cut) == output  # the same lines, whose probabilities are known


@pytest.mark.parametrize("form", FORMS)
def test_no_form_parts_a_letter_from_its_accent(form: str) -> None:
    text = "After cafe\u0301 came Sjo\u0308gren syn\u00addrome."
    grammar = task(form).grammar("everything", text)
    for whole in ("Sjo\u0308gren syn\u00addrome", "cafe\u0301"):
        output = written(text, Extraction((Entity("Disease", whole),)), form)
        assert grammar.accepts(output), output
        for cut in (whole[:-1], whole[:3], whole[:4]):
            parted = output.replace(f"{whole}\n", f"{cut}\n{whole[len(cut) :] if form == 'inline' else ''}")
            parted = parted.replace(f"{whole} #", f"{cut} #")
            assert parted != output
            assert not grammar.accepts(parted), parted


def test_a_list_of_mentions_ends_where_it_would_go_round_or_on_for_ever() -> None:
    grammar = task("numbered").grammar("everything", TEXT)
    entities = NUMBERED.partition("\n\n")[0]
    lines = entities.split("\n")
    assert all(grammar.step(0, "\n".join(lines[:number]) + "\n") is None for number in range(1, len(lines) + 1))
    for more in ("6. [Symptom] rash #3\n", "6. [Drug] Enalapril #2\n7. [Drug] Enalapril #2\n"):
        step = grammar.step(0, f"{entities}\n{more}")
        assert step is not None
        assert step.forced == "\n### Relations:\n"
    listed = task("list").grammar("everything", "lot #12 of enalapril")
    assert listed.step(0, "### Entities:\n1. [Drug] lot #12\n") is None, "a name"


def test_text_with_tags_holds_the_whole_text_and_nothing_else() -> None:
    grammar = task("inline").grammar("everything", "rash after enalapril.")
    whole = "### Text:\n{}\n\n### Relations:\nNone"
    for body, right in {
        "rash after enalapril.": True,
        "rash after[Drug] enalapril\n.": True,
        "rash after[Drug] enalapril.": True,
        "rash after[Drug] enalapril": False,
        "rash after [Drug]enalapril\n.": False,  # the tag stands before the white space
        "rash after enalapril\n.": False,  # nothing was opened
        "[Symptom]rash[Drug] after\n enalapril.": False,  # one in another
        "rash after[Drug] enala\npril.": False,  # within a word
        "rash after enalapril. enalapril.": False,
    }.items():
        assert grammar.accepts(whole.format(body)) is right, body


def test_a_line_break_alone_is_no_entity() -> None:
    task = ExtractionTask(form="inline")
    text = "Rash after enalapril.\nCough."
    output = "### Text:\n[Symptom]Rash\n after[Drug] enalapril\n.[Symptom]{}\n\n### Relations:\nNone"
    grammar = task.grammar(instruction_for(SCHEMAS["ade"]), text)
    assert grammar is not None
    assert grammar.accepts(output.format("\\nCough\n."))
    assert not grammar.accepts(output.format("\\n\nCough."))
    found = parse(output.format("\\n\nCough."))
    assert [entity.text for entity in found.extraction.entities] == ["Rash", "enalapril"]
    assert found.malformed == (".[Symptom]\\n",)


def test_a_record_is_taught_in_the_form_and_stays_a_list() -> None:
    record = Record(instruction="i", input=TEXT, output=render(FOUND), id="1", source="ade", document_id="1")
    assert task("list").taught(record) == record
    assert task("inline").taught(record) == {**record, "output": INLINE}
    assert task("inline").taught(task("inline").taught(record)) == {**record, "output": INLINE}
    assert task("inline").output_tokens(256, 320) == 576
    assert {task(form).output_tokens(256, 320) for form in ("list", "numbered")} == {256}


def test_sources_have_forms_of_their_own_and_their_instructions_tell() -> None:
    mixed = ExtractionTask.from_options({"form": {"bc5cdr": "inline", "biored": "numbered"}})
    listed, own = render(FOUND), {"ade": "list", "bc5cdr": "inline", "biored": "numbered", "synthetic": "list"}
    assert mixed.forms == {"list": ["ade", "synthetic"], "inline": ["bc5cdr"], "numbered": ["biored"]}
    for source, form in {**own, "all": "list"}.items():
        asked = mixed.instruction(source)
        grammar, output = mixed.grammar(asked, TEXT), mixed.written(asked, TEXT, listed)
        assert output == {"list": listed, "inline": INLINE, "numbered": NUMBERED}[form]
        assert (grammar.form, grammar.repeats) == (form, form == "inline")
    record = Record(instruction="", input=TEXT, output=listed, id="1", source="bc5cdr", document_id="1")
    assert mixed.taught(record) == record  # an instruction that names no types asks for all of them
    assert mixed.taught({**record, "instruction": mixed.instruction("bc5cdr")})["output"] == INLINE
    assert mixed.output_tokens(256, 320) == 576
    biased = mixed.exploration([], "none", "f1")
    assert biased is not None
    assert biased["end_bias"]["entity"] < 0.0  # there are lists to end
    with pytest.raises(WrongParameterError, match="writes the form inline"):
        mixed.to_calibrate("both")
    same = {"entities": ["Drug", "Disease"], "relations": ["causes"]}
    for form, sources, message in (
        ({"cdr": "inline"}, {}, "there is no source 'cdr'; there are ade, bc5cdr, biored, synthetic"),
        ({"bc5cdr": "inline"}, {"own": same}, "bc5cdr and own ask for the same types, and need the same form"),
        ({"bc5cdr": "inline", "own": "numbered"}, {"own": same}, "ask for the same types"),
        ({"ade": "table"}, {}, "form"),
    ):
        with pytest.raises(ValueError, match=message):
            ExtractionTask.from_options({"form": form, "sources": sources})
    assert ExtractionTask.from_options({"form": {"bc5cdr": "inline", "own": "inline"}, "sources": {"own": same}})


def test_a_card_says_which_source_has_which_form() -> None:
    mixed = ExtractionTask.from_options({"form": {"bc5cdr": "inline"}})
    parts = mixed.card({"ade": "", "bc5cdr": ""}, {})
    assert parts.output_form.startswith("The output for `bc5cdr` is the text over again")
    assert parts.output_form.endswith("The output for `ade` has this form; an empty list is the line `None`:")
    assert parts.output_form.count(":") == 1
    assert parts.example_output.startswith("### Entities:")
    (alone, everything) = (mixed.card({"bc5cdr": ""}, {}), mixed.card({}, {}))
    assert alone.output_form.startswith("The output is the text")
    assert alone.example_output.startswith("### Text:")
    assert "### Entities:" in everything.example_output


@pytest.mark.parametrize("types", [{}, {"entities": ["Gene", "Dose"], "relations": []}], ids=["shipped", "own"])
def test_a_card_shows_the_form(types: dict[str, Any]) -> None:
    shown = {form: ExtractionTask.from_options({"form": form, **types}).card({}, {}) for form in FORMS}
    assert len({parts.output_form for parts in shown.values()}) == len(FORMS)
    found = [parse(parts.example_output, ExtractionTask.from_options(types).types) for parts in shown.values()]
    assert all(one.well_formed and one.extraction.entities for one in found)
    assert all(one.extraction == found[0].extraction for one in found)


def test_a_form_travels_with_the_task() -> None:
    for form in (*FORMS, {"ade": "inline", "biored": "numbered"}):
        made = ExtractionTask.from_options({"form": form})
        assert ExtractionTask.from_options(json.loads(json.dumps(made.options()))) == made
        assert pickle.loads(pickle.dumps(made)) == made
    assert ExtractionTask.from_options({}).form == "list"
    with pytest.raises(ValueError, match="form"):
        task("table")
    with pytest.raises(ValueError, match="judged_pairs: pairs are judged behind lists"):
        ExtractionTask.from_options({"form": "inline", "judged_pairs": 4})


def test_pairs_are_judged_behind_lists_alone() -> None:
    with pytest.raises(WrongParameterError) as caught:
        task("inline").to_calibrate("both")
    assert caught.value.where == "evaluation.relations"
    assert task("inline").to_calibrate() == task("inline")


def test_forms_that_are_lists_everywhere_can_be_judged() -> None:
    assert ExtractionTask.from_options({"form": {"ade": "list"}, "judged_pairs": 4}).judged_pairs == 4


def test_the_end_of_relations_alone_is_biased_where_entities_are_no_list() -> None:
    for form in ("inline", "numbered"):
        point = task(form).exploration([], "none", "f1")
        assert point is not None
        assert point["end_bias"]["entity"] == 0.0 > point["end_bias"]["relation"]
        assert "alone" not in point
        assert task(form).exploration([{"gold": "", "explored": [{}]}], "none", "f1") is None
        assert task(form).exploration([], "isotonic", None) == {}
        grammar = task(form).grammar("", TEXT, point)
        written = task(form).written("", TEXT, render(FOUND))
        entities, blank, relations = written.partition("\n\n")
        assert all(grammar.ending(entities[:end]) is None for end in range(len(entities) + 1))
        ends = [grammar.ending(f"{entities}{blank}{relations[:end]}") for end in range(len(relations) + 1)]
        assert {ending.bias for ending in ends if ending} == {point["end_bias"]["relation"]}


def test_an_adapter_that_was_taught_another_form_is_refused(tmp_path: Path) -> None:
    records = [{"instruction": "", "input": TEXT, "output": render(FOUND)}]
    require_same_form(tmp_path, task("inline"), records)  # made before folders named their task
    (tmp_path / "task.json").write_text(json.dumps(task("inline").to_dict()), encoding="utf-8")
    require_same_form(tmp_path, task("inline"), records)
    require_same_form(None, task("list"), records)
    with pytest.raises(WrongParameterError, match=r'otherwise: its task\.json has \{"form": "inline"\}'):
        require_same_form(tmp_path, task("list"), records)
    mixed, both = ExtractionTask.from_options({"form": {"bc5cdr": "inline"}}), {"bc5cdr", "ade"}
    asked = [{**records[0], "instruction": mixed.instruction(source)} for source in sorted(both)]
    require_same_form(tmp_path, mixed, asked[1:])
    with pytest.raises(WrongParameterError, match="otherwise"):
        require_same_form(tmp_path, mixed, asked)


@pytest.mark.parametrize("form", PLACED)
def test_a_model_learns_a_form_from_lists_and_is_read_in_it(form: str, tiny_base: Path, tmp_path: Path) -> None:
    from odin_slm.inference.reading import Reader
    from odin_slm.pipelines.training.nodes import train_adapter

    def told(number: int) -> Record:
        listed = (Entity("Drug", "aspirin"), Entity("Symptom", "nausea"))
        output = render(Extraction(listed, (RelationTriple("aspirin", "causes", "nausea"),)))
        name, asked = str(number), instruction_for(SCHEMAS["ade"])
        return Record(
            instruction=asked,
            input=f"{number}: aspirin gave nausea.",
            output=output,
            id=name,
            source="ade",
            document_id=name,
        )

    what, base = task(form), BaseModel("tiny", tiny_base)
    train, val = [told(n) for n in range(16)], [told(n) for n in range(90, 93)]
    params = TrainingParams(
        method="full",
        max_seq_length=400,
        epochs=40,
        repeats={"ade": 3},
        batch_size=8,
        evaluations=1,
        learning_rate=0.01,
        precision="fp32",
    )  # of random weights an adapter learns next to nothing
    adapter, state = train_adapter(base, {"task": what.to_dict()}, train, val, tmp_path / "work", params)
    assert (state["train_records"], state["steps"]) == (16, 16 * 3 * 40 // 8)
    settings = {"constrained": True, "batch_size": 2, "max_new_tokens": 200, "window_tokens": 60, "overlap": 0}
    reader = Reader(base, adapter, task=what, source="ade", **settings)
    for record, read in zip(val, reader.extract([record["input"] for record in val]), strict=True):
        assert not isinstance(read, Exception)
        assert read.windows[0].output == what.taught(record)["output"]
        assert [(one.type, one.text) for one in read.reading.entities] == [("Drug", "aspirin"), ("Symptom", "nausea")]
        assert [one.type for one in read.reading.relations] == ["causes"]
    other = params.model_copy(update={"repeats": {"bc5cdr": 2}})
    with pytest.raises(
        WrongParameterError, match=r"of the source 'bc5cdr', or .* there are Drug, Symptom, ade, causes"
    ):
        train_adapter(base, {"task": what.to_dict()}, train, val, tmp_path / "other", other)


def test_sources_with_forms_of_their_own_need_instructions_of_their_own(tiny_base: Path) -> None:
    documents = [document.to_dict() for document in generate(1, seed=3, corpus="ade")]
    shared, base = IngestionParams(instruction="shared"), BaseModel("tiny", tiny_base)
    mixed = TaskParams(options={"form": {"bc5cdr": "inline"}})
    with pytest.raises(WrongParameterError, match="one instruction for all sources") as caught:
        write_records(documents, base, mixed, shared)
    assert caught.value.where == "ingestion.instruction"
    for task_params, params in ((mixed, IngestionParams()), (TaskParams(options={"form": "inline"}), shared)):
        assert len(write_records(documents, base, task_params, params)[0]) == 1
