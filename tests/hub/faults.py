"""Every fault at every request of a release: published and verified, or refused with nothing visible changed.

A release is the whole of it, by the nodes and datasets of the publishing pipeline: a dataset and a model, each looked
for, committed, tagged, downloaded and verified, then both shown where that was asked for. Only the two models that
compare a prediction are left out: what they say does not depend on the Hub. It is run in several states of the Hub.

``PYTHONPATH=src:tests python -m hub.faults JOURNAL`` runs all cases that the journal does not hold yet and prints the
table; ``--shard 1/2`` and ``--shard 2/2`` share them among two processes, ``--table`` prints what is there.
"""

from __future__ import annotations

import argparse
import copy
import hashlib
import json
import os
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import constants
from huggingface_hub.utils import _xet
from kedro.io import DatasetError

from canary import TOKEN
from hub.releases import dataset_files, model_files, published, stage, visible
from hub_server import Fault, HubServer, Request, Store, XetStorage
from odin_slm.cli.errors import explain
from odin_slm.config.parameters import PublishingParams
from odin_slm.core.errors import OdinError
from odin_slm.datasets.hub import HubRepositoryDataset, PublicationDataset
from odin_slm.models.base_model import BaseModel
from odin_slm.pipelines.publishing.nodes import (
    conclude_publication,
    plan_dataset_publication,
    plan_model_publication,
)

FAULTS: tuple[tuple[str, int], ...] = (
    *(("status", status) for status in (401, 403, 404, 409, 412, 429, 500, 503)),
    ("cut", 0),
    ("lost", 0),
    ("cut_body", 0),
)
NEW = {"dataset": dataset_files(4), "model": model_files(0.7)}
OLD = {"dataset": dataset_files(2), "model": model_files(0.1, NOTICE=b"old")}
IDS = {"dataset": "anna/data", "model": "anna/odin"}

PUBLISHED = "published and verified"
REFUSED = "failed clearly, nothing visible changed"
STUCK = "the same, but the Hub also refused to take back what was visible, and the message says so"
BROKEN = "half-published, or unclear"
OUTCOMES = (PUBLISHED, REFUSED, STUCK, BROKEN)


@dataclass(frozen=True)
class State:
    """What the Hub holds before a release, and how that is published.

    Attributes:
        there: Repositories that hold an older release, and whether they are private.
        options: Of ``publishing``.
        lasting: Whether faults that last are tried too, and not only those that pass.
        xet: Whether the Hub stores large files in Xet, as huggingface.co does, and not by LFS; only the requests that
            this takes are tried then.
    """

    there: Mapping[str, bool]
    options: Mapping[str, Any]
    lasting: bool = False
    xet: bool = False


STATES = {
    "new": State({}, {"private": False}, lasting=True),
    "public": State({"dataset": False, "model": False}, {"private": False}, lasting=True),
    "public data, new model": State({"dataset": False}, {"private": False}),
    "new data, public model": State({"model": False}, {"private": False}),
    "private": State({"dataset": True, "model": True}, {"private": True}),
    "branch": State({"dataset": False, "model": False}, {"private": False, "revision": "next"}),
    "pull request": State({"dataset": False, "model": False}, {"private": False, "create_pr": True}),
    "public, Xet": State({"dataset": False, "model": False}, {"private": False}, xet=True),
}


@dataclass(frozen=True)
class Case:
    """A fault at one request of a release in one state of the Hub.

    Attributes:
        state: One of :data:`STATES`.
        request: Method and route.
        target: Method and path.
        nth: How many such requests went before; files are sent and fetched in any order, so that a number would not do.
        kind: Of the fault.
        status: Of the answer, where the fault is one.
        once: At this request, or at this and all of its route from there on.
    """

    state: str
    request: str
    target: str
    nth: int
    kind: str
    status: int
    once: bool

    @property
    def fault(self) -> str:
        """Title of the fault."""
        return f"{self.status or self.kind.replace('_', ' ')} {'once' if self.once else 'from then on'}"

    @property
    def key(self) -> str:
        """Name of the case in the journal."""
        return f"{self.state} / {self.target} {self.nth} / {self.fault}"

    def make(self) -> Fault:
        """Return the fault."""
        seen, struck = 0, False

        def match(request: Request) -> bool:
            nonlocal seen, struck
            this = _target(request) == self.target and seen == self.nth
            seen += _target(request) == self.target
            struck = struck or this
            return this or (struck and not self.once and request.name == self.request)

        return Fault(match, self.kind, self.status, times=1 if self.once else None)  # type: ignore[arg-type]


def _target(request: Request) -> str:
    return f"{request.method} {request.target}"


def release(state: State, folder: Path) -> None:
    """Publish the dataset, then the model, then show both, as the pipeline does.

    Raises:
        OdinError: What a user is shown.
    """
    params = PublishingParams(
        experiment="demo",
        push=True,
        message="Release",
        **{f"{kind}_repo": repo_id for kind, repo_id in IDS.items()},  # type: ignore[arg-type]
        **state.options,
    )
    data, model = (HubRepositoryDataset(filepath=str(folder / f"{kind}.json")) for kind in ("dataset", "model"))
    try:
        staged = stage(folder / "dataset", NEW["dataset"])
        data.save(plan_dataset_publication(staged, None, params))
        base, staged = BaseModel("models/odin-nano", folder), stage(folder / "model", NEW["model"])
        model.save(plan_model_publication(staged, base, [{"id": "ade-1"}], data.load(), params))
        PublicationDataset(filepath=str(folder / "publication.json")).save(
            conclude_publication(data.load(), model.load(), params)
        )
    except DatasetError as error:
        raise explain(error) or error from None


def count_files(folder: Path, *_: Any) -> dict[str, int]:
    """Stand for the models that try a download."""
    return {"files": sum(path.is_file() and path.name != ".gitattributes" for path in folder.rglob("*"))}


def prepare(server: HubServer, state: State, users: Any) -> None:
    """Put the Hub into a state."""
    server.store, server.journal, server.faults = Store(), [], []
    server.store.users |= users
    server.xet = XetStorage() if state.xet else None
    constants.HF_HUB_DISABLE_XET = not state.xet
    if state.xet:
        forget_uploads(server)
    for kind, private in state.there.items():
        server.store.add(kind, IDS[kind], private=private).put(OLD[kind], "old release")


def forget_uploads(server: HubServer) -> None:
    """Begin a new Xet session: the old one remembers tokens, and what it has uploaded to a Hub that is no more."""
    server.scratch = tempfile.TemporaryDirectory(prefix="xet-")
    os.environ |= {"HF_XET_CACHE": server.scratch.name, "HF_XET_CLIENT_RETRY_BASE_DELAY": "10ms"}
    _xet.XET_CONNECTION_INFO_CACHE.clear()
    _xet._GLOBAL_XET_HOLDER = _xet.XetSessionHolder()


def outcome_of(server: HubServer, case: Case, users: Any) -> str:
    """Run a release with a fault, and judge how it ended.

    Raises:
        AssertionError: Neither published and verified, nor refused with nothing visible changed.
    """
    state = STATES[case.state]
    prepare(server, state, users)
    before = copy.deepcopy(visible(server))
    server.faults = [case.make()]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        try:
            release(state, folder)
        except OdinError as refusal:
            return _refused(server, state, refusal, before, folder)
        record = json.loads((folder / "publication.json").read_text())
    for kind in IDS:
        _published(server, state, kind, record[kind])
    return PUBLISHED


def _published(server: HubServer, state: State, kind: str, record: Mapping[str, Any]) -> None:
    repository = server.store.get(kind, IDS[kind])
    proposed = bool(state.options.get("create_pr"))
    branch = str(state.options.get("revision", "main"))
    assert record["published"]
    assert record["verified"] == {"files": len(NEW[kind])}
    assert published(server, kind, IDS[kind], record["revision"]) == NEW[kind]
    assert repository.private == record["private"] == bool(state.options["private"])
    made = [commit for commit in repository.commits.values() if commit.message == "Release"]
    assert len(made) == 1, "one commit"
    if proposed:
        assert repository.pull_requests == {"refs/pr/1": made[0].oid}
        assert not repository.closed
    else:
        assert repository.branches[branch] == made[0].oid
    assert list(repository.tags.values()) == ([] if proposed else [made[0].oid])
    if proposed or branch != "main":
        assert published(server, kind, IDS[kind]) == OLD[kind]


def _refused(server: HubServer, state: State, refusal: OdinError, before: dict[str, Any], folder: Path) -> str:
    """A refusal says where and what to do, and others see what they saw before."""
    assert refusal.where, refusal
    assert refusal.fix, refusal
    assert TOKEN not in str(refusal)
    assert not (folder / "publication.json").exists()
    after = visible(server)
    if after == before:
        return REFUSED
    # What others see has changed, and the Hub refuses to undo it: then that is said, and what changed is whole.
    assert "could not be taken back" in str(refusal) or "could not be hidden again" in str(refusal), refusal
    for kind, repo_id in IDS.items():
        name = f"{kind} {repo_id}"
        if after.get(name) != before.get(name):
            branch = str(state.options.get("revision", "main"))
            revision = "refs/pr/1" if state.options.get("create_pr") else branch
            assert published(server, kind, repo_id, revision) in (NEW[kind], OLD[kind]), "never a part"
    return STUCK


def cases(server: HubServer, users: Any) -> list[Case]:
    """Return all of them: the faults that pass, then those that last."""
    found = []
    for name, state in STATES.items():
        prepare(server, state, users)
        with tempfile.TemporaryDirectory() as folder:
            release(state, Path(folder))
        seen: Counter[tuple[str, str]] = Counter((request.name, _target(request)) for request in server.journal)
        found += [
            Case(name, route, target, nth, kind, status, once)
            for (route, target), times in sorted(seen.items())
            if not state.xet or "xet" in target
            for nth in range(times)
            for kind, status in FAULTS
            for once in ((True, False) if state.lasting else (True,))
        ]
    return sorted(found, key=lambda case: not case.once)


def table(results: Iterable[tuple[Case, str]]) -> str:
    """Return fault x outcome as Markdown."""
    rows: dict[str, Counter[str]] = {}
    for case, outcome in results:
        rows.setdefault(case.fault, Counter())[outcome] += 1
    rows["all"] = sum(rows.values(), Counter())
    lines = [["fault", *OUTCOMES], ["---", *["--:"] * len(OUTCOMES)]]
    lines += [[title, *(f"{row[outcome]:,}" for outcome in OUTCOMES)] for title, row in rows.items()]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def main() -> int:
    """Run the cases that the journal does not hold yet, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("journal", type=Path, help="file of the cases done; a run that was stopped goes on from there")
    parser.add_argument("--shard", default="1/1", help="k/n: every n-th case, from the k-th on")
    parser.add_argument("--state", choices=STATES, help="only the cases of this state of the Hub")
    parser.add_argument("--table", action="store_true", help="run nothing")
    options = parser.parse_args()
    part, parts = map(int, options.shard.split("/"))
    with _hub() as (server, users):
        everything = [case for case in cases(server, users) if options.state in (None, case.state)]
        digests = _digests(everything)
        done = _done(options.journal, digests)
        wanted = [case for case in everything[part - 1 :: parts] if case.key not in done and not options.table]
        for number, case in enumerate(wanted, start=1):
            try:
                outcome, problem = outcome_of(server, case, users), ""
            except Exception as error:
                outcome, problem = BROKEN, f"{type(error).__name__}: {error}"
            done[case.key] = outcome
            line = {"matrix": digests[case.state], "case": case.key, "outcome": outcome, "problem": problem}
            with options.journal.open("a", encoding="utf-8") as journal:
                journal.write(json.dumps(line) + "\n")
            if problem:
                print(f"{case.key}: {problem}", file=sys.stderr)
            if number % 100 == 0:
                print(f"{number} of {len(wanted)}", file=sys.stderr, flush=True)
    done = _done(options.journal, digests)
    print(table((case, done[case.key]) for case in everything if case.key in done))
    print(f"\n{len(done):,} of {len(everything):,} cases")
    return 1 if BROKEN in done.values() else 0


def _digests(everything: list[Case]) -> dict[str, str]:
    """Return state -> digest of its cases: of its requests, with their content."""
    keys = {state: sorted(case.key for case in everything if case.state == state) for state in STATES}
    return {state: hashlib.sha256("\n".join(of).encode()).hexdigest()[:16] for state, of in keys.items()}


def _done(journal: Path, digests: Mapping[str, str]) -> dict[str, str]:
    """Return case -> outcome; cases of other requests than today's do not count."""
    if not journal.exists():
        return {}
    lines = map(json.loads, journal.read_text(encoding="utf-8").splitlines())
    return {line["case"]: line["outcome"] for line in lines if line["matrix"] in digests.values()}


def _hub() -> Any:
    import contextlib
    import time
    from logging import getLogger

    from huggingface_hub.utils import disable_progress_bars, logging

    from hub_server import User
    from odin_slm.datasets import hub

    pause: Callable[[float], None] = lambda seconds: None  # noqa: E731

    @contextlib.contextmanager
    def running() -> Any:
        disable_progress_bars()
        logging.set_verbosity_error()
        getLogger("odin_slm").setLevel("CRITICAL")
        time.sleep, hub._verify = pause, count_files
        with HubServer().running() as server, tempfile.TemporaryDirectory() as home:
            os.environ |= {"HF_HOME": home, "HF_ENDPOINT": server.endpoint, "HF_TOKEN": TOKEN}
            yield server, {TOKEN: User("anna")}

    return running()


if __name__ == "__main__":
    sys.exit(main())
