"""Values of --params: text stays text where text is taken, and numbers stay numbers where they are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from kedro.framework.project import settings

from conftest import ROOT
from odin_slm.config.loader import ProjectConfigLoader, catalog_parameters_of
from odin_slm.config.parameters import (
    EvaluationParams,
    ExtractionParams,
    IngestionParams,
    PublishingParams,
    SweepParams,
    TrainingParams,
)
from odin_slm.config.runtime_params import as_meant, split_items
from odin_slm.core.errors import WrongParameterError

TYPES = {
    "evaluation": EvaluationParams,
    "extraction": ExtractionParams,
    "ingestion": IngestionParams,
    "publishing": PublishingParams,
    "sweep": SweepParams,
    "training": TrainingParams,
}
CATALOG = catalog_parameters_of([ROOT / "conf/base", ROOT / "conf/test"])


def read(text: str) -> dict[str, Any]:
    return as_meant(split_items(text), TYPES, CATALOG)


def value(text: str) -> Any:
    found: Any = read(text)
    for key in text.partition("=")[0].split("."):
        found = found[key]
    return found


ODD = (
    "202611",
    "1.10",
    "0117",
    "0x1F",
    "1e5",
    "1_000",
    "12:30",
    "2026-11-29",
    "no",
    "true",
    "#1/x",
    "a: b",
    "[x",
    "- x",
    "@x",
)


@pytest.mark.parametrize("written", [*ODD, "~/notes", "a #1", "C:\\x"])
@pytest.mark.parametrize(
    "key", ["documents", "corpora", "champion", "adapter", "base_model", "model", "extractions", "text"]
)
def test_a_folder_or_a_name_is_taken_as_it_is_written(key: str, written: str) -> None:
    assert value(f"{key}={written}") == written
    assert value(f"{key}='{written}'") == written, "with the quotes that YAML would need"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("publishing.tag=1.10", "1.10"),
        ("publishing.tag=0117", "0117"),
        ("publishing.tag=2026-11-29", "2026-11-29"),
        ("publishing.tag=null", None),
        ("publishing.revision=2026", "2026"),
        ("publishing.message=Release #2: more, and better", "Release #2: more, and better"),
        ("publishing.license_file=2026", "2026"),
        ("publishing.override.data=1234567890", "1234567890"),
        ("extraction.schema=1.0", "1.0"),
        ("extraction.text_field=1", "1"),
        ("ingestion.corpora=[ade, 0117]", ["ade", "0117"]),
        ("ingestion.options.ade.negative_ratio=0.50", 0.5),
        ("training.epochs=1.10", 1.1),
        ("training.learning_rate=3e-3", 0.003),
        ("training.max_steps=0100", "0100"),  # which is a hundred to a whole number, and no 64
        ("training.load_in_4bit=yes", True),
        ("training.batch_size=auto", "auto"),
        ("training.batch_size=8", 8),
        ("training.early_stopping_patience=null", None),
        ("training.lora.target_modules=[q_proj,v_proj]", ["q_proj", "v_proj"]),
        ("sweep.space={lora.r: [8, 16]}", {"lora.r": [8, 16]}),
        ("evaluation.experiment=2026", "2026"),
        ("evaluation.experiment=null", "null"),
        ("fetch=true", True),
        ("unknown.key=7", 7),
        ("documents=null", None),
        ("documents=", None),
    ],
)
def test_a_value_is_what_its_parameter_takes(text: str, expected: Any) -> None:
    assert value(text) == expected


def test_a_whole_number_with_zeros_before_it_is_decimal() -> None:
    assert TrainingParams.model_validate(read("training.max_steps=0100")["training"]).max_steps == 100
    with pytest.raises(ValueError, match="max_steps"):
        TrainingParams.model_validate(read("training.max_steps=1:30")["training"])


def test_without_a_known_catalog_values_are_text_but_for_truth_and_nothing() -> None:
    items = split_items("documents=202611,fetch=true,champion=null,training.epochs=2,mine.top=3")
    assert as_meant(items, TYPES, {}) == {
        "documents": "202611",
        "fetch": True,
        "champion": None,
        "training": {"epochs": 2},
        "mine": {"top": 3},
    }


def test_items_are_parted_by_a_comma_before_a_key() -> None:
    assert split_items("a=x,y, b.c =[1,2],d=e=f,") == [("a", "x,y"), ("b.c", "[1,2]"), ("d", "e=f")]
    for broken in ("a", "=x"):
        with pytest.raises(ValueError, match="KEY=VALUE"):
            split_items(broken)


def test_what_cannot_be_meant_is_named() -> None:
    with pytest.raises(WrongParameterError, match="--params corpora: it is empty"):
        read("corpora=")
    with pytest.raises(WrongParameterError, match=r"--params fetch: '\[x' cannot be read as YAML"):
        read("fetch=[x")


@pytest.mark.parametrize("value", [202611, 1.1, True, ["a"], {"a": 1}])
def test_a_number_from_python_or_a_file_is_named_with_the_quotes_it_needs(value: Any) -> None:
    with pytest.raises(WrongParameterError, match=r'--params documents: found the \w+ .*; expected text\. .* "2026"'):
        load(ROOT / "conf", {"documents": value})


def test_text_a_path_and_nothing_are_texts() -> None:
    for given in ("202611", Path("x"), None):
        load(ROOT / "conf", {"documents": given, "fetch": True})


def load(conf: Path, params: dict[str, Any], env: str = "test") -> ProjectConfigLoader:
    return ProjectConfigLoader(conf, env, params, **settings.CONFIG_LOADER_ARGS)


@pytest.mark.parametrize("line", ["tracking_experiment: 2026", "corpora: 0117", "data: 1.10", "base_model: no"])
def test_a_number_in_globals_is_named_with_the_quotes_it_needs(tmp_path: Path, line: str) -> None:
    for env in ("base", "mine", "local"):
        (tmp_path / env).mkdir()
    (tmp_path / "base/globals.yml").write_text("experiment: demo\nseed: 42\n")
    (tmp_path / "mine/globals.yml").write_text(f"{line}\n")
    key = line.partition(":")[0]
    with pytest.raises(WrongParameterError, match=rf"conf/mine/globals.yml, {key}: found the .* {key}: \"2026\""):
        load(tmp_path, {}, "mine")
    load(tmp_path, {}, "base")
