"""Every reader against inputs that transfers, editors and converters have damaged: errors are typed, time is bounded.

    .venv/bin/python benchmarks/fuzz.py [--count 2000] [--seed 1] [--corpora DIR] [--reader NAME]

Each reader gets ``count`` mutations of the sample's files, or of the first documents of the corpora in DIR, and one in
a hundred of them repeated to a megabyte. A reader may read an input, set its records or the file aside with a reason,
or refuse it by an error of the project that names a place. It fails by any other error, by a document that is not
sound, and by more than 10 seconds of processor time or 500 MB for an input. A reader runs in a process of its own; the
exit status is 1 where one of them fails.

The layouts of corpora by configuration (``tests/own_corpora_files.py``) are read twice, with ``on_fault: stop`` and
``drop``; one that is refused and then read in part counts as read in part.
"""

from __future__ import annotations

import argparse
import gzip
import importlib.util
import io
import json
import random
import re
import resource
import signal
import subprocess
import sys
import tempfile
import time
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from kedro.io import DatasetError

from odin_slm.cli.errors import explain
from odin_slm.config.parameters import TaskParams
from odin_slm.core.errors import CorpusFormatError, MissingInputError, OdinError
from odin_slm.corpora import PARSERS, ade, bc5cdr, biored, own
from odin_slm.corpora.iob import parse_iob
from odin_slm.corpora.parsed import require_sound
from odin_slm.corpora.synthetic.sample import make_sample
from odin_slm.datasets.corpus_files import CorpusFilesDataset
from odin_slm.datasets.documents import DocumentsDataset
from odin_slm.datasets.folders import TextFolderDataset
from odin_slm.datasets.own_corpora import RawOwnCorpus

SECONDS, MEGABYTES, LARGE = 10, 500, 2**20
SMALL_DOCUMENTS, LARGE_DOCUMENTS = 3, 400

Files = dict[str, bytes]


@dataclass(frozen=True)
class Reader:
    """A reader under test.

    Attributes:
        files: Name -> sound content of a few documents; one of them is damaged at a time.
        large: The same of some hundred documents, up to a megabyte.
        read: Reads a folder of such files; returns what became of them.
    """

    files: Files
    large: Files
    read: Callable[[Path], str]


def readers(corpora: Path | None = None) -> dict[str, Reader]:
    """Return the readers by name, with files of the sample, or of the real corpora in a folder."""
    texts = _corpora(corpora)
    small, large = (_files(texts, count) for count in (SMALL_DOCUMENTS, LARGE_DOCUMENTS))
    reads: dict[str, Callable[[Path], str]] = {
        "ADE": _corpus("ade", ade.FILES),
        "PubTator": _corpus("bc5cdr", bc5cdr.FILES.values()),
        "PubTator (BioRED)": _corpus("biored", biored.PUBTATOR_MEMBERS),
        "BioC JSON": _corpus("biored", biored.BIOC_MEMBERS),
        "zip": _corpus("biored", ["BIORED.zip"]),
        "IOB": _iob_folder,
    }
    found = {name: Reader(small[name], large[name], reads.get(name, _documents)) for name in small}
    return found | _own_readers()


def fuzz(name: str, reader: Reader, count: int, seed: int) -> dict[str, Any]:
    """Give a reader damaged files.

    Args:
        name: Its name; with the seed it decides what is damaged, and how.
        reader: The reader.
        count: How many inputs.
        seed: Seed of the damage.

    Returns:
        How many inputs were read, set aside or refused, the most seconds and megabytes that one took, and ``failures``.
    """
    outcomes: Counter[str] = Counter()
    failures: list[str] = []
    slowest, before = 0.0, _peak()
    signal.signal(signal.SIGALRM, _too_long)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        for number in range(count):
            rng = random.Random(f"{seed} {name} {number}")
            files = reader.large if number % 100 == 99 else reader.files
            chosen = rng.choice(sorted(files))
            damaged = damage(files[chosen], rng)
            for file, content in (files | {chosen: damaged}).items():
                (folder / file).parent.mkdir(exist_ok=True)
                (folder / file).write_bytes(content)
            begin, memory = time.process_time(), _peak()  # other programs take no share of it
            signal.alarm(6 * SECONDS)
            try:
                outcomes[reader.read(folder)] += 1
            except Exception as error:  # whatever it is, it is what is looked for
                failures.append(f"input {number}: {type(error).__name__}: {str(error)[:200]}")
            signal.alarm(0)
            seconds, grown = time.process_time() - begin, _peak() - memory
            if seconds > SECONDS or grown > MEGABYTES:
                failures.append(f"input {number}: {seconds:.1f} s, {grown} MB for {len(damaged)} bytes")
            slowest = max(slowest, seconds)
    return {
        "reader": name,
        "inputs": count,
        **dict(sorted(outcomes.items())),
        "slowest_seconds": round(slowest, 2),
        "grown_megabytes": _peak() - before,
        "failures": failures,
    }


def damage(content: bytes, rng: random.Random) -> bytes:
    """Damage a file in up to four places, as transfers, editors, converters and wrong programs do."""
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        content = rng.choice(_DAMAGES)(content, rng)
    return content[:LARGE]


def _corpus(corpus: str, names: Any) -> Callable[[Path], str]:
    task = TaskParams().task()

    def read(folder: Path) -> str:
        try:
            parsed = PARSERS[corpus](CorpusFilesDataset(filepath=str(folder), files=list(names)).read())
        except OdinError as error:
            return _refusal(error)
        require_sound(corpus, parsed.documents, task)
        json.dumps([document.to_dict() for document in parsed.documents], ensure_ascii=False).encode()
        return "read"

    return read


def _own_readers() -> dict[str, Reader]:
    """Return the readers of corpora by configuration, with files as annotation tools write them."""
    layouts = _layouts()
    found = {}
    for name, layout in layouts.LAYOUTS.items():
        count = 40 if layout.format == "brat" else LARGE_DOCUMENTS  # brat has two files for each document
        many = [layouts.NOTES[n % 3]._replace(id=f"{n}") for n in range(count)]
        found[name] = Reader(layout.write(layouts.NOTES), layout.write(many), _own_corpus(layout))
    return found


def _layouts() -> ModuleType:
    spec = importlib.util.spec_from_file_location(
        "own_corpora_files", Path(__file__).resolve().parents[1] / "tests/own_corpora_files.py"
    )
    if spec is None or spec.loader is None:
        raise FileNotFoundError("tests/own_corpora_files.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _own_corpus(layout: Any) -> Callable[[Path], str]:
    task = TaskParams.model_validate({"own_corpora": {"notes": layout.block()}}).task()

    def read_once(folder: Path, on_fault: str) -> str:
        block = layout.block(folder=str(folder), on_fault=on_fault)
        raw = RawOwnCorpus("notes", block, folder)
        try:
            parsed = own.parse("notes", block, raw, raw.digests)
        except OdinError as error:
            return _refusal(error)
        require_sound("notes", parsed.documents, task)
        json.dumps([document.to_dict() for document in parsed.documents], ensure_ascii=False).encode()
        json.dumps(parsed.report, ensure_ascii=False).encode()
        return "read"

    def read(folder: Path) -> str:
        strictly, otherwise = read_once(folder, "stop"), read_once(folder, "drop")
        assert strictly != "read" or otherwise == "read"
        return strictly if strictly == otherwise else "partly_read"

    return read


def _iob_folder(folder: Path) -> str:
    try:
        for name, text in TextFolderDataset(filepath=str(folder)).load().items():
            for sentence in parse_iob(text, name):
                assert all(sentence.text[begin:end].strip() for begin, end, _ in sentence.spans)
    except (DatasetError, OdinError) as error:
        return _refusal(explain(error))
    return "read"


def _documents(folder: Path) -> str:
    found = list(DocumentsDataset(source={"path": str(folder)}).load()("text", "id"))
    for document in found:
        assert (document.error is None) == bool(document.text.strip())
        json.dumps([document.id, document.text, document.error], ensure_ascii=False).encode()
    aside = sum(document.error is not None for document in found)
    return "read" if not aside else "partly_read" if aside < len(found) else "set_aside"


def _refusal(error: OdinError | None) -> str:
    assert isinstance(error, CorpusFormatError | MissingInputError)
    assert error.where
    assert error.fix
    assert len(str(error)) < 100_000, "a message is to be read"
    return "refused"


# Sound files


def _corpora(folder: Path | None) -> dict[str, dict[str, str]]:
    if folder is None:
        return make_sample(seed=7, documents_per_corpus=LARGE_DOCUMENTS)
    names = {"ade": ade.FILES, "bc5cdr": bc5cdr.FILES.values(), "biored": ["BIORED.zip"]}
    return {
        corpus: CorpusFilesDataset(filepath=str(folder / corpus), files=list(files)).read()
        for corpus, files in names.items()
    }


def _files(texts: dict[str, dict[str, str]], count: int) -> dict[str, Files]:
    """Return reader -> the first documents of its files."""
    found: dict[str, Files] = {
        "ADE": {name: "\n".join(text.split("\n")[: 15 * count]).encode() for name, text in texts["ade"].items()},
        "PubTator": {name: _blocks(text, count) for name, text in texts["bc5cdr"].items()},
        "PubTator (BioRED)": {name: _blocks(texts["biored"][name], count) for name in biored.PUBTATOR_MEMBERS},
        "BioC JSON": {name: _collection(texts["biored"][name], count) for name in biored.BIOC_MEMBERS},
    }
    found["zip"] = {"BIORED.zip": _zip(found["BioC JSON"])}
    words = [_words(block) for block in next(iter(texts["bc5cdr"].values())).split("\n\n")[:count]]
    found["IOB"] = {"genes.iob.tsv": _iob(words)}
    for name, content in _document_files(words).items():
        found[name.partition(".")[2]] = {name: content}
    return found


def _blocks(text: str, count: int) -> bytes:
    return ("\n\n".join(text.split("\n\n")[:count]) + "\n\n").encode()


def _collection(text: str, count: int) -> bytes:
    return json.dumps({"documents": json.loads(text)["documents"][:count]}, ensure_ascii=False).encode()


def _zip(members: Files) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def _iob(texts: list[str]) -> bytes:
    tags = ("O", "O", "O", "B-Gene", "I-Gene")
    words = " ".join(texts).split()
    return "".join(f"{word}\t{tags[n % 5]}\n" + "\n" * (n % 20 == 19) for n, word in enumerate(words)).encode()


def _words(block: str) -> str:
    return " ".join(line.split("|", 2)[2] for line in block.split("\n") if line.count("|") > 1 and "\t" not in line)


def _document_files(texts: list[str]) -> Files:
    """Return the same documents in every form."""
    import csv

    import pyarrow
    import pyarrow.parquet

    rows = [{"id": f"{number}", "text": text} for number, text in enumerate(texts)]
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()
    found = {"a.jsonl": lines, "a.jsonl.gz": gzip.compress(lines), "a.txt": texts[0].encode()}
    for name, delimiter in (("a.csv", ","), ("a.tsv", "\t")):
        stream = io.StringIO()
        writer = csv.DictWriter(stream, ["id", "text"], delimiter=delimiter)
        writer.writeheader()
        writer.writerows(rows)
        found[name] = stream.getvalue().encode()
    buffer = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), buffer)
    found["a.parquet"] = buffer.getvalue()
    articles = "".join(
        f'<PubmedArticle><MedlineCitation Status="MEDLINE"><PMID Version="1">{row["id"]}</PMID><Article><ArticleTitle>'
        f'A <i>title</i>.</ArticleTitle><Abstract><AbstractText Label="METHODS">{_escaped(row["text"])}</AbstractText>'
        "</Abstract></Article></MedlineCitation></PubmedArticle>\n"
        for row in rows
    )
    found["a.xml"] = f"<?xml version='1.0' encoding='UTF-8'?>\n<PubmedArticleSet>{articles}</PubmedArticleSet>".encode()
    found["a.xml.gz"] = gzip.compress(found["a.xml"])
    return found


def _escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;")


# Damage

_STRANGE = (
    *(b"\0", b"\xff", b"\xc3", b"\xed\xa0\x80", b"\xef\xbb\xbf", b"\xc2\x85", b"\xe2\x80\xa8", b"\r", b"\n\n", b"\t\t"),
    *(b"|", b'"', b"'", b"[", b"{", b"}", b"<", b"&", b"<!--", b"]]>", b"<b>", b"&nbsp;", b",", b";", b"-1", b"1e999"),
    *(b"9" * 5000, b"NaN", b"null", b"true", b"\\ud800", b"&#0;", b"<!DOCTYPE x [<!ENTITY a 'b'>]>", "²٣é".encode()),
)


def _place(content: bytes, rng: random.Random) -> tuple[int, int]:
    begin = rng.randrange(len(content) + 1)
    return begin, min(len(content), begin + rng.choice((0, 1, 1, 2, 10, 200, 3000)))


def _replaced(content: bytes, rng: random.Random) -> bytes:
    begin, end = _place(content, rng)
    return content[:begin] + rng.choice(_STRANGE) + content[end:]


def _noise(content: bytes, rng: random.Random) -> bytes:
    begin, end = _place(content, rng)
    return content[:begin] + rng.randbytes(end - begin) + content[end:]


def _repeated(content: bytes, rng: random.Random) -> bytes:
    begin, end = _place(content, rng)
    return content[:end] + content[begin:end] * rng.choice((1, 2, 300)) + content[end:]


def _nested(content: bytes, rng: random.Random) -> bytes:
    begin, _ = _place(content, rng)
    strange = rng.choice(_STRANGE)
    return content[:begin] + strange * min(rng.choice((3, 3000, LARGE)), LARGE // len(strange)) + content[begin:]


def _moved(content: bytes, rng: random.Random) -> bytes:
    begin, end = _place(content, rng)
    rest = content[:begin] + content[end:]
    target = rng.randrange(len(rest) + 1)
    return rest[:target] + content[begin:end] + rest[target:]


def _counted_otherwise(content: bytes, rng: random.Random) -> bytes:
    begin, _ = _place(content, rng)
    change = rng.choice((-1, 1, 10, 10**6))
    number = re.compile(rb"\d{1,12}")
    return content[:begin] + number.sub(lambda m: str(int(m[0]) + change).encode(), content[begin:], count=1)


def _without_line(content: bytes, rng: random.Random) -> bytes:
    lines = content.split(b"\n")
    del lines[rng.randrange(len(lines))]
    return b"\n".join(lines)


def _recoded(content: bytes, rng: random.Random) -> bytes:
    text = content.decode("utf-8", "replace")
    return rng.choice(
        (
            lambda: text.encode("utf-16"),
            lambda: text.encode("latin-1", "replace"),
            lambda: content.decode("latin-1").encode(),
            lambda: b"\xef\xbb\xbf" + content,
            lambda: content.replace(b"\n", b"\r\n"),
            lambda: content.replace(b"\n", b"\r"),
            lambda: content.replace(b"\t", b" "),
            lambda: gzip.compress(content),
        )
    )()


_DAMAGES: tuple[Callable[[bytes, random.Random], bytes], ...] = (
    lambda content, rng: content[: _place(content, rng)[0]],
    lambda content, rng: content[_place(content, rng)[0] :],
    *(_replaced, _replaced, _noise, _repeated, _nested, _moved, _counted_otherwise, _without_line, _recoded),
)


# The command


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


def _too_long(*_: Any) -> None:
    raise TimeoutError(f"more than {6 * SECONDS} s")


def _results(arguments: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Run each reader in a process of its own, which may die."""
    for name in readers():
        command = [sys.executable, __file__, "--reader", name, "--count", str(arguments.count)]
        command += ["--seed", str(arguments.seed), *(["--corpora", arguments.corpora] if arguments.corpora else [])]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        lines = done.stdout.strip().splitlines()
        died = {"reader": name, "failures": [f"the process died ({done.returncode}): {done.stderr[-300:]}"]}
        yield json.loads(lines[-1]) if lines else died


def main() -> None:
    """Fuzz one reader or all of them; print a line of JSON for each."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else "")
    parser.add_argument("--count", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--corpora")
    parser.add_argument("--reader", choices=sorted(readers()))
    arguments = parser.parse_args()
    if arguments.reader:
        reader = readers(Path(arguments.corpora) if arguments.corpora else None)[arguments.reader]
        results = iter([fuzz(arguments.reader, reader, arguments.count, arguments.seed)])
    else:
        results = _results(arguments)
    failed = False
    for result in results:
        print(json.dumps(result), flush=True)
        failed = failed or bool(result["failures"])
    sys.exit(failed)


if __name__ == "__main__":
    main()
