"""Merged weights: the adapter's arithmetic in the base's files, loadable by transformers alone, and scored again."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from kedro.io import DatasetError
from pydantic import ValidationError

import release_values as values
from odin_slm.config.parameters import PublishingParams
from odin_slm.core.errors import AdapterError, BackendError, BaseModelError
from odin_slm.core.record import render_prompt
from odin_slm.inference.generation import generate
from odin_slm.models.base_model import BaseModel
from odin_slm.release import merging
from staging import make_adapter, predict, publish_from

TEST = values.splits(synthetic=True)["test"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, tiny_base: Path) -> dict[str, Path]:
    return make_adapter(tmp_path_factory.mktemp("models"), tiny_base)


@pytest.fixture(scope="module")
def predictions(trained: dict[str, Path]) -> list[dict[str, Any]]:
    return predict(trained, TEST)


@pytest.fixture
def publish(trained: dict[str, Path], tmp_path: Path, predictions: list[dict[str, Any]]) -> Callable[..., Path]:
    """Return a function that publishes and gives the folder of the merged weights."""

    def run(**options: Any) -> Path:
        publish_from(trained, tmp_path, inputs={"predictions": predictions, **options.pop("inputs", {})}, **options)
        return tmp_path / "merged"

    return run


def expected_weights(trained: dict[str, Path]) -> dict[str, Any]:
    """The base's weights plus scale times B times A, rounded to bfloat16; nothing of PEFT's."""
    import torch
    from safetensors.torch import load_file

    weights = load_file(trained["base"] / "model.safetensors")
    lora = load_file(trained["adapter"] / "adapter_model.safetensors")
    scale = 64 / 4  # alpha / r
    for name in [name for name in lora if name.endswith("lora_A.weight")]:
        place = name.removeprefix("base_model.model.").replace("lora_A.weight", "weight")
        weights[place] = weights[place] + scale * (lora[name.replace("lora_A", "lora_B")] @ lora[name])
    return {name: weight.to(torch.bfloat16) for name, weight in weights.items()}


def test_merged_weights_load_without_peft_and_are_base_plus_adapter(
    publish: Callable[..., Path], trained: dict[str, Path]
) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = publish(export="merged")
    model = AutoModelForCausalLM.from_pretrained(folder)
    assert model.dtype == torch.bfloat16
    found = model.state_dict()
    expected = expected_weights(trained)
    changed = [name for name in expected if "q_proj" in name or "v_proj" in name]
    assert len(changed) == 4
    for name, weight in expected.items():
        torch.testing.assert_close(found[name], weight, rtol=2**-7, atol=1e-6)  # the last bit, where sums are reordered
        assert (found[name] == weight).float().mean() > 0.99
    assert AutoTokenizer.from_pretrained(folder).pad_token == "<|pad|>"
    names = {file.name for file in folder.iterdir()}
    assert names == {
        *("config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"),
        *("README.md", "LICENSE", "calibrator.json", "merging.json", "SHA256SUMS"),
    }
    for line in (folder / "SHA256SUMS").read_text().splitlines():
        digest, name = line.split("  ")
        assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == digest
    assert str(trained["base"].parent) not in "".join(
        f.read_text() for f in folder.glob("*.*") if f.suffix != ".safetensors"
    )


def test_both_scores_stand_in_the_report_and_on_the_card(
    publish: Callable[..., Path], trained: dict[str, Path], predictions: list[dict[str, Any]]
) -> None:
    folder = publish(export="merged")
    report = json.loads((folder / "merging.json").read_text())
    outputs = generate(
        BaseModel("merged", folder),
        None,
        [render_prompt(record["instruction"], record["input"]) for record in TEST],
        batch_size=4,
        max_new_tokens=24,
    )
    equal = sum(o.text == row["prediction"] for o, row in zip(outputs, predictions, strict=True))
    assert report["equal_predictions"] == equal > 0
    assert report["records"] == len(TEST) == 9
    assert report["dtype"] == "bfloat16"
    assert report["architecture"] == "LlamaForCausalLM"
    weights = (trained["adapter"] / "adapter_model.safetensors").read_bytes()
    assert report["adapter_sha256"] == hashlib.sha256(weights).hexdigest()
    described = json.loads((folder.parent / "merging.json").read_text())
    assert described == {"export": "merged", **report}
    card = (folder / "README.md").read_text()
    assert f"{equal} of 9 outputs are equal" in card
    assert "base_model: odin-slm/odin-nano" in card
    assert "GGUF.md" not in card


def test_weights_that_score_otherwise_are_refused_and_leave_nothing(
    publish: Callable[..., Path], predictions: list[dict[str, Any]], tmp_path: Path
) -> None:
    perfect = [{**row, "prediction": row["gold"], "finished": True} for row in predictions]
    with pytest.raises(DatasetError, match=r"export_tolerance=0\.01: .*entity_f1_micro 0\.\d+ in place of 1\.0000"):
        publish(export="merged", inputs={"predictions": perfect}, reproduced_predictions=0)
    assert {entry.name for entry in tmp_path.iterdir()} == {
        *("dataset", "model", "dataset.json", "model.json", "publication.json"),  # the release is whole without it
        *("data_gate.json", "gates.json", "dry_run.json"),
    }


def test_a_refused_export_leaves_the_old_one(publish: Callable[..., Path], predictions: list[dict[str, Any]]) -> None:
    folder = publish(export="merged")
    before = {file.name: file.read_bytes() for file in folder.iterdir()}
    with pytest.raises(DatasetError, match=r"predictions\.jsonl.*publishing\.export=none"):
        publish(export="merged", inputs={"predictions": []})
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == before
    publish()
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == before
    assert json.loads((folder.parent / "merging.json").read_text()) == {"export": "none"}


def test_large_models_are_sharded(
    trained: dict[str, Path], tmp_path: Path, publish: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    whole = AutoModelForCausalLM.from_pretrained(publish(export="merged")).state_dict()
    monkeypatch.setattr(merging, "SHARD", "30KB")
    folder = publish(export="merged")
    assert len(list(folder.glob("model-*-of-*.safetensors"))) > 1
    assert not (folder / "model.safetensors").exists()
    found = AutoModelForCausalLM.from_pretrained(folder).state_dict()
    assert all(torch.equal(found[name], weight) for name, weight in whole.items())


def test_the_gguf_file_is_scored_too_and_said_how_to_run(
    publish: Callable[..., Path], predictions: list[dict[str, Any]]
) -> None:
    folder = publish(export="gguf", gguf_type="bf16", model_name="odin-small")
    report = json.loads((folder / "merging.json").read_text())
    found = report["gguf"]
    assert found["sha256"] == hashlib.sha256((folder / "model-bf16.gguf").read_bytes()).hexdigest()
    assert found["merged"] == report["merged"]  # bf16 rounds nothing
    assert found["equal_predictions"] == report["equal_predictions"]
    text = (folder / "GGUF.md").read_text()
    commands = [line for block in re.findall(r"```bash\n(.*?)```", text, re.DOTALL) for line in block.splitlines()]
    running, converting, quantising = (
        next(line for line in commands if word in line) for word in ("--temp 0", "--outfile", "Q4_K_M.gguf Q4")
    )
    assert "-m model-bf16.gguf" in running
    assert "--outtype bf16 --outfile ../odin-small-bf16.gguf" in converting
    assert "../odin-small-bf16.gguf ../odin-small-Q4_K_M.gguf Q4_K_M" in quantising
    assert "FROM ./model-bf16.gguf" in text
    assert 'TEMPLATE "{{ .Prompt }}"' in text
    assert "`model-bf16.gguf` holds the same model" in (folder / "README.md").read_text()
    assert "model-bf16.gguf" in (folder / "SHA256SUMS").read_text()


def test_a_gguf_file_that_scores_otherwise_is_refused(
    publish: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = merging._asked_again

    def asked_again(model: BaseModel, rows: Any, job: Any) -> Any:
        if model.path and model.path.name == "base":  # what was read back
            return [{**row, "prediction": row["gold"], "finished": True} for row in rows]
        return asked(model, rows, job)

    monkeypatch.setattr(merging, "_asked_again", asked_again)
    with pytest.raises(DatasetError, match=r"the GGUF file \(q8_0\) score.*gguf_type=bf16"):
        publish(export="gguf")


def test_where_there_can_be_no_gguf_file_its_commands_are_there(
    publish: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*_: Any, **__: Any) -> Any:
        raise BaseModelError("its positions are scaled (llama3), which is not written.", where="x", fix="y")

    monkeypatch.setattr(merging, "write_gguf", refuse)
    folder = publish(export="gguf")
    assert "There is no GGUF file here: its positions are scaled" in (folder / "GGUF.md").read_text()
    assert "commands that make a file" in (folder / "README.md").read_text()
    assert "There is no GGUF file: its positions are scaled" in caplog.text
    assert not list(folder.glob("*.gguf"))


def test_an_adapter_of_another_base_is_not_merged(trained: dict[str, Path], tmp_path: Path) -> None:
    file = tmp_path / "adapter_config.json"
    config = json.loads((trained["adapter"] / "adapter_config.json").read_text())
    file.write_text(json.dumps(config | {"r": 2}))
    (tmp_path / "adapter_model.safetensors").write_bytes(
        (trained["adapter"] / "adapter_model.safetensors").read_bytes()
    )
    with pytest.raises(AdapterError, match="does not fit the base"):
        merging.merge(BaseModel("odin-nano", trained["base"]), tmp_path)


def test_a_checkpoint_is_not_exported() -> None:
    with pytest.raises(ValidationError, match="final adapter"):
        PublishingParams(experiment="demo", export="merged", checkpoint="checkpoint-2")


def test_a_quantised_base_says_what_reading_it_needs(trained: dict[str, Path], tmp_path: Path) -> None:
    if importlib.util.find_spec("bitsandbytes"):
        pytest.skip("bitsandbytes is installed")
    base = tmp_path / "quantised"
    shutil.copytree(trained["base"], base)
    config = json.loads((base / "config.json").read_text())
    quantised = {"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}
    (base / "config.json").write_text(json.dumps(config | {"quantization_config": quantised}))
    with pytest.raises(
        BackendError, match="quantised with bitsandbytes, and cannot be loaded on this machine"
    ) as caught:
        merging.merge(BaseModel("quantised", base), trained["adapter"])
    assert "[gpu]" in caught.value.fix
