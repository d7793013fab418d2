"""What may be released: the rules on plain values, and the folder that holds to them."""

from __future__ import annotations

import hashlib
import json
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from kedro.io import DatasetError
from safetensors.numpy import save

from odin_slm.core.errors import MissingInputError, ReleaseError
from odin_slm.core.redaction import text_problems
from odin_slm.datasets.release import ReleaseDataset, check_release
from odin_slm.hub.licensing import base_terms, publishable_rows, require_base_license, require_base_terms, terms_of
from odin_slm.release.checks import (
    path_problems,
    size_category,
    validate_card,
)
from release_values import record

# Put together, so that no scanner takes this file for a leak.
TOKEN = "hf_" + "a1B2" * 8
PRIVATE_KEY = "-----BEGIN RSA " + "PRIVATE KEY-----"

MODEL_CARD = {
    "language": ["en"],
    "license": "apache-2.0",
    "library_name": "peft",
    "pipeline_tag": "text-generation",
    "base_model": "odin-slm/odin-nano",
    "base_model_relation": "adapter",
    "metrics": ["f1"],
    "model-index": [
        {
            "name": "m",
            "results": [
                {
                    "task": {"type": "text-generation"},
                    "dataset": {"type": "d", "name": "d"},
                    "metrics": [{"type": "f1", "name": "entity f1", "value": 0.5}],
                }
            ],
        }
    ],
}
DATASET_CARD = {
    "language": ["en"],
    "license": "apache-2.0",
    "pretty_name": "d",
    "task_categories": ["token-classification"],
    "size_categories": ["1K<n<10K"],
    "configs": [{"config_name": "default", "data_files": [{"split": "train", "path": "data/train.parquet"}]}],
    "dataset_info": {"splits": [{"name": "train", "num_examples": 1000, "num_bytes": 1}]},
}


@pytest.mark.parametrize(
    ("rows", "category"),
    [
        (1, "n<1K"),
        (999, "n<1K"),
        (1000, "1K<n<10K"),
        (9_999, "1K<n<10K"),
        (10_000, "10K<n<100K"),
        (123_456, "100K<n<1M"),
        (10**12, "n>1T"),
    ],
)
def test_size_category_is_the_hubs(rows: int, category: str) -> None:
    assert size_category(rows) == category


@given(st.integers(0, 10**13), st.integers(0, 10**13))
def test_more_rows_never_fall_into_a_smaller_category(one: int, other: int) -> None:
    order = [size_category(10**power) for power in range(13)]
    small, large = sorted((one, other))
    assert order.index(size_category(small)) <= order.index(size_category(large))


def test_text_is_published_only_where_the_terms_allow_it() -> None:
    rows = {r["source"]: r for r in publishable_rows([record(s, 1000) for s in ("ade", "bc5cdr", "biored")], [])}
    assert rows["ade"]["input"] is None
    assert rows["ade"]["output"] is None
    assert rows["biored"]["input"] is None
    original = record("bc5cdr", 1000)
    assert rows["bc5cdr"]["input"] == original["input"]
    assert rows["bc5cdr"]["output"] == original["output"]
    assert rows["ade"]["input_sha256"] == hashlib.sha256(record("ade", 1000)["input"].encode()).hexdigest()


def test_text_of_an_unknown_source_is_withheld() -> None:
    (row,) = publishable_rows([{**record("ade", 1000), "source": "newcorpus"}], [])
    assert row["input"] is None
    assert not terms_of("newcorpus").redistributable


def test_text_of_our_own_generator_is_published_whatever_corpus_it_imitates() -> None:
    (row,) = publishable_rows([record("ade", 990_000_001)], ["ade"])
    assert row["input"] == record("ade", 990_000_001)["input"]


def test_a_manifest_that_wrongly_calls_a_source_synthetic_publishes_nothing() -> None:
    with pytest.raises(ReleaseError, match=r"ade-1000-0.*generator did not write"):
        publishable_rows([record("ade", 990_000_001), record("ade", 1000)], ["ade"])


@pytest.mark.parametrize(
    ("base", "license_id", "good_name"),
    [
        ("meta-llama/Llama-3.1-8B", "llama3.1", "Llama-3.1-odin"),
        ("unsloth/Meta-Llama-3.1-8B-bnb-4bit", "llama3.1", "Llama-odin"),
        ("meta-llama/Llama-3.2-1B-Instruct", "llama3.2", "Llama-odin"),
        ("meta-llama/Llama-3.3-70B-Instruct", "llama3.3", "Llama-odin"),
        ("meta-llama/Meta-Llama-3-8B", "llama3", "Llama-3-odin"),
        ("aaditya/Llama3-OpenBioLLM-8B", "llama3", "Llama-3-odin"),
        ("meta-llama/Llama-4-Scout-17B-16E", "llama4", "Llama-odin"),
    ],
)
def test_an_adapter_of_a_llama_base_carries_its_name_and_licence(base: str, license_id: str, good_name: str) -> None:
    terms = require_base_terms(base, names={"publishing.model_name": good_name}, license_id=license_id)
    assert terms is not None
    assert "Built with" in terms.statement
    assert "Community License, Copyright © Meta Platforms, Inc. All Rights Reserved." in terms.notice
    with pytest.raises(ReleaseError, match=r"must begin with 'Llama.*publishing\.model_name=Llama"):
        require_base_terms(base, names={"publishing.model_name": "odin-Llama"}, license_id=license_id)
    with pytest.raises(ReleaseError, match=f"publishing.license={license_id}"):
        require_base_terms(base, names={"publishing.model_name": good_name}, license_id="apache-2.0")


def test_the_name_that_an_error_proposes_is_accepted() -> None:
    for base in ("meta-llama/Llama-3.1-8B", "meta-llama/Meta-Llama-3-8B"):
        terms = base_terms(base)
        assert terms is not None
        with pytest.raises(ReleaseError) as refusal:
            require_base_terms(base, names={"publishing.model_repo": "me/odin"}, license_id=terms.license)
        proposed = str(refusal.value).rpartition("publishing.model_repo=")[2].rstrip(".")
        assert proposed.startswith("me/Llama")
        require_base_terms(base, names={"publishing.model_repo": proposed}, license_id=terms.license)


def test_other_bases_leave_name_and_licence_free() -> None:
    for base in ("odin-slm/odin-nano", "TinyLlama/TinyLlama-1.1B-Chat-v1.0", "Qwen/Qwen3-0.6B"):
        assert require_base_terms(base, names={"publishing.model_name": "odin"}, license_id="mit") is None


@pytest.mark.parametrize(
    ("stated", "license_id", "refused"),
    [
        ("apache-2.0", "mit", None),
        ("gemma", "gemma", None),
        ("gemma", "apache-2.0", r"is under 'gemma'.*publishing\.license=gemma"),
        (None, "apache-2.0", r"licence is not known.*publishing\.base_license=ID"),
    ],
)
def test_a_base_with_terms_of_its_own_hands_them_on(stated: str | None, license_id: str, refused: str | None) -> None:
    with pytest.raises(ReleaseError, match=refused) if refused else nullcontext():
        require_base_license("owner/name", stated=stated, license_id=license_id)


def test_a_llama_without_known_version_is_refused() -> None:
    with pytest.raises(ReleaseError, match="someone/my-llama-mix"):
        base_terms("someone/my-llama-mix")


@pytest.mark.parametrize("secret", [TOKEN, "ghp_" + "x" * 36, "AKIA" + "Q" * 16, PRIVATE_KEY])
def test_secrets_are_found_and_not_repeated(secret: str) -> None:
    problems = list(text_problems("README.md", f"before {secret} after"))
    assert len(problems) == 1
    assert secret not in problems[0]


def test_paths_of_a_machine_are_found_in_text_and_in_configuration() -> None:
    assert list(text_problems("README.md", "see /home/anna/models"))
    assert list(text_problems("README.md", r"see C:\Users\anna"))
    assert list(text_problems("README.md", r'{"text": "in\n/root/models"}'))
    assert not list(text_problems("README.md", "worse in school/home/work settings"))
    for path in ("/data/models/base", "C:\\models\\base", "~/base", "file:///x/y"):
        (problem,) = path_problems("config.json", {"a": [{"b": path}]})
        assert "a[0].b" in problem
    assert not list(path_problems("config.json", {"a": "data/06_models", "b": "and/or", "c": "/", "d": "mg/kg/day"}))


def test_tokens_of_a_vocabulary_are_no_paths() -> None:
    assert not list(text_problems("base/tokenizer.json", '{"/home/user": 5}'))
    assert not list(path_problems("tokenizer.json", ["/usr/bin"]))


def test_good_cards_have_no_problems() -> None:
    assert validate_card(MODEL_CARD, "model") == []
    assert validate_card({**MODEL_CARD, "datasets": ["me/data"]}, "model") == []
    assert validate_card(DATASET_CARD, "dataset") == []


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"license": "nonsense"}, "license: found 'nonsense'"),
        ({"license": None}, "license: found None"),
        ({"license": "other"}, "license_name: missing"),
        ({"language": ["english"]}, "language: found 'english'"),
        ({"language": "en"}, "language: found 'en'; expected a list"),
        ({"pipeline_tag": "extraction"}, "pipeline_tag: found 'extraction'"),
        ({"base_model": "/models/base"}, "base_model: found '/models/base'"),
        ({"base_model": "data/06_models/odin-nano"}, "base_model: found 'data/06_models/odin-nano'"),
        ({"base_model": 123}, "base_model: found 123"),
        ({"base_model_relation": "merge"}, "base_model_relation: found 'merge'"),
        ({"library_name": "transformers"}, "library_name: found 'transformers'"),
        ({"datasets": ["data"]}, "datasets: found 'data'"),
        ({"model-index": []}, "model-index: missing"),
    ],
)
def test_a_bad_model_card_names_the_key(change: dict[str, object], expected: str) -> None:
    assert any(problem.startswith(expected) for problem in validate_card({**MODEL_CARD, **change}, "model"))


@pytest.mark.parametrize("value", [1.2, -0.1, 86.4, float("nan"), "0.5", None])
def test_a_figure_out_of_range_is_refused(value: object) -> None:
    card = json.loads(json.dumps(MODEL_CARD))
    card["model-index"][0]["results"][0]["metrics"][0]["value"] = value
    assert any("entity f1" in problem for problem in validate_card(card, "model"))


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"size_categories": ["n<1K"]}, "size_categories: found ['n<1K']"),
        ({"task_categories": ["ner"]}, "task_categories: found 'ner'"),
        ({"task_categories": "token-classification"}, "task_categories: found 'token-classification'; expected a list"),
        ({"pretty_name": ""}, "pretty_name"),
        ({"configs": []}, "configs: files for the splits []"),
        ({"dataset_info": {}}, "configs: files for the splits ['train'], but dataset_info describes []"),
    ],
)
def test_a_bad_dataset_card_names_the_key(change: dict[str, object], expected: str) -> None:
    assert any(problem.startswith(expected) for problem in validate_card({**DATASET_CARD, **change}, "dataset"))


# The folder.


def _weights(name: str = "base_model.model.layers.0.q_proj.lora_A.weight", value: float = 0.5) -> bytes:
    return save({name: np.full((2, 2), value, dtype=np.float32)})


def _model_files() -> dict[str, bytes | Path]:
    # JSON is YAML, so that the card needs no writer here
    card = f"---\n{json.dumps(MODEL_CARD)}\n---\n# m\n"
    config = {"base_model_name_or_path": "odin-slm/odin-nano", "task_type": "CAUSAL_LM", "modules_to_save": None}
    return {
        "adapter_config.json": json.dumps(config).encode(),
        "adapter_model.safetensors": _weights(),
        "tokenizer_config.json": b"{}",
        "README.md": card.encode(),
        "LICENSE": b"terms",
        "evaluation_results.json": b"{}",
    }


@pytest.fixture
def release(tmp_path: Path) -> ReleaseDataset:
    return ReleaseDataset(filepath=str(tmp_path / "release" / "model"), kind="model")


def _content(folder: Path) -> dict[str, bytes]:
    return {f.relative_to(folder).as_posix(): f.read_bytes() for f in sorted(folder.rglob("*")) if f.is_file()}


@pytest.mark.slow
def test_a_release_is_staged_with_checksums_that_hold(release: ReleaseDataset, tmp_path: Path) -> None:
    source = tmp_path / "somewhere.json"
    source.write_text("{}")
    release.save({**_model_files(), "base/config.json": source})
    folder = release.load()
    lines = (folder / "SHA256SUMS").read_text().splitlines()
    named = {name: digest for digest, name in (line.split("  ") for line in lines)}
    assert named == {
        name: hashlib.sha256(content).hexdigest() for name, content in _content(folder).items() if name != "SHA256SUMS"
    }
    assert set(named) == {*_model_files(), "base/config.json"}
    assert [path.name for path in folder.parent.iterdir()] == ["model"]
    preview = release.preview()
    assert [row[0] for row in preview["data"]] == sorted(named)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"optimizer.pt": b"x"}, "optimizer.pt: not in the allow-list"),
        ({"base/pytorch_model.bin": b"x"}, "base/pytorch_model.bin: not in the allow-list"),
        ({"base/sub/config.json": b"{}"}, "base/sub/config.json: not in the allow-list"),
        ({".env": b"x"}, ".env: not in the allow-list"),
        ({"LICENSE": None}, "LICENSE: missing"),
        ({"adapter_model.safetensors": b"not safetensors"}, "is not a whole safetensors file"),
        ({"adapter_model.safetensors": _weights(value=float("nan"))}, "holds NaN or infinite values"),
        ({"adapter_model.safetensors": _weights("model.embed_tokens.weight")}, "embed_tokens.weight is no LoRA weight"),
        ({"adapter_model.safetensors": save({})}, "holds no tensors"),
        ({"adapter_model.safetensors": save({"a.lora_A": np.ones(1)}, {"note": TOKEN})}, "a Hugging Face token"),
        ({"NOTICE": TOKEN.encode()}, "NOTICE: holds what looks like a Hugging Face token"),
        ({"tokenizer_config.json": b'{"name_or_path": "/data/x"}'}, "name_or_path is a path of this machine"),
        ({"adapter_config.json": b'{"base_model_name_or_path": "/models/base"}'}, "no Hub id (owner/name)"),
        ({"adapter_config.json": b'{"base_model_name_or_path": "a/b"}'}, "task_type is not set"),
        ({"adapter_config.json": b"{"}, "adapter_config.json: cannot be read"),
        ({"NOTICE": b"\xff\xfe"}, "NOTICE: cannot be read"),
        ({"README.md": b"# no front matter"}, "README.md: license: found None"),
    ],
)
def test_a_refused_release_leaves_the_old_one_alone(
    release: ReleaseDataset, change: dict[str, bytes | None], expected: str
) -> None:
    release.save(_model_files())
    before = _content(release.load())
    files = {name: content for name, content in {**_model_files(), **change}.items() if content is not None}
    with pytest.raises(DatasetError) as refusal:
        release.save(files)
    assert isinstance(refusal.value.__cause__, ReleaseError)
    assert expected in str(refusal.value.__cause__)
    assert TOKEN not in str(refusal.value)
    assert _content(release.load()) == before
    assert [path.name for path in release.load().parent.iterdir()] == ["model"]


def test_modules_saved_in_full_are_part_of_an_adapter(release: ReleaseDataset) -> None:
    config = {"base_model_name_or_path": "a/b", "task_type": "CAUSAL_LM", "modules_to_save": ["lm_head"]}
    weights = _weights("base_model.model.lm_head.weight")
    release.save(
        {**_model_files(), "adapter_config.json": json.dumps(config).encode(), "adapter_model.safetensors": weights}
    )
    assert release.exists()


def test_a_new_release_keeps_nothing_of_the_old_one(release: ReleaseDataset) -> None:
    release.save({**_model_files(), "NOTICE": b"old"})
    release.save(_model_files())
    assert not (release.load() / "NOTICE").exists()


def test_files_cannot_leave_the_release(release: ReleaseDataset, tmp_path: Path) -> None:
    for name in ("../outside", "/outside"):
        with pytest.raises(DatasetError, match="no name inside the release"):
            release.save({**_model_files(), name: b"x"})
    assert not (tmp_path / "release" / "outside").exists()
    assert not release.exists()


def test_a_symbolic_link_is_refused(release: ReleaseDataset, tmp_path: Path) -> None:
    release.save(_model_files())
    (tmp_path / "secret").write_text("x")
    (release.load() / "NOTICE").symlink_to(tmp_path / "secret")
    with pytest.raises(ReleaseError, match="NOTICE: is a symbolic link"):
        check_release(release.load(), "model")


def test_loading_what_was_never_staged_says_what_to_run(release: ReleaseDataset) -> None:
    assert not release.exists()
    with pytest.raises(DatasetError) as missing:
        release.load()
    assert isinstance(missing.value.__cause__, MissingInputError)
    assert "kedro run --pipelines publishing" in str(missing.value.__cause__)
