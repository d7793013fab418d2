"""Running the publishing pipeline on a tiny adapter: staged, and pushed where asked for."""

from __future__ import annotations

import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from kedro.io import DataCatalog, MemoryDataset
from kedro.runner import SequentialRunner

import release_values as values
from odin_slm.config.parameters import EvaluationParams, PublishingParams, TaskParams
from odin_slm.core.hashing import canonical_json, sha256_text
from odin_slm.datasets.hub import HubRepositoryDataset, PublicationDataset
from odin_slm.datasets.json_files import CanonicalJSONDataset
from odin_slm.datasets.optional import OptionalDataset
from odin_slm.datasets.release import MergedModelDataset, ReleaseCheckDataset, ReleaseDataset
from odin_slm.models.base_model import BaseModel
from odin_slm.pipelines.publishing import create_pipeline


def make_adapter(folder: Path, tiny_base: Path) -> dict[str, Path]:
    """A tiny random base with a card, and a LoRA adapter of it whose weights are not zero."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, AutoTokenizer

    base, adapter = folder / "odin-nano", folder / "adapter"
    shutil.copytree(tiny_base, base)
    (base / "README.md").write_text("---\nlicense: apache-2.0\n---\n# odin-nano\n", encoding="utf-8")
    torch.manual_seed(7)
    # init_lora_weights=False: an adapter that changes the output, where the usual start does not
    lora = LoraConfig(r=4, lora_alpha=64, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(base), lora)
    model.save_pretrained(adapter, save_embedding_layers=False)
    AutoTokenizer.from_pretrained(base).save_pretrained(adapter)
    (adapter / "optimizer.pt").write_bytes(b"state of the optimizer")
    return {"base": base, "adapter": adapter}


def predict(trained: dict[str, Path], records: list[dict[str, Any]], tokens: int = 24) -> list[dict[str, Any]]:
    """Rows of a predictions file, as far as publishing reads them, by the adapter itself."""
    from odin_slm.core.record import render_prompt
    from odin_slm.inference.generation import generate

    outputs = generate(
        BaseModel("models/odin-nano", trained["base"]),
        trained["adapter"],
        [render_prompt(record["instruction"], record["input"]) for record in records],
        batch_size=4,
        max_new_tokens=tokens,
    )
    return [
        {
            "id": record["id"],
            "source": record["source"],
            "input": record["input"],
            "gold": record["output"],
            "decoding": "free",
            "prediction": output.text,
            "finished": output.finished,
            "tokens": output.tokens,
        }
        for record, output in zip(records, outputs, strict=True)
    ]


def publish_from(
    trained: dict[str, Path],
    target: Path,
    *,
    synthetic: bool = True,
    base: BaseModel | None = None,
    only_train: bool = False,
    tags: Sequence[str] = (),
    inputs: Any = (),
    **params: Any,
) -> dict[str, Path]:
    """Run the pipeline; the releases lie in ``target/model`` and ``target/dataset``, the records beside them."""
    parts = values.splits(synthetic=synthetic)
    if only_train:
        parts |= {"val": [], "test": []}
    parameters = {"experiment": "demo", "base_model_id": "odin-slm/odin-nano", **params}
    manifest = values.manifest(parts, synthetic=synthetic)
    results = values.evaluation_results(synthetic=synthetic)
    results["test_set"]["manifest_sha256"] = sha256_text(canonical_json(manifest))
    given = {
        **parts,
        "adapter": trained["adapter"],
        "base_model": base or BaseModel("models/odin-nano", trained["base"]),
        "evaluation_results": results,
        "training_state": values.training_state(),
        "manifest": manifest,
        "leakage": values.leakage(),
        "quality": values.quality(),
        "data_statistics": values.statistics(parts),
        "training_work": target / "training",
        "test_data": parts["test"],
        "predictions": [],
        "calibrator": {"records": 9, "entity": {"method": "none"}, "relation": {"method": "none"}},
        "promotion": None,
        "params:task": TaskParams(),
        "params:publishing": PublishingParams(**parameters),
        "params:evaluation": EvaluationParams(experiment="demo", max_new_tokens=24),
        **dict(inputs),
    }
    folders = {kind: target / kind for kind in ("model", "dataset")}
    files = {
        **{f"{kind}_release": ReleaseDataset(filepath=str(path), kind=kind) for kind, path in folders.items()},
        "model_dry_run": OptionalDataset(
            dataset={"type": ReleaseCheckDataset, "filepath": str(target / "dry_run.json"), "kind": "model"}
        ),
        "data_gate": CanonicalJSONDataset(filepath=str(target / "data_gate.json")),
        "gates": CanonicalJSONDataset(filepath=str(target / "gates.json")),
        **{f"{kind}_publication": HubRepositoryDataset(filepath=str(target / f"{kind}.json")) for kind in folders},
        "merged_model": MergedModelDataset(filepath=str(target / "merged")),
        "merging_report": CanonicalJSONDataset(filepath=str(target / "merging.json")),
        "publication": PublicationDataset(filepath=str(target / "publication.json")),
    }
    catalog = DataCatalog({**{name: MemoryDataset(value) for name, value in given.items()}, **files})
    pipeline = create_pipeline()
    SequentialRunner().run(pipeline.only_nodes_with_tags(*tags) if tags else pipeline, catalog)
    return folders


def snippets(folder: Path) -> list[str]:
    """The Python blocks of a card."""
    return re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(encoding="utf-8"), re.DOTALL)


def continue_locally(trained: dict[str, Path], prompt: str, *, with_adapter: bool) -> str:
    """Return the greedy continuation by the files that training left behind."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(trained["base"])
    model = AutoModelForCausalLM.from_pretrained(trained["base"], dtype="float32").eval()
    if with_adapter:
        model = PeftModel.from_pretrained(model, trained["adapter"]).eval()
    inputs = tokenizer(prompt, return_tensors="pt", return_token_type_ids=False)
    generated = model.generate(**inputs, max_new_tokens=256, do_sample=False)
    return str(tokenizer.decode(generated[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True))
