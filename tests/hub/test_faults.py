"""A sample of every fault at every request of a release; ``python -m hub.faults`` runs them all."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import replace
from typing import Any

import pytest

from hub.faults import PUBLISHED, REFUSED, STATES, Case, cases, count_files, outcome_of
from hub_server import HubServer

SAMPLE = 30
HICCUPS = [("status", 429), ("status", 500), ("status", 503), ("cut", 0), ("lost", 0)]


@pytest.fixture
def users(hub: HubServer, naps: list[float], monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("HF_TOKEN", next(iter(hub.store.users)))
    monkeypatch.setattr("odin_slm.datasets.hub._verify", count_files)
    return dict(hub.store.users)


@pytest.fixture
def everything(hub: HubServer, users: Any, of_this_session: list[Case]) -> list[Case]:
    if not of_this_session:
        of_this_session += cases(hub, users)
    return of_this_session


@pytest.fixture(scope="module")
def of_this_session() -> list[Case]:
    return []


def ends(hub: HubServer, users: Any, case: Case) -> str:
    try:
        return outcome_of(hub, case, users)
    except AssertionError as error:
        raise AssertionError(case.key) from error


def test_no_fault_leaves_anything_half_published(hub: HubServer, users: Any, everything: list[Case]) -> None:
    sample = random.Random(8).sample(everything, SAMPLE)
    # The commit is where most can go wrong: every fault of it, once, is part of the sample.
    sample += [case for case in everything if (case.state, case.request, case.once) == ("public", "POST commit", True)]
    outcomes = Counter(ends(hub, users, case) for case in sample)
    assert outcomes[PUBLISHED] > outcomes[REFUSED] / 4
    assert sum(outcomes.values()) == len(sample)


@pytest.mark.parametrize("state", STATES)
def test_what_passes_is_retried_to_the_end(hub: HubServer, users: Any, everything: list[Case], state: str) -> None:
    """One hiccup stops nothing, wherever it is; one request of each kind is tried here."""
    requests = {case.request: case for case in everything if case.state == state}
    for name, case in requests.items():
        kind, status = random.Random(name).choice(HICCUPS)
        assert ends(hub, users, replace(case, kind=kind, status=status, once=True)) == PUBLISHED, name


@pytest.mark.parametrize("state", ["public", "public data, new model", "branch", "pull request"])
def test_a_model_that_is_refused_takes_its_dataset_back(
    hub: HubServer, users: Any, everything: list[Case], state: str
) -> None:
    """The dataset is published first; where others saw it, they see the old one again."""
    model = [case for case in everything if (case.state, case.request, case.once) == (state, "GET auth-check", True)]
    refused = [case for case in model if case.status == 403]
    assert [ends(hub, users, case) for case in refused] == [REFUSED, REFUSED]
