"""A model as a GGUF file: read back it is the same model, and what cannot be written faithfully is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from gguf_files import write_gguf as as_llama_cpp_writes
from odin_slm.core.errors import BaseModelError
from odin_slm.models.base_model import BaseModel, load_model, load_tokenizer
from odin_slm.models.sources.conversion import Origin, convert
from odin_slm.models.sources.gguf_file import open_gguf
from odin_slm.models.sources.gguf_writer import Kind, write_gguf

TEXT = "Enalapril (10 mg/day) caused α-blockade — then 1,234 fevers."


@pytest.fixture(scope="module")
def bases(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Small models of the three types, with heads that share keys; Qwen 2 has biases, Qwen 3 norms of its heads."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    shape = AutoConfig.from_pretrained(tiny_base)
    sizes = {
        name: getattr(shape, name)
        for name in (
            *("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"),
            *("max_position_embeddings", "rms_norm_eps", "eos_token_id", "pad_token_id"),
        )
    }
    made = {}
    for kind, tied in (("llama", False), ("qwen2", True), ("qwen3", False)):
        made[kind] = folder = tmp_path_factory.mktemp(kind) / kind
        torch.manual_seed(1)
        config = AutoConfig.for_model(
            kind, **sizes, num_key_value_heads=2, head_dim=shape.head_dim, tie_word_embeddings=tied, dtype="bfloat16"
        )
        model = AutoModelForCausalLM.from_config(config)
        for name, weight in model.named_parameters():
            if name.endswith("bias"):
                torch.nn.init.normal_(weight)
        model.to(torch.bfloat16).save_pretrained(folder)
        AutoTokenizer.from_pretrained(tiny_base).save_pretrained(folder)
    return made


def logits(folder: Path) -> Any:
    import torch

    ids = torch.arange(2, 60)[None]
    with torch.no_grad():
        return load_model(BaseModel("it", folder))(ids).logits.float()


def written(folder: Path, work: Path, kind: Kind = "bf16") -> Path:
    return write_gguf(BaseModel("it", folder), work / "it.gguf", kind, name="It", license_id="apache-2.0")


@pytest.mark.parametrize("of", ["llama", "qwen2", "qwen3"])
def test_read_back_it_is_the_same_model(of: str, bases: dict[str, Path], tmp_path: Path) -> None:
    import torch
    from safetensors.torch import load_file

    file = written(bases[of], tmp_path)
    back = convert(file, tmp_path / "back", Origin("a local file"))
    before, after = (load_file(folder / "model.safetensors") for folder in (bases[of], back))
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert torch.equal(logits(bases[of]), logits(back))
    one, other = (load_tokenizer(BaseModel("it", folder)) for folder in (bases[of], back))
    assert one(TEXT)["input_ids"] == other(TEXT)["input_ids"]
    assert (one.eos_token_id, one.pad_token_id) == (other.eos_token_id, other.pad_token_id)
    metadata = open_gguf(file).metadata
    assert (metadata["general.name"], metadata["general.license"]) == ("It", "apache-2.0")
    assert [path.name for path in tmp_path.glob("*.gguf*")] == ["it.gguf"]


def test_it_is_the_file_that_llama_cpp_writes(bases: dict[str, Path], tmp_path: Path) -> None:
    import numpy
    from safetensors.torch import load_file, save_file

    wide = shutil.copytree(bases["llama"], tmp_path / "wide")
    weights = {name: weight.float() for name, weight in load_file(wide / "model.safetensors").items()}
    save_file(weights, wide / "model.safetensors", {"format": "pt"})
    names = {"output.weight": weights.pop("lm_head.weight").numpy()}
    save_file(weights, wide / "model.safetensors", {"format": "pt"})
    theirs = open_gguf(as_llama_cpp_writes(wide, tmp_path / "theirs.gguf", kind="F16", tensors=names))
    save_file(load_file(bases["llama"] / "model.safetensors"), wide / "model.safetensors", {"format": "pt"})
    ours = open_gguf(written(wide, tmp_path, "f16"))
    assert ours.tensors.keys() == theirs.tensors.keys()
    for name, tensor in theirs.tensors.items():
        assert ours.tensors[name].tensor_type == tensor.tensor_type
        assert numpy.array_equal(ours.tensors[name].data, tensor.data)
    same = {key for key in theirs.metadata if not key.startswith(("GGUF", "general", "tokenizer.chat"))}
    differing = {key for key in same if ours.metadata.get(key) != theirs.metadata[key]}
    assert differing <= {"tokenizer.ggml.padding_token_id"}  # theirs says that the end pads


@pytest.mark.parametrize("of", ["llama", "qwen2", "qwen3"])
def test_llama_cpp_reads_the_same_model(of: str, bases: dict[str, Path], tmp_path: Path) -> None:
    import torch

    llama_cpp = pytest.importorskip("llama_cpp", reason="llama-cpp-python, which compiles llama.cpp, is not installed")
    reader = llama_cpp.Llama(str(written(bases[of], tmp_path)), n_ctx=128, logits_all=True, verbose=False)
    base = BaseModel("it", bases[of])
    ids = load_tokenizer(base)(TEXT)["input_ids"]
    assert reader.tokenize(TEXT.encode(), add_bos=False) == ids
    reader.eval(ids)
    with torch.no_grad():
        expected = load_model(base)(torch.tensor([ids])).logits[0].float()
    found = torch.tensor(reader.scores[: len(ids)])
    torch.testing.assert_close(found, expected, rtol=0.02, atol=0.02)


@pytest.mark.parametrize(("kind", "formats"), [("f16", {"F16"}), ("q8_0", {"Q8_0"})])
def test_matrices_have_the_format_that_is_asked_for(
    kind: Kind, formats: set[str], bases: dict[str, Path], tmp_path: Path
) -> None:
    file = written(bases["llama"], tmp_path, kind)
    assert set(open_gguf(file).formats) == {*formats, "F32"}
    before, after = logits(bases["llama"]), logits(convert(file, tmp_path / "back", Origin("a local file")))
    assert 0 < (before - after).abs().max() < 0.05 * before.abs().max() or kind == "f16"


def test_rows_that_blocks_do_not_divide_stay_in_16_bit(tiny_base: Path, tmp_path: Path) -> None:
    from transformers import AutoConfig, AutoTokenizer, LlamaForCausalLM

    narrow = tmp_path / "narrow"
    config = AutoConfig.from_pretrained(tiny_base, intermediate_size=40)
    LlamaForCausalLM(config).save_pretrained(narrow)
    AutoTokenizer.from_pretrained(tiny_base).save_pretrained(narrow)
    formats = {
        name: tensor.tensor_type.name for name, tensor in open_gguf(written(narrow, tmp_path, "q8_0")).tensors.items()
    }
    assert formats["blk.0.ffn_down.weight"] == "F16"
    assert formats["blk.0.ffn_up.weight"] == "Q8_0"


def changed(folder: Path, file: str, **values: Any) -> Path:
    path = folder / file
    path.write_text(json.dumps(json.loads(path.read_text()) | values))
    return folder


@pytest.mark.parametrize(
    ("file", "values", "why"),
    [
        ("config.json", {"model_type": "mamba"}, "a model of the type mamba is not written; llama, qwen2, qwen3 are"),
        (
            "config.json",
            {
                "rope_parameters": {
                    **{"rope_type": "llama3", "rope_theta": 5e5, "factor": 8.0, "low_freq_factor": 1.0},
                    **{"high_freq_factor": 4.0, "original_max_position_embeddings": 64},
                }
            },
            "its positions are scaled (llama3), which is not written",
        ),
        ("config.json", {"use_sliding_window": True}, "its attention slides over the text"),
        ("tokenizer.json", {"pre_tokenizer": {"type": "Whitespace"}}, "cuts text in none of the ways that are written"),
    ],
)
def test_what_would_be_read_otherwise_is_refused(
    file: str, values: dict[str, Any], why: str, bases: dict[str, Path], tmp_path: Path
) -> None:
    folder = changed(shutil.copytree(bases["llama"], tmp_path / "it"), file, **values)
    with pytest.raises(BaseModelError) as refusal:
        written(folder, tmp_path)
    assert why in str(refusal.value)
    assert "GGUF.md" in str(refusal.value)
    assert not list(tmp_path.glob("*.gguf*"))
    assert not list(tmp_path.glob(".*.part"))
