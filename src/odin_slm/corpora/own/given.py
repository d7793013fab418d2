"""What a reader of an annotation format returns: texts with mentions and relations as their file gives them."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, field

from odin_slm.core.errors import CorpusFormatError

SEPARATORS = re.compile(r"[|;,]")
"""What stands between the ids of a composite mention."""


@dataclass(frozen=True, slots=True)
class GivenMention:
    """A mention as its file gives it.

    Attributes:
        key: Name that the file's relations call it by; empty where there is none.
        begin: First offset, in whatever the file counts.
        end: Offset behind the last.
        type: The file's own type.
        text: What the file says that stands there; None where it says nothing.
        where: ``file:line``.
        concepts: Ids of concepts, if the file has them.
        pieces: (begin, end) of each piece of a mention in several; ``begin`` and ``end`` are those of the first.
    """

    key: str
    begin: int
    end: int
    type: str
    text: str | None
    where: str
    concepts: tuple[str, ...] = ()
    pieces: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True, slots=True)
class GivenRelation:
    """A relation as its file gives it.

    Attributes:
        type: The file's own type.
        head: Key of a mention, or a concept's id.
        tail: The same.
        where: ``file:line``.
        of_concepts: Whether it holds between concepts.
    """

    type: str
    head: str
    tail: str
    where: str
    of_concepts: bool = False


@dataclass(slots=True)
class GivenText:
    """An annotated text as its file gives it.

    Attributes:
        id: Its id.
        text: The text, with line ends and byte order mark as they are.
        file: Name of the file.
        where: ``file:line`` of where it begins.
        split: What the file says of its split, or None.
        mentions: Mentions in file order.
        relations: Relations in file order.
        dropped: What the format allows and a document cannot hold, by reason.
        absent: Keys and concepts of such mentions: a relation with one of them is dropped as well.
        counts: Whether it becomes a document; one that its annotator has rejected does not.
        group: What documents of one source share, where the file says it.
    """

    id: str
    text: str
    file: str
    where: str
    split: str | None = None
    mentions: list[GivenMention] = field(default_factory=list)
    relations: list[GivenRelation] = field(default_factory=list)
    dropped: Counter[str] = field(default_factory=Counter)
    absent: set[str] = field(default_factory=set)
    counts: bool = True
    group: str = ""


def fault(what: str, where: str, fix: str = "Mend it, or take it out.") -> CorpusFormatError:
    """Return the error of a fault."""
    return CorpusFormatError(f"{what}.", where=where, fix=fix)


def ids_of(identifiers: str) -> tuple[str, ...]:
    """Return the concept ids in a field of them; none where it says that there is none (``-``, ``-1``)."""
    parts = (part.strip() for part in SEPARATORS.split(identifiers))
    return tuple(dict.fromkeys(part for part in parts if part not in ("", "-", "-1")))
