"""Tokens in columns (CoNLL): one token a line with its tag in another column, a blank line between sentences.

Tags are IOB (``B-``, ``I-``, ``O``) or name the ends as well (BILOU: ``L-``, ``U-``; BIOES: ``E-``, ``S-``). A file may
mark its documents: by lines of ``-DOCSTART-`` or ``# newdoc id = …``; without them each sentence is one.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from odin_slm.corpora.faults import MEND_LINE, Faults
from odin_slm.corpora.iob import rejoined
from odin_slm.corpora.own.block import Fields, OwnCorpus
from odin_slm.corpora.own.given import GivenMention, GivenText, fault
from odin_slm.corpora.parsed import numbered_lines

_TAG = re.compile(r"O|([BIMLEUS])-(.+)")
_AS_IOB = {"B": "B", "U": "B", "S": "B", "I": "I", "M": "I", "L": "I", "E": "I"}
_ENDED = re.compile(r"[LEUS]-")
_COMMENT = re.compile(r"#\s*(?:newdoc(?:\s+id\s*=\s*(?P<id>.+))?|newpar\b.*|[\w-]+\s*=.*)", re.DOTALL)
_DOCUMENT = re.compile(r"-DOCSTART-(?:\s+(?P<id>\S.*))?")


@dataclass
class _Row:
    """A token: its line, tag letter and type."""

    line: int
    token: str
    letter: str
    kind: str


@dataclass
class _Part:
    """A document, or a sentence of a file without documents: its sentences, and where it begins."""

    line: int
    id: str = ""
    sentences: list[list[_Row]] = field(default_factory=lambda: [[]])


def read(files: Mapping[str, str], block: OwnCorpus, faults: Faults) -> Iterator[GivenText]:
    """Read a folder; see :data:`odin_slm.corpora.own.READERS`."""
    for name in sorted(files):
        ends = bool(_ENDED.search(files[name])) and _has_ends(files[name], block.fields)
        for part in _parts(name, files[name], block.fields, faults):
            sentences = [rows for rows in part.sentences if rows]
            if ends:
                for rows in sentences:
                    _require_ends(name, rows, faults)
            if sentences:
                yield _text(name, part, sentences)


def _parts(name: str, content: str, fields: Fields, faults: Faults) -> Iterator[_Part]:
    marked = any(_DOCUMENT.match(line) or line.startswith("# newdoc") for line in content.split("\n"))
    part = _Part(1)
    for number, line in numbered_lines(name, content, faults):
        start = _DOCUMENT.match(line)
        comment = _COMMENT.fullmatch(line) if "\t" not in line else None
        if start or (comment and line.split()[1:2] == ["newdoc"]):
            yield part
            stated = start["id"] if start else comment["id"] if comment else None
            known = stated and not re.fullmatch(r"(-?[OX_-]-?\s*)+", stated)  # columns of a line that is no token
            part = _Part(number, stated.strip() if stated and known else "")
        elif comment or not line.strip():
            if not comment and not marked:
                yield part
                part = _Part(number + 1)
            part.sentences.append([])
        else:
            columns = _columns(line)
            row = _Row(number, _cell(columns, fields.token), "O", "")
            part.sentences[-1] += [row] if row.token.strip() else []
            with faults.collected("tag"):
                _tag(row, line, _cell(columns, fields.tag) if len(columns) > 1 else "", f"{name}:{number}")
    yield part


def _columns(line: str) -> list[str]:
    return line.split("\t") if "\t" in line else line.split()


def _cell(columns: list[str], place: int) -> str:
    return columns[place] if -len(columns) <= place < len(columns) else ""


def _tag(row: _Row, line: str, tag: str, where: str) -> None:
    """Read the tag of a token; without one it is outside of all mentions."""
    match = _TAG.fullmatch(tag.strip())
    if not row.token.strip() or not match:
        raise fault(f"found {line[:60]!r}; expected a token and a tag, as B-Type, I-Type or O", where, MEND_LINE)
    row.letter, row.kind = match[1] or "O", (match[2] or "").strip()


def _has_ends(content: str, fields: Fields) -> bool:
    """Tell whether tags name the ends of mentions."""
    return any(_ENDED.match(_cell(_columns(line), fields.tag).strip()) for line in content.split("\n"))


def _require_ends(name: str, rows: list[_Row], faults: Faults) -> None:
    """Check that every mention of a sentence begins and ends as its tags say."""
    opened = ""
    for row, behind in zip(rows, [*rows[1:], None], strict=True):
        what = "goes on with nothing" if row.letter in "IMLE" and opened != row.kind else ""
        if row.letter in "BIM" and not (behind and behind.letter in "IMLE" and behind.kind == row.kind):
            what = what or "has no end behind it"
        if what:
            with faults.collected("tag"):
                raise fault(f"{row.letter}-{row.kind[:40]} {what}", f"{name}:{row.line}", MEND_LINE)
            row.letter = "O"
        opened = row.kind if row.letter in "BIM" else ""


def _text(name: str, part: _Part, sentences: list[list[_Row]]) -> GivenText:
    first = sentences[0][0].line
    text = GivenText(part.id or f"{name}:{first}", "", name, f"{name}:{first}")
    for rows in sentences:
        tagged = rejoined([(row.token, _AS_IOB.get(row.letter, "O"), row.kind) for row in rows])
        text.text += " " if text.text else ""
        for (begin, end, kind), line in zip(tagged.spans, _begins(rows), strict=True):
            span = len(text.text) + begin, len(text.text) + end
            text.mentions.append(GivenMention("", *span, kind, tagged.text[begin:end], f"{name}:{line}"))
        text.text += tagged.text
    return text


def _begins(rows: list[_Row]) -> Iterator[int]:
    """Yield the lines where mentions begin."""
    before = _Row(0, "", "O", "")
    for row in rows:
        if row.letter != "O" and (_AS_IOB[row.letter] == "B" or before.kind != row.kind):
            yield row.line
        before = row
