"""Fetching the corpora, against a server on loopback: whole and right, or nothing and a way out."""

from __future__ import annotations

import hashlib
import io
import threading
import zipfile
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from odin_slm.core.errors import FetchError, MissingInputError, OdinError
from odin_slm.datasets.corpus_files import CorpusFilesDataset

TEXT = b"1|A sentence about a drug.|rash|0|4|drug|5|9\n" * 4000


def zipped(**members: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in members.items():
            archive.writestr(f"inside/{name}", content)
    return buffer.getvalue()


class Server(ThreadingHTTPServer):
    """Serves ``files``; ``cut`` counts the answers of a path that end half-way."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files: dict[str, bytes] = {}
        self.cut: Counter[str] = Counter()
        self.asked: Counter[str] = Counter()

    def url(self, name: str) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/{name}"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        name = self.path.lstrip("/")
        self.server.asked[name] += 1
        if name not in self.server.files:
            self.send_error(404)
            return
        content = self.server.files[name]
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.server.cut[name] > 0:
            self.server.cut[name] -= 1
            self.wfile.write(content[: len(content) // 2])
            self.wfile.flush()
            self.connection.close()
        else:
            self.wfile.write(content)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    serving = Server()
    thread = threading.Thread(target=serving.serve_forever, daemon=True)
    thread.start()
    yield serving
    serving.shutdown()
    serving.server_close()
    thread.join()


def dataset(folder: Path, sources: dict[str, dict[str, Any]], *, fetch: bool = True) -> CorpusFilesDataset:
    return CorpusFilesDataset(filepath=str(folder), files=list(sources), sources=sources, fetch=fetch)


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def refusal(data: CorpusFilesDataset) -> OdinError:
    with pytest.raises(OdinError) as caught:
        data.read()
    return caught.value


def test_missing_files_are_fetched_once_and_read(server: Server, tmp_path: Path) -> None:
    server.files = {"a.txt": TEXT}
    data = dataset(tmp_path / "corpus", {"a.txt": {"url": server.url("a.txt"), "sha256": sha256(TEXT)}})
    assert data.load() == {"a.txt": TEXT.decode()}
    assert data.load() == {"a.txt": TEXT.decode()}
    assert server.asked["a.txt"] == 1
    assert [file.name for file in (tmp_path / "corpus").iterdir()] == ["a.txt"]


def test_nothing_is_fetched_unless_asked_for(server: Server, tmp_path: Path) -> None:
    server.files = {"a.txt": TEXT}
    sources = {"a.txt": {"url": server.url("a.txt"), "sha256": sha256(TEXT)}}
    error = refusal(dataset(tmp_path / "corpus", sources, fetch=False))
    assert isinstance(error, MissingInputError)
    assert "--params fetch=true" in error.fix
    assert not server.asked
    assert not (tmp_path / "corpus").exists()


def test_files_of_one_archive_take_one_download(server: Server, tmp_path: Path) -> None:
    server.files = {"all.zip": zipped(one=b"first\n", two=b"second\n")}
    sources = {
        name: {"url": server.url("all.zip"), "member": f"inside/{name}", "sha256": sha256(content)}
        for name, content in (("one", b"first\n"), ("two", b"second\n"))
    }
    assert dataset(tmp_path, sources).load() == {"one": "first\n", "two": "second\n"}
    assert server.asked["all.zip"] == 1
    assert sorted(file.name for file in tmp_path.iterdir()) == ["one", "two"]


def test_a_file_that_is_there_stays(server: Server, tmp_path: Path) -> None:
    server.files = {"a.txt": TEXT, "b.txt": b"fetched\n"}
    (tmp_path / "a.txt").write_bytes(b"my own\n")
    sources = {name: {"url": server.url(name), "sha256": sha256(content)} for name, content in server.files.items()}
    assert dataset(tmp_path, sources).load() == {"a.txt": "my own\n", "b.txt": "fetched\n"}


def test_a_connection_that_is_cut_starts_again(server: Server, tmp_path: Path) -> None:
    server.files = {"a.txt": TEXT}
    server.cut["a.txt"] = 2
    sources = {"a.txt": {"url": server.url("a.txt"), "sha256": sha256(TEXT)}}
    assert dataset(tmp_path, sources).load() == {"a.txt": TEXT.decode()}
    assert server.asked["a.txt"] == 3


def test_a_connection_that_stays_cut_leaves_nothing(server: Server, tmp_path: Path) -> None:
    server.files = {"a.txt": TEXT}
    server.cut["a.txt"] = 99
    error = refusal(dataset(tmp_path, {"a.txt": {"url": server.url("a.txt"), "sha256": sha256(TEXT)}}))
    assert isinstance(error, FetchError)
    assert "3 attempts" in error.what
    assert server.url("a.txt") in error.fix
    assert not list(tmp_path.iterdir())


def test_other_content_is_not_kept(server: Server, tmp_path: Path) -> None:
    server.files = {"a.txt": b"something else\n"}
    error = refusal(dataset(tmp_path, {"a.txt": {"url": server.url("a.txt"), "sha256": sha256(TEXT)}}))
    assert sha256(b"something else\n") in error.what
    assert sha256(TEXT) in error.what
    assert not list(tmp_path.iterdir())


def test_a_file_that_is_gone_is_named_with_its_place(server: Server, tmp_path: Path) -> None:
    error = refusal(dataset(tmp_path, {"a.txt": {"url": server.url("a.txt"), "sha256": sha256(TEXT)}}))
    assert "404" in error.what
    assert server.asked["a.txt"] == 1, "an answer is not asked for again"
    assert f"put a.txt into {tmp_path}" in error.fix
    assert not list(tmp_path.iterdir())


def test_without_a_network_the_message_says_what_to_put_where(tmp_path: Path) -> None:
    url = "http://127.0.0.1:9/a.txt"  # the discard port: nothing listens there
    error = refusal(dataset(tmp_path, {"a.txt": {"url": url, "sha256": sha256(TEXT)}}))
    assert "ConnectionError" in error.what
    assert url in error.fix
    assert str(tmp_path) in error.fix


def test_an_archive_without_the_member_is_named(server: Server, tmp_path: Path) -> None:
    server.files = {"all.zip": zipped(one=b"first\n"), "broken.zip": b"no zip at all"}
    for archive in server.files:
        source = {"url": server.url(archive), "member": "inside/two", "sha256": sha256(b"")}
        error = refusal(dataset(tmp_path, {"two": source}))
        assert "inside/two" in error.what
        assert archive in error.where
        assert not list(tmp_path.iterdir())


def test_a_wrong_catalog_entry_names_its_key() -> None:
    for source, key in (({"url": "ftp://x/y", "sha256": "0" * 64}, "url"), ({"url": "http://x/y"}, "sha256")):
        with pytest.raises(FetchError, match=key):
            CorpusFilesDataset(filepath="f", files=["a.txt"], sources={"a.txt": source})


def test_the_catalog_names_a_checked_address_for_every_file() -> None:
    from odin_slm.config.loader import ProjectConfigLoader
    from odin_slm.settings import CONFIG_LOADER_ARGS

    root = Path(__file__).resolve().parents[2]
    catalog = ProjectConfigLoader(root / "conf", None, {"fetch": True}, **CONFIG_LOADER_ARGS)["catalog"]
    for corpus in ("ade", "bc5cdr", "biored"):
        entry = catalog[f"{corpus}_raw"]
        assert set(entry["sources"]) == set(entry["files"])
        assert entry["fetch"] is True
        assert all(source["url"].startswith("https://") for source in entry["sources"].values())
