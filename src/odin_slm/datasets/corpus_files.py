"""Kedro datasets of raw corpora: their original files as texts, and the synthetic sample."""

from __future__ import annotations

import io
import lzma
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, NoReturn

from kedro.io import DatasetError

from odin_slm.core.errors import CorpusFormatError, FetchError, MissingInputError
from odin_slm.core.files import new_folder
from odin_slm.corpora.words import VOCABULARY
from odin_slm.datasets import PathDataset, ReadOnlyDataset
from odin_slm.datasets.models import BaseModelDataset
from odin_slm.datasets.sources.fetching import fetch, sources_of
from odin_slm.datasets.sources.texts import decode

MAX_MEMBER_BYTES = 512 * 1024 * 1024
"""A zip member may not unpack to more: the largest of the real corpora has 3 MB."""

_ZIPPED = {"biored": "BIORED.zip"}
"""Folder of the sample -> the zip that its publisher puts the files into."""

_ZIP_ERRORS = (
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    struct.error,
    EOFError,
    OSError,
    NotImplementedError,
    OverflowError,
    RuntimeError,
    ValueError,
)
"""What zipfile raises on broken, encrypted or exotic archives."""

_EPOCH = (1980, 1, 1, 0, 0, 0)
"""The earliest time a zip member can carry; one for all, so that equal texts give equal bytes."""


class RawCorpus(Mapping[str, str]):
    """File name -> text of a corpus; the files are read once, when the first text is asked for."""

    def __init__(self, name: str, read: Callable[[], dict[str, str]]) -> None:
        self.name = name
        self._read = read

    @cached_property
    def _texts(self) -> dict[str, str]:
        return self._read()

    def __getitem__(self, name: str) -> str:
        return self._texts[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._texts)

    def __len__(self) -> int:
        return len(self._texts)


class CorpusFilesDataset(ReadOnlyDataset[RawCorpus]):
    """The files of one corpus in their publisher's format, as texts, fetched where that is asked for; read-only.

    Args:
        filepath: Folder of the corpus, which has its name.
        files: Names in that folder. A ``.zip`` stands for its members.
        members: Members to read from the zip; all of them where it is None.
        sources: File name -> where it is published: ``url``, ``sha256``, and ``member`` for a file in a zip.
        fetch: Whether files that are missing are fetched from there; otherwise nothing here uses the network.
        metadata: For Kedro-Viz.
    """

    REFUSAL = "an original corpus is read-only."

    def __init__(
        self,
        *,
        filepath: str,
        files: list[str],
        members: list[str] | None = None,
        sources: dict[str, dict[str, Any]] | None = None,
        fetch: bool = False,
        metadata: dict[str, Any] | None = None,
    ) -> None:
        self._folder = Path(filepath)
        self._files = files
        self._members = members
        self._sources = sources_of(sources or {}, where=str(self._folder))
        self._fetch = fetch
        self.metadata = metadata

    def load(self) -> RawCorpus:
        """Return file (or zip member) name -> text, line ends as they are.

        The files are read when a text is first asked for, so that an experiment without this corpus needs none.
        """
        return RawCorpus(self._folder.name, self.read)

    def read(self) -> dict[str, str]:
        """Return the texts.

        Raises:
            MissingInputError: A file or member is not there.
            FetchError: A missing file could not be fetched.
            CorpusFormatError: A file is not UTF-8, with ``file:line``, or no readable zip.
        """
        missing = [name for name in self._files if not (self._folder / name).is_file()]
        if missing and self._fetch and self._sources:
            fetch(self._folder, missing, self._sources, _member_of)
            missing = []
        if missing:
            found = f"missing {', '.join(missing)}" if self._folder.is_dir() else "no such folder"
            origins = ", ".join(dict.fromkeys(self._sources[name].url for name in missing if name in self._sources))
            raise MissingInputError(
                f"{found}; expected it to hold {', '.join(self._files)}.",
                where=str(self._folder),
                fix=(f"Get them from {origins} and put them there" if origins else "Put them there")
                + (", let `--params fetch=true` get them" if self._sources else "")
                + ", or point `--params corpora=DIR` at the folder that holds ade/, bc5cdr/ and biored/.",
            )
        texts: dict[str, str] = {}
        for name in self._files:
            content = (self._folder / name).read_bytes()
            contents = self._unpack(name, content) if name.endswith(".zip") else {name: content}
            texts |= {key: decode(str(self._folder / name), key, value) for key, value in contents.items()}
        return texts

    def _unpack(self, name: str, content: bytes) -> dict[str, bytes]:
        where = str(self._folder / name)
        again = f"Get {name} from {self._sources[name].url if name in self._sources else 'its publisher'} again."
        try:
            with zipfile.ZipFile(io.BytesIO(content)) as archive:
                members = [info.filename for info in archive.infolist() if not info.is_dir()]
                chosen = members if self._members is None else self._members
                missing = [member for member in chosen if member not in members]
                if missing:
                    raise MissingInputError(
                        f"no member {', '.join(missing)}; found {', '.join(members[:12]) or 'none'}.",
                        where=where,
                        fix=again,
                    )
                return {member: _read_member(archive, member, where) for member in chosen}
        except _ZIP_ERRORS as error:
            raise CorpusFormatError(
                f"no readable zip ({type(error).__name__}: {error}).",
                where=where,
                fix=again,
            ) from None

    def _exists(self) -> bool:
        return all((self._folder / name).is_file() for name in self._files)

    def _describe(self) -> dict[str, Any]:
        return {"filepath": str(self._folder), "files": self._files, "members": self._members}


class VocabularyDataset(CorpusFilesDataset):
    """Files as texts, and beside them ``vocabulary.txt``: the text of every token of the base, one a line.

    Args:
        base: Arguments of :class:`~odin_slm.datasets.models.BaseModelDataset`.
        **files: Arguments of :class:`CorpusFilesDataset`.
    """

    def __init__(self, *, base: dict[str, Any], **files: Any) -> None:
        super().__init__(**files)
        self._base = BaseModelDataset(**base)

    def load(self) -> RawCorpus:
        """Return file name -> text; files and base are read when a text is first asked for."""
        return RawCorpus(self._folder.name, lambda: {**self.read(), VOCABULARY: self._vocabulary()})

    def _vocabulary(self) -> str:
        """Return what each token decodes to, in the order of ids; tokens with a line break are left out."""
        from odin_slm.models.base_model import load_tokenizer

        tokenizer = load_tokenizer(self._base.load())
        texts = tokenizer.batch_decode([[token] for token in range(len(tokenizer))], skip_special_tokens=True)
        return "".join(f"{text}\n" for text in texts if text and not set(text) & {"\n", "\r", "\ufffd"})


class SampleDataset(PathDataset[dict[str, dict[str, str]], None]):
    """The synthetic sample as a corpora folder: folder -> file -> text; write-only.

    ``.`` stands for the sample's own folder, and the folder ``biored`` becomes the zip that NCBI publishes. The
    folder appears whole or not at all, and equal values give equal bytes; an
    earlier sample there is replaced.
    """

    def load(self) -> NoReturn:
        """Refuse: the sample is read as corpora, by :class:`CorpusFilesDataset`.

        Raises:
            DatasetError: Always.
        """
        raise DatasetError(f"{self._filepath} is read as corpora: use CorpusFilesDataset for its folders.")

    def save(self, data: Mapping[str, Mapping[str, str]]) -> None:
        """Write the whole sample beside its place, then move it there."""
        with new_folder(self._filepath) as fresh:
            for folder, files in data.items():
                target = fresh / folder
                target.mkdir(parents=True, exist_ok=True)
                if folder in _ZIPPED:
                    (target / _ZIPPED[folder]).write_bytes(_zip(files))
                else:
                    for name, text in files.items():
                        (target / name).write_bytes(text.encode("utf-8"))


def _member_of(archive: bytes, member: str, where: str) -> bytes:
    """Read one member of a fetched zip."""
    try:
        with zipfile.ZipFile(io.BytesIO(archive)) as opened:
            return _read_member(opened, member, where)
    except (*_ZIP_ERRORS, KeyError) as error:
        raise FetchError(
            f"no zip with the member {member} ({type(error).__name__}: {error}).",
            where=where,
            fix="The publisher may have changed the archive: look at it, and put the files into their folder by hand.",
        ) from None


def _read_member(archive: zipfile.ZipFile, member: str, where: str) -> bytes:
    with archive.open(member) as stream:
        # The size in the archive's directory may lie, so the stream itself is bounded.
        content = stream.read(MAX_MEMBER_BYTES + 1)
    if len(content) > MAX_MEMBER_BYTES:
        raise CorpusFormatError(
            f"member {member} unpacks to more than {MAX_MEMBER_BYTES // 1024**2} MiB.",
            where=where,
            fix="Get the archive from its publisher again.",
        )
    return content


def _zip(files: Mapping[str, str]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, text in files.items():
            info = zipfile.ZipInfo(name, _EPOCH)
            info.compress_type = zipfile.ZIP_DEFLATED
            info.external_attr = 0o644 << 16
            info.create_system = 3
            archive.writestr(info, text.encode("utf-8"), compresslevel=9)
    return buffer.getvalue()
