"""The files of a release: what a stranger needs to use an adapter, or a dataset, and to judge it."""

from __future__ import annotations

import hashlib
import json
import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib import resources
from pathlib import Path
from typing import Any

from odin_slm.core.errors import ReleaseError
from odin_slm.core.hashing import canonical_json
from odin_slm.hub.licensing import (
    OPEN_LICENSES,
    BaseTerms,
    publishable_rows,
    require_base_license,
    require_base_terms,
)
from odin_slm.inference.served_model import TASK, instructions
from odin_slm.models.base_model import BaseModel, is_whole, trained_weights
from odin_slm.models.sources.conversion import provenance_of
from odin_slm.release.cards import dataset_card, dataset_license_text, model_card, read_front_matter
from odin_slm.release.checks import BASE_FILES, TOKENIZER_FILES, ReleaseKind, validate_card
from odin_slm.release.facts import (
    BaseFacts,
    DataReports,
    DatasetFacts,
    Files,
    ModelFacts,
    ModelFiles,
    ReleasedAdapter,
    SplitFile,
)
from odin_slm.release.gates import card_gate, judgement, require_open
from odin_slm.tasks import Task

_log = logging.getLogger(__name__)

COLUMNS = ("id", "source", "document_id", "instruction", "input", "output", "input_sha256", "output_sha256")
"""Columns of every split."""


def find_adapter(final: Path, training_work: Path, checkpoint: str | None) -> ReleasedAdapter:
    """Return the adapter to release.

    Raises:
        ReleaseError: Training left no such checkpoint; those that it left are named.
    """
    if checkpoint is None:
        return ReleasedAdapter(final, final)
    folder = training_work / "checkpoints"
    if not trained_weights(folder / checkpoint).is_file():
        present = sorted(path.name for path in folder.glob("checkpoint-*") if _publishable(path))
        raise ReleaseError(
            f"there is no checkpoint {checkpoint}.",
            where="publishing.checkpoint",
            fix=f"Name one of {', '.join(present)}." if present else "Training left none; leave it out.",
        )
    return ReleasedAdapter(folder / checkpoint, final, checkpoint)


def _publishable(path: Path) -> bool:
    return bool(re.fullmatch(r"checkpoint-[0-9]+", path.name)) and trained_weights(path).is_file()


def weights_of(folder: Path) -> Path:
    """Return the file of weights of an adapter or a whole model.

    Raises:
        ReleaseError: There is none.
    """
    return _existing(trained_weights(folder))


def base_id_of(base: BaseModel, named: str | None) -> str:
    """Return the Hub id that stands for a base; ``named`` is ``publishing.base_model_id``.

    Raises:
        ReleaseError: The base lies in a local folder of another name: none passes for another by oversight.
    """
    if base.path is None:
        return base.source
    derived_from = (provenance_of(base.path) or {}).get("derived_from")
    if derived_from and (named is None or named.rpartition("/")[2] != base.path.name):
        if named not in (None, derived_from):  # as where an environment names its own base, and another one was given
            _log.warning("The base is %s, as its folder says, and not publishing.base_model_id.", derived_from)
        return str(derived_from)
    if named is None or named.rpartition("/")[2] != base.path.name:
        raise ReleaseError(
            f"found {named!r} for a base in the folder {base.path.name!r}; expected owner/name with the folder's name.",
            where="publishing.base_model_id",
            fix="Set it to the Hub id of the model in that folder, or rename the folder.",
        )
    return named


def base_facts(
    base: BaseModel, base_id: str, *, names: Mapping[str, str], license_id: str, stated: str | None
) -> BaseFacts:
    """Return what a release says of its base, once the base's licence allows the release.

    Args:
        base: The base.
        base_id: Its Hub id.
        names: Configuration key -> the adapter's name there.
        license_id: Hub licence id that the adapter would carry.
        stated: Hub licence id of a base whose card states none; the user has read it elsewhere.

    Raises:
        ReleaseError: The base's licence is unknown, or refuses name or licence.
    """
    from odin_slm.models.preflight import stated_license

    terms = require_base_terms(base_id, names=names, license_id=license_id)
    if terms is None:
        require_base_license(base_id, stated=stated_license(base) or stated, license_id=license_id)
    return BaseFacts(
        id=base_id,
        revision=base.revision,
        conversion=provenance_of(base.path) if base.path else None,
        terms=terms,
    )


def with_base(base: BaseModel, facts: BaseFacts) -> BaseFacts:
    """Return the facts of a base that becomes part of the release, if it is a local folder.

    Raises:
        ReleaseError: Its licence does not let it.
    """
    from odin_slm.models.preflight import stated_license

    if base.path is None:
        return facts
    if (found := stated_license(base)) not in OPEN_LICENSES:
        raise ReleaseError(
            f"the base's own card (README.md) names the licence {found!r}; a base is put into a release only under "
            "an open one.",
            where=base.source,
            fix="Set publishing.include_base=never; the card then refers to publishing.base_model_id on the Hub.",
        )
    return replace(facts, included=True)


def model_files(
    adapter: ReleasedAdapter,
    base: BaseModel,
    facts: BaseFacts,
    task: Task,
    manifest: Mapping[str, Any],
    license_text: bytes | Path,
) -> ModelFiles:
    """Return the files of a model release, but for its figures and its card.

    Raises:
        ReleaseError: The adapter lacks a file.
    """
    tokenizer = _present(adapter.folder, TOKENIZER_FILES) or _present(adapter.final, TOKENIZER_FILES)
    described = {**task.to_dict(), "instructions": instructions(task, manifest)}
    inside = sorted(_present(base.path, BASE_FILES).items()) if facts.included and base.path else ()
    return ModelFiles(
        {
            **_own_files(adapter.folder, facts),
            **tokenizer,
            "LICENSE": license_text,
            TASK: canonical_json(described).encode("utf-8"),
            **{f"base/{name}": file for name, file in inside},
            **({"NOTICE": facts.terms.notice.encode("utf-8")} if facts.terms else {}),
        },
        facts,
    )


def _own_files(folder: Path, base: BaseFacts) -> dict[str, bytes | Path]:
    """Return configuration and weights of an adapter, or of a whole model."""
    if not is_whole(folder):
        return {"adapter_config.json": _portable_config(folder, base), "adapter_model.safetensors": weights_of(folder)}
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    config.pop("_name_or_path", None)  # where the base lay on this machine
    return {
        "config.json": canonical_json(config).encode("utf-8"),
        "model.safetensors": weights_of(folder),
        **_present(folder, ["generation_config.json"]),
    }


def license_text(
    license_id: str, *, given: Path | None = None, base: BaseModel | None = None, terms: BaseTerms | None = None
) -> bytes | Path:
    """Return the text of a licence.

    Args:
        license_id: Hub licence id.
        given: A file with the text.
        base: A base whose folder may hold it.
        terms: What the base's licence asks for, where the adapter carries that licence.

    Raises:
        ReleaseError: The text is not at hand.
    """
    if given:
        return _existing(given, fix="Mend publishing.license_file.")
    if license_id == "apache-2.0":
        return apache_license().encode("utf-8")
    if terms and base and base.path and (base.path / "LICENSE").is_file():
        return base.path / "LICENSE"
    raise ReleaseError(
        f"the text of the licence {license_id!r} is not at hand, and a release carries its licence.",
        where="publishing.license_file",
        fix="Download the licence from the base's page on the Hub and set publishing.license_file=FILE.",
    )


def apache_license() -> str:
    """Return the text of the Apache License 2.0, under which this project stands."""
    return (resources.files("odin_slm") / "templates" / "apache-2.0.txt").read_text(encoding="utf-8")


def dataset_files(
    splits: Mapping[str, Sequence[Mapping[str, Any]]], reports: DataReports
) -> tuple[dict[str, bytes | Path], list[SplitFile]]:
    """Return the files of a dataset release but for its card, and what the card says of its splits.

    Args:
        splits: Split name on the Hub -> records.
        reports: What is known of the data.
    """
    files: dict[str, bytes | Path] = {}
    described = []
    for split, records in splits.items():
        rows = publishable_rows(records, reports.manifest["synthetic_sources"])
        content, num_bytes = _parquet(rows)
        files[f"data/{split}.parquet"] = content
        described.append(SplitFile(split, len(rows), num_bytes, len(content)))
    files["LICENSE"] = dataset_license_text(reports.manifest, apache_license()).encode("utf-8")
    files["manifest.json"] = canonical_json(reports.manifest).encode("utf-8")
    files["leakage.json"] = canonical_json(reports.leakage).encode("utf-8")
    return files, described


def with_card(files: Files, facts: ModelFacts | DatasetFacts, override: Mapping[str, str]) -> dict[str, bytes | Path]:
    """Return the files with a card that its own gate lets through; it shows whatever was overridden.

    Raises:
        ReleaseError: The card's gate is shut.
    """
    kind: ReleaseKind = "model" if isinstance(facts, ModelFacts) else "dataset"
    card = _card(facts)
    overridden = require_open(judgement([card_gate(validate_card(read_front_matter(card), kind))], override))
    if overridden:
        card = _card(replace(facts, overridden={**facts.overridden, **overridden}))
    return {**files, "README.md": card.encode("utf-8")}


def checksums(files: Files) -> dict[str, str]:
    """Return file name -> hexadecimal SHA-256."""
    return {
        name: hashlib.sha256(content if isinstance(content, bytes) else content.read_bytes()).hexdigest()
        for name, content in files.items()
    }


def _card(facts: ModelFacts | DatasetFacts) -> str:
    return model_card(facts) if isinstance(facts, ModelFacts) else dataset_card(facts)


def _portable_config(adapter: Path, base: BaseFacts) -> bytes:
    """Return ``adapter_config.json`` with the base's Hub id in place of a local path, in a fixed order."""
    config = json.loads(_existing(adapter / "adapter_config.json").read_text(encoding="utf-8"))
    config["base_model_name_or_path"] = base.id
    config["revision"] = base.revision or config.get("revision")
    config["task_type"] = config.get("task_type") or "CAUSAL_LM"
    if isinstance(config.get("target_modules"), list):  # PEFT writes a set, in any order
        config["target_modules"] = sorted(config["target_modules"])
    return canonical_json(config).encode("utf-8")


def _present(folder: Path, patterns: Sequence[str]) -> dict[str, Path]:
    return {file.name: file for pattern in patterns for file in folder.glob(pattern) if file.is_file()}


def _existing(file: Path, fix: str = "Train again, or name an adapter that PEFT saved as safetensors.") -> Path:
    if not file.is_file():
        raise ReleaseError("there is no such file, and a release needs it.", where=str(file), fix=fix)
    return file


def _parquet(rows: list[dict[str, Any]]) -> tuple[bytes, int]:
    """Return a Parquet file, equal for equal rows, and the rows' size in memory."""
    import pyarrow
    import pyarrow.parquet

    table = pyarrow.Table.from_pylist(rows, schema=pyarrow.schema([(name, pyarrow.string()) for name in COLUMNS]))
    sink = pyarrow.BufferOutputStream()
    pyarrow.parquet.write_table(
        table, sink, version="2.6", compression="zstd", compression_level=9, row_group_size=1000, store_schema=False
    )
    return sink.getvalue().to_pybytes(), table.nbytes
