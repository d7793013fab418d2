"""Fetching the files of a public corpus: by their published addresses, checked by their sha256, whole or not at all."""

from __future__ import annotations

import hashlib
import logging
import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from odin_slm.core.errors import FetchError

logger = logging.getLogger(__name__)

_TIMEOUT = 30
"""Seconds without an answer after which a server counts as gone."""
_RETRIES = 2


class Source(BaseModel):
    """Where a file comes from.

    Attributes:
        url: Address of the file, or of a zip that holds it.
        member: Name in that zip; None where the address is the file's own.
        sha256: Of the file itself.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    url: str = Field(pattern=r"^https?://\S+$")
    member: str | None = None
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")


def sources_of(values: Mapping[str, Any], where: str) -> dict[str, Source]:
    """Check a catalog entry's addresses.

    Raises:
        FetchError: Naming the key that is wrong.
    """
    try:
        return {name: Source.model_validate(value) for name, value in values.items()}
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        raise FetchError(
            f"{key}: {first['msg']}.", where=where, fix="Give url, sha256 and, for a file in a zip, member."
        ) from None


def fetch(
    folder: Path, names: Sequence[str], sources: Mapping[str, Source], read_member: Callable[[bytes, str, str], bytes]
) -> None:
    """Fetch files into a folder; each appears there whole and with the right sha256, or not at all.

    A download that was cut starts again, twice; an archive that several files lie in is fetched once.

    Args:
        folder: Where to put them; made if need be.
        names: Which files.
        sources: File name -> source.
        read_member: Reads a member of a zip: (archive, member, where) -> content.

    Raises:
        FetchError: No source is known, the server cannot be reached or answers with an error, or the content is
            another; with the address, and what to do by hand.
    """
    folder.mkdir(parents=True, exist_ok=True)
    archives: dict[str, bytes] = {}
    for name in names:
        if name not in sources:
            raise FetchError("no address is configured for it.", where=name, fix=f"Put the file into {folder}.")
        source = sources[name]
        by_hand = f"Get {source.url} by hand and put {name} into {folder}."
        with tempfile.TemporaryDirectory(prefix=".fetch-", dir=folder) as scratch:
            fresh = Path(scratch) / name
            if source.member is None:
                _download(source, fresh, by_hand)
            else:
                if source.url not in archives:
                    archive = Path(scratch) / "archive.zip"
                    _download(source, archive, by_hand)
                    archives[source.url] = archive.read_bytes()
                fresh.write_bytes(read_member(archives[source.url], source.member, source.url))
            digest = hashlib.sha256(fresh.read_bytes()).hexdigest()
            if digest != source.sha256:
                raise FetchError(
                    f"{source.url} gave other content: sha256 {digest}, expected {source.sha256}.",
                    where=name,
                    fix=f"Nothing was kept. The publisher may have changed the file: compare it. {by_hand}",
                )
            os.replace(fresh, folder / name)


def _download(source: Source, target: Path, by_hand: str) -> None:
    import pooch
    import requests

    logger.info("Fetching %s", source.url)
    downloader = pooch.HTTPDownloader(progressbar=True, timeout=_TIMEOUT)
    pooch.get_logger().setLevel(logging.WARNING)  # pooch tells the sha256 of what it was given none for
    for attempt in range(_RETRIES + 1):
        try:
            # the sha256 is compared by the caller: pooch's message does not say what the file has instead
            pooch.retrieve(source.url, None, fname=target.name, path=target.parent, downloader=downloader)
        except requests.HTTPError as error:
            status = error.response.status_code if error.response is not None else "an error"
            raise FetchError(f"{source.url} answers {status}.", where=target.name, fix=by_hand) from None
        except (requests.RequestException, OSError) as error:
            if attempt == _RETRIES:
                raise FetchError(
                    f"{source.url} cannot be fetched ({type(error).__name__}), after {attempt + 1} attempts.",
                    where=target.name,
                    fix=f"Nothing was kept. Check the network, or: {by_hand}",
                ) from None
        else:
            return
