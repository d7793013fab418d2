"""What the embedded base learns from: language, copying, and reading out what a schema asks for.

Verbatim copying is what extraction needs and what a small model finds hardest, so most examples make it unavoidable:
names are swapped for others or for invented words, spans are marked at random, and types and relations are renamed,
so that neither a memorised name nor a memorised label solves the task. A name that opens a text or stands behind a
bracket has other tokens than the same name behind a space, and a model has to learn which belong together: such places
are frequent on purpose. Clinical notes of the project's own generator, with names of the training documents or invented
ones in them, add short texts with several types and relations. Everything is drawn from a seeded generator: the same
seed and step give the same example.
"""

from __future__ import annotations

import random
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise

from odin_slm.corpora.iob import TaggedSentence
from odin_slm.corpora.synthetic import clinical_note
from odin_slm.document import Document, Mention, crop, surface_concept
from odin_slm.prompt import Entity, Extraction, RelationTriple, instruction_for, render, render_prompt
from odin_slm.record import extraction_of
from odin_slm.schema import ENTITY_TYPES, SCHEMAS, Schema
from odin_slm.sentences import sentence_spans

_ONSETS = "b c d f g h l m n p qu r s t v x z br cl cr dr fl gl pr st tr th ph ch sc".split()
_NUCLEI = "a e i o u y ae io ea ou ia eu".split()
_CODAS = " n r s l x m t n d c".split(" ")
_ENDINGS = {
    "Drug": "ine ol ide ate azole mab pril one ium in".split(),
    "Disease": "osis itis emia oma pathy ia uria trophy".split(),
    "Symptom": "algia ache ness ing ling pnea".split(),
}
_TYPE_NAMES = "Substance Condition Finding Term Item Agent Effect Name Object Class Entity Topic Label Key".split()
_RELATION_NAMES = "leads_to helps linked_with acts_on follows precedes affects relates_to".split()
_WORD = re.compile(r"\w+")


@dataclass(frozen=True, slots=True)
class Example:
    """One pretraining example.

    Attributes:
        kind: Name of the exercise, a key of :data:`EXERCISES`.
        prompt: Text before the completion; empty for plain language modelling.
        completion: What follows it.
    """

    kind: str
    prompt: str
    completion: str


@dataclass(frozen=True)
class Sources:
    """The texts that the exercises draw from.

    Attributes:
        documents: Training documents of the corpora.
        sentences: Sentences with typed spans from further collections.
        paragraphs: Plain text.
    """

    documents: Sequence[Document]
    sentences: Sequence[TaggedSentence]
    paragraphs: Sequence[str]
    names: Mapping[str, Sequence[str]] = field(init=False)
    by_source: Mapping[str, Sequence[Document]] = field(init=False)

    def __post_init__(self) -> None:
        by_source: dict[str, list[Document]] = defaultdict(list)
        for document in self.documents:
            by_source[document.source].append(document)
        object.__setattr__(self, "by_source", dict(sorted(by_source.items())))
        names: dict[str, set[str]] = defaultdict(set)
        for document in self.documents:
            for mention in document.mentions:
                names[mention.type].add(mention.text)
        object.__setattr__(self, "names", {kind: sorted(values) for kind, values in names.items()})


def draw(sources: Sources, mixture: Mapping[str, float], rng: random.Random) -> Example:
    """Draw one example: first the exercise by its share in ``mixture``, then its material."""
    kind = rng.choices(list(mixture), weights=list(mixture.values()))[0]
    return EXERCISES[kind](sources, rng)


def language(sources: Sources, rng: random.Random) -> Example:
    """Plain text: a run of sentences of up to 600 characters."""
    text = rng.choice(sources.paragraphs) if sources.paragraphs else rng.choice(sources.documents).text
    begin, end = _sentence_run(text, rng, characters=600)
    return Example("language", "", text[begin:end])


def gold(sources: Sources, rng: random.Random) -> Example:
    """Annotated documents, as they are or with other names in them, under their own or a renamed schema."""
    document = _cropped(sources, rng, (200, 400, 900, 1600))
    if rng.random() < 0.6:
        document = _swap_names(document, sources.names, rng)
    return _under_some_schema("gold", document, rng)


def lists(sources: Sources, rng: random.Random) -> Example:
    """Annotated documents in which one or two of the names have become enumerations, each with the name's relations.

    What an output has listed already, and what comes next, is where a small model loses its way: it repeats an item,
    and then a relation, without end.
    """
    document = _cropped(sources, rng, (200, 200, 400))
    for _ in range(3):
        if not document.mentions:
            document = _cropped(sources, rng, (200, 200, 400))
    if rng.random() < 0.5:
        document = _swap_names(document, sources.names, rng)
    for _ in range(rng.choice((1, 1, 2))):
        document = _enumerate(document, sources.names, rng)
    return _under_some_schema("lists", document, rng)


def notes(sources: Sources, rng: random.Random) -> Example:
    """Clinical notes of the project's own generator; most with names of the training documents or invented ones."""
    document = clinical_note(rng)
    if rng.random() < 0.7:
        document = _swap_names(document, sources.names, rng)
    return _under_some_schema("notes", document, rng)


def tagged(sources: Sources, rng: random.Random) -> Example:
    """Sentences of other collections with the types that they annotate: genes, chemicals, diseases, anatomy."""
    sentence = rng.choice(sources.sentences)
    kinds = tuple(sorted({kind for _, _, kind in sentence.spans})) or (rng.choice(_TYPE_NAMES),)
    entities = {
        (kind, sentence.text[b:e].casefold()): Entity(kind, sentence.text[b:e]) for b, e, kind in sentence.spans
    }
    return _example("tagged", Schema(kinds, ()), sentence.text, Extraction(tuple(entities.values())))


def copy_spans(sources: Sources, rng: random.Random) -> Example:
    """Spans to find and copy in order: marked in the text, or words that exist nowhere else."""
    text = _plain_sentence(sources, rng)
    words = [match.span() for match in _WORD.finditer(text)]
    if not words:
        return _example("copy_spans", Schema((_MARKED,), ()), text, Extraction())
    count = min(len(words), rng.randint(1, 8))
    return (_marked_spans if rng.random() < 0.5 else _invented_words)(text, words, count, rng)


def _marked_spans(text: str, words: Sequence[tuple[int, int]], count: int, rng: random.Random) -> Example:
    spans, last = [], -1
    for first in sorted(rng.sample(range(len(words)), count)):
        if first > last:
            last = min(first + rng.choice((0, 0, 0, 1, 2, 4, 9)), len(words) - 1)
            spans.append((words[first][0], words[last][1]))
    return _marked("copy_spans", text, spans, rng, apart=rng.random() < 0.5)


def copy_one(sources: Sources, rng: random.Random) -> Example:
    """One marked span of one to five words to copy: where it begins and ends, and the same tokens in between."""
    return _one_marked_span("copy_one", sources, rng, apart=True)


def copy_glued(sources: Sources, rng: random.Random) -> Example:
    """The same with marks that touch the span: its first word has other tokens there than where it is written."""
    return _one_marked_span("copy_glued", sources, rng, apart=False)


def copy_hard(sources: Sources, rng: random.Random) -> Example:
    """One marked span of up to sixteen words, many of which the text repeats: a word alone tells not which follows."""
    text, words = _text_and_words(sources, rng, _WORD)
    counts = Counter(text[begin:end] for begin, end in words)

    def repeated(span: Sequence[tuple[int, int]]) -> int:
        return sum(counts[text[begin:end]] > 1 for begin, end in span)

    spans = [_span_of(words, rng, 16) for _ in range(6)]
    return _mark_one("copy_hard", text, max(spans, key=repeated), rng, apart=rng.random() < 0.5)


def copy_odd(sources: Sources, rng: random.Random) -> Example:
    """One marked span full of digits, signs and capitals, or an invented word that stutters.

    A piece of a name that the name itself repeats is where copying runs in circles.
    """
    text, words = _text_and_words(sources, rng, re.compile(r"\w(?:\S*\w)?"))
    if words and rng.random() < 0.5:
        begin, end = rng.choice(words)
        odd = _odd_name(rng)
        return _mark_one("copy_odd", text[:begin] + odd + text[end:], [(begin, begin + len(odd))], rng, apart=True)

    def oddity(span: Sequence[tuple[int, int]]) -> float:
        part = text[span[0][0] : span[-1][1]] if span else ""
        return sum(not (c.islower() or c == " ") for c in part)

    spans = [_span_of(words, rng, 4) for _ in range(8)]
    return _mark_one("copy_odd", text, max(spans, key=oddity), rng, apart=rng.random() < 0.5)


def _odd_name(rng: random.Random) -> str:
    """Return a code, a dose or a word, some of whose parts come twice or more in a row."""

    def part() -> str:
        kind = rng.randrange(4)
        if kind == 0:
            return "".join(rng.choices("ABCDEFGHIKLMNOPRSTX", k=rng.choice((1, 1, 2, 3))))
        if kind == 1:
            return str(rng.choice((rng.randint(1, 9), rng.randint(10, 2000))))
        return rng.choice(_ONSETS) + rng.choice(_NUCLEI) + rng.choice(_CODAS)

    pieces: list[str] = []
    for _ in range(rng.randint(1, 4)):
        pieces += [part()] * rng.choice((1, 1, 2, 2, 3))
    name = rng.choice(("", "", "-", "-", ",", "/", ".", "'-", " ")).join(pieces)
    return name + rng.choice(("", "", rng.choice(_ENDINGS["Drug"]), rng.choice(_ENDINGS["Disease"])))


def _one_marked_span(exercise: str, sources: Sources, rng: random.Random, *, apart: bool) -> Example:
    text, words = _text_and_words(sources, rng, _WORD)
    return _mark_one(exercise, text, _span_of(words, rng, 5), rng, apart=apart)


def _text_and_words(
    sources: Sources, rng: random.Random, word: re.Pattern[str]
) -> tuple[str, Sequence[tuple[int, int]]]:
    text = _plain_sentence(sources, rng, characters=rng.choice((120, 220, 500)))
    return text, [match.span() for match in word.finditer(text)]


def _span_of(words: Sequence[tuple[int, int]], rng: random.Random, at_most: int) -> Sequence[tuple[int, int]]:
    """Draw up to so many words in a row; none of none."""
    if not words:
        return []
    first = rng.randrange(len(words))
    return words[first : first + 1 + rng.randrange(at_most)]


def _mark_one(exercise: str, text: str, span: Sequence[tuple[int, int]], rng: random.Random, *, apart: bool) -> Example:
    if not span:
        return _example(exercise, Schema((_MARKED,), ()), text, Extraction())
    return _marked(exercise, text, [(span[0][0], span[-1][1])], rng, apart=apart)


_MARKED = "Marked"
_MARKS = (("*", "*"), ("<", ">"), ("[", "]"), ("{", "}"), ('"', '"'), ("(", ")"))


def _marked(exercise: str, text: str, spans: Sequence[tuple[int, int]], rng: random.Random, *, apart: bool) -> Example:
    """Mark spans by signs that the text itself has not, and ask for what stands between them.

    The type has a name that is asked for nowhere else: whether a bracket means anything is not what is to be learned.
    """
    left, right = rng.choice([marks for marks in _MARKS if not set(marks) & set(text)] or [("<<", ">>")])
    if apart:  # a space between mark and word leaves the word the tokens that it has in running text
        left, right = f"{left} ", f" {right}"
    marked, position = "", 0
    chosen: dict[str, Entity] = {}
    for begin, end in spans:
        marked += text[position:begin] + left + text[begin:end] + right
        chosen.setdefault(text[begin:end].casefold(), Entity(_MARKED, text[begin:end]))
        position = end
    entities = tuple(chosen.values())
    relations: tuple[RelationTriple, ...] = ()
    if len(entities) > 1 and rng.random() < 0.5:  # an end of a relation is copied once more, from text or list
        relations = tuple(RelationTriple(a.text, "precedes", b.text) for a, b in pairwise(entities))
    schema = Schema((_MARKED,), ("precedes",) if relations else ())
    return _example(exercise, schema, marked + text[position:], Extraction(entities, relations))


def _invented_words(text: str, words: Sequence[tuple[int, int]], count: int, rng: random.Random) -> Example:
    """Put words into a text that no other holds; their endings tell of which type they are."""
    pieces, position = [], 0
    chosen: dict[str, Entity] = {}
    starts = rng.sample(words, count)
    if rng.random() < 0.3:
        starts[0] = words[0]
    for begin, _ in sorted(set(starts)):
        kind = rng.choice(list(_ENDINGS))
        word = invent_name(rng, kind)
        if begin == words[0][0] and rng.random() < 0.7:
            word = word[0].upper() + word[1:]
        chosen.setdefault(word.casefold(), Entity(kind, word))
        before, after = rng.choice(_PLACES)
        pieces += [text[position:begin], before, word, after, " "]
        position = begin
    every = tuple(_ENDINGS)
    wanted = rng.choice((every[:1], every[1:2], every[:2], every[::2], every, every))
    entities = tuple(entity for entity in chosen.values() if entity.type in wanted)
    return _example("copy_spans", Schema(wanted, ()), "".join(pieces) + text[position:], Extraction(entities))


_PLACES = (*[("", "")] * 4, ("", ","), ("", "-induced"), ("(", ")"), ("anti-", ""), ("", ", and"))
"""What stands right before and after an invented word."""


def nothing(sources: Sources, rng: random.Random) -> Example:
    """A text in which the schema finds nothing; drawn from documents without mentions where there are any."""
    for _ in range(8):
        document = rng.choice(sources.documents)
        if not document.mentions:
            return _example("nothing", SCHEMAS[document.source], document.text, Extraction())
    kinds = tuple(rng.sample(_TYPE_NAMES, 1))
    return _example("nothing", Schema(kinds, ()), _plain_sentence(sources, rng), Extraction())


EXERCISES: dict[str, Callable[[Sources, random.Random], Example]] = {
    "language": language,
    "gold": gold,
    "lists": lists,
    "notes": notes,
    "tagged": tagged,
    "copy_spans": copy_spans,
    "copy_one": copy_one,
    "copy_glued": copy_glued,
    "copy_hard": copy_hard,
    "copy_odd": copy_odd,
    "nothing": nothing,
}
"""The exercises by the names that a mixture uses."""


def invent_name(rng: random.Random, kind: str | None = None) -> str:
    """Return a word that exists nowhere, sometimes with a number, a capital or a second part, as drug names have.

    Args:
        rng: Source of the draws.
        kind: Key of the endings to choose from; None takes any.
    """
    endings = _ENDINGS[kind] if kind else [ending for group in _ENDINGS.values() for ending in group]
    syllables = "".join(
        rng.choice(_ONSETS) + rng.choice(_NUCLEI) + rng.choice(_CODAS) for _ in range(rng.choice((1, 2, 2, 3)))
    )
    word = syllables + rng.choice(endings)
    draw = rng.random()
    if draw < 0.15:
        return word.capitalize()
    if draw < 0.25 and kind in (None, "Drug"):
        return f"{word[:4].upper()}-{rng.randint(1, 999)}"
    if draw < 0.40:
        return f"{word} {rng.choice(_ONSETS)}{rng.choice(_NUCLEI)}{rng.choice(endings)}"
    return word


def _under_some_schema(kind: str, document: Document, rng: random.Random) -> Example:
    """Ask for what the document's own schema annotates, or under other names, or for one type alone."""
    schema, extraction = SCHEMAS[document.source], extraction_of(document)
    draw = rng.random()
    if draw < 0.2:
        schema, extraction = _rename(schema, extraction, rng)
    elif draw < 0.35:
        schema, extraction = _narrow(schema, extraction, rng)
    return _example(kind, schema, document.text, extraction)


def _example(kind: str, schema: Schema, text: str, extraction: Extraction) -> Example:
    return Example(kind, render_prompt(instruction_for(schema), text), render(extraction))


def _cropped(sources: Sources, rng: random.Random, characters: Sequence[int]) -> Document:
    """Draw some sentences of an annotated document.

    Every source has an equal share: ADE has ten times as many documents as the corpora of whole abstracts.
    """
    document = rng.choice(sources.by_source[rng.choice(list(sources.by_source))])
    begin, end = _sentence_run(document.text, rng, characters=rng.choice(characters))
    return crop(document, begin, end, "")


def _plain_sentence(sources: Sources, rng: random.Random, *, characters: int = 220) -> str:
    kinds = [kind for kind in (sources.paragraphs, sources.sentences) if kind]
    if kinds and rng.choice(kinds) is sources.sentences:
        text = rng.choice(sources.sentences).text
    elif sources.paragraphs:
        text = rng.choice(sources.paragraphs)
    else:
        text = rng.choice(sources.documents).text
    begin, end = _sentence_run(text, rng, characters=characters)
    return text[begin:end]


def _sentence_run(text: str, rng: random.Random, *, characters: int) -> tuple[int, int]:
    """Choose consecutive sentences of at most ``characters`` together; a longer single one is kept whole."""
    spans = sentence_spans(text)
    first = rng.randrange(len(spans))
    last = first
    while last + 1 < len(spans) and spans[last + 1][1] - spans[first][0] <= characters:
        last += 1
    return spans[first][0], spans[last][1]


def _swap_names(document: Document, names: Mapping[str, Sequence[str]], rng: random.Random) -> Document:
    """Replace every surface by another name of its type or by an invented one; equal surfaces change equally."""
    mentions = [m for i, m in enumerate(document.mentions) if i == 0 or m.begin >= document.mentions[i - 1].end]
    if len(mentions) < len(document.mentions):  # nested or overlapping spans cannot be swapped one by one
        return document
    invented = rng.random() < 0.5
    new_names: dict[tuple[str, str], str] = {}
    text, position = "", 0
    swapped: list[Mention] = []
    for mention in mentions:
        key = (mention.type, mention.text.casefold())
        if key not in new_names:
            known = names.get(mention.type)
            new_names[key] = rng.choice(known) if known and not invented else invent_name(rng, mention.type)
        name = new_names[key]
        text += document.text[position : mention.begin]
        swapped.append(replace(mention, begin=len(text), end=len(text) + len(name), text=name))
        text += name
        position = mention.end
    return replace(document, text=text + document.text[position:], mentions=tuple(swapped))


def _enumerate(document: Document, names: Mapping[str, Sequence[str]], rng: random.Random) -> Document:
    """Put an enumeration of names in the place of a mention; those added relate as the mention's concept does."""
    mentions = document.mentions
    alone = [
        mention
        for i, mention in enumerate(mentions)
        if len(mention.concepts) == 1 and not any(_overlap(mention, other) for other in mentions if other != mention)
    ]
    if not alone:
        return document
    chosen = rng.choice(alone)
    taken, added = document.text.casefold(), list[str]()
    for _ in range(rng.choice((1, 2, 2, 3, 3, 4, 5, 6))):
        known = names.get(chosen.type)
        name = rng.choice(known) if known and rng.random() < 0.6 else invent_name(rng, chosen.type)
        if name.casefold() not in taken:  # what the text has already may be another concept's
            added.append(name)
            taken += " " + name.casefold()
    if not added:
        return document
    last = rng.choice((" and ", ", and ", ", and ", " or ", ", "))
    text, position = document.text[: chosen.end], chosen.end
    items = []
    for number, name in enumerate(added):
        text += last if number == len(added) - 1 else ", "
        items.append(Mention(len(text), len(text) + len(name), name, chosen.type, (surface_concept(name),)))
        text += name
    longer = len(text) - position
    moved = [replace(m, begin=m.begin + longer, end=m.end + longer) if m.begin >= position else m for m in mentions]
    relations = list(document.relations)
    for item in items:
        for relation in document.relations:
            if chosen.concepts[0] == relation.head:
                relations.append(replace(relation, head=item.concepts[0]))
            elif chosen.concepts[0] == relation.tail:
                relations.append(replace(relation, tail=item.concepts[0]))
    return replace(
        document,
        text=text + document.text[position:],
        mentions=tuple(sorted([*moved, *items])),
        relations=tuple(relations),
    )


def _overlap(one: Mention, other: Mention) -> bool:
    return one.begin < other.end and other.begin < one.end


def _rename(schema: Schema, extraction: Extraction, rng: random.Random) -> tuple[Schema, Extraction]:
    """Give the types and relations other names, the same ones in instruction and output."""
    types = dict(zip(schema.entities, rng.sample(_TYPE_NAMES, len(schema.entities)), strict=True))
    relations = dict(zip(schema.relations, rng.sample(_RELATION_NAMES, len(schema.relations)), strict=True))
    return (
        Schema(tuple(types.values()), tuple(relations.values())),
        Extraction(
            tuple(Entity(types[e.type], e.text) for e in extraction.entities),
            tuple(RelationTriple(r.head, relations[r.type], r.tail) for r in extraction.relations),
        ),
    )


def _narrow(schema: Schema, extraction: Extraction, rng: random.Random) -> tuple[Schema, Extraction]:
    """Ask for one entity type alone, without relations."""
    kind = rng.choice([t for t in ENTITY_TYPES if t in schema.entities])
    return Schema((kind,), ()), Extraction(tuple(e for e in extraction.entities if e.type == kind))
