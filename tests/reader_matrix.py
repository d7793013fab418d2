"""What every reader does with every kind of input, found by giving it such an input: the table of the documentation.

    .venv/bin/python tests/reader_matrix.py

prints the table. A cell is a key of :data:`OUTCOMES`, or "–" where there is no such input.
"""

from __future__ import annotations

import gzip
import io
import json
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from odin_slm.core.errors import CorpusFormatError
from odin_slm.corpora import PARSERS, ade, bc5cdr, biored
from odin_slm.corpora.iob import parse_iob
from odin_slm.datasets.sources.document_files import read_file
from odin_slm.datasets.sources.texts import decode
from odin_slm.datasets.storage import LocalFolder

OUTCOMES = {
    "read": "all of it is read",
    "counted": "it is kept as the text has it, or dropped; the parse report counts it, the rest is read",
    "refused": "the corpus is refused; the message names every such place with file and line",
    "record aside": "that record is set aside with its reason, the others are read",
    "rest aside": "what stands before is read, the rest of the file is set aside with its reason",
    "file aside": "the file is set aside with its reason, other files are read",
}
READERS = ("PubTator", "BioC", "ADE", "IOB", "JSONL", "CSV", "Parquet", "PubMed XML", "plain text")

Change = Callable[[bytes], bytes]

PUBTATOR = """1|t|Cough under TNF-α.
1|a|The café closed.
1\t0\t5\tCough\tDisease\tD1
1\t12\t17\tTNF-α\tChemical\tC1
1\tCID\tC1\tD1

2|t|A rash.
2|a|

"""
ADE = "1|Cough under TNF-α at the café.|Cough|10|15|TNF-α|22|27\n2|A rash after gold.|rash|12|16|gold|23|27\n"
ROWS = [
    {"id": "1", "text": "Cough under TNF-α."},
    {"id": "2", "text": "The café closed."},
    {"id": "3", "text": "A rash."},
]
IOB = "The\tO\ncafé\tO\n\nTNF-α\tB-Gene\ncloses\tO\n"


def _bioc() -> bytes:
    def annotation(number: int, begin: int, text: str, kind: str, concept: str) -> dict[str, Any]:
        place = [{"offset": begin, "length": len(text)}]
        return {"id": f"{number}", "infons": {"identifier": concept, "type": kind}, "text": text, "locations": place}

    marked = [
        annotation(0, 0, "Cough", "DiseaseOrPhenotypicFeature", "D1"),
        annotation(1, 12, "TNF-α", "ChemicalEntity", "C1"),
    ]
    related = [{"id": "R0", "infons": {"entity1": "C1", "entity2": "D1", "type": "Association", "novel": "No"}}]
    documents = [
        {
            "id": "1",
            "passages": [
                {"offset": 0, "text": "Cough under TNF-α.", "annotations": marked},
                {"offset": 19, "text": "The café closed.", "annotations": []},
            ],
            "relations": related,
        },
        {"id": "2", "passages": [{"offset": 0, "text": "A rash.", "annotations": []}], "relations": []},
    ]
    return json.dumps({"documents": documents}, ensure_ascii=False, indent=1).encode()


def _parquet(rows: list[dict[str, Any]]) -> bytes:
    import pyarrow
    import pyarrow.parquet

    buffer = io.BytesIO()
    layout = pyarrow.schema({"id": pyarrow.string(), "text": pyarrow.string()})
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows, layout), buffer)
    return buffer.getvalue()


def _xml(texts: list[str]) -> bytes:
    articles = "\n".join(
        f"<PubmedArticle><MedlineCitation><PMID>{number}</PMID><Article><ArticleTitle>{text}</ArticleTitle></Article>"
        "</MedlineCitation></PubmedArticle>"
        for number, text in enumerate(texts, start=1)
    )
    return f"<?xml version='1.0' encoding='UTF-8'?>\n<PubmedArticleSet>\n{articles}\n</PubmedArticleSet>\n".encode()


SOUND: dict[str, bytes] = {
    "PubTator": PUBTATOR.encode(),
    "BioC": _bioc(),
    "ADE": ADE.encode(),
    "IOB": IOB.encode(),
    "JSONL": "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS).encode(),
    "CSV": ("id,text\n" + "".join(f"{row['id']},{row['text']}\n" for row in ROWS)).encode(),
    "Parquet": _parquet(ROWS),
    "PubMed XML": _xml([row["text"] for row in ROWS]),
    "plain text": ROWS[1]["text"].encode(),
}
SUFFIXES = {"JSONL": ".jsonl", "CSV": ".csv", "Parquet": ".parquet", "PubMed XML": ".xml", "plain text": ".txt"}


def _replace(old: str, new: str) -> Change:
    def change(content: bytes) -> bytes:
        assert old.encode() in content, old
        return content.replace(old.encode(), new.encode())

    return change


def _text(change: Change) -> dict[str, Change]:
    """Return a change of every reader but Parquet's, which is no text."""
    return {reader: change for reader in READERS if reader != "Parquet"}


def _bioc_with(pieces: list[tuple[int, int]], text: str) -> Change:
    """Return a change of the first mention: other places (offset, length), and another text."""

    def change(content: bytes) -> bytes:
        collection = json.loads(content)
        mention = collection["documents"][0]["passages"][0]["annotations"][0]
        mention |= {"locations": [{"offset": begin, "length": length} for begin, length in pieces], "text": text}
        return json.dumps(collection, ensure_ascii=False, indent=1).encode()

    return change


_HTML = b"<!DOCTYPE html>\n<html><body>Not found</body></html>\n"

KINDS: dict[str, dict[str, Change]] = {
    "sound": dict.fromkeys(READERS, lambda content: content),
    "with a byte order mark": _text(lambda content: b"\xef\xbb\xbf" + content),
    "with Windows line ends": _text(lambda content: content.replace(b"\n", b"\r\n")),
    "UTF-16": _text(lambda content: content.decode().replace("UTF-8", "UTF-16").encode("utf-16")),
    "Latin-1 in one place": _text(lambda content: content.replace("café".encode(), b"caf\xe9")),
    "empty": dict.fromkeys(READERS, lambda _: b""),
    "an HTML page": dict.fromkeys(READERS, lambda _: _HTML),
    "cut off": {
        "PubTator": lambda content: content[: content.index(b"2|a|")],
        "BioC": lambda content: content[:-200],
        "ADE": lambda content: content[:-12],
        "IOB": lambda content: content[:-2],
        "JSONL": lambda content: content[:-12],
        "CSV": lambda content: content[:-3],
        "Parquet": lambda content: content[:-12],
        "PubMed XML": lambda content: content[:-100],
        "plain text": lambda content: content[:-3],
    },
    "`.gz`": dict.fromkeys(("JSONL", "CSV", "PubMed XML", "plain text"), gzip.compress),
    "`.gz`, cut off": dict.fromkeys(
        ("JSONL", "CSV", "PubMed XML", "plain text"), lambda content: gzip.compress(content)[:-12]
    ),
    "without a record": {
        "PubTator": lambda _: b"\n\n",
        "BioC": lambda _: b'{"documents": []}',
        "ADE": lambda _: b"\n",
        "IOB": lambda _: b"\n",
        "JSONL": lambda _: b"\n\n",
        "CSV": lambda _: b"id,text\n",
        "Parquet": lambda _: _parquet([]),
        "PubMed XML": lambda _: b"<PubmedArticleSet><DeleteCitation><PMID>1</PMID></DeleteCitation></PubmedArticleSet>",
    },
    "one record that is broken": {
        "PubTator": _replace("1\t0\t5\tCough", "1\t0\tCough"),
        "BioC": _replace('"length": 5', '"length": null'),
        "ADE": _replace("2|A rash after gold.|", "2|"),
        "IOB": _replace("TNF-α\tB-Gene", "TNF-α B-Gene"),
        "JSONL": _replace('{"id": "2",', '{"id": '),
        "CSV": _replace("The café closed.", "The café, closed."),
        "Parquet": lambda _: _parquet([ROWS[0], {"id": "2", "text": None}, ROWS[2]]),
        "PubMed XML": _replace("<ArticleTitle>The café closed.</ArticleTitle>", ""),
    },
    "a text that is blank": {
        "JSONL": _replace("The café closed.", " "),
        "CSV": _replace("The café closed.", " "),
        "Parquet": lambda _: _parquet([ROWS[0], {"id": "2", "text": " "}, ROWS[2]]),
        "PubMed XML": _replace("The café closed.", " "),
        "plain text": lambda _: b" \n",
    },
    "two records of one id": {
        "PubTator": _replace("2|", "1|"),
        "BioC": _replace('"id": "2"', '"id": "1"'),
        "JSONL": _replace('"id": "2"', '"id": "1"'),
        "CSV": _replace("2,", "1,"),
        "Parquet": lambda _: _parquet([ROWS[0], ROWS[1] | {"id": "1"}, ROWS[2]]),
        "PubMed XML": _replace("<PMID>2<", "<PMID>1<"),
    },
    "a mention spelt otherwise (`TNF-a`)": {
        "PubTator": _replace("\tTNF-α", "\tTNF-a"),
        "BioC": _replace('"TNF-α"', '"TNF-a"'),
        "ADE": _replace("|TNF-α|", "|TNF-a|"),
    },
    "a mention in several pieces": {
        "BioC": _bioc_with([(0, 1), (3, 2)], "C gh"),
    },
    "a mention of no characters": {
        "PubTator": _replace("1\t0\t5\tCough", "1\t5\t5\t"),
        "BioC": _bioc_with([(5, 0)], ""),
    },
    "overlapping mentions": {
        "PubTator": _replace("1\tCID", "1\t0\t11\tCough under\tDisease\tD2\n1\tCID"),
        "ADE": lambda content: content + b"2|A rash after gold.|rash after|12|22|gold|23|27\n",
    },
    "offsets that are shifted": {
        "PubTator": _replace("1\t0\t5\tCough", "1\t1\t6\tCough"),
        "BioC": _replace('"offset": 12', '"offset": 13'),
        "ADE": _replace("|12|16|", "|13|17|"),
    },
    "offsets outside the text": {
        "PubTator": _replace("1\t0\t5\tCough", "1\t100\t105\tCough"),
        "BioC": _replace('"offset": 12', '"offset": 120'),
        "ADE": _replace("|12|16|", "|1200|1204|"),
    },
    "a type that the corpus has not": {
        "PubTator": _replace("Chemical", "Gene"),
        "BioC": _replace("ChemicalEntity", "Chemical"),
        "IOB": _replace("B-Gene", "B-Something"),
    },
    "a relation to a concept that is not mentioned": {
        "PubTator": _replace("CID\tC1", "CID\tC9"),
        "BioC": _replace('"entity1": "C1"', '"entity1": "C9"'),
    },
    "annotations before their text": {
        "PubTator": lambda content: b"\n".join(content.split(b"\n")[line] for line in (2, 3, 4, 0, 1, *range(5, 9))),
        "BioC": lambda content: content,
    },
    "definitions of entities": {
        "PubMed XML": _replace("<PubmedArticleSet>", "<!DOCTYPE x [<!ENTITY a 'b'>]><PubmedArticleSet>"),
    },
}
"""Kind of input -> reader -> what makes such an input of a sound one."""


def outcome(kind: str, reader: str) -> str:
    """Return what happens to an input of this kind, a key of :data:`OUTCOMES`; "–" where there is none."""
    if reader not in KINDS[kind]:
        return "–"
    content = KINDS[kind][reader](SOUND[reader])
    with tempfile.TemporaryDirectory() as folder:
        read = _document_outcome if reader in SUFFIXES else _corpus_outcome
        return read(Path(folder), reader, content, gz=kind.startswith("`.gz`"))


def matrix() -> Iterator[list[str]]:
    """Yield the rows: the kind of input, and what each reader does with it."""
    for kind in KINDS:
        yield [kind, *(outcome(kind, reader) for reader in READERS)]


def _document_outcome(folder: Path, reader: str, content: bytes, *, gz: bool) -> str:
    file = folder / f"a{SUFFIXES[reader]}{'.gz' if gz else ''}"
    file.write_bytes(content)
    errors = [document.error for stored in LocalFolder(file).files() for document in read_file(stored, "text", "id")]
    if not any(errors):
        return "read"
    if all(errors):
        return "file aside"
    return "rest aside" if errors[-1] else "record aside"


def _corpus_outcome(folder: Path, reader: str, content: bytes, *, gz: bool) -> str:
    assert not gz
    name, others, parse = _CORPORA[reader]
    try:
        report = parse({name: decode(name, name, content), **others})
    except CorpusFormatError as error:
        return "refused" if error.where and error.fix else "refused without a place"
    return "counted" if report["normalised_mentions"] or report["dropped"] else "read"


def _parse_iob(texts: dict[str, str]) -> dict[str, Any]:
    for name, text in texts.items():
        assert len(list(parse_iob(text, name))) == 2
    return {"normalised_mentions": 0, "dropped": {}}


def _parsed(corpus: str) -> Callable[[dict[str, str]], dict[str, Any]]:
    def parse(texts: dict[str, str]) -> dict[str, Any]:
        report = PARSERS[corpus](texts).report
        assert report["documents"]
        return report

    return parse


_PUBTATOR = tuple(bc5cdr.FILES.values())
_ANOTHER_BIOC = '{"documents": [{"id": "%d", "passages": [], "relations": []}]}'
_CORPORA: dict[str, tuple[str, dict[str, str], Callable[[dict[str, str]], dict[str, Any]]]] = {
    "PubTator": (
        _PUBTATOR[0],
        {name: f"{n}|t|A.\n{n}|a|\n" for n, name in enumerate(_PUBTATOR[1:], 8)},
        _parsed("bc5cdr"),
    ),
    "BioC": (
        biored.BIOC_MEMBERS[0],
        {name: _ANOTHER_BIOC % number for number, name in enumerate(biored.BIOC_MEMBERS[1:], 8)},
        _parsed("biored"),
    ),
    "ADE": (
        ade.EFFECTS_FILE,
        {ade.DOSAGES_FILE: "1|Gold 5 mg.|5 mg|5|9|Gold|0|4\n", ade.NEGATIVES_FILE: "9 NEG Nothing.\n"},
        _parsed("ade"),
    ),
    "IOB": ("genes.iob.tsv", {}, _parse_iob),
}
"""Reader -> its file, sound texts of the others, and what reads them all and reports."""


if __name__ == "__main__":
    for row in matrix():
        print(" | ".join(row))
