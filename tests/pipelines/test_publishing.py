"""The publishing pipeline, from files on disk to releases that a stranger can use by the card alone."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet
import pytest
import yaml

import release_values as values
from odin_slm.config.parameters import PublishingParams, TaskParams
from odin_slm.core.errors import MissingInputError, ReleaseError
from odin_slm.core.hashing import canonical_json, sha256_text
from odin_slm.models.base_model import BaseModel
from odin_slm.pipelines.combination.nodes import count_records
from odin_slm.release.cards import read_front_matter
from odin_slm.tasks import Task
from staging import continue_locally, make_adapter, predict, publish_from, snippets
from tasks.another.first_word import FirstWordTask

PROJECT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, tiny_base: Path) -> dict[str, Path]:
    return make_adapter(tmp_path_factory.mktemp("models"), tiny_base)


@pytest.fixture
def stage(trained: dict[str, Path], tmp_path: Path) -> Callable[..., dict[str, Path]]:
    """Return a function that runs the pipeline and returns the folders of both releases."""

    def run(*, folder: str = "release", **options: Any) -> dict[str, Path]:
        return publish_from(trained, tmp_path / folder, **options)

    return run


def _content(folder: Path) -> dict[str, bytes]:
    return {f.relative_to(folder).as_posix(): f.read_bytes() for f in sorted(folder.rglob("*")) if f.is_file()}


def test_the_snippet_of_a_model_card_predicts_what_the_trained_files_predict(
    stage: Callable[..., dict[str, Path]], trained: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    staged = stage()["model"]
    moved = tmp_path / "elsewhere"
    shutil.copytree(staged, moved)
    shutil.rmtree(staged)
    monkeypatch.chdir(moved)
    (snippet,) = snippets(moved)
    scope: dict[str, Any] = {}
    exec(snippet, scope)
    assert scope["output"] == continue_locally(trained, scope["prompt"], with_adapter=True)
    assert scope["output"] != continue_locally(trained, scope["prompt"], with_adapter=False)
    assert scope["prompt"].endswith("\n\n### Output:\n")


def test_with_a_repository_the_snippet_downloads_it(
    stage: Callable[..., dict[str, Path]], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = stage(model_repo="me/odin", dataset_repo="me/odin-data")["model"]
    asked = []
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda repo: asked.append(repo) or str(folder))
    (snippet,) = snippets(folder)
    loading, _, _ = snippet.partition("text = ")
    scope: dict[str, Any] = {}
    exec(loading, scope)
    assert asked == ["me/odin"]
    assert scope["model"].peft_config["default"].r == 4


def test_a_model_release_holds_what_a_stranger_needs_and_nothing_else(
    stage: Callable[..., dict[str, Path]], trained: dict[str, Path]
) -> None:
    files = _content(stage()["model"])
    assert set(files) == {
        "README.md",
        "LICENSE",
        "SHA256SUMS",
        "adapter_config.json",
        "adapter_model.safetensors",
        "calibrator.json",
        "evaluation_results.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "task.json",
        "base/README.md",
        "base/config.json",
        "base/generation_config.json",
        "base/model.safetensors",
        "base/tokenizer.json",
        "base/tokenizer_config.json",
    }
    config = json.loads(files["adapter_config.json"])
    assert config["base_model_name_or_path"] == "odin-slm/odin-nano"
    assert config["task_type"] == "CAUSAL_LM"
    made = values.manifest(values.splits(synthetic=True), synthetic=True)
    figures = values.evaluation_results(synthetic=True)
    figures["test_set"]["manifest_sha256"] = sha256_text(canonical_json(made))
    assert json.loads(files["evaluation_results.json"]) == figures
    assert files["LICENSE"] == (PROJECT / "LICENSE").read_bytes()
    for name, content in files.items():
        assert str(trained["base"].parent).encode() not in content, name


def test_a_dataset_release_reloads_as_it_was(
    stage: Callable[..., dict[str, Path]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import datasets

    folder = stage()["dataset"]
    monkeypatch.chdir(folder)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    (snippet,) = snippets(folder)
    scope: dict[str, Any] = {}
    exec(snippet, scope)
    parts = values.splits(synthetic=True)
    assert set(scope["data"]) == {"train", "validation", "test"}
    for split, name in (("train", "train"), ("validation", "val"), ("test", "test")):
        rows = scope["data"][split].to_list()
        kept = ("id", "source", "document_id", "instruction", "input", "output")
        assert [{key: row[key] for key in kept} for row in rows] == [{key: r[key] for key in kept} for r in parts[name]]
    front_matter = yaml.safe_load((folder / "README.md").read_text(encoding="utf-8").split("---")[1])
    named = {feature["name"]: datasets.Value(feature["dtype"]) for feature in front_matter["dataset_info"]["features"]}
    assert scope["data"]["train"].features == named
    assert front_matter["dataset_info"]["splits"] == [
        {"name": split, "num_bytes": data.data.nbytes, "num_examples": len(data)}
        for split, data in scope["data"].items()
    ]


def test_withheld_texts_are_nowhere_in_the_release_and_can_be_rebuilt_and_verified(
    stage: Callable[..., dict[str, Path]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import datasets

    folder = stage(synthetic=False)["dataset"]
    parts = values.splits(synthetic=False)
    rows = {row["id"]: row for file in folder.glob("data/*") for row in pyarrow.parquet.read_table(file).to_pylist()}
    for record in (r for part in parts.values() for r in part):
        row = rows.pop(record["id"])
        withheld = record["source"] != "bc5cdr"
        assert row["input"] == (None if withheld else record["input"])
        assert row["output"] == (None if withheld else record["output"])
        assert row["output_sha256"] == hashlib.sha256(record["output"].encode()).hexdigest()
        for name, content in _content(folder).items():
            assert not (withheld and record["input"].encode() in content), name
    assert not rows

    work = tmp_path / "work"
    shutil.copytree(folder, work)
    rebuilt = work / "odin-slm" / "data" / "05_model_input" / "demo"
    rebuilt.mkdir(parents=True)
    for name, records in parts.items():
        (rebuilt / f"{name}.json").write_text(json.dumps(records), encoding="utf-8")
    monkeypatch.chdir(work)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    usage, verification = snippets(work)
    exec(usage, {})
    exec(verification, {})
    parts["test"][0]["input"] += "!"
    (rebuilt / "test.json").write_text(json.dumps(parts["test"]), encoding="utf-8")
    with pytest.raises(AssertionError, match="input differs"):
        exec(verification, {})


def test_training_data_alone_is_a_dataset_and_a_warning(
    stage: Callable[..., dict[str, Path]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    import datasets

    folder = stage(only_train=True, synthetic=False, inputs={"leakage": {**values.leakage(), "seen_in_training": {}}})
    data = folder["dataset"]
    assert "staged without validation" in caplog.text
    assert "staged without test" in caplog.text
    assert [file.name for file in (data / "data").iterdir()] == ["train.parquet"]
    card = (data / "README.md").read_text(encoding="utf-8")
    assert "**Training data only.** There is no validation and no test split" in card
    assert "Strings of the test set" not in card
    work = tmp_path / "work"
    shutil.copytree(data, work)
    rebuilt = work / "odin-slm" / "data" / "05_model_input" / "demo"
    rebuilt.mkdir(parents=True)
    (rebuilt / "train.json").write_text(json.dumps(values.splits(synthetic=False)["train"]), encoding="utf-8")
    monkeypatch.chdir(work)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    usage, verification = snippets(work)
    scope: dict[str, Any] = {}
    exec(usage, scope)
    assert {split: len(rows) for split, rows in scope["data"].items()} == {"train": 18}
    exec(verification, {})


def test_data_that_is_not_what_the_manifest_describes_is_not_staged(stage: Callable[..., dict[str, Path]]) -> None:
    parts = values.splits(synthetic=True)
    with pytest.raises(ReleaseError, match=r"val\.json: the file is not the one that manifest\.json describes"):
        stage(inputs={"val": parts["val"][:-1]})
    with pytest.raises(MissingInputError, match=r"test\.json: there is no such file.*--pipelines data"):
        stage(inputs={"test": None})


def test_staging_twice_gives_the_same_bytes(stage: Callable[..., dict[str, Path]]) -> None:
    first, second = stage(folder="one"), stage(folder="two")
    for kind in ("model", "dataset"):
        assert _content(first[kind]) == _content(second[kind])
    again = stage(folder="one")
    assert _content(again["model"]) == _content(second["model"])


def test_the_order_that_peft_wrote_its_modules_in_does_not_matter(
    stage: Callable[..., dict[str, Path]], trained: dict[str, Path], tmp_path: Path
) -> None:
    shutil.copytree(trained["adapter"], tmp_path / "adapter")
    file = tmp_path / "adapter" / "adapter_config.json"
    config = json.loads(file.read_text(encoding="utf-8"))
    config["target_modules"].reverse()
    file.write_text(json.dumps(config), encoding="utf-8")
    other = stage(folder="two", inputs={"adapter": tmp_path / "adapter"})
    assert _content(stage(folder="one")["model"]) == _content(other["model"])


def _llama(trained: dict[str, Path], tmp_path: Path, card: str) -> BaseModel:
    folder = tmp_path / "Llama-3.1-8B"
    shutil.copytree(trained["base"], folder)
    (folder / "README.md").write_text(card, encoding="utf-8")
    (folder / "LICENSE").write_text("LLAMA 3.1 COMMUNITY LICENSE AGREEMENT", encoding="utf-8")
    return BaseModel(str(folder), folder)


LLAMA = {"base_model_id": "meta-llama/Llama-3.1-8B", "license": "llama3.1", "include_base": "never"}


def test_an_adapter_of_llama_carries_its_licence_notice_and_name(
    stage: Callable[..., dict[str, Path]], trained: dict[str, Path], tmp_path: Path
) -> None:
    base = _llama(trained, tmp_path, "---\nlicense: llama3.1\n---\n")
    files = _content(stage(base=base, model_name="Llama-3.1-odin", **LLAMA)["model"])
    assert not any(name.startswith("base/") for name in files)
    assert files["LICENSE"].startswith(b"LLAMA 3.1 COMMUNITY LICENSE")
    assert files["NOTICE"].startswith(b"Llama 3.1 is licensed under the Llama 3.1 Community License")
    assert b"**Built with Llama**" in files["README.md"]


def test_a_converted_base_goes_with_the_adapter_and_says_what_it_was_made_of(
    stage: Callable[..., dict[str, Path]], trained: dict[str, Path], tmp_path: Path
) -> None:
    folder = tmp_path / "smol"
    shutil.copytree(trained["base"], folder)
    made_of = {"file": "Smol.Q4_1.gguf", "sha256": "ab" * 32, "formats": {"Q4_1": 210, "F32": 61}}
    stated = {"derived_from": "maker/Smol", "license": "apache-2.0", "gguf": made_of}
    (folder / "conversion.json").write_text(json.dumps(stated), encoding="utf-8")
    base = BaseModel("data/06_models/smol", folder)
    files = _content(stage(base=base, base_model_id=None)["model"])
    assert json.loads(files["base/conversion.json"]) == stated
    assert json.loads(files["adapter_config.json"])["base_model_name_or_path"] == "maker/Smol"
    card = files["README.md"].decode()
    assert "\nbase_model: maker/Smol\n" in card
    assert "trained on the weights of `Smol.Q4_1.gguf` (sha256 `abababababababab…`)" in card
    assert "which holds `maker/Smol` as Q4_1, F32" in card
    files = _content(stage(base=base, base_model_id="odin-slm/odin-nano")["model"])  # as environments have it
    assert "\nbase_model: maker/Smol\n" in files["README.md"].decode(), "the folder knows what it is"


def test_the_licence_of_a_base_on_the_hub_has_to_be_given(
    stage: Callable[..., dict[str, Path]], tmp_path: Path
) -> None:
    base = BaseModel("meta-llama/Llama-3.1-8B", None, "abc123")
    with pytest.raises(ReleaseError, match=r"publishing\.license_file=FILE"):
        stage(base=base, model_name="Llama-odin", **LLAMA)
    terms = tmp_path / "LICENSE.txt"
    with pytest.raises(ReleaseError, match=r"Mend publishing\.license_file"):
        stage(base=base, model_name="Llama-odin", license_file=terms, **LLAMA)
    terms.write_text("the agreement", encoding="utf-8")
    files = _content(stage(base=base, model_name="Llama-odin", license_file=terms, **LLAMA)["model"])
    assert files["LICENSE"] == b"the agreement"
    assert json.loads(files["adapter_config.json"])["revision"] == "abc123"
    assert b'revision="abc123"' in files["README.md"]


def test_a_base_under_its_owners_terms_is_not_passed_on(
    stage: Callable[..., dict[str, Path]], trained: dict[str, Path], tmp_path: Path
) -> None:
    base = _llama(trained, tmp_path, "---\nlicense: llama3.1\n---\n")
    with pytest.raises(ReleaseError, match=r"licence 'llama3.1'.*publishing\.include_base=never"):
        stage(base=base, model_name="Llama-odin", **{**LLAMA, "include_base": "auto"})


def test_a_local_base_does_not_pass_for_another(
    stage: Callable[..., dict[str, Path]], trained: dict[str, Path], tmp_path: Path
) -> None:
    base = _llama(trained, tmp_path, "---\nlicense: apache-2.0\n---\n")
    with pytest.raises(ReleaseError, match=r"publishing\.base_model_id: found 'odin-slm/odin-nano'"):
        stage(base=base)
    with pytest.raises(ReleaseError, match=r"publishing\.base_model_id: found None"):
        stage(base_model_id=None)


@pytest.mark.parametrize(
    ("inputs", "params", "expected"),
    [
        ({"leakage": values.leakage(pmids=1)}, {}, "1 pmids"),
        ({"quality": values.quality("fail")}, {}, "record ids are unique"),
        ({}, {"minimum_scores": {"entity_f1_micro": 0.9}}, "below publishing.minimum_scores.entity_f1_micro=0.900"),
    ],
)
def test_a_closed_gate_stages_no_model(
    stage: Callable[..., dict[str, Path]], tmp_path: Path, inputs: dict[str, Any], params: dict[str, Any], expected: str
) -> None:
    with pytest.raises(ReleaseError, match=expected):
        stage(inputs=inputs, **params)
    assert not (tmp_path / "release" / "model").exists()


def test_what_does_not_belong_together_is_not_staged(stage: Callable[..., dict[str, Path]], tmp_path: Path) -> None:
    state = values.training_state()
    with pytest.raises(ReleaseError, match="tells of another adapter"):
        stage(inputs={"training_state": {**state, "adapter_sha256": "0" * 64}})
    with pytest.raises(ReleaseError, match=r"trained on another train\.json and another val\.json"):
        stage(inputs={"training_state": {**state, "data": {"train.json": "0" * 64, "val.json": "0" * 64}}})
    elsewhere = values.evaluation_results(synthetic=True)
    elsewhere["test_set"]["manifest_sha256"] = None
    with pytest.raises(ReleaseError, match="figures are of another test set"):
        stage(inputs={"evaluation_results": elsewhere})
    assert not (tmp_path / "release" / "model").exists()
    staged = stage(inputs={"evaluation_results": elsewhere}, override={"model": "the letters of our own ward"})
    (entry,) = read_front_matter((staged["model"] / "README.md").read_text(encoding="utf-8"))["model-index"]
    assert {result["dataset"]["name"] for result in entry["results"]} == {"records from elsewhere (synthetic)"}
    assert not [result for result in entry["results"] if "split" in result["dataset"]]


def test_an_adapter_without_safetensors_is_refused(
    stage: Callable[..., dict[str, Path]], trained: dict[str, Path], tmp_path: Path
) -> None:
    shutil.copytree(trained["adapter"], tmp_path / "adapter")
    (tmp_path / "adapter" / "adapter_model.safetensors").rename(tmp_path / "adapter" / "adapter_model.bin")
    with pytest.raises(ReleaseError, match=r"adapter_model\.safetensors"):
        stage(inputs={"adapter": tmp_path / "adapter"})


def test_a_release_of_another_task_speaks_of_it(
    stage: Callable[..., dict[str, Path]], trained: dict[str, Path], tmp_path: Path
) -> None:
    class FirstWord(TaskParams):
        def task(self) -> Task:
            return FirstWordTask()

    task = FirstWordTask()
    parts = {
        name: [{**r, "instruction": task.instruction(r["source"]), "output": r["input"].split()[0]} for r in records]
        for name, records in values.splits(synthetic=True).items()
    }
    manifest = values.manifest(parts, synthetic=True)
    rows = [
        {**row, "manifest_sha256": sha256_text(canonical_json(manifest))} for row in predict(trained, parts["test"])
    ]
    inputs = {
        **parts,
        "params:task": FirstWord(),
        "manifest": manifest,
        "leakage": {**values.leakage(), "seen_in_training": {"ade": {"test_outputs": 1, "test_outputs_seen": 1.0}}},
        "test_data": parts["test"],
        "predictions": rows,
        "evaluation_results": task.score(rows, None, parts["train"], experiment="demo", resamples=20),
        "data_statistics": {"train": count_records(parts["train"], lambda rows: [1] * len(rows), task)},
    }
    options = {"maximum_parse_failure_rate": 1.0, "export": "merged"}
    with pytest.raises(ReleaseError, match="first_word has no metric entity_f1_micro; it has accuracy"):
        stage(inputs=inputs, minimum_scores={"entity_f1_micro": 0.1}, **options)
    with pytest.raises(ReleaseError, match=r"accuracy is 0\.000, below publishing\.minimum_scores\.accuracy=0\.100"):
        stage(inputs=inputs, minimum_scores={"accuracy": 0.1}, **options)
    judged = json.loads((tmp_path / "release" / "gates.json").read_text(encoding="utf-8"))
    assert judged["model"]["judged"]["scores"] == {"accuracy": 0.0}
    folder = stage(inputs=inputs, **options)["model"]
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert "is fine-tuned for naming the first word" in card
    assert "Write the first word." in card
    assert "entities" not in card
    assert json.loads((folder / "task.json").read_text(encoding="utf-8"))["name"] == "first_word"
    merged = (folder.parent / "merged" / "README.md").read_text(encoding="utf-8")
    assert "| accuracy | 0.0000 | 0.0000 |" in merged


def test_the_shipped_parameters_are_those_of_the_model() -> None:
    base = PROJECT / "conf" / "base"
    known = yaml.safe_load((base / "globals.yml").read_text(encoding="utf-8"))
    text = (base / "parameters_publishing.yml").read_text(encoding="utf-8")
    shipped = yaml.safe_load(re.sub(r"\$\{globals:(\w+)\}", lambda match: known[match[1]], text))["publishing"]
    assert set(shipped) == set(PublishingParams.model_fields)
    params = PublishingParams(**shipped)
    assert (params.model_name, params.dataset_name) == ("odin-medical-ner-re", "odin-medical-ner-re-data")
    assert params.base_model_id == "odin-slm/odin-nano"


def test_the_licence_text_of_releases_is_the_projects_own() -> None:
    packaged = PROJECT / "src" / "odin_slm" / "templates" / "apache-2.0.txt"
    assert packaged.read_bytes() == (PROJECT / "LICENSE").read_bytes()
