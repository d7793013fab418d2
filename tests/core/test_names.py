"""Names fit into every place where they stand, and what is none says why."""

from __future__ import annotations

import shlex
from typing import Any

import pytest
import yaml
from huggingface_hub.utils import HFValidationError, validate_repo_id
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from odin_slm.config.parameters import PublishingParams
from odin_slm.core.names import HUB_ID, hub_id_fault, name_fault
from odin_slm.tasks.extraction.schema import ExtractionOptions

GOOD = ("demo", "v15", "smollm2-135m-ade", "qwen-0.5b", "ade_only.v2", "1", "x" * 64, "conference")
ODD = (
    "ADE only (v2)",
    "ade: v2",
    "#1",
    "it's",
    'a"b',
    "a/b",
    "../up",
    "..",
    "-lead",
    "trail-",
    ".hidden",
    "dot.",
    "a--b",
    "a..b",
    "ad\u00e9",
    "\u5b9e\u9a8c",
    "a\nb",
    "a\n",
    "",
    " ",
    "x" * 65,
    "nul",
    "COM1.txt",
    "repo.git",
    "$(id)",
    "a;b",
    "a%20b",
    "a\\b",
)
READ_OTHERWISE = ("no", "yes", "1.10", "007", "2026-11-29", "1e3", "null", "~", "[a]", "{a: 1}")


@pytest.mark.parametrize("name", GOOD)
def test_a_name(name: str) -> None:
    assert name_fault(name) == ""
    assert shlex.quote(name) == name
    validate_repo_id(f"owner/odin-slm-{name}")


@pytest.mark.parametrize("name", ODD)
def test_no_name(name: str) -> None:
    assert name_fault(name)
    assert "\n" not in name_fault(name)


@pytest.mark.parametrize("written", READ_OTHERWISE)
def test_what_yaml_takes_for_something_else_needs_quotes(written: str) -> None:
    read = yaml.safe_load(written)
    if not isinstance(read, str):
        assert "put it in quotes" in name_fault(read)


@given(st.text(max_size=12))
def test_what_is_a_name_is_one_to_the_hub_and_to_a_shell(text: str) -> None:
    if not name_fault(text):
        validate_repo_id(f"owner/{text}")
        assert shlex.split(f"kedro run --env {text}")[-1] == text
        assert HUB_ID.fullmatch(f"owner/{text}")


@pytest.mark.parametrize("value", ["a/b", "HuggingFaceTB/SmolLM2-135M", "a/b_"])
def test_an_id_of_the_hub(value: str) -> None:
    assert hub_id_fault(value) == ""
    assert PublishingParams(experiment="demo", model_repo=value).model_repo == value


@pytest.mark.parametrize(
    "value", ["a/b/c", "/b", "a/", "a/-b", "a/b.", "a/b--c", "\u00e4/b", "a/b.git", "a/b\n", "a b/c"]
)
def test_no_id_of_the_hub(value: str) -> None:
    with pytest.raises(HFValidationError):
        validate_repo_id(value)
    with pytest.raises(ValidationError, match="model_repo"):
        PublishingParams(experiment="demo", model_repo=value)


@pytest.mark.parametrize("name", ["a|b", "a b", "../a", "", "x" * 65])
def test_a_source_has_a_name(name: str) -> None:
    chosen: Any = {name: {"entities": ["Drug"]}}
    with pytest.raises(ValidationError, match="sources"):
        ExtractionOptions(sources=chosen)
