"""A base of Llama 3.1's shape, cut down, with random weights and the embedded base's tokenizer: FOLDER IN_4_BITS."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

SHAPE_8B = {
    **{"hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32},
    **{"num_attention_heads": 32, "num_key_value_heads": 8, "vocab_size": 128256, "tie_word_embeddings": False},
    **{
        "max_position_embeddings": 131072,
        "rms_norm_eps": 1e-5,
        "rope_parameters": {
            **{"rope_type": "llama3", "rope_theta": 500000.0, "factor": 8.0},
            **{"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192},
        },
    },
}
"""``config.json`` of Llama 3.1 8B."""
CUT = {
    **{"hidden_size": 256, "intermediate_size": 896, "num_hidden_layers": 2},
    **{"num_attention_heads": 8, "num_key_value_heads": 2},
}
"""1/16 as wide, 2 of 32 layers."""


def make_llama(folder: Path, *, in_4_bits: bool) -> Path:
    """Save the cut-down base: in NF4, as ``-bnb-4bit`` repositories are, or bfloat16."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig, LlamaConfig, LlamaForCausalLM

    folder.mkdir(parents=True)
    tokenizer = AutoTokenizer.from_pretrained(ROOT / "data/06_models/odin-nano")
    ids = {"bos_token_id": None, "eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    config = LlamaConfig(**(SHAPE_8B | CUT | {"vocab_size": len(tokenizer)} | ids))
    torch.manual_seed(0)
    LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    if in_4_bits:
        quantised = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=torch.bfloat16,
        )
        model = AutoModelForCausalLM.from_pretrained(folder, quantization_config=quantised, dtype=torch.bfloat16)
        whole = folder.with_name(f"{folder.name}-whole")
        folder.rename(whole)
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        shutil.rmtree(whole)
    (folder / "LICENSE").write_text("The text of the licence that came with the base.\n", encoding="utf-8")
    (folder / "README.md").write_text("---\nlicense: llama3.1\n---\n# A base for tests\n", encoding="utf-8")
    return folder


if __name__ == "__main__":
    make_llama(Path(sys.argv[1]), in_4_bits=json.loads(sys.argv[2]))
