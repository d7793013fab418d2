"""``kedro hub``: choosing a base model, online and offline."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from safetensors.numpy import save

from canary import TOKEN
from conftest import ROOT
from hub.conftest import STRANGER
from hub_server import Fault, HubServer
from odin_slm import cli
from odin_slm.cli.errors import explain
from odin_slm.core.errors import BaseModelError
from odin_slm.datasets.models import BaseModelDataset
from odin_slm.hub.client import Hub
from odin_slm.hub.metadata_cache import MetadataCache
from odin_slm.models.sources import model_search
from odin_slm.models.sources.model_search import info

Command = Callable[..., Result]


def base(kind: str = "llama", license_id: str = "apache-2.0", **more: bytes) -> dict[str, bytes]:
    card = f"---\nlicense: {license_id}\npipeline_tag: text-generation\nlibrary_name: transformers\n---\n"
    return {
        "README.md": card.encode(),
        "config.json": json.dumps({"model_type": kind, "architectures": [f"{kind.title()}ForCausalLM"]}).encode(),
        "tokenizer.json": b"{}",
        "tokenizer_config.json": b"{}",
        "model.safetensors": save({"w": np.zeros((100, 10), dtype=np.float32)}),
        **more,
    }


@pytest.fixture
def models(hub: HubServer) -> HubServer:
    add = hub.store.add
    add("model", "TinyLlama/small", downloads=10, likes=5).put(base())
    add("model", "meta-llama/Llama-3.1-8B", downloads=900, gated=True).put(base(license_id="llama3.1"))
    add("model", "bert/pictures", downloads=50).put(base("vit"))
    add("model", "bert/llama-adapter").put(
        {"README.md": b"---\nbase_model: TinyLlama/small\n---\n", "adapter_config.json": b"{}"}
    )
    add("model", "anna/llama-secret", private=True, downloads=5000).put(base())
    return hub


@pytest.fixture
def kedro_hub(models: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Command:
    monkeypatch.setenv("ODIN_SLM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("odin_slm.hub.client.time.sleep", lambda seconds: None)
    return lambda *arguments: CliRunner().invoke(cli.hub, list(arguments))


def ids(result: Result) -> list[str]:
    assert result.exit_code == 0, result.output
    return [model["id"] for model in json.loads(result.stdout)]


def test_a_search_shows_what_a_choice_needs(kedro_hub: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    options = ("search", "llama", "--task", "text-generation", "--sort", "downloads")
    assert ids(kedro_hub(*options, "--limit", "20", "--json")) == ["meta-llama/Llama-3.1-8B", "TinyLlama/small"]
    assert ids(kedro_hub(*options, "--limit", "1", "--json")) == ["meta-llama/Llama-3.1-8B"]
    shown = kedro_hub(*options).stdout
    assert re.search(r"meta-llama/Llama-3.1-8B\s+text-generation\s+llama3.1\s+900\s+0\s+gated", shown)
    assert "Nothing found" in kedro_hub("search", "no-such-thing").stdout
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    assert "anna/llama-secret" in ids(kedro_hub("search", "llama", "--json"))


def test_the_projects_credentials_serve_in_its_subfolders_too(
    kedro_hub: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    for folder in ("conf/local", "src/odin_slm", "notebooks"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "conf/local/credentials.yml").write_text("hub: {token_env: MY_TOKEN}\n")
    monkeypatch.setenv("MY_TOKEN", TOKEN)
    for folder in (tmp_path, tmp_path / "notebooks"):
        monkeypatch.chdir(folder)
        assert "anna/llama-secret" in ids(kedro_hub("search", "llama", "--json"))


def test_a_failed_search_is_no_empty_result(models: HubServer, kedro_hub: Command) -> None:
    models.faults = [Fault(lambda request: True, "status", 500, times=None)]
    result = kedro_hub("search", "llama")
    assert result.exit_code == 1
    assert "the Hub answers 500" in result.stderr
    assert "Nothing found" not in result.output
    assert kedro_hub("search", "--sort", "trending").exit_code == 2


def test_what_was_seen_once_needs_no_second_request(models: HubServer, kedro_hub: Command) -> None:
    first = json.loads(kedro_hub("info", "TinyLlama/small", "--json").stdout)
    assert first["license"] == "apache-2.0"
    assert first["parameters"] == 1000
    assert first["architectures"] == ["LlamaForCausalLM"]
    assert first["files"]["model.safetensors"] > 4000
    assert first["revision"] == models.store.get("model", "TinyLlama/small").branches["main"]
    requests = len(models.journal)
    assert json.loads(kedro_hub("info", "TinyLlama/small", "--json").stdout) == first
    assert kedro_hub("check", "TinyLlama/small").exit_code == 0
    assert len(models.journal) == requests
    kedro_hub("info", "TinyLlama/small", "--max-age", "0")
    assert len(models.journal) == requests + 1
    shown = kedro_hub("info", "TinyLlama/small").stdout
    assert re.search(r"parameters\s+1,000", shown)


def test_a_search_does_not_spoil_the_cache(models: HubServer, kedro_hub: Command) -> None:
    kedro_hub("search", "llama")
    assert json.loads(kedro_hub("info", "TinyLlama/small", "--json").stdout)["files"]
    assert kedro_hub("check", "TinyLlama/small").exit_code == 0


def test_old_answers_are_given_offline_only_and_marked(
    models: HubServer, kedro_hub: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    kedro_hub("info", "TinyLlama/small")
    old = ("info", "TinyLlama/small", "--max-age", "0")
    for status in (404, 500, 503):
        models.faults = [Fault(lambda request: True, "status", status, times=None)]
        assert kedro_hub(*old).exit_code == 1, "the Hub has answered: an old answer would hide it"
    models.faults = [Fault(lambda request: True, "cut", times=None)]
    result = kedro_hub(*old)
    assert result.exit_code == 0
    assert "cannot be reached: this is what it said at 20" in result.stderr
    assert json.loads(kedro_hub(*old, "--json").stdout)["stale"] is True
    assert kedro_hub("info", "bert/pictures").exit_code == 1
    models.faults, requests = [], len(models.journal)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert json.loads(kedro_hub(*old, "--json").stdout)["stale"] is True
    assert "HF_HUB_OFFLINE is set" in kedro_hub("info", "bert/pictures").stderr
    assert len(models.journal) == requests


def test_accounts_do_not_share_what_they_see(
    kedro_hub: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    assert kedro_hub("info", "anna/llama-secret").exit_code == 0
    for token in (STRANGER, ""):
        monkeypatch.setenv("HF_TOKEN", token)
        result = kedro_hub("info", "anna/llama-secret")
        assert result.exit_code == 1
        assert "read anna/llama-secret: the Hub answers 40" in result.stderr
    assert not [file for file in (tmp_path / "cache").iterdir() if TOKEN in file.read_text()]


def verdicts(result: Result) -> dict[str, str]:
    return {check["name"]: check["verdict"] for check in json.loads(result.stdout)["checks"]}


def test_a_check_judges_licence_architecture_size_and_name(kedro_hub: Command) -> None:
    good = kedro_hub("check", "TinyLlama/small", "--json")
    assert good.exit_code == 0
    assert set(verdicts(good).values()) == {"ok"}
    llama = kedro_hub("check", "meta-llama/Llama-3.1-8B", "--json")
    assert llama.exit_code == 0
    assert verdicts(llama) == {
        "licence": "warning",
        "adapter's name": "warning",
        "architecture": "ok",
        "files": "ok",
        "size": "ok",
        "access": "warning",
    }
    assert "publishing.model_name=Llama-…" in llama.stdout
    for name, failing in (("bert/pictures", "architecture"), ("bert/llama-adapter", "files")):
        bad = kedro_hub("check", name, "--json")
        assert bad.exit_code == 1
        assert verdicts(bad)[failing] == "failure"
    assert "Use its base: TinyLlama/small" in kedro_hub("check", "bert/llama-adapter").stdout


@pytest.mark.parametrize(
    ("memory", "verdict", "fix"),
    [
        (40e9, "ok", ""),
        (20e9, "warning", "bf16"),
        (8e9, "warning", "load_in_4bit=true"),
        (2e9, "failure", "smaller model"),
    ],
)
def test_a_model_that_does_not_fit_is_told(memory: float, verdict: str, fix: str) -> None:
    model = {"id": "a/b", "license": "mit", "model_type": "llama", "architectures": ["L"], "tags": [], "gated": False}
    model |= {"private": False, "files": {"a.safetensors": 1, "tokenizer.json": 1}, "bytes": 2, "base_model": None}
    (size,) = [
        c for c in model_search.check({**model, "parameters": 8_000_000_000}, memory=int(memory)) if c.name == "size"
    ]
    assert size.verdict == verdict
    assert fix in size.fix
    assert "8.0 B parameters" in size.found
    custom = model_search.check({**model, "parameters": 1, "tags": ["custom_code"]}, memory=10**9)
    assert [c.found for c in custom if c.verdict == "failure"] == ["L: runs code from its repository"]


def test_a_download_is_whole_and_holds_no_pickle(
    models: HubServer, kedro_hub: Command, tiny_base: Path, tmp_path: Path
) -> None:
    files = {path.name: path.read_bytes() for path in tiny_base.iterdir()}
    models.store.add("model", "anna/tiny").put({**files, "pytorch_model.bin": b"pickle", "train.py": b"code"})
    result = kedro_hub("download", "anna/tiny")
    assert result.exit_code == 0, result.output
    folder = Path(result.stdout.strip())
    assert {path.name for path in folder.iterdir()} == set(files)
    assert "kedro run --params base_model=anna/tiny" in result.stderr
    told = json.loads(kedro_hub("download", "anna/tiny", "--json").stdout)
    commit = models.store.get("model", "anna/tiny").head.oid
    assert told == {"id": "anna/tiny", "revision": commit, "folder": str(folder)}
    pinned = kedro_hub("download", "anna/tiny", "--revision", commit)
    assert f"base_model={folder}" in pinned.stderr, "the id alone is another revision"
    models.store.add("model", "anna/broken").put({**files, "model.safetensors": files["model.safetensors"][:-9]})
    assert "not a whole safetensors file" in kedro_hub("download", "anna/broken").stderr


def test_training_looks_at_a_base_before_it_is_loaded(
    models: HubServer, kedro_hub: Command, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert BaseModelDataset(source="TinyLlama/small", root=str(tmp_path)).load().source == "TinyLlama/small"
    for name, expected in (("bert/pictures", "not a causal language model"), ("bert/llama-adapter", "an adapter")):
        with pytest.raises(Exception, match=expected) as refusal:
            BaseModelDataset(source=name, root=str(tmp_path)).load()
        assert isinstance(explain(refusal.value), BaseModelError)
    models.faults = [Fault(lambda request: True, "cut", times=None)]
    assert BaseModelDataset(source="anna/unseen", root=str(tmp_path)).load().source == "anna/unseen"
    assert "was not checked" in caplog.text
    shutil.rmtree(tmp_path / "cache")


def test_standard_output_is_for_the_answer_alone(models: HubServer, tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "ODIN_SLM_CACHE": str(tmp_path / "cache")}
    models.faults = [
        Fault(lambda request: True, "status", 503)
    ]  # a first attempt that has to be repeated, and is logged
    command = [sys.executable, "-m", "kedro", "hub", "search", "llama", "--json"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert len(json.loads(done.stdout)) == 3
    assert "trying again" in done.stderr


def test_kedro_knows_the_commands(kedro_hub: Command) -> None:
    help_text = CliRunner().invoke(cli.cli, ["hub", "--help"]).output
    for name in ("search", "info", "check", "download"):
        assert name in help_text


def test_the_licence_that_a_base_states_is_read_on_the_hub(
    models: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from odin_slm.models.base_model import BaseModel
    from odin_slm.models.preflight import stated_license

    monkeypatch.setenv("ODIN_SLM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("odin_slm.hub.client.time.sleep", lambda seconds: None)
    models.store.add("model", "bert/own-terms").put(base(license_id="gemma"))
    assert stated_license(BaseModel("bert/own-terms")) == "gemma"
    assert stated_license(BaseModel("bert/llama-adapter")) is None
    models.faults = [Fault(lambda request: True, "status", 500, times=None)]
    assert stated_license(BaseModel("bert/own-terms")) == "gemma", "it was seen before"
    assert stated_license(BaseModel("bert/pictures")) is None, "nobody could be asked"


def test_a_cache_that_cannot_be_written_costs_a_warning(
    models: HubServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("no folder")
    hub = Hub(models.endpoint, None)
    assert info(hub, MetadataCache(tmp_path / "file/cache"), "TinyLlama/small")["id"] == "TinyLlama/small"
    assert "not kept for another time" in caplog.text
