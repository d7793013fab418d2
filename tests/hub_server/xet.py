"""Xet: content-addressed storage beside the Hub, as far as ``hf_xet`` needs it to upload and to download.

Source: the Xet protocol specification (https://huggingface.co/docs/xet). A file is cut into chunks, chunks are packed
into xorbs, and a shard says which chunks of which xorbs make up which file. This side unpacks what the client packed,
so that a file counts as uploaded only when its chunks really give its bytes.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pyarrow

_BLOCK = 48
_HEADER = 48
_VERIFIED, _DESCRIBED = 1 << 31, 1 << 30
_END = b"\xff" * 32


@dataclass(frozen=True)
class Segment:
    """Chunks ``first`` to ``last`` (exclusive) of a xorb."""

    xorb: str
    length: int
    first: int
    last: int


@dataclass
class XetStorage:
    """Xorbs by hash, and files by the hash that Xet knows them by."""

    xorbs: dict[str, bytes] = field(default_factory=dict)
    files: dict[str, list[Segment]] = field(default_factory=dict)
    by_sha256: dict[str, str] = field(default_factory=dict)

    def add_shard(self, shard: bytes) -> None:
        """Take the files that a shard describes.

        Raises:
            ValueError: Their chunks are not there, or do not give the content whose SHA-256 the shard names.
        """
        for file_hash, sha256, segments in _files(shard):
            content = b"".join(self._segment(segment) for segment in segments)
            if hashlib.sha256(content).hexdigest() != sha256:
                raise ValueError(f"the chunks of {file_hash} do not give the file")
            self.files[file_hash] = segments
            self.by_sha256[sha256] = file_hash

    def content(self, sha256: str) -> bytes | None:
        """Return an uploaded file."""
        file_hash = self.by_sha256.get(sha256)
        return None if file_hash is None else b"".join(map(self._segment, self.files[file_hash]))

    def reconstruction(self, file_hash: str, address: str) -> dict[str, Any] | None:
        """Return where the chunks of a file are to be fetched; ``address`` is that of the xorbs."""
        segments = self.files.get(file_hash)
        if segments is None:
            return None
        fetch: dict[str, list[dict[str, Any]]] = {}
        for segment in segments:
            starts = [offset for offset, _ in _chunks(self.xorbs[segment.xorb])]
            ends = [*starts[1:], len(self.xorbs[segment.xorb])]
            fetch.setdefault(segment.xorb, []).append(
                {
                    "range": {"start": segment.first, "end": segment.last},
                    "url": f"{address}/{segment.xorb}",
                    "url_range": {"start": starts[segment.first], "end": ends[segment.last - 1] - 1},
                }
            )
        terms = [
            {"hash": s.xorb, "unpacked_length": s.length, "range": {"start": s.first, "end": s.last}} for s in segments
        ]
        return {"offset_into_first_range": 0, "terms": terms, "fetch_info": fetch}

    def _segment(self, segment: Segment) -> bytes:
        if segment.xorb not in self.xorbs:
            raise ValueError(f"there is no xorb {segment.xorb}")
        chunks = [content for _, content in _chunks(self.xorbs[segment.xorb])]
        return b"".join(chunks[segment.first : segment.last])


def _files(shard: bytes) -> Iterator[tuple[str, str, list[Segment]]]:
    place = _HEADER
    while shard[place : place + 32] != _END:
        file_hash, flags, number = shard[place : place + 32], *struct.unpack_from("<II", shard, place + 32)
        segments = []
        for entry in range(place + _BLOCK, place + _BLOCK * (1 + number), _BLOCK):
            _, length, first, last = struct.unpack_from("<IIII", shard, entry + 32)
            segments.append(Segment(_hex(shard[entry : entry + 32]), length, first, last))
        place += _BLOCK * (1 + number + (number if flags & _VERIFIED else 0))
        if not flags & _DESCRIBED:
            raise ValueError("a file without its SHA-256")
        yield _hex(file_hash), _hex(shard[place : place + 32]), segments
        place += _BLOCK


def _chunks(xorb: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield the offset and the content of every chunk; what follows them is the xorb's own list of them."""
    place = 0
    while place + 8 <= len(xorb) and xorb[place] == 0:
        packed, length = (int.from_bytes(xorb[place + at : place + at + 3], "little") for at in (1, 5))
        yield place, _unpack(xorb[place + 8 : place + 8 + packed], xorb[place + 4], length)
        place += 8 + packed


def _unpack(data: bytes, scheme: int, length: int) -> bytes:
    if scheme == 0:
        return data
    plain = pyarrow.decompress(data, decompressed_size=length, codec="lz4", asbytes=True)
    if scheme == 1:
        return plain
    # Scheme 2: every fourth byte first, then every fourth but one, …; floating point numbers pack better so.
    groups, place = [], 0
    for first in range(4):
        size = (length - first + 3) // 4
        groups.append(plain[place : place + size])
        place += size
    return bytes(groups[number % 4][number // 4] for number in range(length))


def _hex(digest: bytes) -> str:
    """Return a hash as Xet writes it: four little-endian numbers."""
    return "".join(f"{number:016x}" for number in struct.unpack("<4Q", digest))
