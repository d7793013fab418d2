"""Publishing on the Hub on loopback: what is sent, in which order, and what others see of it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from hub.conftest import READ_ONLY, STRANGER
from hub.releases import dataset_files, hub_of, model_files, plan, published, stage, visible
from hub_server import Fault, HubServer, Request, User
from odin_slm.core.errors import AdapterError, HubError
from odin_slm.core.hashing import file_hashes
from odin_slm.hub.upload import content_tag, publish, set_visibility


def seen(folder: Path) -> Mapping[str, Any]:
    return {"readme": (folder / "README.md").read_text().splitlines()[-1]}


def named(name: str, skip: int = 0, **options: Any) -> Fault:
    return Fault(lambda request: request.name == name, skip=skip, **options)


def writes(server: HubServer) -> list[str]:
    return [
        r.name for r in server.journal if r.method != "GET" and r.name in ("POST create", "POST commit", "POST tag")
    ]


def test_a_release_is_one_private_verified_tagged_commit(hub: HubServer, naps: list[float], tmp_path: Path) -> None:
    files = model_files()
    folder = stage(tmp_path / "release", files)
    found = publish(plan(folder), hub_of(hub, naps.append), seen)
    repository = hub.store.get("model", "anna/odin")
    assert repository.private
    assert [commit.message for commit in repository.history()] == ["Release", "initial commit"]
    assert published(hub, "model", "anna/odin", found["revision"]) == files
    assert repository.tags == {content_tag(file_hashes(folder)): found["revision"]}
    assert found["verified"] == {"readme": "# m"}
    assert found["files"] == file_hashes(folder)
    assert (found["private"], found["committed"], found["pull_request"]) == (True, True, None)
    assert naps == []


def test_nothing_is_sent_before_identity_and_visibility_are_known(
    hub: HubServer, naps: list[float], tmp_path: Path
) -> None:
    publish(plan(stage(tmp_path / "release", model_files())), hub_of(hub, naps.append), seen)
    order = [request.name for request in hub.journal]
    assert order[:4] == ["GET whoami-v2", "GET info", "POST create", "GET info"]
    milestones = ["POST create", "GET auth-check", "POST preupload", "POST commit", "POST tag", "GET resolve"]
    places = [order.index(name) for name in milestones]
    assert places == sorted(places)
    commit = next(request for request in hub.journal if request.name == "POST commit")
    assert b'"parentCommit"' in commit.body


def test_equal_content_makes_one_commit(hub: HubServer, naps: list[float], tmp_path: Path) -> None:
    folder = stage(tmp_path / "release", model_files())
    first = publish(plan(folder), hub_of(hub, naps.append), seen)
    second = publish(plan(folder), hub_of(hub, naps.append), seen)
    assert second == {**first, "committed": False}
    assert writes(hub) == ["POST create", "POST commit", "POST tag"]


def test_the_next_release_leaves_nothing_of_the_old_one(hub: HubServer, naps: list[float], tmp_path: Path) -> None:
    publish(plan(stage(tmp_path / "one", model_files(NOTICE=b"old"))), hub_of(hub, naps.append), seen)
    publish(plan(stage(tmp_path / "two", model_files(0.7))), hub_of(hub, naps.append), seen)
    repository = hub.store.get("model", "anna/odin")
    assert published(hub, "model", "anna/odin") == model_files(0.7)
    assert len(repository.history()) == 3
    assert ".gitattributes" in repository.head.files
    assert len(repository.tags) == 2


def test_a_dataset_and_an_organisations_name(hub: HubServer, naps: list[float], tmp_path: Path) -> None:
    folder = stage(tmp_path / "data", dataset_files())
    found = publish(plan(folder, kind="dataset", repo_id="lab/data", tag="v1.0"), hub_of(hub, naps.append), seen)
    assert published(hub, "dataset", "lab/data", "v1.0") == dataset_files()
    assert found["tag"] == "v1.0"


def test_visibility_changes_only_when_asked(hub: HubServer, naps: list[float], tmp_path: Path) -> None:
    folder = stage(tmp_path / "release", model_files())
    client = hub_of(hub, naps.append)
    publish(plan(folder, private=False), client, seen)
    assert hub.store.get("model", "anna/odin").private, "shown by a step of its own, after everything is verified"
    set_visibility(client, "model", "anna/odin", private=False)
    assert not hub.store.get("model", "anna/odin").private
    with pytest.raises(HubError, match=r"is public, and publishing\.private is true.*publishing\.private=false"):
        publish(plan(folder, private=True), client, seen)
    assert publish(plan(folder, private=False), client, seen)["private"] is False


def test_a_hub_that_makes_the_repository_public_gets_no_byte(
    hub: HubServer, naps: list[float], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add = hub.store.add
    monkeypatch.setattr(hub.store, "add", lambda kind, repo_id, **options: add(kind, repo_id, private=False))
    with pytest.raises(HubError, match=r"was to be private, and is public\. The new repository anna/odin is empty"):
        publish(plan(stage(tmp_path / "release", model_files())), hub_of(hub, naps.append), seen)
    assert writes(hub) == ["POST create"]


@pytest.mark.parametrize(
    ("token", "repo_id", "expected"),
    [
        (READ_ONLY, "anna/odin", "the token can only read"),
        (STRANGER, "anna/odin", r"may publish under bert\. .*publishing\.model_repo=bert/odin"),
        ("hf_" + "0" * 30, "anna/odin", r"answers 401 .*write access"),
    ],
)
def test_a_token_that_may_not_write_stops_before_anything(
    hub: HubServer, naps: list[float], tmp_path: Path, token: str, repo_id: str, expected: str
) -> None:
    folder = stage(tmp_path / "release", model_files())
    with pytest.raises(HubError, match=expected) as refusal:
        publish(plan(folder, repo_id=repo_id), hub_of(hub, naps.append, token), seen)
    assert "Nothing was changed on the Hub" in str(refusal.value)
    assert token not in str(refusal.value)
    assert writes(hub) == []


def test_a_fine_grained_token_is_tried_on_the_repository(hub: HubServer, naps: list[float], tmp_path: Path) -> None:
    token = "hf_" + "f1NeGrA1nd" * 3
    hub.store.users[token] = User("anna", role="fineGrained")
    hub.store.add("model", "anna/odin", private=True)
    with pytest.raises(HubError, match=r"check write access: the Hub answers 403.*write access"):
        publish(plan(stage(tmp_path / "release", model_files())), hub_of(hub, naps.append, token), seen)
    assert writes(hub) == []


def test_a_tag_is_never_moved(hub: HubServer, naps: list[float], tmp_path: Path) -> None:
    publish(plan(stage(tmp_path / "one", model_files()), tag="v1"), hub_of(hub, naps.append), seen)
    with pytest.raises(HubError, match=r"tag v1 names other content.*Choose another publishing\.tag"):
        publish(plan(stage(tmp_path / "two", model_files(0.7)), tag="v1"), hub_of(hub, naps.append), seen)
    assert published(hub, "model", "anna/odin") == model_files()


def test_a_pull_request_is_verified_and_changes_nothing(hub: HubServer, naps: list[float], tmp_path: Path) -> None:
    publish(plan(stage(tmp_path / "one", model_files())), hub_of(hub, naps.append), seen)
    proposal = plan(stage(tmp_path / "two", model_files(0.7)), pull_request=True)
    found = publish(proposal, hub_of(hub, naps.append), seen)
    assert found["pull_request"] == f"{hub.endpoint}/anna/odin/discussions/1"
    assert found["tag"] is None
    assert published(hub, "model", "anna/odin") == model_files()
    assert published(hub, "model", "anna/odin", "refs/pr/1") == model_files(0.7)
    assert publish(proposal, hub_of(hub, naps.append), seen) == found
    assert len(hub.store.get("model", "anna/odin").pull_requests) == 1


def test_a_branch_is_made_where_there_is_none(hub: HubServer, naps: list[float], tmp_path: Path) -> None:
    publish(plan(stage(tmp_path / "one", model_files())), hub_of(hub, naps.append), seen)
    publish(plan(stage(tmp_path / "two", model_files(0.7)), branch="next"), hub_of(hub, naps.append), seen)
    assert published(hub, "model", "anna/odin") == model_files()
    assert published(hub, "model", "anna/odin", "next") == model_files(0.7)


def test_a_branch_that_is_said_to_exist_is_looked_for(hub: HubServer, naps: list[float], tmp_path: Path) -> None:
    hub.faults = [named("POST branch", status=409)]
    folder = stage(tmp_path / "one", model_files())
    publish(plan(folder, branch="next"), hub_of(hub, naps.append), seen)
    assert published(hub, "model", "anna/odin", "next") == model_files()
    hub.faults = [named("POST branch", status=409, times=None)]
    with pytest.raises(HubError, match=r"create the branch other: the Hub says that it exists, and does not find it"):
        publish(plan(folder, branch="other"), hub_of(hub, naps.append), seen)


def test_a_lost_answer_is_looked_for_and_not_repeated(hub: HubServer, naps: list[float], tmp_path: Path) -> None:
    hub.faults = [named("POST commit", kind="lost"), named("POST create", kind="lost"), named("POST tag", kind="lost")]
    found = publish(plan(stage(tmp_path / "release", model_files())), hub_of(hub, naps.append), seen)
    assert len(hub.store.get("model", "anna/odin").history()) == 2
    assert writes(hub).count("POST commit") == 1
    assert found["committed"]


def test_somebody_elses_commit_in_between_is_built_upon_once(hub: HubServer, naps: list[float], tmp_path: Path) -> None:
    hub.store.add("model", "anna/odin", private=True).put({"notes.txt": b"x"})

    def commit_in_between(times: int) -> Fault:
        def match(request: Request) -> bool:
            nonlocal times
            if request.name == "POST commit" and times:
                times -= 1
                hub.store.get("model", "anna/odin").put({f"other-{times}.txt": b"x"})
            return False

        return Fault(match)

    hub.faults = [commit_in_between(1)]
    publish(plan(stage(tmp_path / "release", model_files())), hub_of(hub, naps.append), seen)
    assert published(hub, "model", "anna/odin") == model_files()
    hub.faults = [commit_in_between(9)]
    with pytest.raises(HubError, match=r"commit: the Hub answers 412.*Somebody else commits"):
        publish(plan(stage(tmp_path / "two", model_files(0.7))), hub_of(hub, naps.append), seen)


def test_waits_are_the_hubs(hub: HubServer, naps: list[float], tmp_path: Path) -> None:
    hub.faults = [
        named("GET whoami-v2", status=429, headers={"Retry-After": "11"}),
        named("POST commit", status=429, headers={"RateLimit": '"api";r=0;t=13'}),
        named("POST tag", status=503, times=2),
    ]
    publish(plan(stage(tmp_path / "release", model_files())), hub_of(hub, naps.append), seen)
    assert naps == [11.0, 13.0, 1.0, 2.0]
    hub.faults = [named("GET whoami-v2", status=429, headers={"Retry-After": "86400"})]
    with pytest.raises(HubError, match=r"answers 429.*run the command again later"):
        publish(plan(stage(tmp_path / "release", model_files())), hub_of(hub, naps.append), seen)
    hub.faults = [named("POST commit", status=429, headers={"Retry-After": "86400"})]
    with pytest.raises(HubError, match=r"commit: the Hub answers 429.*run the command again later"):
        publish(plan(stage(tmp_path / "other", model_files(0.7))), hub_of(hub, naps.append), seen)
    assert naps == [11.0, 13.0, 1.0, 2.0], "a Hub that asks for a day is not waited for"


def test_what_cannot_be_verified_is_taken_back_where_others_see_it(
    hub: HubServer, naps: list[float], tmp_path: Path
) -> None:
    old = model_files(NOTICE=b"old")
    folder = stage(tmp_path / "one", old)
    client = hub_of(hub, naps.append)
    publish(plan(folder), client, seen)
    set_visibility(client, "model", "anna/odin", private=False)
    before = visible(hub)

    def refuse(folder: Path) -> Mapping[str, Any]:
        raise HubError("it answers otherwise.", where="predict")

    with pytest.raises(HubError, match=r"answers otherwise.*was taken back.*main is as it was before"):
        publish(plan(stage(tmp_path / "two", model_files(0.7)), private=False), client, refuse)
    assert visible(hub) == before
    assert published(hub, "model", "anna/odin") == old


@pytest.mark.parametrize("failure", [ValueError("no adapter"), KeyboardInterrupt()])
def test_a_download_that_cannot_be_used_is_taken_back_whatever_the_reason(
    hub: HubServer, naps: list[float], tmp_path: Path, failure: BaseException, caplog: pytest.LogCaptureFixture
) -> None:
    hub.store.add("model", "anna/odin").put(model_files())
    before = visible(hub)

    def fail(folder: Path) -> Mapping[str, Any]:
        raise failure

    with pytest.raises(type(failure)):
        publish(plan(stage(tmp_path / "two", model_files(0.7)), private=False), hub_of(hub, naps.append), fail)
    assert visible(hub) == before
    assert "was taken back" in caplog.text


def test_a_branch_and_a_pull_request_are_taken_back_too(hub: HubServer, naps: list[float], tmp_path: Path) -> None:
    hub.store.add("model", "anna/odin").put(model_files())
    before, client = visible(hub), hub_of(hub, naps.append)
    folder = stage(tmp_path / "two", model_files(0.7))

    def refuse(folder: Path) -> Mapping[str, Any]:
        raise AdapterError("it does not load.")

    with pytest.raises(AdapterError, match=r"does not load\. The branch next of model anna/odin was taken back"):
        publish(plan(folder, private=False, branch="next"), client, refuse)
    assert visible(hub) == before
    with pytest.raises(AdapterError, match=r"does not load\. The pull request \S+/discussions/1 was closed"):
        publish(plan(folder, private=False, pull_request=True), client, refuse)
    assert visible(hub) == before
    found = publish(plan(folder, private=False, pull_request=True), client, seen)
    assert str(found["pull_request"]).endswith("/discussions/2"), "a closed one is not taken for open"


def test_a_commit_that_somebody_built_upon_is_not_taken_back(hub: HubServer, naps: list[float], tmp_path: Path) -> None:
    hub.store.add("model", "anna/odin").put(model_files())

    def refuse(folder: Path) -> Mapping[str, Any]:
        hub.store.get("model", "anna/odin").put({"theirs.txt": b"x"})
        raise HubError("it answers otherwise.", where="predict")

    with pytest.raises(HubError, match=r"could not be taken back \(take the commit back: somebody has committed since"):
        publish(plan(stage(tmp_path / "two", model_files(0.7)), private=False), hub_of(hub, naps.append), refuse)
    assert published(hub, "model", "anna/odin")["theirs.txt"] == b"x"


def test_in_a_private_repository_the_same_command_goes_on(hub: HubServer, naps: list[float], tmp_path: Path) -> None:
    folder = stage(tmp_path / "release", model_files())
    hub.faults = [named("GET resolve", status=500, times=None), named("HEAD resolve", status=500, times=None)]
    with pytest.raises(HubError, match=r"nobody else sees anything; the commit \w+ stays there unverified"):
        publish(plan(folder), hub_of(hub, naps.append), seen)
    hub.faults = []
    found = publish(plan(folder), hub_of(hub, naps.append), seen)
    assert not found["committed"]
    assert len(hub.store.get("model", "anna/odin").history()) == 2


def test_a_download_with_other_bytes_is_noticed(hub: HubServer, naps: list[float], tmp_path: Path) -> None:
    folder = stage(tmp_path / "release", model_files())

    def spoil(request: Request) -> bool:
        if request.name == "POST tag":
            repository = hub.store.get("model", "anna/odin")
            for digest, content in repository.uploaded.items():
                repository.uploaded[digest] = content[:-1] + b"!"
        return False

    hub.faults = [Fault(spoil)]
    with pytest.raises(HubError, match="the download differs from what was staged"):
        publish(plan(folder), hub_of(hub, naps.append), seen)


def test_a_process_that_is_to_stay_offline_says_so_at_once(
    hub: HubServer, naps: list[float], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(HubError, match=r"(?i)offline mode is enabled"):
        publish(plan(stage(tmp_path / "release", model_files())), hub_of(hub, naps.append), seen)
    assert (naps, hub.journal) == ([], [])
