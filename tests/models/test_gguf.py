"""A GGUF file as a base: the same model and tokenizer, or a refusal that says why; never half a folder."""

from __future__ import annotations

import inspect
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from kedro.io import DatasetError

from gguf_files import QUANTISED, TEMPLATE, write_gguf
from odin_slm.core.errors import BaseModelError
from odin_slm.core.record import render_prompt
from odin_slm.datasets.models import BaseModelDataset
from odin_slm.inference.generation import generate
from odin_slm.models.base_model import BaseModel, load_model, load_tokenizer, resolve_base_model
from odin_slm.models.preflight import licence_of
from odin_slm.models.sources import conversion, gguf_tokenizer
from odin_slm.models.sources.conversion import Origin, convert, provenance_of
from odin_slm.models.sources.gguf_source import base_of_gguf, only_gguf
from odin_slm.tasks.extraction.grammar import ExtractionGrammar

TEXT = "Enalapril (10 mg/day) caused α-blockade — then 1,234 fevers."


@pytest.fixture(scope="module")
def grouped(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny base with two heads that share keys, as SmolLM2 has them, where an error in their order would show."""
    import torch
    from transformers import AutoConfig, AutoTokenizer, LlamaForCausalLM

    folder = tmp_path_factory.mktemp("grouped") / "base"
    torch.manual_seed(1)
    config = AutoConfig.from_pretrained(tiny_base, num_key_value_heads=2)
    LlamaForCausalLM(config).save_pretrained(folder)
    AutoTokenizer.from_pretrained(tiny_base).save_pretrained(folder)
    return folder


def logits(base: BaseModel) -> Any:
    import torch

    ids = torch.arange(2, 60)[None]
    with torch.no_grad():
        return load_model(base)(ids).logits


def test_a_converted_file_is_the_same_model(grouped: Path, tmp_path: Path) -> None:
    import torch

    folder = convert(write_gguf(grouped, tmp_path / "tiny.gguf"), tmp_path / "models/tiny", Origin("a local file"))
    base, before = resolve_base_model("models/tiny", root=tmp_path), BaseModel("tiny", grouped)
    assert torch.equal(logits(base), logits(before))
    tokenizer, original = load_tokenizer(base), load_tokenizer(before)
    assert tokenizer(TEXT)["input_ids"] == original(TEXT)["input_ids"]
    assert tokenizer.eos_token_id == tokenizer.pad_token_id == original.eos_token_id
    assert tokenizer.bos_token is None
    assert tokenizer.chat_template == TEMPLATE
    stated = provenance_of(folder)
    assert stated is not None
    assert (stated["license"], stated["derived_from"]) == ("apache-2.0", "owner/tiny")
    assert (stated["weights"], stated["gguf"]["formats"]) == ("float32", {"F32": 20})
    assert licence_of(base) == "apache-2.0, according to its card"
    assert json.loads((folder / "config.json").read_text())["rms_norm_eps"] == 1e-6
    assert {path.name for path in (tmp_path / "models").iterdir()} == {"tiny", ".tiny.lock"}


@pytest.mark.parametrize("kind", QUANTISED)
def test_quantised_weights_are_those_that_transformers_reads(grouped: Path, tmp_path: Path, kind: str) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    file = write_gguf(grouped, tmp_path / "tiny.gguf", kind=kind)
    folder = convert(file, tmp_path / "tiny", Origin("a local file"))
    expected = AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file=file.name, dtype=torch.bfloat16).state_dict()
    found = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16).state_dict()
    assert found.keys() == expected.keys()
    assert all(torch.equal(weight, expected[name]) for name, weight in found.items())


def test_a_converted_base_is_held_by_a_grammar(tiny_base: Path, tmp_path: Path) -> None:
    folder = convert(write_gguf(tiny_base, tmp_path / "tiny.gguf"), tmp_path / "tiny", Origin("a local file"))
    prompt = render_prompt("Extract entities: Drug. Relations: causes.", TEXT)
    [output] = generate(
        BaseModel("tiny", folder), None, [prompt], batch_size=1, max_new_tokens=60, grammars=[ExtractionGrammar(TEXT)]
    )
    assert output.text.startswith("### Entities:\n")


def test_a_file_is_converted_once(tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_gguf(tiny_base, tmp_path / "tiny.gguf")
    dataset = BaseModelDataset(source="tiny.gguf", root=str(tmp_path), models="data/06_models")
    first = dataset.load()
    assert (first.source, first.path) == ("data/06_models/tiny", tmp_path / "data/06_models/tiny")
    monkeypatch.setattr(conversion, "_write", None)
    assert dataset.load() == first
    assert resolve_base_model(first.source, root=tmp_path) == first, "what an adapter names as its base"
    write_gguf(tiny_base, tmp_path / "tiny.gguf", metadata={"general.name": "Another"})
    with pytest.raises(DatasetError, match=r"something else in the place.*renaming will do"):
        dataset.load()


def test_a_conversion_that_was_stopped_leaves_no_base(
    tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, target = write_gguf(tiny_base, tmp_path / "tiny.gguf"), tmp_path / "models/tiny"
    reads = []

    def stopped(*arguments: Any) -> Any:
        reads.append(arguments)
        if len(reads) > 3:
            raise KeyboardInterrupt
        return read(*arguments)

    read = conversion.read_weight
    monkeypatch.setattr(conversion, "read_weight", stopped)
    with pytest.raises(KeyboardInterrupt):
        convert(file, target, Origin("a local file"))
    assert [path.name for path in target.parent.iterdir()] == [".tiny.lock"]
    monkeypatch.setattr(conversion, "read_weight", read)
    half = target.with_name(".tiny.new") / "base"  # of a process that could not even clean up
    half.mkdir(parents=True)
    (half / "model.safetensors").write_bytes(b"half")
    convert(file, target, Origin("a local file"))
    assert logits(BaseModel("tiny", target)).isfinite().all()
    assert not half.parent.exists()


NOT_A_NUMBER = np.full((64, 32), np.nan, dtype=np.float32)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"metadata": {"tokenizer.ggml.pre": "deepseek-llm"}}, "cut the way 'deepseek-llm'.*smollm"),
        ({"metadata": {"tokenizer.ggml.pre": None}}, "cut the way None"),
        ({"metadata": {"tokenizer.ggml.model": "llama"}}, "of the kind 'llama'; byte-level BPE"),
        ({"metadata": {"tokenizer.ggml.eos_token_id": None}}, "name no end-of-sequence token"),
        ({"metadata": {"tokenizer.ggml.eos_token_id": 512}}, "eos token has the id 512, of 512 tokens"),
        ({"metadata": {"tokenizer.ggml.merges": ["Q Q"]}}, "merges do not fit"),
        ({"metadata": {"llama.rope.scaling.type": "yarn"}}, "llama.rope.scaling.type='yarn', which is not converted"),
        ({"metadata": {"llama.rope.dimension_count": 4}}, "rope.dimension_count is 4, and a head 8 wide"),
        ({"metadata": {"llama.attention.head_count": [4, 4]}}, "differs from layer to layer"),
        ({"metadata": {"llama.context_length": None}}, "lacks llama.context_length"),
        ({"metadata": {"llama.feed_forward_length": 32}}, r"ffn_\w+.weight is \(.*ask for"),
        ({"metadata": {"split.count": 3}}, "one of 3 parts"),
        ({"tensors": {"blk.1.attn_v.weight": None}}, "1 tensors are missing, blk.1.attn_v.weight"),
        ({"tensors": {"rope_freqs.weight": np.ones(4, dtype=np.float32)}}, "no place in llama, rope_freqs.weight"),
        ({"tensors": {"blk.0.ffn_up.weight": NOT_A_NUMBER}}, "blk.0.ffn_up.weight has values that are not finite"),
    ],
)
def test_what_cannot_be_converted_faithfully_is_refused(
    tiny_base: Path, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    write_gguf(tiny_base, tmp_path / "tiny.gguf", **changes)
    with pytest.raises(BaseModelError, match=message) as caught:
        base_of_gguf("tiny.gguf", root=tmp_path, models=tmp_path / "models")
    assert caught.value.where.endswith("tiny.gguf")
    assert caught.value.fix
    assert [path.name for path in (tmp_path / "models").iterdir()] == [".tiny.lock"]


@pytest.mark.parametrize("length", [0, 3, 900, 30_000, -100])
def test_a_file_that_is_not_whole_is_refused(tiny_base: Path, tmp_path: Path, length: int) -> None:
    file = write_gguf(tiny_base, tmp_path / "tiny.gguf")
    file.write_bytes(file.read_bytes()[:length])
    with pytest.raises(BaseModelError, match="not a whole GGUF file"):
        convert(file, tmp_path / "models/tiny", Origin("a local file"))


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    for source in ("data/none.gguf", "./a/b/none.gguf", "none.gguf"):
        with pytest.raises(BaseModelError, match="no such file") as caught:
            base_of_gguf(source, root=tmp_path, models=tmp_path)
        assert caught.value.where == source


def test_a_vocabulary_without_a_letter_is_refused(tiny_base: Path, tmp_path: Path) -> None:
    file = write_gguf(tiny_base, tmp_path / "tiny.gguf")
    values = conversion.open_gguf(file).metadata
    tokens = [token if token != "z" else "zzzzz" for token in values["tokenizer.ggml.tokens"]]
    write_gguf(tiny_base, file, metadata={"tokenizer.ggml.tokens": tokens})
    with pytest.raises(BaseModelError, match="lacks 1 of the bytes that text is made of, 0x7a"):
        convert(file, tmp_path / "models/tiny", Origin("a local file"))


@pytest.mark.parametrize(
    ("cut", "pieces"),
    [
        ("smollm", ["took", "Ġ", "1", "2", "3", "4", "Ġmg", "Ġof", "ĠI", "'ve"]),
        ("gpt-2", ["took", "Ġ1234", "Ġmg", "Ġof", "ĠI", "'ve"]),
        ("llama-bpe", ["took", "Ġ", "123", "4", "Ġmg", "Ġof", "ĠI", "'ve"]),
        ("qwen2", ["took", "Ġ", "1", "2", "3", "4", "Ġmg", "Ġof", "ĠI", "'ve"]),
    ],
)
def test_text_is_cut_as_the_file_says(tiny_base: Path, tmp_path: Path, cut: str, pieces: list[str]) -> None:
    file = write_gguf(tiny_base, tmp_path / "tiny.gguf", metadata={"tokenizer.ggml.pre": cut})
    folder = convert(file, tmp_path / "tiny", Origin("a local file"))
    backend = load_tokenizer(BaseModel("tiny", folder)).backend_tokenizer
    assert [piece for piece, _ in backend.pre_tokenizer.pre_tokenize_str("took 1234 mg of I've")] == pieces


def test_the_cuts_are_those_of_transformers() -> None:
    from transformers.convert_slow_tokenizer import Qwen2Converter, TikTokenConverter

    assert inspect.signature(TikTokenConverter.__init__).parameters["pattern"].default == gguf_tokenizer._LLAMA3
    assert gguf_tokenizer._QWEN2 in inspect.getsource(Qwen2Converter)


@pytest.mark.parametrize(
    ("said", "begins"),
    [
        ({"add_bos_token": True}, True),
        ({"pre": "llama-bpe"}, True),  # as llama.cpp has it where a file leaves the key out
        ({"pre": "llama-bpe", "add_bos_token": False}, False),
        ({"pre": "qwen2"}, False),
    ],
)
def test_a_begin_token_stands_where_the_file_wants_it(
    tiny_base: Path, tmp_path: Path, said: dict[str, Any], begins: bool
) -> None:
    wanted = {f"tokenizer.ggml.{name}": value for name, value in {"bos_token_id": 1, **said}.items()}
    folder = convert(
        write_gguf(tiny_base, tmp_path / "tiny.gguf", metadata=wanted), tmp_path / "tiny", Origin("a local file")
    )
    tokenizer = load_tokenizer(BaseModel("tiny", folder))
    plain = tokenizer("aspirin", add_special_tokens=False)["input_ids"]
    assert tokenizer("aspirin")["input_ids"] == ([1, *plain] if begins else plain)


def test_a_repository_says_which_of_its_files(tmp_path: Path) -> None:
    assert only_gguf({"id": "o/n", "files": {"a.gguf": 1, "README.md": 1}}) == "o/n/a.gguf"
    assert only_gguf({"id": "o/n", "files": {"a.gguf": 1, "model.safetensors": 1}}) is None
    with pytest.raises(BaseModelError, match=r"2 GGUF files: a\.gguf, b\.gguf"):
        only_gguf({"id": "o/n", "files": {"a.gguf": 1, "b.gguf": 1}})
