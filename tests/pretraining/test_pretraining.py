"""Pretraining: exercises ask only for what is in the text, every text is tokenised, a killed run resumes."""

import json
import random
import re
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from odin_slm.config.parameters import ArchitectureParams, MixtureParams, PhaseParams, PretrainingParams, ScheduleParams
from odin_slm.core.document import Document, Mention, Relation, surface_concept
from odin_slm.core.errors import BackendError, CorpusFormatError
from odin_slm.corpora.iob import parse_iob
from odin_slm.pretraining.batches import decisions, encoder, tensors
from odin_slm.pretraining.curriculum import EXERCISES, Example, Sources, draw
from odin_slm.pretraining.name_generator import invent_name
from odin_slm.pretraining.tokenizer import MARKERS, train_tokenizer
from odin_slm.pretraining.trainer import new_model, pretrain, weighted_loss
from odin_slm.tasks.extraction.format import parse

IOB = "Mutations\tO\nin\tO\nBRCA1\tB-Gene\n-\tO\nlinked\tO\ncancer\tB-Disease\n(\tO\nbreast\tB-Disease\n)\tO\n.\tO\n"


def document(n: int) -> Document:
    text = f"Severe rash{n} followed drug{n} in one patient. It resolved after a week."
    return Document(
        id=f"ade-{n}",
        text=text,
        source="ade",
        pmid=str(n),
        mentions=tuple(
            Mention(text.index(name), text.index(name) + len(name), name, kind, (surface_concept(name),))
            for name, kind in ((f"rash{n}", "Symptom"), (f"drug{n}", "Drug"))
        ),
        relations=(Relation("causes", surface_concept(f"drug{n}"), surface_concept(f"rash{n}")),),
    )


SOURCES = Sources(
    [*(document(n) for n in range(30)), Document(id="ade-neg-1", text="Nothing was seen.", source="ade", pmid="99")],
    list(parse_iob(IOB, "genes.iob.tsv")),
    ["A first sentence of plain text. A second one follows it.", "Another paragraph about nothing much."],
)
MIXTURE = dict.fromkeys(EXERCISES, 1.0)
PHASES = (
    PhaseParams(until=0.4, mixture=MixtureParams(**MIXTURE)),
    PhaseParams(
        until=1.0, mixture=MixtureParams(**{**MIXTURE, "language": 0.0}), prompt_share=0.0, decision_weight=4.0
    ),
)
SHAPE = ArchitectureParams(vocabulary=600, hidden=32, layers=2, heads=4, feed_forward=64, context=512)
SCHEDULE = ScheduleParams(
    tokens=6000,
    batch_tokens=1024,
    learning_rate=0.02,
    embedding_learning_rate=0.01,
    circuit_learning_rate=0.001,
    warmup=0.1,
    decay=0.5,
    log_every=1,
    evaluate_every=2,
    checkpoint_every=2,
    average=1,
    seed=1,
)


def learned(example: Example) -> str:
    """Return the completion without the parts that are given."""
    ends = [0, *(place for part in example.given for place in part), len(example.completion)]
    return "".join(example.completion[begin:end] for begin, end in zip(ends[::2], ends[1::2], strict=True))


def test_texts_without_tagged_sentences_are_enough() -> None:
    example = EXERCISES["tagged"](Sources(SOURCES.documents, [], SOURCES.paragraphs), random.Random(1))
    assert example.kind == "nothing"


@pytest.mark.parametrize("kind", [k for k in EXERCISES if k != "language"])
def test_every_name_to_learn_is_in_the_text(kind: str) -> None:
    rng = random.Random(5)
    for _ in range(300):
        example = EXERCISES[kind](SOURCES, rng)
        text = example.prompt.split("### Input:\n")[1]
        for line in learned(example).split("### Relations:")[0].split("\n"):
            if "] " in line:
                assert line.split("] ", 1)[1] in text


@pytest.mark.parametrize("kind", ["copy_one", "copy_glued", "copy_hard", "copy_odd", "copy_spans"])
def test_marked_spans_are_listed_in_order(kind: str) -> None:
    rng, found = random.Random(6), 0
    for _ in range(200):
        example = EXERCISES[kind](SOURCES, rng)
        text = example.prompt.split("### Input:\n")[1]
        entities, relations = example.completion.split("\n\n### Relations:\n")
        if "entities: Marked." not in example.prompt or entities.endswith("None"):
            continue
        found += 1
        names = [line.split("] ", 1)[1] for line in entities.split("\n")[1:]]
        assert kind == "copy_spans" or len(names) == 1
        places = [re.search(rf"([*<\[{{\"(])( ?){re.escape(name)}\2[*>\]}}\")]", text) for name in names]
        assert all(places), example
        if kind in ("copy_one", "copy_glued"):
            assert places[0][2] == ("" if kind == "copy_glued" else " ")
        if relations != "None":
            expected = [f"{n}. {a} --[precedes]--> {b}" for n, (a, b) in enumerate(pairwise(names), start=1)]
            assert relations.split("\n") == expected
    assert found > 50


@pytest.mark.parametrize("exercise", ["lists", "products"])
def test_enumerated_names_have_the_relations_of_the_original_name(exercise: str) -> None:
    text = "Aspirin caused nausea, but no fever."
    mentions = (
        Mention(0, 7, "Aspirin", "Drug", ("d",)),
        Mention(15, 21, "nausea", "Symptom", ("n",)),
        Mention(30, 35, "fever", "Symptom", ("f",)),
    )
    document = Document("ade-1", text, "ade", "1", mentions=mentions, relations=(Relation("causes", "d", "n"),))
    sources = Sources([document], [], [])
    object.__setattr__(
        sources, "names", {"Drug": [f"drug{n}" for n in range(999)], "Symptom": [f"sign{n}" for n in range(999)]}
    )
    rng, longest, both = random.Random(9), 0, 0
    for _ in range(200):
        found = parse(EXERCISES[exercise](sources, rng).completion).extraction
        types = {entity.type for entity in found.entities}
        if types != {"Drug", "Symptom"}:
            continue  # the schema has other names, or one type alone
        drugs, symptoms = ([e.text for e in found.entities if e.type == kind] for kind in ("Drug", "Symptom"))
        related = {(relation.head, relation.tail) for relation in found.relations}
        heads, tails = (
            [*dict.fromkeys(side)] for side in zip(*((r.head, r.tail) for r in found.relations), strict=True)
        )
        assert heads == drugs, "every drug, in the order of the text"
        assert tails == symptoms[: len(tails)], "what the first effect became; not what the text denies"
        assert len(tails) < len(symptoms)
        if exercise == "products":
            assert len(tails) == len(symptoms) - 1, "only ends of the relation are enumerated"
            both += len(heads) > 1 and len(tails) > 1
        assert related == {(head, tail) for head in heads for tail in tails}
        assert len(found.entities) == len({entity.text.casefold() for entity in found.entities})
        longest = max(longest, len(found.entities))
    assert longest > 8
    assert exercise == "lists" or both > 60


def test_names_of_a_product_are_long_or_similar() -> None:
    rng, compounds, alike = random.Random(5), 0, 0
    for _ in range(300):
        found = parse(EXERCISES["products"](SOURCES, rng).completion).extraction
        for one, other in pairwise(found.entities):
            compounds += bool(re.search(r"\w[-/]\w", other.text))
            alike += one.text[:4] == other.text[:4] or one.text.split()[-1] == other.text.split()[-1]
    assert compounds > 100
    assert alike > 100


def test_repeated_names_are_listed_once_in_order_of_first_occurrence() -> None:
    rng, often = random.Random(2), 0
    plain = "Of all the things that were seen in this ward over two years, few were as plain as what is told here."
    sources = Sources(SOURCES.documents, [], [plain])
    for _ in range(300):
        example = EXERCISES["repeats"](sources, rng)
        text = example.prompt.split("### Input:\n")[1].casefold()
        entities, relations = example.completion.casefold().split("\n\n### relations:\n")
        names = [line.split("] ", 1)[1] for line in entities.split("\n")[1:] if "] " in line]
        assert relations == "none"
        assert len(set(names)) == len(names)
        places = [re.search(rf"(?<!\w){re.escape(name)}(?!\w)", text).start() for name in names]
        assert places == sorted(places)
        often += any(text.count(name) > 1 for name in names)
    assert often > 100


@pytest.mark.parametrize("exercise", ["corruption", "loops"])
def test_corrupted_outputs_continue_correctly(exercise: str) -> None:
    rng, corrupted, whole = random.Random(4), 0, 0
    for _ in range(600):
        example = EXERCISES[exercise](SOURCES, rng)
        corrupted += bool(example.given)
        right = learned(example)
        for part in example.completion.split("\n\n"):
            numbers = [int(number) for number in re.findall(r"^\d+(?=\. )", part, re.MULTILINE)]
            assert numbers == [*range(1, len(numbers) + 1)], "errors are numbered too"
        names = [line.split("] ", 1)[1] for line in right.split("\n") if re.match(r"\d+\. \[", line)]
        triples = re.findall(r"^\d+\. (.+?) --\[.+?\]--> (.+)$", right, re.MULTILINE)
        assert len({name.casefold() for name in names}) == len(names)
        assert {name for triple in triples for name in triple} <= set(names)
        assert len(set(triples)) == len(triples)
        if "Extract entities: Drug, Symptom. Relations: causes." in example.prompt:
            whole += 1
            drugs, symptoms = (re.findall(rf"\[{kind}\] (.+)", right) for kind in ("Drug", "Symptom"))
            assert triples == [(drug, symptom) for drug in drugs for symptom in symptoms], "as in the documents above"
    assert corrupted > 500
    assert whole > 200


def test_circles_repeat_several_items_in_turn_and_cut_names_off() -> None:
    def wrong_relations(exercise: str) -> tuple[int, int]:
        rng, rounds, cut = random.Random(6), 0, 0
        for _ in range(400):
            example = EXERCISES[exercise](SOURCES, rng)
            listed = set(re.findall(r"^\d+\. \[.+?\] (.+)$", example.completion + learned(example), re.MULTILINE))
            lines = [example.completion[begin:end].strip() for begin, end in example.given]
            found = [match for line in lines if (match := re.fullmatch(r"\d+\. (.+?) --\[.+?\]--> (.+)", line))]
            triples = [match.groups() for match in found]
            rounds += any(
                one == third != other for one, other, third in zip(triples, triples[1:], triples[2:], strict=False)
            )
            cut += any(tail not in listed for _, tail in triples)
        return rounds, cut

    rounds, cut = wrong_relations("loops")
    assert rounds > 10 * wrong_relations("corruption")[0] + 10
    assert cut > 15
    assert wrong_relations("corruption")[1] == 0


def test_names_with_affixes_are_listed_without_them() -> None:
    rng, touched, mentions = random.Random(7), 0, 0
    for _ in range(300):
        example = EXERCISES["affixes"](SOURCES, rng)
        text = example.prompt.split("### Input:\n")[1]
        for entity in parse(example.completion).extraction.entities:
            mentions += 1
            begin = text.index(entity.text)
            before, after = text[:begin][-1:], text[begin + len(entity.text) :][:1]
            touched += bool(re.match(r"[-(\['\"/]", before) or re.match(r"[-)\]\"/]", after))
    assert mentions > 200
    assert 0.6 < touched / mentions < 0.8


def test_errors_in_an_output_are_read_but_not_learned(tokenizer: Any) -> None:
    encode, rng, lines = encoder(tokenizer, 4096), random.Random(4), 0
    for _ in range(200):
        example = EXERCISES["corruption"](SOURCES, rng)
        encoded = encode(example)
        ids, weights = tensors([encoded], 0, 0.0, 3.0)
        assert ids[0].tolist() == encoded.ids
        assert set(weights[0].tolist()) <= {0.0, 1.0, 3.0}
        assert not weights[0, : encoded.prompt].any()
        counted = [token for token, weight in zip(encoded.ids, weights[0].tolist(), strict=True) if weight]
        text = tokenizer.decode(counted)
        if all(begin == 0 or "\n" in example.completion[begin - 1 : begin + 1] for begin, _ in example.given):
            lines += bool(example.given)
            assert text == learned(example) + tokenizer.eos_token
        else:  # a repetition inside a name may end within a token, which is then not learned either
            assert len(text) <= len(learned(example) + tokenizer.eos_token)
    assert lines > 60


def test_odd_names_repeat_their_parts() -> None:
    rng = random.Random(3)
    names = [
        example.completion.split("] ", 1)[1].split("\n")[0]
        for example in (EXERCISES["copy_odd"](SOURCES, rng) for _ in range(300))
        if "] " in example.completion
    ]
    assert len(names) > 250
    assert sum(bool(re.search(r"(\S+?)[-,/.' ]{0,2}\1", name)) for name in names) > 80
    assert sum(bool(re.search(r"[\dA-Z]", name)) for name in names) > 150


def test_hard_spans_contain_words_that_the_text_repeats() -> None:
    text = "The dose of the first drug and the dose of the second drug rose, while pulse and pressure fell slowly."
    sources = Sources([], [], [text])

    def repeated(kind: str) -> float:
        rng, shares = random.Random(8), []
        for _ in range(200):
            words = EXERCISES[kind](sources, rng).completion.split("] ")[1].split("\n")[0].split()
            shares.append(sum(text.split().count(word) > 1 for word in words))
        return sum(shares) / len(shares)

    assert repeated("copy_hard") > 2 * repeated("copy_one")


def test_the_same_seed_gives_the_same_examples() -> None:
    one, two = ([draw(SOURCES, MIXTURE, random.Random("7-1")) for _ in range(1)] for _ in range(2))
    assert one == two


def test_invented_names_vary() -> None:
    rng = random.Random(0)
    assert len({invent_name(rng) for _ in range(500)}) > 450


def test_tagged_tokens_become_running_text() -> None:
    (sentence,) = parse_iob(IOB, "genes.iob.tsv")
    assert sentence.text == "Mutations in BRCA1-linked cancer (breast)."
    assert [(sentence.text[b:e], kind) for b, e, kind in sentence.spans] == [
        ("BRCA1", "Gene"),
        ("cancer", "Disease"),
        ("breast", "Disease"),
    ]
    with pytest.raises(CorpusFormatError, match=r"x\.tsv:1"):
        list(parse_iob("no tab here\n", "x.tsv"))


@pytest.fixture(scope="module")
def tokenizer_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tokenizer")
    train_tokenizer([d.text for d in SOURCES.documents] * 5, SHAPE.vocabulary, SHAPE.context, folder)
    return folder


@pytest.fixture(scope="module")
def tokenizer(tokenizer_folder: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(tokenizer_folder)


@given(text=st.text(max_size=80).filter(lambda t: not any(0xD800 <= ord(c) < 0xE000 for c in t)))
def test_the_tokenizer_reproduces_every_text(tokenizer: Any, text: str) -> None:
    assert tokenizer.decode(tokenizer(text, add_special_tokens=False)["input_ids"]) == text


def test_the_formats_markers_are_one_token_each(tokenizer: Any) -> None:
    assert all(len(tokenizer(marker, add_special_tokens=False)["input_ids"]) == 1 for marker in MARKERS)
    assert len(tokenizer) <= SHAPE.vocabulary


def _train(
    work: Path,
    tokenizer: Path,
    schedule: ScheduleParams = SCHEDULE,
    phases: tuple[PhaseParams, ...] = PHASES,
    stop_at: int | None = None,
    shape: ArchitectureParams = SHAPE,
) -> dict:
    def on_log(step: int, _: dict[str, float]) -> None:
        if step == stop_at:
            raise KeyboardInterrupt

    params = PretrainingParams(experiment="x", architecture=shape, schedule=schedule, phases=phases)
    return pretrain(SOURCES, SOURCES, tokenizer, work, params, on_log)


def changed(params: Any, **values: Any) -> Any:
    """Return parameters with other values, checked again."""
    return type(params)(**{**params.model_dump(), **values})


def test_resuming_a_killed_run_yields_the_same_weights(tokenizer_folder: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file
    from transformers import AutoModelForCausalLM

    straight = _train(tmp_path / "straight", tokenizer_folder)
    with pytest.raises(KeyboardInterrupt):
        _train(tmp_path / "killed", tokenizer_folder, stop_at=5)
    resumed = _train(tmp_path / "killed", tokenizer_folder)
    assert [h["loss"] for h in resumed["history"]] == [h["loss"] for h in straight["history"]]
    one, two = (load_file(tmp_path / name / "base/model.safetensors") for name in ("straight", "killed"))
    assert all((one[name] == two[name]).all() for name in one)
    assert _train(tmp_path / "killed", tokenizer_folder)["steps"] == straight["steps"], (
        "a finished run does not continue"
    )
    assert straight["history"][-1]["loss"] < straight["history"][0]["loss"]
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "straight/base").config.tie_word_embeddings


def test_a_run_killed_while_it_replaced_its_checkpoint_resumes(tokenizer_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        _train(tmp_path, tokenizer_folder, stop_at=5)
    (tmp_path / "checkpoint").rename(tmp_path / "checkpoint.old")
    _train(tmp_path, tokenizer_folder, stop_at=1)  # would stop a run that started again


def test_a_checkpoint_of_other_settings_is_refused(tokenizer_folder: Path, tmp_path: Path) -> None:
    _train(tmp_path, tokenizer_folder)
    with pytest.raises(BackendError, match="another schedule"):
        _train(tmp_path, tokenizer_folder, schedule=changed(SCHEDULE, learning_rate=0.01))


def test_a_checkpoint_of_another_architecture_is_refused(tokenizer_folder: Path, tmp_path: Path) -> None:
    first = _train(tmp_path, tokenizer_folder)
    for change in ({"context": 256}, {"layers": 3}, {"vocabulary": 700}):
        with pytest.raises(BackendError, match="another architecture"):
            _train(tmp_path, tokenizer_folder, shape=changed(SHAPE, **change))
    progress = tmp_path / "checkpoint/progress.json"
    saved = json.loads(progress.read_text())
    del saved["settings"]["architecture"]  # as in older checkpoints, which call some exercises otherwise too
    older = json.dumps(saved)
    for name, former in (("corruption", "slips"), ("loops", "circles"), ("affixes", "glued")):
        older = older.replace(f'"{name}"', f'"{former}"')
    assert older.count('"slips"') == len(PHASES)
    progress.write_text(older)
    assert _train(tmp_path, tokenizer_folder)["steps"] == first["steps"]


def test_a_phase_that_restarts_the_rates_extends_a_finished_run(tokenizer_folder: Path, tmp_path: Path) -> None:
    first = _train(tmp_path, tokenizer_folder)
    longer = changed(SCHEDULE, tokens=SCHEDULE.tokens * 2)
    before = tuple(changed(phase, until=phase.until / 2) for phase in PHASES)
    with pytest.raises(BackendError, match="another schedule"):
        _train(tmp_path, tokenizer_folder, longer, (*before, changed(PHASES[-1], until=1.0)))
    second = _train(tmp_path, tokenizer_folder, longer, (*before, changed(PHASES[-1], until=1.0, restart=0.5)))
    added = second["history"][len(first["history"]) :]
    assert second["history"][: len(first["history"])] == first["history"]
    rates = [row["learning_rate"] for row in added]
    assert second["tokens"] >= longer.tokens
    assert rates == sorted(rates, reverse=True)
    assert 0.3 * SCHEDULE.learning_rate < rates[0] < 0.5 * SCHEDULE.learning_rate


def test_the_base_is_the_mean_of_the_last_annealed_weights(tokenizer_folder: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file

    before = tuple(changed(phase, until=phase.until / 3) for phase in PHASES)
    phases = (*before, changed(PHASES[-1], until=0.6, restart=0.5), changed(PHASES[-1], until=1.0, restart=0.5))
    mean = changed(SCHEDULE, average=2)
    with pytest.raises(KeyboardInterrupt):
        _train(tmp_path / "one", tokenizer_folder, mean, phases, stop_at=5)
    _train(tmp_path / "one", tokenizer_folder, mean, phases)
    assert sorted(file.name for file in (tmp_path / "one/ends").iterdir()) == [f"{n}.safetensors" for n in (1, 2, 3)]
    ends = [load_file(tmp_path / f"one/ends/{number}.safetensors") for number in (1, 2, 3)]
    base = load_file(tmp_path / "one/base/model.safetensors")
    assert all((base[name] == ((ends[1][name] + ends[2][name]) / 2).bfloat16()).all() for name in base)
    assert any((ends[0][name] != ends[1][name]).any() for name in base)
    _train(tmp_path / "one", tokenizer_folder, SCHEDULE, phases)  # nothing to train: the same run without averaging
    last = load_file(tmp_path / "one/base/model.safetensors")
    assert all((last[name] == ends[2][name].bfloat16()).all() for name in last)
    (tmp_path / "one/ends/2.safetensors").unlink()
    with pytest.raises(BackendError, match="end of phase 3 are missing"):
        _train(tmp_path / "one", tokenizer_folder, mean, phases)
    longer = tuple(changed(phase, until=phase.until / 2) for phase in phases)
    added = (*longer, changed(PHASES[-1], until=1.0, restart=0.5))
    with pytest.raises(BackendError, match="end of phase 3 are missing"):  # before the added tokens are trained on
        _train(tmp_path / "one", tokenizer_folder, changed(mean, tokens=2 * mean.tokens, average=3), added, stop_at=1)
    with pytest.raises(ValidationError, match=r"schedule\.average: the rates fall to zero 1 times, not 2"):
        PretrainingParams(experiment="x", schedule=ScheduleParams(average=2))


def test_decisions_are_names_types_and_ends_of_lists() -> None:
    output = "### Entities:\n1. [Drug] acid\n2. [Symptom] dry mouth\n\n### Relations:\n1. acid --[causes]--> dry mouth"
    marked = "".join("|" * (place in decisions(output)) + letter for place, letter in enumerate(output))
    assert marked == (
        "### Entities:\n|1. [|Drug] |acid|\n2. [|Symptom] |dry mouth|\n\n### Relations:\n"
        "|1. |acid --[|causes]--> |dry mouth"
    ).replace("|\n\n", "|\n|\n")


def test_no_weights_are_pickled(tokenizer_folder: Path, tmp_path: Path) -> None:
    _train(tmp_path, tokenizer_folder)
    assert {f.suffix for f in tmp_path.rglob("*") if f.is_file()} <= {".safetensors", ".json", ".jinja"}
    json.loads((tmp_path / "checkpoint/progress.json").read_text())


def test_the_starting_weights_copy(tokenizer: Any) -> None:
    import torch

    shape = ArchitectureParams(vocabulary=600, hidden=256, layers=2, heads=4, feed_forward=64, context=512)
    model = new_model(shape, tokenizer, seed=1).eval()
    once = torch.randint(10, 600, (8, 60), generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        guesses = model(torch.cat([once, once], dim=1)).logits.argmax(-1)
    # in the second copy, the next token is the one that followed in the first
    assert (guesses[:, 60:-1] == once[:, 1:]).float().mean() > 0.85
    assert (guesses[:, :59] == once[:, 1:]).float().mean() < 0.05


def test_shapes_without_room_for_copy_heads_are_refused(tokenizer: Any) -> None:
    for shape in ({"layers": 1}, {"heads": 2}, {"heads": 16}):
        with pytest.raises(ValidationError, match=r"layers|heads"):
            ArchitectureParams(hidden=64, **shape)
    least = ArchitectureParams(vocabulary=600, hidden=18, heads=3, layers=2, feed_forward=16, context=128)
    assert new_model(least, tokenizer, seed=1)


def test_probes_skip_examples_that_exceed_the_context() -> None:
    from odin_slm.models.base_model import BaseModel
    from odin_slm.pretraining.probes import probe_base

    base = BaseModel("odin-nano", Path(__file__).parents[2] / "data/06_models/odin-nano")
    table = " ".join(f"Row {number} 12.5 mg aspirin;" for number in range(400))  # a single sentence
    some = Sources(SOURCES.documents, [], [*SOURCES.paragraphs, table])
    assert probe_base(base, some, kinds={"copy_one": 12}, seed=1)["copy_one"]["examples"] == 12
    none = Sources([], [], [table])
    assert probe_base(base, none, kinds={"copy_one": 1}, seed=1)["copy_one"]["examples"] == 0


def test_data_parallelism_yields_the_gradient_of_the_whole_batch(tokenizer: Any) -> None:
    import torch

    from odin_slm.pretraining.muon import Muon
    from odin_slm.training.data_parallel import DataParallel

    ids = torch.randint(10, 600, (5, 40), generator=torch.Generator().manual_seed(3))
    scored = torch.rand(ids.shape, generator=torch.Generator().manual_seed(4)).round(decimals=1)
    count = scored[:, 1:].sum().item()
    found = []
    for number in (1, 3):
        model = new_model(SHAPE, tokenizer, seed=1)
        parallel = DataParallel(model, number)
        loss = parallel.backward(lambda m, i, s: weighted_loss(m, i, s, count), ids, scored)
        gradients = [p.grad.clone() for p in model.parameters()]
        matrices = [p for n, p in model.named_parameters() if p.ndim == 2 and "embed" not in n]
        Muon(matrices, lr=0.1, pool=parallel.pool).step()
        losses = parallel.evaluate(
            lambda m, share: weighted_loss(m, *share).item(), [(ids[:n], scored[:n]) for n in (2, 4, 5)]
        )
        parallel.close()
        found.append((loss, gradients, [p.detach().clone() for p in matrices], losses))
    (one, one_gradients, one_weights, one_losses), (many, many_gradients, many_weights, many_losses) = found
    torch.testing.assert_close(many, one)
    torch.testing.assert_close(many_gradients, one_gradients, atol=1e-6, rtol=1e-4)
    torch.testing.assert_close(many_weights, one_weights, atol=2e-3, rtol=1e-2)
    assert many_losses == pytest.approx(one_losses, rel=1e-3)
    # replicas share the weights: the step changed their loss
    assert one_losses[-1] != pytest.approx(float(one), rel=1e-4)


def test_the_pipeline_makes_a_base_with_its_card(project: Path, run: Any, tmp_path: Path) -> None:
    """The whole pipeline in the environment ``test``: tokenizer, two phases, probes, card."""
    text = tmp_path / "texts"
    text.mkdir()
    (text / "plain.txt").write_text(
        "".join(f"{p} It was seen {n} times.\n" for n, p in enumerate(SOURCES.paragraphs * 9))
    )
    (text / "genes.iob.tsv").write_text("\n".join(IOB.replace("BRCA1", f"BRCA{n}") for n in range(30)))
    run("pretraining", params={"text": str(text)})
    base = project / "data/06_models/odin-nano"
    card = (base / "README.md").read_text(encoding="utf-8")
    state = json.loads((base / "pretraining.json").read_text(encoding="utf-8"))
    assert state["state"]["tokens"] >= 12000
    assert "held out: decisions" in card
    assert "plain.txt" in card
    assert set(state["evaluation"]) == {"copy_one", "copy_glued", "copy_spans", "gold", "notes"}
    seen = json.loads((base / "training_documents.json").read_text(encoding="utf-8"))
    splits = json.loads((project / "data/04_feature/test/splits.json").read_text(encoding="utf-8"))
    assert {splits[identifier]["split"] for identifier in seen} == {"train"}
    (text / "plain.txt").write_text("Other words, of which the tokenizer knows nothing.\n" * 40)
    with pytest.raises(BackendError, match="it holds a pretraining on other documents, other texts"):
        run("pretraining", params={"text": str(text)})
