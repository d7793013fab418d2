"""A repository of the Hub that holds a base as GGUF alone."""

from __future__ import annotations

from pathlib import Path

import pytest
from kedro.io import DatasetError

from gguf_files import write_gguf
from hub_server import HubServer
from odin_slm.datasets.models import BaseModelDataset
from odin_slm.models.base_model import check_folder
from odin_slm.models.preflight import licence_of
from odin_slm.models.sources.conversion import provenance_of

CARD = b"---\nlicense: mit\nbase_model: owner/original\n---\n"


@pytest.fixture
def repository(hub: HubServer, tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> HubServer:
    monkeypatch.setenv("ODIN_SLM_CACHE", str(tmp_path / "cache"))
    one, other = (write_gguf(tiny_base, tmp_path / f"{kind}.gguf", kind=kind).read_bytes() for kind in ("Q8_0", "F16"))
    hub.store.add("model", "owner/one-GGUF").put({"README.md": CARD, "tiny.Q8_0.gguf": one})
    hub.store.add("model", "owner/two-GGUF").put({"tiny.Q8_0.gguf": one, "tiny.F16.gguf": other})
    return hub


def dataset(source: str, root: Path) -> BaseModelDataset:
    return BaseModelDataset(source=source, root=str(root))


@pytest.mark.parametrize("source", ["owner/one-GGUF", "owner/one-GGUF/tiny.Q8_0.gguf"])
def test_its_file_becomes_a_base_once(
    repository: HubServer, tmp_path: Path, source: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = dataset(source, tmp_path).load()
    assert base.source == "data/06_models/tiny.Q8_0"
    assert base.path is not None
    check_folder(base.path)
    stated = provenance_of(base.path)
    assert stated is not None
    assert (stated["repository"], stated["path"]) == ("owner/one-GGUF", "tiny.Q8_0.gguf")
    assert len(stated["revision"]) == 40
    assert stated["derived_from"] == "owner/original"
    assert licence_of(base) == "mit, according to its card"
    asked = len(repository.journal)
    assert dataset("owner/one-GGUF/tiny.Q8_0.gguf", tmp_path).load() == base
    assert len(repository.journal) == asked, "what is there needs no Hub"


def test_of_several_files_one_has_to_be_named(repository: HubServer, tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"2 GGUF files: tiny\.F16\.gguf, tiny\.Q8_0\.gguf.*base_model=owner/two"):
        dataset("owner/two-GGUF", tmp_path).load()
    base = dataset("owner/two-GGUF/tiny.F16.gguf", tmp_path).load()
    stated = provenance_of(base.path) if base.path else None
    assert stated is not None
    assert (stated["license"], stated["weights"]) == ("apache-2.0", "float16"), "the file's own metadata say it"
