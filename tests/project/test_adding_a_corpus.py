"""A new corpus is one parser module, one catalog entry and one block of parameters, as CONTRIBUTING.md shows it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from kedro.framework.project import pipelines

from conftest import REGISTRY, ROOT
from odin_slm import corpora
from odin_slm.config.parameters import IngestionParams, options_of
from odin_slm.config.parameters.task import _task


def blocks() -> list[str]:
    """The code of the section, which is also what this test adds."""
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    section = text[text.index("## Add a corpus") : text.index("## Add types")]
    return re.findall(r"^```[^\n]*\n(.*?)^```", section, re.MULTILINE | re.DOTALL)


@pytest.fixture
def with_corpus(project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The project with the corpus of the section in it."""
    module, catalog, parameters = blocks()
    package = tmp_path / "added"
    package.mkdir()
    (package / "mine.py").write_text(module)
    monkeypatch.setattr(corpora, "__path__", [*corpora.__path__, str(package)])
    monkeypatch.setattr(corpora, "CORPORA", corpora.discover())
    pipelines.configure(REGISTRY)
    _task.cache_clear()
    with (project / "conf/base/catalog_ingestion.yml").open("a") as stream:
        stream.write(catalog)
    (project / "conf/test/parameters_ingestion.yml").write_text("# mine\n" + parameters + "  max_tokens: 900\n")
    folder = project / "data/01_raw/sample/mine"
    folder.mkdir()
    rows = (
        (f"{900_000_001 + n}", f"Patient {n} of ward {n % 7} took drugol{n} for migraine type {n}.", f"drugol{n}")
        for n in range(40)
    )
    (folder / "notes.txt").write_text("".join("\t".join((*row, "migraine")) + "\n" for row in rows))
    yield project
    options_of.cache_clear()
    _task.cache_clear()
    monkeypatch.undo()
    pipelines.configure(REGISTRY)


def test_the_corpus_of_the_section_runs(with_corpus: Path, run: Callable[..., dict[str, Any]]) -> None:
    assert sum(len(block.splitlines()) for block in blocks()) < 40
    run("data")
    model_input = with_corpus / "data/05_model_input/test"
    records = {name: json.loads((model_input / f"{name}.json").read_text()) for name in ("train", "val", "test")}
    mine = [record for part in records.values() for record in part if record["source"] == "mine"]
    assert len(mine) == 40
    assert all("--[treats]--> migraine" in record["output"] for record in mine)
    assert {record["source"] for record in records["train"]} == {"ade", "bc5cdr", "biored", "mine"}
    manifest = json.loads((model_input / "manifest.json").read_text())
    assert "mine/notes.txt" in manifest["inputs"]


def test_a_bad_line_of_it_is_named(with_corpus: Path, run: Callable[..., dict[str, Any]]) -> None:
    (with_corpus / "data/01_raw/sample/mine/notes.txt").write_text("900000001\tno further fields\n")
    with pytest.raises(Exception, match=r"notes\.txt:1"):
        run("data")


def test_unknown_corpora_and_options_are_refused() -> None:
    for values, named in (
        ({"corpora": ["ade", "mime"]}, "mime"),
        ({"options": {"ade": {"negative_ration": 1.0}}}, "negative_ration"),
        ({"options": {"ade": {"negative_ratio": -1.0}}}, "negative_ratio"),
        ({"options": {"ade": {"negative_ratio": float("inf")}}}, r"negative_ratio\s+Input should be a finite number"),
        ({"options": {"bc5cdr": {"seed": 1}}}, "seed"),
    ):
        with pytest.raises(ValueError, match=named):
            IngestionParams.model_validate(values)


def test_synthetic_documents_join_training_alone(project: Path, run: Callable[..., dict[str, Any]]) -> None:
    run("data", params={"ingestion": {"synthetic_ratio": 0.25}})
    model_input = project / "data/05_model_input/test"
    sources = {
        name: [r["source"] for r in json.loads((model_input / f"{name}.json").read_text())]
        for name in ("train", "val", "test")
    }
    report = json.loads((project / "data/02_intermediate/test/synthetic_parse_report.json").read_text())
    others = sum(
        json.loads((project / f"data/02_intermediate/test/{name}_parse_report.json").read_text())["documents"]
        for name in ("ade", "bc5cdr", "biored")
    )
    assert sources["train"].count("synthetic") == report["documents"] == round(0.25 * others)
    assert "synthetic" not in sources["val"] + sources["test"]
