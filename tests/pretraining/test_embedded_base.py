"""The committed base: any tool loads it, it copies, and it has seen no validation or test document."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from conftest import ROOT
from odin_slm.config.parameters import CombinationParams, IngestionParams
from odin_slm.core.document import is_synthetic
from odin_slm.core.record import render_prompt
from odin_slm.corpora import PARSERS
from odin_slm.datasets.corpus_files import CorpusFilesDataset
from odin_slm.inference.generation import generate
from odin_slm.models.base_model import load_tokenizer, resolve_base_model
from odin_slm.pipelines.combination.nodes import place_documents
from odin_slm.tasks.extraction.format import Entity, instruction_for, parse
from odin_slm.tasks.extraction.schema import SCHEMAS

BASE = ROOT / "data/06_models/odin-nano"
CORPORA = ROOT.parent / "shared/corpora"


def test_it_is_a_plain_llama_of_the_promised_size() -> None:
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(BASE)
    assert type(model).__name__ == "LlamaForCausalLM"
    assert 6e6 <= sum(p.numel() for p in model.parameters()) <= 14e6
    assert sum(file.stat().st_size for file in BASE.iterdir()) <= 20 * 2**20
    assert {file.suffix for file in BASE.iterdir()} <= {".json", ".safetensors", ".md"}
    assert model.config.max_position_embeddings >= 512


def test_its_card_states_licence_and_compute() -> None:
    card = (BASE / "README.md").read_text(encoding="utf-8")
    assert "license: apache-2.0" in card
    state = json.loads((BASE / "pretraining.json").read_text(encoding="utf-8"))["state"]
    assert f"{state['tokens']:,}" in card
    assert state["device"] in card


@given(st.text(max_size=60).filter(lambda t: not any(0xD800 <= ord(c) < 0xE000 for c in t)))
def test_its_tokenizer_reproduces_every_text(text: str) -> None:
    tokenizer = _tokenizer()
    assert tokenizer.decode(tokenizer(text, add_special_tokens=False)["input_ids"]) == text


def test_it_copies_a_word_that_it_never_saw() -> None:
    prompt = render_prompt(instruction_for(SCHEMAS["ade"]), "Severe hiccups followed treatment with velafenprazole.")
    (output,) = generate(resolve_base_model(str(BASE), root=ROOT), None, [prompt], batch_size=1, max_new_tokens=60)
    assert output.finished
    assert Entity("Drug", "velafenprazole") in parse(output.text).extraction.entities


def test_it_has_seen_training_documents_only() -> None:
    if not CORPORA.is_dir():
        pytest.skip("the real corpora are not beside the repository (../shared/corpora)")
    files = {
        "ade": ["DRUG-AE.rel", "ADE-NEG.txt", "DRUG-DOSE.rel"],
        "bc5cdr": [f"CDR_{part}Set.PubTator.txt" for part in ("Training", "Development", "Test")],
    }
    raw = {name: CorpusFilesDataset(filepath=str(CORPORA / name), files=list(f)).load() for name, f in files.items()}
    members = [f"BioRED/{part}.BioC.JSON" for part in ("Train", "Dev", "Test")]
    raw["biored"] = CorpusFilesDataset(filepath=str(CORPORA / "biored"), files=["BIORED.zip"], members=members).load()
    options = IngestionParams()
    documents = {
        name: [
            d.to_dict()
            for d in PARSERS[name](
                texts,
                **({"seed": options.seed} if name == "ade" else {}),
            ).documents
        ]
        for name, texts in raw.items()
    }
    splits = place_documents(
        [one for part in documents.values() for one in part], CombinationParams(), IngestionParams()
    )
    seen = json.loads((BASE / "training_documents.json").read_text(encoding="utf-8"))
    assert len(seen) > 1000
    assert {splits[identifier]["split"] for identifier in seen} == {"train"}
    assert not any(is_synthetic(splits[identifier]["pmid"]) for identifier in seen)


_LOADED: list[object] = []


def _tokenizer():  # type: ignore[no-untyped-def]
    if not _LOADED:
        _LOADED.append(load_tokenizer(resolve_base_model(str(BASE), root=Path())))
    return _LOADED[0]
