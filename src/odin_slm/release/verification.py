"""Using a downloaded release as a stranger would: it must load, and give what the staged one gives."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from odin_slm.core.errors import HubError
from odin_slm.inference.reproducibility import reproduce
from odin_slm.inference.served_model import calibrator_of, task_of
from odin_slm.models.base_model import BaseModel


def verify_model(downloaded: Path, base: BaseModel, questions: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Load the downloaded adapter and compare one prediction with the local one.

    Args:
        downloaded: The release; where it holds the base, that one is used.
        base: The base otherwise.
        questions: See :func:`odin_slm.inference.reproducibility.choose_questions`; the first one is asked.

    Raises:
        HubError: It answers otherwise.
    """
    folder = downloaded / "base"
    found = BaseModel("base", folder) if folder.is_dir() else base
    (answer,) = reproduce(found, downloaded, questions[:1], task_of(downloaded), calibrator_of(downloaded))
    if answer != questions[0]["answer"]:
        raise HubError(
            f"the downloaded adapter answers record {questions[0]['id']} otherwise than the staged one.",
            where="predict",
            fix="Look at the versions of transformers and peft; then run the same command again.",
        )
    return {"prediction_of": questions[0]["id"], "prediction": answer}


def verify_dataset(downloaded: Path, staged: Path) -> dict[str, Any]:
    """Load the downloaded dataset with ``datasets`` and compare rows and features with the staged one.

    Raises:
        HubError: They differ.
    """
    import datasets

    shown = datasets.utils.logging.is_progress_bar_enabled()
    datasets.disable_progress_bars()
    try:
        with tempfile.TemporaryDirectory(prefix="odin-slm-load-") as scratch:
            ours, theirs = (
                datasets.load_dataset(str(folder), cache_dir=f"{scratch}/{name}", keep_in_memory=True)
                for name, folder in (("ours", staged), ("theirs", downloaded))
            )
            equal = set(ours) == set(theirs) and all(
                ours[split].features == theirs[split].features and ours[split].to_list() == theirs[split].to_list()
                for split in ours
            )
    finally:
        if shown:
            datasets.enable_progress_bars()
    if not equal:
        raise HubError("the downloaded rows or features differ from the staged ones.", where="load_dataset")
    return {"rows": {str(split): len(rows) for split, rows in theirs.items()}}
