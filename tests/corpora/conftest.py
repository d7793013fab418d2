"""Own small corpora, and the real ones where they lie beside the repository."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from pathlib import Path

import pytest

from odin_slm.corpora.synthetic.sample import make_sample

REAL = Path(__file__).parents[3] / "shared" / "corpora"


@pytest.fixture(scope="session")
def sample() -> dict[str, dict[str, str]]:
    return make_sample(seed=7, documents_per_corpus=30)


@pytest.fixture(scope="session")
def small() -> dict[str, dict[str, str]]:
    return make_sample(seed=8, documents_per_corpus=12)


@pytest.fixture(scope="session")
def real() -> Mapping[str, Mapping[str, str]]:
    if not REAL.is_dir():
        pytest.skip("the real corpora are not beside the repository (../shared/corpora)")
    texts = {
        corpus: {path.name: path.read_bytes().decode() for path in sorted((REAL / corpus).iterdir())}
        for corpus in ("ade", "bc5cdr")
    }
    with zipfile.ZipFile(REAL / "biored" / "BIORED.zip") as archive:
        texts["biored"] = {name: archive.read(name).decode() for name in archive.namelist()}
    return texts
