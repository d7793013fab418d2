"""Repositories on the Hub: a save publishes, a load tells what was published."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from odin_slm.core.errors import HubError, OdinError
from odin_slm.datasets.json_files import CanonicalJSONDataset
from odin_slm.datasets.release import check_release, release_hashes
from odin_slm.hub.client import Hub
from odin_slm.hub.credentials import require_token
from odin_slm.hub.plan import Plan, Progress, Request
from odin_slm.hub.undo import take_back
from odin_slm.hub.upload import publish, set_visibility
from odin_slm.release.checks import CHECKSUMS
from odin_slm.release.verification import verify_dataset, verify_model

logger = logging.getLogger(__name__)


class HubRepositoryDataset(CanonicalJSONDataset):
    """A repository that a staged release is published to; the record of the last publication lies in a file.

    Without a plan a save touches no network: the record stays where it is about the very files that are staged, and
    says ``published: false`` otherwise.

    Args:
        filepath: The record.
        credentials_file: Credentials that may name the token's source; the token itself is read only to publish.
    """

    def __init__(
        self, *, filepath: str, credentials_file: str | None = None, metadata: dict[str, Any] | None = None
    ) -> None:
        super().__init__(filepath=filepath, metadata=metadata)
        self._credentials = Path(credentials_file) if credentials_file else None
        self._undo: Callable[[], str] | None = None
        self._now = False

    def load(self) -> dict[str, Any]:
        """Return the record: ``published``, and what :func:`odin_slm.hub.upload.publish` returns.

        ``now`` is there where it is this run that has published. Where that changed what others see, ``undo`` takes it
        back, and returns a sentence about that.
        """
        return {**self._read(), **({"now": True} if self._now else {}), **({"undo": self._undo} if self._undo else {})}

    def save(self, data: Request) -> None:
        """Publish, where that is asked for.

        Raises:
            HubError: The Hub refuses or fails; the record stays as it was, and what went before is taken back.
            ReleaseError: The folder may not be released.
        """
        self._undo, self._now = None, False
        if data.plan is None:
            published = {name: digest for name, digest in self._read().get("files", {}).items() if name != CHECKSUMS}
            if published != release_hashes(data.folder):
                self._write({"published": False})
            return
        former, progress = self._read(), Progress()
        with _all_or_nothing([data.undo] if data.undo else []):
            hub = Hub(token=require_token(self._credentials))
            check_release(data.folder, data.plan.kind)
            found = publish(data.plan, hub, lambda folder: _verify(folder, data, data.plan), progress)
        self._write({"published": True, **found})
        self._now = True
        if progress.visible:
            self._undo = partial(self._take_back, data.plan, hub, progress, former)

    def _take_back(self, plan: Plan, hub: Hub, progress: Progress, former: Mapping[str, Any]) -> str:
        self._undo, self._now = None, False
        undone = take_back(plan, hub, progress)
        self._write(former)
        return undone

    def _read(self) -> dict[str, Any]:
        record: dict[str, Any] = super().load() if self._exists() else {"published": False}
        return record

    def _write(self, record: Mapping[str, Any]) -> None:
        super().save(dict(record))


class PublicationDataset(HubRepositoryDataset):
    """The whole release on the Hub: a save shows what is to be seen, then writes the record of both repositories.

    The value names ``experiment``, ``now`` (which repositories this run has published), ``visible`` (which of these to
    show), ``undo`` (what takes back that others see already) and, under ``model`` and ``dataset``, the records of the
    two.
    """

    def save(self, data: dict[str, Any]) -> None:  # type: ignore[override]
        """Show the repositories that were verified, where that is asked for, and write the record.

        Raises:
            HubError: One cannot be shown; one that this save had shown before is hidden again, and what others saw
                of the other is taken back.
        """
        record = {key: value for key, value in data.items() if key not in ("now", "visible", "undo")}
        former = self._read()
        for kind in {"dataset", "model"} - set(data["now"]):  # their records are older than what was shown afterwards
            shown_before = former.get(kind, {})
            if data[kind].get("revision") and data[kind]["revision"] == shown_before.get("revision"):
                record[kind] = {**data[kind], "private": shown_before["private"]}
        hidden = [kind for kind in data["visible"] if data[kind].get("private")]
        if hidden:
            with _all_or_nothing(data["undo"]):
                hub = Hub(token=require_token(self._credentials))
                shown: list[Any] = []
                with _all_or_nothing([partial(_hide, hub, shown, data)]):
                    for kind in hidden:
                        shown.append(kind)
                        set_visibility(hub, kind, data[kind]["repo_id"], private=False)
                        record[kind] = {**data[kind], "private": False}
        self._write(record)


@contextmanager
def _all_or_nothing(undo: list[Callable[[], str]]) -> Iterator[None]:
    """Where the block fails, take back what went before it, and say so."""
    try:
        yield
    except OdinError as error:
        message = " ".join([error.what, *(take_back() for take_back in undo)])
        raise type(error)(message, where=error.where, fix=error.fix) from None
    except BaseException:  # a defect, or somebody who stops the run
        for take_back in undo:
            logger.error(take_back())
        raise


def _verify(folder: Path, request: Request, plan: Plan | None) -> dict[str, Any]:
    if plan is not None and plan.kind == "dataset":
        return verify_dataset(folder, request.folder)
    assert request.base is not None
    return verify_model(folder, request.base, request.questions)


def _hide(hub: Hub, kinds: list[Any], data: Mapping[str, Any]) -> str:
    """Hide what may be seen by now, each for itself; return what came of it."""
    failures = []
    for kind in kinds:
        try:
            set_visibility(hub, kind, data[kind]["repo_id"], private=True)
        except HubError as error:
            failures.append(str(error))
    if failures:
        return f"What was shown before could not be hidden again ({'; '.join(failures)})."
    return "What was hidden before is verified, and hidden as before."
