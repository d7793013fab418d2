"""The Hub on loopback does what the real clients expect of the real one."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import httpx
import numpy as np
import pytest
from huggingface_hub import CommitOperationAdd, CommitOperationCopy, CommitOperationDelete, HfApi
from huggingface_hub.errors import (
    BadRequestError,
    GatedRepoError,
    HfHubHTTPError,
    RemoteEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from safetensors.numpy import save

from canary import TOKEN
from hub.conftest import READ_ONLY, STRANGER
from hub_server import Fault, HubServer, Request

WEIGHTS = save({"a": np.ones((2, 3), dtype=np.float32)})
CARD = b"---\nlicense: apache-2.0\npipeline_tag: text-generation\nlibrary_name: peft\ntags: [medical]\n---\n# m\n"


def add(**files: bytes) -> list[CommitOperationAdd]:
    return [CommitOperationAdd(name.replace("__", "/").replace("_", "."), content) for name, content in files.items()]


def test_it_tells_who_a_token_belongs_to(api: HfApi) -> None:
    me = api.whoami()
    assert (me["name"], [org["name"] for org in me["orgs"]]) == ("anna", ["lab"])
    assert me["auth"]["accessToken"]["role"] == "write"
    with pytest.raises(HfHubHTTPError, match="Invalid user token"):
        api.whoami(token="hf_wrong")


def test_a_private_repository_is_hidden_from_strangers(api: HfApi, hub: HubServer) -> None:
    api.create_repo("anna/m", private=True)
    assert api.model_info("anna/m").private is True
    for token in (STRANGER, False):
        with pytest.raises(RepositoryNotFoundError):
            api.model_info("anna/m", token=token)
    api.update_repo_settings("anna/m", private=False)
    assert api.model_info("anna/m", token=STRANGER).private is False
    with pytest.raises(HfHubHTTPError, match="403"):
        api.auth_check("anna/m", token=STRANGER, write=True)
    with pytest.raises(HfHubHTTPError, match="403"):
        api.auth_check("anna/m", token=READ_ONLY, write=True)
    with pytest.raises(HfHubHTTPError, match="409"):
        api.create_repo("anna/m")
    api.create_repo("anna/m", private=True, exist_ok=True)
    assert api.model_info("anna/m").private is False, "as the real one: an existing repository keeps its visibility"


def test_a_commit_can_be_read_back_file_by_file(api: HfApi, hub: HubServer, tmp_path: Path) -> None:
    api.create_repo("anna/m")
    head = api.model_info("anna/m").sha
    commit = api.create_commit(
        "anna/m", add(model_safetensors=WEIGHTS, README_md=CARD), commit_message="one", parent_commit=head
    )
    info = api.model_info("anna/m", revision=commit.oid, files_metadata=True)
    assert info.safetensors.total == 6
    assert (info.pipeline_tag, info.library_name, info.card_data["license"]) == (
        "text-generation",
        "peft",
        "apache-2.0",
    )
    sizes = {
        sibling.rfilename: (sibling.size, sibling.lfs.sha256 if sibling.lfs else None) for sibling in info.siblings
    }
    assert sizes["model.safetensors"] == (len(WEIGHTS), hashlib.sha256(WEIGHTS).hexdigest())
    assert sizes["README.md"] == (len(CARD), None)
    (file,) = api.get_paths_info("anna/m", ["README.md", "none"], revision=commit.oid)
    assert file.blob_id == hashlib.sha1(b"blob %d\0" % len(CARD) + CARD).hexdigest()
    folder = Path(api.snapshot_download("anna/m", revision=commit.oid, cache_dir=tmp_path / "cache"))
    assert (folder / "model.safetensors").read_bytes() == WEIGHTS
    assert (folder / "README.md").read_bytes() == CARD
    stored = [request for request in hub.journal if request.name in ("GET cdn", "PUT lfs")]
    assert len(stored) == 2
    assert not [request for request in stored if "authorization" in request.headers], "no token for the storage"


def test_equal_content_makes_no_commit_and_an_old_parent_is_refused(api: HfApi, hub: HubServer) -> None:
    api.create_repo("anna/m")
    head = api.model_info("anna/m").sha
    files = {"model_safetensors": WEIGHTS, "data__a_json": b"{}"}
    first = api.create_commit("anna/m", add(**files), commit_message="one", parent_commit=head).oid
    assert api.create_commit("anna/m", add(**files), commit_message="two", parent_commit=head).oid == first
    with pytest.raises(HfHubHTTPError, match="412"):
        api.create_commit("anna/m", add(b_json=b"{}"), commit_message="three", parent_commit=head)
    api.create_commit("anna/m", [CommitOperationDelete("data/a.json")], commit_message="four", parent_commit=first)
    assert api.list_repo_files("anna/m") == [".gitattributes", "model.safetensors"]
    copies = [
        CommitOperationCopy("data/a.json", "c.json", src_revision=first),
        CommitOperationDelete("model.safetensors"),
    ]
    api.create_commit("anna/m", copies, commit_message="five")
    assert api.list_repo_files("anna/m") == [".gitattributes", "c.json"]
    assert len(hub.store.get("model", "anna/m").history()) == 4
    assert [commit.title for commit in api.list_repo_commits("anna/m")] == ["five", "four", "one", "initial commit"]


def test_tags_branches_and_pull_requests_name_commits(api: HfApi) -> None:
    api.create_repo("anna/m")
    head = api.model_info("anna/m").sha
    api.create_tag("anna/m", tag="v1", revision=head)
    with pytest.raises(HfHubHTTPError, match="409"):
        api.create_tag("anna/m", tag="v1")
    api.create_branch("anna/m", branch="other", revision=head)
    proposal = api.create_commit("anna/m", add(a_json=b"{}"), commit_message="p", create_pr=True)
    refs = api.list_repo_refs("anna/m", include_pull_requests=True)
    assert {ref.name: ref.target_commit for ref in refs.tags} == {"v1": head}
    assert {ref.name for ref in refs.branches} == {"main", "other"}
    assert [(ref.ref, ref.target_commit) for ref in refs.pull_requests] == [(proposal.pr_revision, proposal.oid)]
    assert api.model_info("anna/m").sha == head
    assert "a.json" in api.list_repo_files("anna/m", revision=proposal.pr_revision)
    api.delete_tag("anna/m", tag="v1")
    assert not api.list_repo_refs("anna/m").tags


def test_what_is_missing_has_its_own_error(api: HfApi, hub: HubServer, tmp_path: Path) -> None:
    repository = hub.store.add("model", "anna/m")
    repository.put({"a.json": b"{}"})
    with pytest.raises(RevisionNotFoundError):
        api.model_info("anna/m", revision="v9")
    with pytest.raises(RemoteEntryNotFoundError):
        api.hf_hub_download("anna/m", "b.json", cache_dir=tmp_path)
    repository.gated = True
    with pytest.raises(GatedRepoError):
        api.hf_hub_download("anna/m", "a.json", token=STRANGER, cache_dir=tmp_path)
    content = b"---\nbase_model: /path/to/base\n---\n"
    with pytest.raises(ValueError, match=r"path/to/base"):
        api.create_commit("anna/m", add(README_md=content), commit_message="x")
    assert "README.md" not in api.list_repo_files("anna/m")


def test_a_search_filters_sorts_and_turns_pages(api: HfApi, hub: HubServer) -> None:
    for number in range(7):
        hub.store.add("model", f"anna/llama-{number}", downloads=number).put({"README.md": CARD})
    hub.store.add("model", "bert/other", downloads=99).put({"README.md": CARD})
    hub.store.add("model", "bert/hidden-llama", downloads=99, private=True)
    hub.page = 3
    found = list(api.list_models(search="llama", sort="downloads", limit=5))
    assert [model.id for model in found] == [f"anna/llama-{number}" for number in (6, 5, 4, 3, 2)]
    assert len(list(api.list_models(search="llama", pipeline_tag="text-generation", filter="license:apache-2.0"))) == 7
    assert not list(api.list_models(search="llama", filter="license:mit"))
    assert [model.id for model in api.list_models(author="bert")] == ["bert/other"]
    with pytest.raises(BadRequestError, match="Invalid sort parameter"):
        list(api.list_models(sort="trending"))


def test_datasets_loads_and_streams_a_repository(hub: HubServer, tmp_path: Path) -> None:
    import datasets

    original = datasets.Dataset.from_dict({"text": ["a", "b", "c"], "spans": [[[0, 1]], [], [[0, 1], [1, 2]]]})
    original = original.cast_column("text", datasets.Value("string"))
    program = f"""
import datasets
rows = datasets.Dataset.from_dict({original.to_dict()!r})
datasets.DatasetDict(train=rows, test=rows.select([1])).push_to_hub("anna/d", private=True)
back = datasets.load_dataset("anna/d")
assert back["train"].to_dict() == rows.to_dict() and back["train"].features == rows.features
assert len(back["test"]) == 1
streamed = list(datasets.load_dataset("anna/d", split="train", streaming=True))
assert streamed == rows.to_list(), streamed
import os
os._exit(0)  # a thread of the stream that is still there lets the interpreter crash on its way out, now and then
"""
    environment = {**os.environ, "HF_TOKEN": TOKEN, "HF_HOME": str(tmp_path / "home")}
    subprocess.run([sys.executable, "-c", program], env=environment, check=True, timeout=120)
    repository = hub.store.get("dataset", "anna/d")
    assert repository.private
    assert len(repository.history()) == 2
    assert [request for request in hub.journal if request.headers.get("range")]


def test_faults_strike_the_request_that_they_name(api: HfApi, hub: HubServer, naps: list[float]) -> None:
    api.create_repo("anna/m")

    def named(name: str) -> object:
        return lambda request: request.name == name

    hub.faults = [Fault(named("GET info"), status=503, skip=1)]
    api.model_info("anna/m")
    with pytest.raises(HfHubHTTPError, match="503"):
        api.model_info("anna/m")
    api.model_info("anna/m")
    hub.faults = [Fault(named("GET info"), "cut")]
    with pytest.raises(httpx.HTTPError):
        api.model_info("anna/m")
    hub.faults = [Fault(named("POST commit"), "lost")]
    with pytest.raises(httpx.HTTPError):
        api.create_commit("anna/m", add(a_json=b"{}"), commit_message="x")
    assert "a.json" in api.list_repo_files("anna/m"), "the answer was lost, the commit was not"
    hub.faults = [Fault(named("POST preupload"), status=429, headers={"Retry-After": "7"})]
    api.create_commit("anna/m", add(b_json=b"{}"), commit_message="x")
    assert naps == [8.0], "the client waits as long as it is told, and a second more"


def test_a_download_that_breaks_off_is_no_file(api: HfApi, hub: HubServer, tmp_path: Path, naps: list[float]) -> None:
    hub.store.add("model", "anna/m").put({"model.safetensors": WEIGHTS})

    def storage(request: Request) -> bool:
        return request.name == "GET cdn"

    hub.faults = [Fault(storage, "cut_body", times=None)]
    with pytest.raises((httpx.HTTPError, OSError)):
        api.snapshot_download("anna/m", cache_dir=tmp_path)
    hub.faults = []
    folder = api.snapshot_download("anna/m", cache_dir=tmp_path)
    assert (Path(folder) / "model.safetensors").read_bytes() == WEIGHTS


def test_the_journal_holds_every_request(api: HfApi, hub: HubServer) -> None:
    api.create_repo("anna/m", private=True)
    api.whoami()
    assert [request.name for request in hub.journal] == ["POST create", "GET whoami-v2"]
    assert hub.journal[0].json() == {"name": "m", "organization": "anna", "visibility": "private"}
    assert hub.journal[0].headers["authorization"] == f"Bearer {TOKEN}"
