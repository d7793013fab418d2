"""What a release is made of: values that are gathered from a run's files, judged, written on cards and staged."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from odin_slm.hub.licensing import BaseTerms
from odin_slm.tasks import Task

Files = Mapping[str, bytes | Path]
"""Relative POSIX name of a release's file -> its content, or the file to copy."""


@dataclass(frozen=True)
class DataReports:
    """What is known of the data: its manifest, and the reports on it."""

    manifest: Mapping[str, Any]
    leakage: Mapping[str, Any]
    quality: Mapping[str, Any]
    statistics: Mapping[str, Any]


@dataclass(frozen=True)
class ReleasedAdapter:
    """The adapter that is released: the final one, or a checkpoint of its training.

    Attributes:
        folder: Where its weights and configuration lie.
        final: Folder of the final adapter, whose tokenizer a checkpoint without one shares.
        checkpoint: Name of the checkpoint; None for the final adapter.
    """

    folder: Path
    final: Path
    checkpoint: str | None = None


@dataclass(frozen=True)
class ReferenceAnswers:
    """What the final adapter answered in evaluation to the test records, and how it was asked."""

    records: Sequence[Mapping[str, Any]]
    predictions: Sequence[Mapping[str, Any]]
    max_new_tokens: int | str
    batch_size: int
    calibrator: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class ModelEvidence:
    """What is known of the adapter that is released.

    Attributes:
        results: ``evaluation_results``; None for a checkpoint, whose figures nobody measured.
        promotion: The comparison with the champion; None where there was none.
        reproduced: Predictions that the adapter was asked for again; see
            :func:`odin_slm.inference.reproducibility.choose_questions`.
    """

    training: Mapping[str, Any]
    results: Mapping[str, Any] | None
    predictions: Sequence[Mapping[str, Any]]
    promotion: Mapping[str, Any] | None
    reproduced: Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class BaseFacts:
    """The base of an adapter.

    Attributes:
        id: Its Hub id.
        revision: Its commit on the Hub, where it is known.
        included: Whether it lies in the release under ``base/``.
        conversion: What it was converted from (``conversion.json``); None for one as its maker published it.
        terms: What its licence asks for, or None.
    """

    id: str
    revision: str | None = None
    included: bool = False
    conversion: Mapping[str, Any] | None = None
    terms: BaseTerms | None = None


@dataclass(frozen=True)
class ReleaseTerms:
    """What a release may say and hold of its base, and the text of its own licence or the file with it."""

    base: BaseFacts
    license_text: bytes | Path
    include_base: bool


@dataclass(frozen=True)
class ModelFiles:
    """The files of a model release, without those that tell of figures; and the base that they belong to."""

    files: Files
    base: BaseFacts


@dataclass(frozen=True)
class ModelFacts:
    """Everything that a model card says.

    Attributes:
        experiment: Experiment that the commands on the card reproduce.
        repo_id: Hub id of the model, or None while it has no repository.
        dataset_repo: Hub id of the data, or None.
        license: Hub licence id of the adapter.
        results: ``evaluation_results``; None for a checkpoint that was not evaluated.
        checksums: File name -> sha256 of the other files of the release.
        dataset_revision: Commit of the published data, or None.
        checkpoint: Name of the training checkpoint, or None for the final adapter.
        failures: What :func:`odin_slm.release.cards.failure_examples` found.
        overridden: Gate -> reason why it was overridden.
        license_name: Name of a licence that has no id on the Hub.
    """

    name: str
    experiment: str
    repo_id: str | None
    dataset_repo: str | None
    license: str
    base: BaseFacts
    results: Mapping[str, Any] | None
    training: Mapping[str, Any]
    data: DataReports
    task: Task
    checksums: Mapping[str, str]
    dataset_revision: str | None = None
    checkpoint: str | None = None
    failures: Sequence[Mapping[str, str]] = ()
    overridden: Mapping[str, str] = field(default_factory=dict)
    license_name: str | None = None

    @property
    def whole(self) -> bool:
        """Whether the release is a whole model, and no adapter."""
        return "model.safetensors" in self.checksums


@dataclass(frozen=True)
class ModelDraft:
    """A model release but for its card, which names the commit of the data once that is published."""

    files: Files
    facts: ModelFacts


@dataclass(frozen=True)
class SplitFile:
    """One Parquet file of a dataset release: split name, rows, bytes in memory and on disk."""

    split: str
    rows: int
    num_bytes: int
    file_bytes: int


@dataclass(frozen=True)
class DatasetFacts:
    """Everything that a dataset card says.

    Attributes:
        experiment: Experiment that the commands on the card reproduce.
        repo_id: Hub id of the data, or None while it has no repository.
        columns: Column names of every split; all of them are strings.
        rows_by_source: Source -> number of rows, all splits together.
        checksums: File name -> sha256 of the other files of the release.
        overridden: Gate -> reason why it was overridden.
    """

    name: str
    experiment: str
    repo_id: str | None
    columns: Sequence[str]
    files: Sequence[SplitFile]
    rows_by_source: Mapping[str, int]
    data: DataReports
    task: Task
    checksums: Mapping[str, str]
    overridden: Mapping[str, str] = field(default_factory=dict)
