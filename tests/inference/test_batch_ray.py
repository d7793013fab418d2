"""The batch pipeline on a Ray cluster of this machine: the same files as without, whatever happens on the way."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from kedro.io import DatasetError

from conftest import ROOT
from odin_slm.datasets.documents import ExtractionShardsDataset

TEXTS = [f"Patient {n} took enalapril 😀 and then had a cough, fever and rash." for n in range(7)]


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    """A cluster that the jobs of this file share; starting one takes seconds."""
    ray = pytest.importorskip("ray", reason='Ray is not installed: pip install -e ".[ray]"')
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(ROOT / "src"))
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.delenv("RAY_ADDRESS", raising=False)
        for left in (2, 1, 0):
            try:
                ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
                break
            except Exception:  # on a busy machine it gives up after 30 s
                ray.shutdown()
                if not left:
                    raise
    yield
    ray.shutdown()


@pytest.fixture
def extract(run: Callable[..., Any], project: Path, tmp_path: Path) -> Callable[..., dict[str, bytes]]:
    """Run a job over documents, two of them faulty, in shards of three; return its files."""
    lines = [json.dumps({"id": f"n{n}", "text": text}) for n, text in enumerate(TEXTS)]
    lines[2:2] = ['{"id": "half", "text": "half \\ud800"}', "nonsense"]
    documents = tmp_path / "notes.jsonl"
    documents.write_text("\n".join(lines))

    def job(target: str, model: str = "data/06_models/odin-nano", **extraction: Any) -> dict[str, bytes]:
        settings = {"shard_size": 3, "max_new_tokens": 32, "window_tokens": 96, "batch_size": 2, **extraction}
        places = {"documents": str(documents), "extractions": str(project / target), "model": model}
        run("extraction", params={**places, "extraction": settings})
        return {file.name: file.read_bytes() for file in (project / target).iterdir()}

    return job


@pytest.mark.usefixtures("cluster")
def test_a_job_with_ray_ends_in_the_files_of_one_without_even_if_it_is_killed(
    extract: Callable[..., dict[str, bytes]], project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = extract("whole")
    assert json.loads(whole["manifest.json"])["failed"] == 2
    assert extract("ray", engine="ray") == whole

    original, written = ExtractionShardsDataset._write, 0

    def dies(dataset: ExtractionShardsDataset, data: dict[str, Any]) -> None:
        nonlocal written
        written += 1
        if written == 2:
            raise KeyboardInterrupt
        original(dataset, data)

    monkeypatch.setattr(ExtractionShardsDataset, "_write", dies)
    with pytest.raises(KeyboardInterrupt):
        extract("killed", engine="ray", workers=1)
    assert len(list((project / "killed").glob("*.parquet"))) == 1
    assert extract("killed", engine="ray", workers=1) == whole
    assert written == 2 + 2 + 1, "of three shards one was there already; the manifest comes last"


@pytest.mark.usefixtures("cluster")
def test_what_a_worker_says_of_the_model_reaches_the_user(
    extract: Callable[..., dict[str, bytes]], project: Path
) -> None:
    adapter = project / "adapter"
    adapter.mkdir()
    shutil.copy(project / "data/06_models/odin-nano/tokenizer.json", adapter)
    base = str(project / "data/06_models/odin-nano")
    (adapter / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "base_model_name_or_path": base}))
    with pytest.raises(DatasetError, match="weights cannot be read"):
        extract("out", model=str(adapter), engine="ray", workers=1)


def test_without_ray_its_installation_is_named(
    extract: Callable[..., dict[str, bytes]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(DatasetError, match=r'pip install .* -e "\.\[ray\]"'):
        extract("out", engine="ray")
