"""A Hub on loopback with two people and an organisation, and a process that knows no other Hub and no other token."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from huggingface_hub import HfApi, constants

from canary import TOKEN, requests_with_token
from hub_server import HubServer, User

READ_ONLY = "hf_" + "rEaD0nLy7k" * 3
STRANGER = "hf_" + "sTrAnGeR8k" * 3


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[HubServer]:
    with HubServer().running() as server:
        server.store.users |= {
            TOKEN: User("anna", organisations=("lab",)),
            READ_ONLY: User("anna", role="read"),
            STRANGER: User("bert"),
        }
        monkeypatch.setenv("HF_ENDPOINT", server.endpoint)
        monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
        monkeypatch.setenv("HF_TOKEN_PATH", str(tmp_path / "hf" / "token"))
        monkeypatch.delenv("HF_TOKEN", raising=False)
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "hf" / "token"))
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hf" / "hub"))
        # Xet needs a storage service of its own; without it the client speaks LFS.
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setenv("HF_HUB_DISABLE_XET", "1")
        yield server
        assert list(requests_with_token(server.journal)) == []


@pytest.fixture
def api(hub: HubServer) -> HfApi:
    return HfApi(endpoint=hub.endpoint, token=TOKEN)


@pytest.fixture
def naps(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The pauses that the client and the publisher would make; nobody sleeps."""
    asked: list[float] = []
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", asked.append)
    return asked
