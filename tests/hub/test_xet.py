"""Publishing through Xet, as on huggingface.co: other requests, the same promises."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from huggingface_hub import constants
from safetensors.numpy import save

from canary import TOKEN
from hub.faults import forget_uploads
from hub.releases import hub_of, model_files, plan, published, stage, visible
from hub_server import Fault, HubServer, Request, XetStorage
from odin_slm.core.errors import HubError
from odin_slm.hub.upload import publish


@pytest.fixture
def xet(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> HubServer:
    """The Hub, with Xet storage, and a client that uses it."""
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", False)
    monkeypatch.setenv("HF_HUB_DISABLE_TELEMETRY", "1")
    hub.xet = XetStorage()
    forget_uploads(hub)
    return hub


def weights(seed: int) -> bytes:
    """Half a megabyte that Xet packs in each of its ways: noise, numbers, nothing."""
    noise = np.random.default_rng(seed)
    return save(
        {
            "a.lora_A.weight": noise.integers(0, 256, (200, 1000)).astype(np.uint8),
            "b.lora_A.weight": noise.normal(size=(200, 200)).astype(np.float32),
            "c.lora_A.weight": np.zeros((200, 400), dtype=np.float32),
        }
    )


def seen(folder: Path) -> Mapping[str, Any]:
    return {"bytes": (folder / "adapter_model.safetensors").stat().st_size}


def test_a_release_goes_through_xet_and_back(xet: HubServer, naps: list[float], tmp_path: Path) -> None:
    files = model_files(**{"adapter_model.safetensors": weights(1)})
    folder = stage(tmp_path / "release", files)
    found = publish(plan(folder), hub_of(xet, naps.append), seen)
    assert published(xet, "model", "anna/odin", found["revision"]) == files
    assert found["verified"] == {"bytes": len(files["adapter_model.safetensors"])}
    assert len(xet.store.get("model", "anna/odin").history()) == 2, "one commit"
    names = [request.name for request in xet.journal]
    for name in ("GET xet-write-token", "POST xorbs", "POST shards", "POST commit", "GET reconstructions", "GET xorbs"):
        assert name in names
    assert not {"POST objects/batch", "PUT lfs", "GET cdn"} & set(names), "LFS is not asked"
    stored = [request for request in xet.journal if request.path.startswith("/xet/")]
    assert not [request for request in stored if TOKEN in str(request.headers)], "no token of the Hub for the storage"
    assert not [request for request in xet.journal if "telemetry" in request.path]
    again = publish(plan(folder), hub_of(xet, naps.append), seen)
    assert again == {**found, "committed": False}


def test_where_the_hub_has_no_xet_files_go_by_lfs(xet: HubServer, naps: list[float], tmp_path: Path) -> None:
    xet.xet = None
    files = model_files()
    found = publish(plan(stage(tmp_path / "release", files)), hub_of(xet, naps.append), seen)
    assert published(xet, "model", "anna/odin", found["revision"]) == files
    names = [request.name for request in xet.journal]
    assert names.count("GET xet-write-token") == 1
    assert "PUT lfs" in names
    assert naps == []


def test_what_the_storage_spoils_is_noticed(xet: HubServer, naps: list[float], tmp_path: Path) -> None:
    old = model_files(**{"adapter_model.safetensors": weights(2)})
    xet.store.add("model", "anna/odin").put(old)
    before, storage = visible(xet), xet.xet
    assert storage is not None

    def spoil(request: Request) -> bool:
        if request.name == "POST tag":
            for digest, content in storage.xorbs.items():
                storage.xorbs[digest] = content[:50_000] + bytes([content[50_000] ^ 1]) + content[50_001:]
        return False

    xet.faults = [Fault(spoil)]
    folder = stage(tmp_path / "release", model_files(**{"adapter_model.safetensors": weights(3)}))
    with pytest.raises(HubError, match=r"was taken back by another one: main is as it was before"):
        publish(plan(folder, private=False), hub_of(xet, naps.append), seen)
    assert visible(xet) == before
