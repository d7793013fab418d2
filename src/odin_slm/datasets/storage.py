"""Folders on this machine or in an object store, the latter by fsspec (https://filesystem-spec.readthedocs.io).

A place with ``://`` is an object store's, as ``s3://BUCKET/FOLDER``. Its credentials and endpoint come from where its
client looks for them (``AWS_ACCESS_KEY_ID``, ``AWS_ENDPOINT_URL``, a role, …); no parameter holds them.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from odin_slm.core.errors import MissingInputError, StorageError
from odin_slm.core.files import files_below, new_file

_EXTRAS = {"s3": "s3"}
"""Protocol -> the extra of this package that brings its client."""


def is_address(place: str) -> bool:
    """Tell an object store's address from a path."""
    return "://" in place


def folder_at(place: str) -> LocalFolder | StoreFolder:
    """Return the folder, or the single file, at a path or an address."""
    return StoreFolder(place) if is_address(place) else LocalFolder(Path(place))


@dataclass(frozen=True)
class StoredFile:
    """A file that can be read.

    Attributes:
        folder: Where it lies.
        name: Its path there.
    """

    folder: LocalFolder | StoreFolder
    name: str

    def open(self) -> io.RawIOBase:
        """Return a stream of its bytes, whose failures are :class:`StorageError` and nobody else's."""
        return _Stream(self.folder.open(self.name), self.name)


class _Stream(io.RawIOBase):
    """A stream that keeps the storage's failures apart from those of who parses what it holds."""

    def __init__(self, stream: IO[bytes], name: str) -> None:
        self._stream = stream
        self._name = name

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        return self._stream.seek(offset, whence)

    def tell(self) -> int:
        return self._stream.tell()

    def readinto(self, buffer: Any) -> int:
        with _told(self._name):
            found = self._stream.read(len(buffer))
        buffer[: len(found)] = found
        return len(found)

    def close(self) -> None:
        self._stream.close()
        super().close()


class LocalFolder:
    """A folder of this machine, or a file; what is written is there whole or not at all."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def files(self) -> list[StoredFile]:
        """Return the files at any depth, in order; of a file itself.

        Raises:
            StorageError: A folder among them may not be looked into; what it holds would be missing without a word.
        """
        if self._path.is_file():
            return [StoredFile(LocalFolder(self._path.parent), self._path.name)]
        return [StoredFile(self, file.relative_to(self._path).as_posix()) for file in files_below(self._path)]

    def names(self) -> set[str]:
        """Return the names of the files in this very folder."""
        return {file.name for file in self._path.iterdir() if file.is_file()} if self._path.is_dir() else set()

    def open(self, name: str) -> IO[bytes]:
        """Open a file to read it."""
        return (self._path / name).open("rb")

    def write(self, name: str, content: bytes) -> None:
        """Write a file; on any failure the old content stays and nothing else is left behind."""
        self._path.mkdir(parents=True, exist_ok=True)
        with new_file(self._path / name) as new:
            new.write_bytes(content)

    def remove(self, name: str) -> None:
        """Remove a file."""
        (self._path / name).unlink()


class StoreFolder:
    """A folder of an object store, or an object; what is written is there whole or not at all.

    Every method raises a :class:`StorageError` where the storage cannot be reached, or does not let this user in.

    Args:
        address: ``PROTOCOL://…``.

    Raises:
        MissingInputError: There is no client for the protocol.
    """

    def __init__(self, address: str) -> None:
        from fsspec.core import url_to_fs

        self._address = address.rstrip("/")
        protocol = address.split("://")[0]
        extra = _EXTRAS.get(protocol)
        fix = f'pip install -c requirements/constraints.txt -e ".[{extra}]"' if extra else ""
        try:
            self._store, root = url_to_fs(address, use_listings_cache=False)
        except (ImportError, ValueError) as error:
            raise MissingInputError(
                f"there is no client for {protocol}:// here ({error}).",
                where=address,
                fix=fix or "Install the package that fsspec names for it, or copy the files to a folder.",
            ) from None
        self._root = str(root).rstrip("/")

    def files(self) -> list[StoredFile]:
        """Return the objects at any depth, in order; of an object itself."""
        found = self._found()
        if found == [self._root]:
            folder, name = self._address.rsplit("/", 1)
            return [StoredFile(StoreFolder(folder), name)]
        return [StoredFile(self, path[len(self._root) + 1 :]) for path in found]

    def names(self) -> set[str]:
        """Return the names of the objects in this very folder."""
        return {path.rsplit("/", 1)[1] for path in self._found(maxdepth=1)}

    def open(self, name: str) -> IO[bytes]:
        """Open an object to read it."""
        with _told(f"{self._address}/{name}"):
            stream: IO[bytes] = self._store.open(f"{self._root}/{name}", "rb")
            return stream

    def write(self, name: str, content: bytes) -> None:
        """Write an object; it appears when its upload has ended."""
        with _told(f"{self._address}/{name}"):
            self._store.pipe_file(f"{self._root}/{name}", content)

    def remove(self, name: str) -> None:
        """Remove an object."""
        with _told(f"{self._address}/{name}"):
            self._store.rm_file(f"{self._root}/{name}")

    def _found(self, **options: Any) -> list[str]:
        with _told(self._address):
            return sorted(self._store.find(self._root, **options), key=lambda path: path.split("/"))


@contextmanager
def _told(where: str) -> Iterator[None]:
    """Say what of the storage fails; each client raises errors of its own kinds."""
    try:
        yield
    except Exception as error:
        reason = (str(error).strip() or type(error).__name__).split("\n")[0]
        raise StorageError(
            f"the storage fails ({type(error).__name__}: {reason}).",
            where=where,
            fix="Check that it is there, can be reached, and lets this user in; then run again.",
        ) from None
