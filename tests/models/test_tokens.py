"""Token counts equal the lengths that training sees, whichever tokenizer counts."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from odin_slm.core.errors import BaseModelError
from odin_slm.core.record import Record, full_text
from odin_slm.models.base_model import BaseModel, load_tokenizer, resolve_base_model
from odin_slm.models.tokens import completion_ids, prompt_ids, record_counter, token_counter

ROOT = Path(__file__).resolve().parents[2]
RECORDS = [
    Record(instruction="Extract.", input=text, output="### Entities:\nNone", id="a", source="ade", document_id="a")
    for text in ("Aspirin helped.", "β-blockers\n(5 mg) → none", "<|endoftext|> is no end here")
]


def with_class(base: Path, folder: Path, **settings: str) -> Path:
    """Return a copy of a base with other settings of its tokenizer."""
    shutil.copytree(base, folder)
    file = folder / "tokenizer_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **settings}))
    return folder


def with_bos(base: Path, folder: Path) -> Path:
    """Return a copy of a base whose tokenizer puts BOS before every text."""
    from tokenizers import Tokenizer, processors

    with_class(base, folder, bos_token="<|endoftext|>")
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    end = tokenizer.token_to_id("<|endoftext|>")
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<|endoftext|> $A", special_tokens=[("<|endoftext|>", end)]
    )
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder


def test_another_vocabulary_in_the_same_folder_counts_anew(tiny_base: Path, tmp_path: Path) -> None:
    base = resolve_base_model(str(with_class(tiny_base, tmp_path / "base")), root=ROOT)
    before = record_counter(base)(RECORDS)
    shutil.rmtree(tmp_path / "base")
    with_bos(tiny_base, tmp_path / "base")
    assert record_counter(base)([*RECORDS, *RECORDS]) == [length + 1 for length in before] * 2


@pytest.mark.parametrize("kind", ["plain", "bos", "named class"])
def test_counts_equal_the_lengths_in_training(kind: str, tiny_base: Path, tmp_path: Path) -> None:
    folder = tiny_base
    if kind == "bos":
        folder = with_bos(tiny_base, tmp_path / "base")
    elif kind == "named class":
        folder = with_class(tiny_base, tmp_path / "base", tokenizer_class="GPT2Tokenizer")
    base = resolve_base_model(str(folder), root=ROOT)
    tokenizer = load_tokenizer(base)
    assert (len(prompt_ids(tokenizer, "")) == 1) == (kind == "bos")
    lengths = [
        len(prompt_ids(tokenizer, prompt)) + len(completion_ids(tokenizer, completion))
        for prompt, completion in map(full_text, RECORDS)
    ]
    assert record_counter(base)(RECORDS) == lengths
    *plain, spelled = [record["input"] for record in RECORDS]
    *counts, most = token_counter(base)([*plain, spelled])
    assert counts == [len(tokenizer(text, add_special_tokens=False)["input_ids"]) for text in plain]
    assert most == len(tokenizer(spelled, add_special_tokens=False, split_special_tokens=True)["input_ids"])


def test_counting_with_the_embedded_base_imports_neither_torch_nor_transformers() -> None:
    code = (
        "import sys; from pathlib import Path\n"
        "from odin_slm.models.base_model import resolve_base_model\n"
        "from odin_slm.models.tokens import token_counter\n"
        "base = resolve_base_model('data/06_models/odin-nano', root=Path('.'))\n"
        "assert token_counter(base)(['aspirin and fever'])[0] > 2\n"
        "print(sorted({'torch', 'transformers'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("content", ["{}", '{"model": {"type": "of a later version"}}'])
def test_a_tokenizer_that_cannot_be_read_is_named(content: str, tiny_base: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(tiny_base, tmp_path / "tiny")
    (folder / "tokenizer.json").write_text(content)
    for reads in (record_counter, load_tokenizer):
        with pytest.raises(BaseModelError, match="tiny"):
            reads(BaseModel("tiny", folder))
