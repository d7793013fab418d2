r"""Brat's standoff: a text in ``NAME.txt`` and its annotations in ``NAME.ann``, a line each.

``T1\tType 0 5\ttext`` is a mention (``0 5;9 12`` one in pieces), ``R1\tType Arg1:T1 Arg2:T2`` a relation. Events (E),
attributes (A, M), normalisations (N), equivalences (\*) and notes (#) are left out and counted. Brat counts characters
of the text with its line ends as they are. Source: https://brat.nlplab.org/standoff.html
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from odin_slm.core.errors import CorpusFormatError
from odin_slm.corpora.faults import MEND_LINE, Faults
from odin_slm.corpora.own.block import OwnCorpus
from odin_slm.corpora.own.given import GivenMention, GivenRelation, GivenText, fault
from odin_slm.corpora.parsed import numbered_lines

_MENTION = re.compile(r"(T\S*)\t(\S+) (\d{1,9} \d{1,9}(?:;\d{1,9} \d{1,9})*)\t(.*)", re.ASCII)
_RELATION = re.compile(r"(R\S*)\t(\S+) Arg1:(\S+) Arg2:(\S+)\s*")
_LEFT_OUT = {
    "E": "event",
    "A": "attribute",
    "M": "attribute",
    "N": "normalisation",
    "*": "equivalence",
    "#": "note",
}
_OF_EVENT = "relation: of an event"


def read(files: Mapping[str, str], block: OwnCorpus, faults: Faults) -> Iterator[GivenText]:
    """Read a folder; see :data:`odin_slm.corpora.own.READERS`."""
    for name in sorted(files):
        if not name.endswith(".ann"):
            continue
        stem = name.removesuffix(".ann")
        with faults.collected("document"):
            if f"{stem}.txt" not in files:
                raise fault(f"there is no {stem}.txt", f"{name}:1", "Put the text beside its annotations.")
            text = GivenText(stem, files[f"{stem}.txt"], name, f"{name}:1")
            for number, line in numbered_lines(name, files[name], faults):
                if line.strip():
                    with faults.collected("line"):
                        _read_line(text, line, f"{name}:{number}")
            yield text


def unannotated(files: Mapping[str, str]) -> int:
    """Return how many texts have no file of annotations."""
    return sum(name.endswith(".txt") and f"{name.removesuffix('.txt')}.ann" not in files for name in files)


def _read_line(text: GivenText, line: str, where: str) -> None:
    if match := _MENTION.fullmatch(line):
        _mention(text, match, where)
    elif match := _RELATION.fullmatch(line):
        if match[3].startswith("E") or match[4].startswith("E"):
            text.dropped[_OF_EVENT] += 1
        else:
            text.relations.append(GivenRelation(match[2], match[3], match[4], where))
    elif line[0] in _LEFT_OUT and "\t" in line:
        text.dropped[f"{_LEFT_OUT[line[0]]}: not read"] += 1
    else:
        raise CorpusFormatError(
            f"found {line[:60]!r}; expected a mention ('T1<TAB>Type 0 5<TAB>text') or a relation "
            "('R1<TAB>Type Arg1:T1 Arg2:T2').",
            where=where,
            fix=MEND_LINE,
        )


def _mention(text: GivenText, match: re.Match[str], where: str) -> None:
    key, kind, spans, surface = match.groups()
    pieces = [(int(begin), int(end)) for begin, end in (span.split(" ") for span in spans.split(";"))]
    spans = tuple(pieces) if len(pieces) > 1 else ()
    text.mentions.append(GivenMention(key, *pieces[0], kind, surface, where, pieces=spans))
