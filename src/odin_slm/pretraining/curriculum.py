"""Curriculum of the embedded base: exercises in language, in copying, and in extracting what a schema names.

Extraction needs verbatim copying, which a small model finds hardest, so most exercises cannot be solved without it:
names are replaced by other or invented names, spans are marked at random, and types and relations are renamed. Neither
a memorised name nor a memorised label helps. A name at the start of a text or after a bracket has other tokens than the
same name after a space, and the model has to learn which tokens belong together; such places are frequent on purpose.
The other difficulty is to keep track of what an output has already listed. Enumerations, names that a text repeats, and
corrupted outputs train that. Clinical notes of the project's own generator, with names from the training documents or
invented ones, add short texts with several types and relations. Everything is drawn from a seeded generator: the same
seed and step yield the same example.
"""

from __future__ import annotations

import random
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise

from odin_slm.core.document import Document, crop
from odin_slm.core.record import render_prompt
from odin_slm.core.sentences import sentence_spans
from odin_slm.corpora.iob import TaggedSentence
from odin_slm.corpora.synthetic.generator import clinical_note
from odin_slm.pretraining.augmentation import (
    TYPE_NAMES,
    add_affixes,
    narrow,
    put_enumeration,
    rename,
    repeat_names,
    swap_names,
)
from odin_slm.pretraining.corruption import corrupt
from odin_slm.pretraining.name_generator import ENDINGS, invent_name, odd_name, random_span, word_spans
from odin_slm.tasks.extraction.format import Entity, Extraction, RelationTriple, instruction_for, render
from odin_slm.tasks.extraction.records import extraction_of
from odin_slm.tasks.extraction.schema import SCHEMAS, Schema

_ODD_WORD = re.compile(r"\w(?:\S*\w)?")


@dataclass(frozen=True, slots=True)
class Example:
    """One pretraining example.

    Attributes:
        kind: Name of the exercise, a key of :data:`EXERCISES`.
        prompt: Text before the completion; empty for plain language modelling.
        completion: Text to learn.
        given: (begin, end) of parts of the completion that are read but not learned, in order.
    """

    kind: str
    prompt: str
    completion: str
    given: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True)
class Sources:
    """The texts from which the exercises draw.

    Attributes:
        documents: Training documents of the corpora.
        sentences: Sentences with typed spans from other collections.
        paragraphs: Plain text.
        names: Type -> surfaces of the documents' mentions, sorted.
        by_source: Corpus -> its documents.
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
    """Draw an exercise by its share in ``mixture``, then an example of it."""
    kind = rng.choices(list(mixture), weights=list(mixture.values()))[0]
    return EXERCISES[kind](sources, rng)


def language(sources: Sources, rng: random.Random) -> Example:
    """Plain text: consecutive sentences of up to 600 characters."""
    text = rng.choice(sources.paragraphs) if sources.paragraphs else rng.choice(sources.documents).text
    begin, end = _sentence_run(text, rng, characters=600)
    return Example("language", "", text[begin:end])


def gold(sources: Sources, rng: random.Random) -> Example:
    """Annotated documents with their own or other names, under their own, a renamed or a narrowed schema."""
    return _under_some_schema("gold", _gold_document(sources, rng), rng)


def lists(sources: Sources, rng: random.Random) -> Example:
    """Annotated documents in which one or two names are extended to enumerations that share the name's relations.

    A small model loses track of what it has already listed, and then repeats an item or a relation without end.
    """
    return _under_some_schema("lists", _listing_document(sources, rng), rng)


def products(sources: Sources, rng: random.Random) -> Example:
    """Annotated sentences in which both arguments of a relation are extended to enumerations: all pairs are related.

    The next pair has to be derived from the previous pair and the list, for long names and similar names.
    """
    return _under_some_schema("products", _product_document(sources, rng), rng)


def repeats(sources: Sources, rng: random.Random) -> Example:
    """Texts that repeat a few names, each of which has to be listed once, in the order of first occurrence.

    Half of the texts are annotated documents whose mentions share a few names; half are plain texts with invented
    words.
    """
    if rng.random() < 0.5:
        document = repeat_names(_cropped(sources, rng, (400, 900, 1600)), sources.names, rng)
        schema = Schema(SCHEMAS[document.source].entities, ())
        return _example("repeats", schema, document.text, replace(extraction_of(document), relations=()))
    text, words = _text_and_words(sources, rng)
    if len(words) < 2:
        return _example("repeats", Schema(tuple(ENDINGS), ()), text, Extraction())
    names = [(kind, invent_name(rng, kind)) for kind in rng.choices(list(ENDINGS), k=rng.randint(1, 6))]
    places = rng.sample(words, min(len(words), rng.randint(2, 14)))
    return _with_names("repeats", text, words, places, lambda: rng.choice(names), rng)


def corruption(sources: Sources, rng: random.Random) -> Example:
    """Corrupted outputs: the model learns to recover from errors in its prefix.

    Names or relations are repeated, wrong, or stutter. A model that has only seen correct prefixes cannot recover from
    its own errors and repeats them without end (exposure bias; Ranzato et al., 2016). The errors are read, not learned.
    """
    make = rng.choice((_gold_document, _gold_document, _gold_document, _listing_document, _note_document))
    document = make(sources, rng)
    schema, extraction = _some_schema(document, rng)
    completion, given = corrupt(extraction, schema, document.text, rng)
    return Example("corruption", render_prompt(instruction_for(schema), document.text), completion, given)


def loops(sources: Sources, rng: random.Random) -> Example:
    """Corrupted outputs with repetition loops in long lists of relations, from which the model learns to recover.

    As :func:`corruption`, but on the texts of :func:`products`: up to three items repeat in turn, tails of relations
    are cut off, and names stutter for longer.
    """
    document = _product_document(sources, rng)
    schema, extraction = _some_schema(document, rng)
    completion, given = corrupt(extraction, schema, document.text, rng, looping=True)
    return Example("loops", render_prompt(instruction_for(schema), document.text), completion, given)


def affixes(sources: Sources, rng: random.Random) -> Example:
    """Annotated documents in which a prefix, a bracket or a dash touches some of the names.

    Such a name has other tokens than in the output, where it follows a space.
    """
    document = _cropped_with(sources, rng, lambda document: bool(document.mentions), tries=3)
    if rng.random() < 0.6:
        document = swap_names(document, sources.names, rng)
    return _under_some_schema("affixes", add_affixes(document, rng), rng)


def notes(sources: Sources, rng: random.Random) -> Example:
    """Clinical notes of the project's own generator, most with names from the training documents or invented names."""
    return _under_some_schema("notes", _note_document(sources, rng), rng)


def tagged(sources: Sources, rng: random.Random) -> Example:
    """Sentences of other collections with the types annotated there: genes, chemicals, diseases, anatomy."""
    if not sources.sentences:  # as where texts of other collections hold none
        return nothing(sources, rng)
    sentence = rng.choice(sources.sentences)
    kinds = tuple(sorted({kind for _, _, kind in sentence.spans})) or (rng.choice(TYPE_NAMES),)
    entities = {
        (kind, sentence.text[b:e].casefold()): Entity(kind, sentence.text[b:e]) for b, e, kind in sentence.spans
    }
    return _example("tagged", Schema(kinds, ()), sentence.text, Extraction(tuple(entities.values())))


def copy_spans(sources: Sources, rng: random.Random) -> Example:
    """Spans to copy in order: marked in the text, or invented words."""
    text = _plain_sentence(sources, rng)
    words = word_spans(text)
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
    """One marked span of one to five words to copy, with the same tokens as in the output."""
    return _one_marked_span("copy_one", sources, rng, apart=True)


def copy_glued(sources: Sources, rng: random.Random) -> Example:
    """The same with marks that touch the span, so its first word has other tokens than in the output."""
    return _one_marked_span("copy_glued", sources, rng, apart=False)


def copy_hard(sources: Sources, rng: random.Random) -> Example:
    """One marked span of up to sixteen words, many repeated in the text, so one word does not determine the next."""
    text, words = _text_and_words(sources, rng)
    counts = Counter(text[begin:end] for begin, end in words)

    def repeated(span: Sequence[tuple[int, int]]) -> int:
        return sum(counts[text[begin:end]] > 1 for begin, end in span)

    spans = [random_span(words, rng, 16) for _ in range(6)]
    return _mark_one("copy_hard", text, max(spans, key=repeated), rng, apart=rng.random() < 0.5)


def copy_odd(sources: Sources, rng: random.Random) -> Example:
    """One marked span full of digits, signs and capitals, or an invented word that stutters.

    Copying a name tends to loop at a part that the name itself repeats.
    """
    text, _ = _text_and_words(sources, rng)
    words = [match.span() for match in _ODD_WORD.finditer(text)]
    if words and rng.random() < 0.5:
        begin, end = rng.choice(words)
        odd = odd_name(rng)
        return _mark_one("copy_odd", text[:begin] + odd + text[end:], [(begin, begin + len(odd))], rng, apart=True)

    def oddity(span: Sequence[tuple[int, int]]) -> float:
        part = text[span[0][0] : span[-1][1]] if span else ""
        return sum(not (c.islower() or c == " ") for c in part)

    spans = [random_span(words, rng, 4) for _ in range(8)]
    return _mark_one("copy_odd", text, max(spans, key=oddity), rng, apart=rng.random() < 0.5)


def _one_marked_span(exercise: str, sources: Sources, rng: random.Random, *, apart: bool) -> Example:
    text, words = _text_and_words(sources, rng)
    return _mark_one(exercise, text, random_span(words, rng, 5), rng, apart=apart)


def _text_and_words(sources: Sources, rng: random.Random) -> tuple[str, list[tuple[int, int]]]:
    text = _plain_sentence(sources, rng, characters=rng.choice((120, 220, 500)))
    return text, word_spans(text)


def _mark_one(exercise: str, text: str, span: Sequence[tuple[int, int]], rng: random.Random, *, apart: bool) -> Example:
    if not span:
        return _example(exercise, Schema((_MARKED,), ()), text, Extraction())
    return _marked(exercise, text, [(span[0][0], span[-1][1])], rng, apart=apart)


_MARKED = "Marked"
_MARKS = (("*", "*"), ("<", ">"), ("[", "]"), ("{", "}"), ('"', '"'), ("(", ")"))


def _marked(exercise: str, text: str, spans: Sequence[tuple[int, int]], rng: random.Random, *, apart: bool) -> Example:
    """Mark spans with signs that do not occur in the text, and ask for the marked spans.

    Their type has a name that no other exercise uses; otherwise the model would learn that brackets mark entities.
    """
    left, right = rng.choice([marks for marks in _MARKS if not set(marks) & set(text)] or [("<<", ">>")])
    if apart:  # after a space, a word has the tokens that it has in running text
        left, right = f"{left} ", f" {right}"
    marked, position = "", 0
    chosen: dict[str, Entity] = {}
    for begin, end in spans:
        marked += text[position:begin] + left + text[begin:end] + right
        chosen.setdefault(text[begin:end].casefold(), Entity(_MARKED, text[begin:end]))
        position = end
    entities = tuple(chosen.values())
    relations: tuple[RelationTriple, ...] = ()
    if len(entities) > 1 and rng.random() < 0.5:  # the arguments of a relation are copied again
        relations = tuple(RelationTriple(a.text, "precedes", b.text) for a, b in pairwise(entities))
    schema = Schema((_MARKED,), ("precedes",) if relations else ())
    return _example(exercise, schema, marked + text[position:], Extraction(entities, relations))


def _invented_words(text: str, words: Sequence[tuple[int, int]], count: int, rng: random.Random) -> Example:
    """Insert invented words into a text."""

    def name() -> tuple[str, str]:
        kind = rng.choice(list(ENDINGS))
        return kind, invent_name(rng, kind)

    places = rng.sample(words, count)
    if rng.random() < 0.3:
        places[0] = words[0]
    return _with_names("copy_spans", text, words, places, name, rng)


def _with_names(
    exercise: str,
    text: str,
    words: Sequence[tuple[int, int]],
    places: Sequence[tuple[int, int]],
    name: Callable[[], tuple[str, str]],
    rng: random.Random,
) -> Example:
    """Insert invented names before some words of a text; their endings show their type."""
    pieces, position = [], 0
    chosen: dict[str, Entity] = {}
    for begin, _ in sorted(set(places)):
        kind, word = name()
        if begin == words[0][0] and rng.random() < 0.7:
            word = word[0].upper() + word[1:]
        chosen.setdefault(word.casefold(), Entity(kind, word))
        before, after = rng.choice(_PLACES)
        pieces += [text[position:begin], before, word, after, " "]
        position = begin
    every = tuple(ENDINGS)
    types = rng.choice((every[:1], every[1:2], every[:2], every[::2], every, every))
    entities = tuple(entity for entity in chosen.values() if entity.type in types)
    return _example(exercise, Schema(types, ()), "".join(pieces) + text[position:], Extraction(entities))


_PLACES = (*[("", "")] * 4, ("", ","), ("", "-induced"), ("(", ")"), ("anti-", ""), ("", ", and"))
"""Strings directly before and after an invented word."""


def nothing(sources: Sources, rng: random.Random) -> Example:
    """Texts without anything that the schema names; documents without mentions if there are any."""
    for _ in range(8):
        document = rng.choice(sources.documents)
        if not document.mentions:
            return _example("nothing", SCHEMAS[document.source], document.text, Extraction())
    kinds = tuple(rng.sample(TYPE_NAMES, 1))
    return _example("nothing", Schema(kinds, ()), _plain_sentence(sources, rng), Extraction())


EXERCISES: dict[str, Callable[[Sources, random.Random], Example]] = {
    "language": language,
    "gold": gold,
    "lists": lists,
    "products": products,
    "repeats": repeats,
    "corruption": corruption,
    "loops": loops,
    "affixes": affixes,
    "notes": notes,
    "tagged": tagged,
    "copy_spans": copy_spans,
    "copy_one": copy_one,
    "copy_glued": copy_glued,
    "copy_hard": copy_hard,
    "copy_odd": copy_odd,
    "nothing": nothing,
}
"""The exercises by their names in a mixture."""


def _gold_document(sources: Sources, rng: random.Random) -> Document:
    document = _cropped(sources, rng, (200, 400, 900, 1600))
    return swap_names(document, sources.names, rng) if rng.random() < 0.6 else document


def _listing_document(sources: Sources, rng: random.Random) -> Document:
    document = _cropped_with(sources, rng, lambda document: bool(document.mentions), tries=3)
    if rng.random() < 0.5:
        document = swap_names(document, sources.names, rng)
    for _ in range(rng.choice((1, 1, 2))):
        document = put_enumeration(document, sources.names, rng)
    return document


def _product_document(sources: Sources, rng: random.Random) -> Document:
    document = _cropped_with(sources, rng, lambda document: bool(document.relations), tries=6)
    if rng.random() < 0.5:
        document = swap_names(document, sources.names, rng)
    if document.relations:
        relation = rng.choice(document.relations)
        for concept in rng.sample((relation.head, relation.tail), rng.choice((1, 2, 2))):
            document = put_enumeration(document, sources.names, rng, {concept})
    return document


def _note_document(sources: Sources, rng: random.Random) -> Document:
    document = clinical_note(rng)
    if rng.random() < 0.7:
        document = swap_names(document, sources.names, rng)
    return document


def _under_some_schema(kind: str, document: Document, rng: random.Random) -> Example:
    schema, extraction = _some_schema(document, rng)
    return _example(kind, schema, document.text, extraction)


def _some_schema(document: Document, rng: random.Random) -> tuple[Schema, Extraction]:
    """Return the document's own schema, the schema with other names, or one type alone."""
    schema, extraction = SCHEMAS[document.source], extraction_of(document)
    draw = rng.random()
    if draw < 0.2:
        return rename(schema, extraction, rng)
    if draw < 0.35:
        return narrow(schema, extraction, rng)
    return schema, extraction


def _example(kind: str, schema: Schema, text: str, extraction: Extraction) -> Example:
    return Example(kind, render_prompt(instruction_for(schema), text), render(extraction))


def _cropped(sources: Sources, rng: random.Random, characters: Sequence[int]) -> Document:
    """Draw some sentences of an annotated document.

    Every corpus has an equal share, although ADE has ten times as many documents as the corpora of whole abstracts.
    """
    document = rng.choice(sources.by_source[rng.choice(list(sources.by_source))])
    begin, end = _sentence_run(document.text, rng, characters=rng.choice(characters))
    return crop(document, begin, end, "")


def _cropped_with(sources: Sources, rng: random.Random, accept: Callable[[Document], bool], *, tries: int) -> Document:
    """Draw a few sentences until they are accepted, again at most ``tries`` times."""
    document = _cropped(sources, rng, (200, 200, 400))
    for _ in range(tries):
        if not accept(document):
            document = _cropped(sources, rng, (200, 200, 400))
    return document


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
    """Choose consecutive sentences of at most ``characters`` in total; a single longer sentence is kept whole."""
    spans = sentence_spans(text)
    first = rng.randrange(len(spans))
    last = first
    while last + 1 < len(spans) and spans[last + 1][1] - spans[first][0] <= characters:
        last += 1
    return spans[first][0], spans[last][1]
