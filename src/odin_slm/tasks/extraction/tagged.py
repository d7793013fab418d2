r"""Two other forms of an output's entities, which say where in the text they stand; relations follow as in a list.

``inline`` is the text over again. The type stands in brackets before an entity, and a line break ends it, so that
every line but the last holds one::

    ### Text:
    Cough and[Symptom] rash
     developed after[Drug] enalapril
    .

``numbered`` lists every occurrence, and counts those of the same name::

    ### Mentions:
    1. [Symptom] rash #1
    2. [Drug] enalapril #1

The bracket stands before the white space that precedes an entity, as the tokens of the text then stay what they are in
the prompt. In both forms an entity begins and ends at the edge of a word or a mark, and entities do not overlap.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Literal, get_args

from odin_slm.core.folding import chunks, fold
from odin_slm.tasks.lark import literal

Form = Literal["list", "inline", "numbered"]
FORMS: tuple[str, ...] = get_args(Form)
TEXT_HEADER = "### Text:"
MENTIONS_HEADER = "### Mentions:"
HEADERS = (TEXT_HEADER, MENTIONS_HEADER)
NOTHING = "None"

Place = tuple[int, int, str]
"""Begin, end and type of an entity in a text."""

_ESCAPED = re.compile(r"\\(.)", re.DOTALL)
_MARKS = re.compile(r"(\\.)|\[[^]]*\]|\n")
_OPEN = re.compile(r"(?<!\\)(?:\\\\)*\[")
_PLAIN = r"([^\[\\\n]|\\[nr\[\\])"


def apart(places: Iterable[Place], text: str) -> list[Place]:
    """Return those places of a text that can be written together, in their order: of two that overlap, the longer."""
    begins, ends, place = set[int](), set[int](), 0
    for chunk in chunks(text):
        if not chunk.isspace():
            begins.add(place)
            ends.add(place + len(chunk))
        place += len(chunk)
    taken = bytearray(len(text))
    kept = []
    for begin, end, kind in sorted(places, key=lambda place: (place[0] - place[1], place[0])):
        if begin in begins and end in ends and not any(taken[begin:end]):
            taken[begin:end] = b"\1" * (end - begin)
            kept.append((begin, end, kind))
    return sorted(kept)


def inline(text: str, places: Sequence[Place]) -> str:
    """Return the text with the entities at some places of it, which do not overlap, in their order."""
    written, last = [], 0
    for begin, end, kind in places:
        before = text[last:begin]
        plain = before.rstrip()
        written.append(f"{_escape(plain)}[{kind}]{_escape(before[len(plain) :] + text[begin:end])}")
        last = end
    rest = _escape(text[last:].rstrip())
    return "\n".join([TEXT_HEADER, *written, *([rest] if rest else [])])


def numbered(text: str, places: Sequence[Place]) -> str:
    """Return the list of the entities at some places of a text."""
    counts: Counter[tuple[str, str]] = Counter()
    lines = []
    for number, (begin, end, kind) in enumerate(places, start=1):
        counts[key := (kind, fold(text[begin:end]))] += 1
        lines.append(f"{number}. [{kind}] {escape(text[begin:end])} #{counts[key]}")
    return "\n".join([MENTIONS_HEADER, *(lines or [NOTHING])])


def read(section: str, types: tuple[str, ...]) -> tuple[list[tuple[str, str]], list[int], list[str]]:
    """Read either form up to its relations.

    Returns:
        (Type, text) of every entity once, as it stands where it is named first; the numbers of their lines, from 0; and
        the lines that follow no rule of the form.
    """
    header, *lines = section.split("\n")
    an_entity, plain = _patterns(header, types)
    found: dict[tuple[str, str], tuple[str, int]] = {}
    malformed = [] if header in HEADERS else [header]
    for number, line in enumerate(lines, start=1):
        match = an_entity.fullmatch(line)
        if match and (text := unescape(match["text"]).strip()):
            found.setdefault((match["type"], fold(text)), (text, number))
        elif not (plain.fullmatch(line) and number == len(lines)):
            malformed.append(line)
    entities = [(kind, text) for (kind, _), (text, _) in found.items()]
    return entities, [number for _, number in found.values()], malformed


@lru_cache(maxsize=16)
def _patterns(header: str, types: tuple[str, ...]) -> tuple[re.Pattern[str], re.Pattern[str]]:
    """Return the patterns of a line with an entity, and of a line without one."""
    kinds = "|".join(map(re.escape, types))
    if header == TEXT_HEADER:
        return re.compile(rf"{_PLAIN}*\[(?P<type>{kinds})\](?P<text>{_PLAIN}+)"), re.compile(f"{_PLAIN}*")
    return re.compile(rf"[0-9]+\. \[(?P<type>{kinds})\] (?P<text>.+) #[0-9]+"), re.compile(NOTHING)


def inline_lark(text: str, types: Sequence[str], end: str) -> str:
    """Return the grammar of a text with tags of some types in it, up to and with ``end``, a section's heading.

    It is one regular expression: the text, with room for a tag and a line break around every word and mark, and the
    alternation of tag and line break.
    """
    header = literal(f"{TEXT_HEADER}\n")
    units, space = [], ""
    for chunk in chunks(text.rstrip()):
        if chunk.isspace():
            space = chunk
        else:
            units.append(_escape(space + chunk))
            space = ""
    if not units:
        return f"start: {header} {literal(end)}\n"
    kinds = "|".join(map(_pattern, types))
    tag = rf"\[({kinds})\]"
    body = "".join(f"({tag})?{_pattern(unit)}\\n?" for unit in units).removesuffix("\\n?")
    shape = rf"({_PLAIN}*{tag}{_PLAIN}+\n)*({_PLAIN}*{tag}{_PLAIN}+|{_PLAIN}+)"
    return f"start: {header} BODY {literal(end)}\nBODY: /{body}/ & /{shape}/\n"


def rest(text: str, written: str) -> str:
    """Return what of a text is not written yet, as it is written without tags; nothing within a tag or behind the text.

    Args:
        text: The text.
        written: The begin of an ``inline`` output.
    """
    body = written.removeprefix(f"{TEXT_HEADER}\n")
    if body == written or "\n\n" in body:
        return ""
    plain = _MARKS.sub(lambda match: match[1] or "", body)
    return "" if _OPEN.search(plain) else _escape(text[len(unescape(plain)) :].rstrip())


def _pattern(text: str) -> str:
    """Return a regular expression, between slashes, that matches a text alone."""
    return "".join(sign if sign.isalnum() or sign == " " else f"\\x{{{ord(sign):x}}}" for sign in text)


def _escape(text: str) -> str:
    return escape(text, "[")


def escape(text: str, before: str = "--[") -> str:
    """Return a text as a line holds it; a bracket that ends ``before`` is escaped, too."""
    text = text.replace("\\", "\\\\").replace("\n", "\\n").replace("\r", "\\r")
    return text.replace(before, f"{before[:-1]}\\[")


def unescape(text: str) -> str:
    """Return what was escaped."""
    if "\\" not in text:
        return text
    return _ESCAPED.sub(lambda match: {"n": "\n", "r": "\r"}.get(match[1], match[1]), text)
