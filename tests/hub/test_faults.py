"""Every fault at every request of a release: published and verified, or refused with nothing visible changed.

The release is the whole of it: a dataset and a model, each created, committed, tagged, downloaded and verified, then
both shown. It is run in two states of the Hub: with no repositories, and with public ones that hold an older release.
The suite runs a sample. ``PYTHONPATH=src:tests python tests/hub/test_faults.py`` runs all of it and prints the figures;
with ``7`` behind it every seventh case, with ``1 "POST tag"`` the cases of one request.
"""

from __future__ import annotations

import copy
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import pytest
from kedro.io import DatasetError

from hub.conftest import TOKEN
from hub.releases import dataset_files, hub_of, model_files, plan, published, stage, visible
from hub_server import Fault, HubServer, Request, Store
from odin_slm.cli import explain
from odin_slm.datasets.hub import PublicationDataset
from odin_slm.engines.publishing import publish
from odin_slm.errors import HubError

FAULTS: tuple[tuple[str, int], ...] = (
    *(("status", status) for status in (401, 403, 404, 409, 412, 429, 500, 503)),
    ("cut", 0),
    ("lost", 0),
    ("cut_body", 0),
)
SAMPLE = 30
Outcome = Literal["published", "refused"]

NEW = {"dataset": dataset_files(4), "model": model_files(0.7)}
OLD = {"dataset": dataset_files(2), "model": model_files(0.1, NOTICE=b"old")}
IDS = {"dataset": "anna/data", "model": "anna/odin"}


def release(server: HubServer, folder: Path) -> None:
    """Publish the dataset, then the model, then show both."""
    hub = hub_of(server, lambda seconds: None)
    found: dict[str, Any] = {"visible": ["dataset", "model"]}
    for kind in ("dataset", "model"):
        there = stage(folder / kind, NEW[kind])
        found[kind] = publish(plan(there, kind=kind, repo_id=IDS[kind], private=False), hub, check)
        assert found[kind]["verified"] == {"files": len(NEW[kind])}
    try:
        PublicationDataset(filepath=str(folder / "publication.json")).save(found)
    except DatasetError as error:
        raise explain(error) or error from None


def check(folder: Path) -> dict[str, int]:
    return {"files": sum(path.is_file() and path.name != ".gitattributes" for path in folder.rglob("*"))}


def prepare(server: HubServer, state: str, users: Any) -> None:
    server.store, server.journal, server.faults = Store(), [], []
    server.store.users |= users
    if state == "public":
        for kind, repo_id in IDS.items():
            server.store.add(kind, repo_id).put(OLD[kind], "old release")


def run_with(server: HubServer, fault: Fault, state: str, users: Any) -> Outcome:
    """Run a release with a fault and check that it ends in one of the two ways."""
    prepare(server, state, users)
    before = copy.deepcopy(visible(server))
    server.faults = [fault]
    with tempfile.TemporaryDirectory() as folder:
        try:
            release(server, Path(folder))
        except HubError as refusal:
            judge(server, refusal, before, state)
            return "refused"
    for kind, repo_id in IDS.items():
        repository = server.store.get(kind, repo_id)
        assert published(server, kind, repo_id) == NEW[kind]
        assert list(repository.tags.values()) == [repository.branches["main"]]
        assert not repository.private
        assert len([commit for commit in repository.history() if commit.message == "Release"]) == 1
    return "published"


def judge(server: HubServer, refusal: HubError, before: dict[str, Any], state: str) -> None:
    """A refusal says where and what to do, and each repository is as it was, or new, whole and verified."""
    assert refusal.where, refusal
    assert refusal.fix, refusal
    after = visible(server)
    if after == before:
        return
    # What others see has changed: the dataset went first, it is whole and verified, and the model was refused. Or the
    # Hub, of all things, shows a repository and then refuses to hide it: that is said.
    assert published(server, "dataset", IDS["dataset"]) == NEW["dataset"]
    assert after.get("model anna/odin") == before.get("model anna/odin")
    assert state == "public" or "could not be hidden again" in str(refusal)


def requests_of(server: HubServer, state: str, users: Any) -> list[Request]:
    prepare(server, state, users)
    with tempfile.TemporaryDirectory() as folder:
        release(server, Path(folder))
    return list(server.journal)


def nth(number: int, times: int | None) -> Callable[[str, int], Fault]:
    """Return a fault for the request with this number, and for equal ones after it where ``times`` is None."""
    seen = 0
    struck: list[str] = []

    def match(request: Request) -> bool:
        nonlocal seen
        seen += 1
        if seen - 1 == number:
            struck.append(request.name)
        return bool(struck) and request.name == struck[0] and (times is None or seen - 1 == number)

    return lambda kind, status: Fault(match, kind, status, times=times)  # type: ignore[arg-type]


def cases(server: HubServer, users: Any) -> list[tuple[str, int, str, tuple[str, int], int | None]]:
    """All of them: state of the Hub, number of the request, its name, fault, how often (None: from then on)."""
    found = []
    for state in ("empty", "public"):
        for number, request in enumerate(requests_of(server, state, users)):
            for fault in FAULTS:
                for times in (1, None):
                    found.append((state, number, request.name, fault, times))
    return found


def test_no_fault_leaves_anything_half_published(
    hub: HubServer, naps: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    users = dict(hub.store.users)
    everything = cases(hub, users)
    outcomes = Counter()
    sample = random.Random(8).sample(everything, SAMPLE)
    # The commit is where most can go wrong: every fault of it, once, is part of the sample.
    sample += [case for case in everything if (case[0], case[2], case[4]) == ("public", "POST commit", 1)]
    for state, number, name, (kind, status), times in sample:
        try:
            outcomes[run_with(hub, nth(number, times)(kind, status), state, users)] += 1
        except AssertionError as error:
            raise AssertionError(f"{kind} {status or ''} at request {number} ({name}), {state}, {times}") from error
    assert outcomes["published"] > outcomes["refused"] / 4
    assert sum(outcomes.values()) == len(sample)


@pytest.mark.parametrize("state", ["empty", "public"])
def test_what_passes_is_retried_to_the_end(
    hub: HubServer, naps: list[float], monkeypatch: pytest.MonkeyPatch, state: str
) -> None:
    """One hiccup stops nothing, wherever it is; every fourth request is tried here."""
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    users = dict(hub.store.users)
    hiccups = [("status", 429), ("status", 500), ("status", 503), ("cut", 0), ("lost", 0)]
    for number in range(0 if state == "empty" else 2, len(requests_of(hub, state, users)), 4):
        fault = random.Random(number).choice(hiccups)
        assert run_with(hub, nth(number, 1)(*fault), state, users) == "published", (number, fault)


def main(step: int = 1, *names: str) -> int:
    """Run every ``step``-th case, of the requests with these names where some are given, and print what came of it."""
    import os
    from logging import getLogger

    from huggingface_hub import constants
    from huggingface_hub.utils import _http, disable_progress_bars, logging

    from hub_server import User

    constants.HF_HUB_DISABLE_XET = True
    disable_progress_bars()
    logging.set_verbosity_error()
    getLogger("odin_slm").setLevel("ERROR")
    _http.time.sleep = lambda seconds: None
    with HubServer().running() as server, tempfile.TemporaryDirectory() as home:
        os.environ |= {"HF_HOME": home, "HF_ENDPOINT": server.endpoint, "HF_TOKEN": TOKEN}
        users = {TOKEN: User("anna")}
        everything = [case for case in cases(server, users) if not names or case[2] in names][::step]
        table: dict[str, Counter[str]] = {}
        started, failed = time.perf_counter(), 0
        for state, number, name, (kind, status), times in everything:
            row = table.setdefault(f"{kind} {status or ''} {'once' if times else 'from then on'}", Counter())
            try:
                row[run_with(server, nth(number, times)(kind, status), state, users)] += 1
            except Exception as error:
                failed += 1
                row["broken"] += 1
                print(f"{kind} {status} at {number} ({name}), {state}, times {times}: {error!r}", file=sys.stderr)
        for title, row in table.items():
            print(f"{title:24} {dict(row)}")
        seconds = time.perf_counter() - started
        print(f"{len(everything)} cases, {failed} half-published or unclear, {seconds:.0f} s")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(*map(int, sys.argv[1:2]), *sys.argv[2:]))
