"""Nodes of the pretraining pipeline."""

import hashlib
import json
from pathlib import Path
from typing import Any

from odin_slm.config.parameters import PretrainingParams
from odin_slm.core.document import Document
from odin_slm.core.hashing import canonical_json, sha256_of_json
from odin_slm.core.tracker import tracker
from odin_slm.corpora.iob import parse_iob
from odin_slm.models.base_model import BaseModel
from odin_slm.pretraining.curriculum import Sources


def select_training_documents(
    splits: dict[str, dict[str, Any]], *documents: list[dict[str, Any]]
) -> list[dict[str, Any]]:
    """Keep the documents that the combination puts into the training split; all others stay unseen."""
    return [document for corpus in documents for document in corpus if splits[document["id"]]["split"] == "train"]


def train_base(
    pretraining_documents: list[dict[str, Any]],
    pretraining_texts: dict[str, str],
    pretraining_work: Path,
    params: PretrainingParams,
) -> tuple[dict[str, Path | str], dict[str, Any]]:
    """Train tokenizer and model from scratch; a run that was stopped resumes from its checkpoint.

    Args:
        pretraining_documents: Training documents of the corpora.
        pretraining_texts: File name -> text: ``*.txt`` with one paragraph a line, ``*.iob.tsv`` with tagged tokens.
        pretraining_work: Folder for tokenizer, checkpoints and the result.
        params: Architecture, schedule, curriculum.

    Returns:
        File name -> file of the finished base; and the state of training: history, tokens, seconds, device, sizes of
        the sources.

    Raises:
        BackendError: The folder holds a training on other documents or texts, or of another held-out share.
    """
    from odin_slm.pretraining.checkpoints import locate, note_data
    from odin_slm.pretraining.tokenizer import train_tokenizer
    from odin_slm.pretraining.trainer import pretrain

    sources, held_out = _sources(pretraining_documents, pretraining_texts, params)
    note_data(pretraining_work, sha256_of_json([pretraining_documents, pretraining_texts, params.held_out]))
    tokenizer = pretraining_work / "tokenizer"
    if not (tokenizer / "tokenizer.json").is_file() or not locate(pretraining_work).is_dir():
        # without a checkpoint there may be a tokenizer of another size, which a run left that was killed early
        texts = [d.text for d in sources.documents] + [s.text for s in sources.sentences] + list(sources.paragraphs)
        train_tokenizer(texts, params.architecture.vocabulary, params.architecture.context, tokenizer)
    state = pretrain(sources, held_out, tokenizer, pretraining_work, params, _log)
    state["sources"] = {
        "documents": len(sources.documents),
        "sentences": len(sources.sentences),
        "paragraphs": len(sources.paragraphs),
        "words": sum(len(d.text.split()) for d in sources.documents)
        + sum(len(s.text.split()) for s in sources.sentences)
        + sum(len(p.split()) for p in sources.paragraphs),
        "files": sorted(pretraining_texts),
    }
    state["parameters_of_run"] = params.model_dump(mode="json")
    return _files(pretraining_work / "base"), state


def test_base(
    pretrained_base: BaseModel,
    pretraining_documents: list[dict[str, Any]],
    pretraining_texts: dict[str, str],
    params: PretrainingParams,
) -> dict[str, Any]:
    """Let the finished base copy spans of text that it was not trained on, and extract from held-out documents.

    Returns:
        What :func:`odin_slm.pretraining.probes.probe_base` measured, exercise by exercise.
    """
    from odin_slm.pretraining.probes import probe_base

    _, held_out = _sources(pretraining_documents, pretraining_texts, params)
    kinds = dict.fromkeys(("copy_one", "copy_glued"), params.copy_probes)
    kinds |= dict.fromkeys(("copy_spans", "gold", "notes"), params.probes)
    return probe_base(pretrained_base, held_out, kinds=kinds, seed=params.schedule.seed)


def assemble_base(
    pretrained_base: BaseModel,
    pretraining_documents: list[dict[str, Any]],
    pretraining_state: dict[str, Any],
    base_evaluation: dict[str, Any],
    params: PretrainingParams,
) -> dict[str, Path | str]:
    """Put weights, tokenizer, card and the list of training documents together.

    Returns:
        File name -> file or text.
    """
    from odin_slm.pretraining.base_card import base_card

    files = _files(Path(pretrained_base.location))
    files["README.md"] = base_card(pretraining_state, base_evaluation, experiment=params.experiment)
    files["pretraining.json"] = canonical_json({"state": pretraining_state, "evaluation": base_evaluation})
    identifiers = sorted(document["id"] for document in pretraining_documents)
    files["training_documents.json"] = json.dumps(identifiers, indent=0) + "\n"
    return files


def _files(folder: Path) -> dict[str, Path | str]:
    return {file.name: file for file in sorted(folder.iterdir())}


def _sources(
    documents: list[dict[str, Any]], texts: dict[str, str], params: PretrainingParams
) -> tuple[Sources, Sources]:
    """Return the training sources and the held-out sources, divided by the hash of each text."""
    parsed = [Document.from_dict(values) for values in documents]
    sentences = [
        s for name, text in texts.items() if name.endswith(".tsv") for s in parse_iob(text, name) if len(s.text) < 600
    ]
    paragraphs = [
        line for name, text in texts.items() if name.endswith(".txt") for line in text.split("\n") if line.strip()
    ]

    def is_held_out(text: str) -> bool:
        return int(hashlib.sha256(text.encode()).hexdigest()[:8], 16) / 16**8 < params.held_out

    return (
        Sources(
            [d for d in parsed if not is_held_out(d.text)],
            [s for s in sentences if not is_held_out(s.text)],
            [p for p in paragraphs if not is_held_out(p)],
        ),
        Sources(
            [d for d in parsed if is_held_out(d.text)],
            [s for s in sentences if is_held_out(s.text)],
            [p for p in paragraphs if is_held_out(p)],
        ),
    )


def _log(step: int, figures: dict[str, float]) -> None:
    tracker().log_metrics(step, {f"pretraining_{name}": value for name, value in figures.items()})
