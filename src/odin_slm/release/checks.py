"""What may be released: the file allow-lists, and the checks of files and cards.

Everything here works on plain values, so that a staged folder and a later push are judged by the same rules.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any, Literal

from odin_slm.core.names import HUB_ID
from odin_slm.core.record import SPLITS
from odin_slm.core.redaction import VOCABULARY_FILES
from odin_slm.hub.licensing import LICENSES

ReleaseKind = Literal["model", "dataset", "merged"]

CHECKSUMS = "SHA256SUMS"
GGUF_TYPES = ("bf16", "f16", "q8_0")
"""Formats of GGUF files that are written."""

TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "tokenizer.model",
    "chat_template.jinja",
)
_WHOLE_MODEL = (
    "config.json",
    "generation_config.json",
    "model.safetensors",
    "model-[0-9]*-of-[0-9]*.safetensors",
    "model.safetensors.index.json",
    "README.md",
    "LICENSE",
    "NOTICE",
    *TOKENIZER_FILES,
)
BASE_FILES = (*_WHOLE_MODEL, "pretraining.json", "training_documents.json", "conversion.json")
ALLOWED: dict[str, tuple[str, ...]] = {
    "model": (
        "adapter_config.json",
        "adapter_model.safetensors",
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "task.json",
        *TOKENIZER_FILES,
        "README.md",
        "LICENSE",
        "NOTICE",
        "evaluation_results.json",
        "calibrator.json",
        CHECKSUMS,
        *(f"base/{name}" for name in BASE_FILES),
    ),
    "dataset": (
        *(f"data/{split}.parquet" for split in SPLITS),
        "README.md",
        "LICENSE",
        "manifest.json",
        "leakage.json",
        CHECKSUMS,
    ),
    "merged": (
        *_WHOLE_MODEL,
        "GGUF.md",
        *(f"model-{kind}.gguf" for kind in GGUF_TYPES),
        "calibrator.json",
        "merging.json",
        CHECKSUMS,
    ),
}
"""File name patterns of each release; anything else is refused, not skipped."""

REQUIRED: dict[str, tuple[str, ...]] = {
    "model": (
        "tokenizer_config.json",
        "README.md",
        "LICENSE",
    ),
    "dataset": (
        "data/train.parquet",
        "README.md",
        "LICENSE",
        "manifest.json",
        "leakage.json",
    ),
    "merged": ("config.json", "tokenizer.json", "tokenizer_config.json", "README.md", "LICENSE", "merging.json"),
}

_ADAPTER = ("adapter_config.json", "adapter_model.safetensors")
_WHOLE = ("config.json", "model.safetensors")
"""What a model release holds beside that: an adapter, or a whole model."""

_ABSOLUTE_PATH = re.compile(r"(?:/[\w.@+-]+){2,}/?|[A-Za-z]:[\\/].*|~/.*|file:.*")


_LEAKS = ("exact_inputs", "pmids", "near_duplicates")


def leak_counts(leakage: Mapping[str, Any]) -> dict[str, int]:
    """Return how many leaks of each kind a leakage report counts, those of all tasks first."""
    own = (kind for kind in leakage.get("leaks", {}) if kind not in _LEAKS)
    return {kind: leakage[kind] for kind in (*_LEAKS, *own)}


def file_problems(names: Iterable[str], kind: ReleaseKind) -> Iterator[str]:
    """Yield what is wrong with the list of files of a release."""
    present = set(names)
    for name in sorted(present):
        if not any(fnmatchcase(name, pattern) and name.count("/") == pattern.count("/") for pattern in ALLOWED[kind]):
            yield f"{name}: not in the allow-list of a {kind} release"
    own = _WHOLE if "config.json" in present else _ADAPTER
    for name in (*(own if kind == "model" else ()), *REQUIRED[kind]):
        if name not in present:
            yield f"{name}: missing"


def path_problems(name: str, value: Any) -> Iterator[str]:
    """Yield absolute paths among the string values of a JSON file."""
    if name.rpartition("/")[2] in VOCABULARY_FILES:
        return
    for place, text in _strings(value, ""):
        if _ABSOLUTE_PATH.fullmatch(text):
            yield f"{name}: {place or 'the value'} is a path of this machine ({text})"


def adapter_config_problems(config: Mapping[str, Any]) -> Iterator[str]:
    """Yield what would keep others from loading an adapter by its configuration."""
    base = config.get("base_model_name_or_path")
    if not isinstance(base, str) or not HUB_ID.fullmatch(base):
        yield f"adapter_config.json: base_model_name_or_path is {base!r}, no Hub id (owner/name)"
    if not config.get("task_type"):
        yield "adapter_config.json: task_type is not set, so the Hub offers no way to load the adapter"


def tensor_problems(
    tensors: Iterable[tuple[str, bool]], *, adapter: bool, saved_modules: Sequence[str] = ()
) -> Iterator[str]:
    """Yield what is wrong with the tensors of a safetensors file.

    Args:
        tensors: Name of each tensor and whether all its values are finite.
        adapter: Whether only LoRA weights belong into the file.
        saved_modules: Modules that the adapter trains in full (PEFT's ``modules_to_save``).
    """
    empty = True
    for name, finite in tensors:
        empty = False
        if not finite:
            yield f"tensor {name} holds NaN or infinite values"
        if adapter and "lora_" not in name and not any(module in name.split(".") for module in saved_modules):
            yield f"tensor {name} is no LoRA weight"
    if empty:
        yield "holds no tensors"


# The card's front matter. Sources of the lists: hub-docs `repositories-licenses.md` and huggingface.js `pipelines.ts`.

_TEXT_TASKS = """
    text-classification token-classification table-question-answering question-answering zero-shot-classification
    translation summarization feature-extraction text-generation fill-mask sentence-similarity text-ranking
    text-retrieval multiple-choice table-to-text other"""
TASKS = frozenset(_TEXT_TASKS.split())
_LIBRARIES = {"adapter": "peft", "finetune": "transformers"}
_SCORES = frozenset({"f1", "precision", "recall"})
_SIZES = ("1K", "10K", "100K", "1M", "10M", "100M", "1B", "10B", "100B", "1T")


def size_category(rows: int) -> str:
    """Return the Hub's size category of a dataset with so many rows, all splits together."""
    for step, upper in enumerate(_SIZES):
        if rows < 1000 * 10**step:
            return f"n<{upper}" if step == 0 else f"{_SIZES[step - 1]}<n<{upper}"
    return f"n>{_SIZES[-1]}"


def validate_card(front_matter: Mapping[str, Any], kind: ReleaseKind) -> list[str]:
    """Check a card's front matter without the network; the Hub's own check comes only with a push.

    Args:
        front_matter: The parsed YAML block of ``README.md``.
        kind: What the card describes.

    Returns:
        Problems, each naming its key, what was found and what is expected; empty for a good card.
    """
    judges = {"model": _model_card_problems, "dataset": _dataset_card_problems, "merged": _merged_card_problems}
    own = judges[kind]
    return [*_license_problems(front_matter), *_language_problems(front_matter), *own(front_matter)]


def _license_problems(card: Mapping[str, Any]) -> Iterator[str]:
    found = card.get("license")
    if found not in LICENSES:
        yield f"license: found {found!r}, which is no licence id of the Hub"
    if found == "other":
        for key in ("license_name", "license_link"):
            if not card.get(key):
                yield f"{key}: missing, but license: other needs it"


def _language_problems(card: Mapping[str, Any]) -> Iterator[str]:
    languages = card.get("language")
    if not isinstance(languages, list) or not languages:
        yield f"language: found {languages!r}; expected a list of two-letter codes"
        return
    for language in languages:
        if not isinstance(language, str) or not re.fullmatch(r"[a-z]{2}", language):
            yield f"language: found {language!r}; expected a two-letter code (ISO 639-1)"


def _model_card_problems(card: Mapping[str, Any]) -> Iterator[str]:
    if card.get("pipeline_tag") not in TASKS:
        yield f"pipeline_tag: found {card.get('pipeline_tag')!r}, which is no text task of the Hub"
    relation, library = card.get("base_model_relation"), card.get("library_name")
    if relation not in _LIBRARIES:
        yield f"base_model_relation: found {relation!r}; expected {' or '.join(map(repr, _LIBRARIES))}"
    elif library != _LIBRARIES[relation]:
        yield f"library_name: found {library!r}; with base_model_relation {relation} it is {_LIBRARIES[relation]}"
    for key, ids in (("base_model", [card.get("base_model")]), ("datasets", card.get("datasets", []))):
        for found in ids:
            if not isinstance(found, str) or not HUB_ID.fullmatch(found):
                yield f"{key}: found {found!r}; expected a Hub id (owner/name), no path"
    index = card.get("model-index")
    if not index:
        if "metrics" in card:  # without it the card says that nothing was measured
            yield "model-index: missing; a model is published with its measured figures"
        return
    for model in index:
        for result in model["results"]:
            if result["task"]["type"] not in TASKS:
                yield f"model-index: found task {result['task']['type']!r}, which is no text task of the Hub"
            for metric in result["metrics"]:
                value = metric["value"]
                if metric["type"] in _SCORES and not (
                    isinstance(value, int | float) and math.isfinite(value) and 0 <= value <= 1
                ):
                    yield f"model-index: {metric.get('name', metric['type'])} is {value!r}; expected 0 to 1"


def _merged_card_problems(card: Mapping[str, Any]) -> Iterator[str]:
    for key, expected in (("library_name", "transformers"), ("base_model_relation", "finetune")):
        if card.get(key) != expected:
            yield f"{key}: found {card.get(key)!r}; expected {expected!r}"
    found = card.get("base_model")
    if not isinstance(found, str) or not HUB_ID.fullmatch(found):
        yield f"base_model: found {found!r}; expected a Hub id (owner/name), no path"


def _dataset_card_problems(card: Mapping[str, Any]) -> Iterator[str]:
    if not card.get("pretty_name"):
        yield "pretty_name: missing"
    tasks = card.get("task_categories")
    if not isinstance(tasks, list) or not tasks:
        yield f"task_categories: found {tasks!r}; expected a list of tasks"
    else:
        yield from (f"task_categories: found {t!r}, which is no text task of the Hub" for t in tasks if t not in TASKS)
    splits = card.get("dataset_info", {}).get("splits", [])
    expected = [size_category(sum(split["num_examples"] for split in splits))]
    if card.get("size_categories") != expected:
        yield f"size_categories: found {card.get('size_categories')!r}; the splits add up to {expected!r}"
    named = {split["name"] for split in splits}
    filed = {file["split"] for config in card.get("configs", []) for file in config["data_files"]}
    if named != filed or not named:
        yield f"configs: files for the splits {sorted(filed)}, but dataset_info describes {sorted(named)}"


def _strings(value: Any, place: str) -> Iterator[tuple[str, str]]:
    if isinstance(value, str):
        yield place, value
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from _strings(item, f"{place}.{key}".lstrip("."))
    elif isinstance(value, list):
        for number, item in enumerate(value):
            yield from _strings(item, f"{place}[{number}]")
