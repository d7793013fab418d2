"""A registered model as MLflow loads it: texts in, a table of what was read from them out.

What it reads with is :mod:`odin_slm.inference.reading`, as the service and the batch pipeline do; this module only
speaks MLflow. The folder is a staged model release (adapter, tokenizer, card, and under ``base/`` the base where it is
not on the Hub) with ``extraction.json`` beside it, which says how the model is asked, and ``calibrator.json``. MLflow
loads it by :func:`_load_pyfunc`
(https://mlflow.org/docs/latest/python_api/mlflow.pyfunc.html#loader-module-workflows): nothing is pickled.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from numbers import Integral
from pathlib import Path
from typing import Any

from odin_slm.core.errors import ExtractionError, OdinError
from odin_slm.inference.generation import Generator
from odin_slm.inference.reading import DEFAULTS, DocumentExtraction, Reader
from odin_slm.inference.served_model import ServedModel, resolve_model

_ASKED = {"decoding": "constrained", **DEFAULTS}


class PackagedModel:
    """A registered model in memory: loaded once and asked many times.

    Args:
        model: The model, with the instructions that it was trained with.
    """

    def __init__(self, model: ServedModel) -> None:
        self._model = model
        self._loaded = Generator(model.base, model.adapter)

    @classmethod
    def from_folder(cls, folder: Path) -> PackagedModel:
        """Load a packaged model.

        Raises:
            ExtractionError: The folder is not one.
            ServingError: The file that says how it is asked is broken.
            BaseModelError: The base cannot be loaded.
            AdapterError: The adapter does not fit it.
        """
        folder = folder.absolute()
        model = resolve_model(str(folder), root=folder)
        if not model.schema:
            raise ExtractionError("not a packaged model.", where=str(folder), fix="Register the model again.")
        return cls(model)

    def extract(self, texts: Sequence[object], *, schema: str = "", **options: Any) -> list[dict[str, Any]]:
        """Find the entities and relations of texts of any length.

        Args:
            texts: The texts; what is none (None, NaN, a blank, a number) costs its own row and no other.
            schema: Name of what to look for, one that the model was trained with; empty for the widest of them.
            **options: ``decoding``: ``constrained`` (every entity is a span of its text) or ``free``;
                ``max_new_tokens``: budget of an output; ``window_tokens`` and ``overlap``: tokens of the windows that
                a long text is read in, and sentences that neighbours share; ``batch_size``: windows read together.

        Returns:
            For each text what the task says of it (:meth:`odin_slm.tasks.Task.table_row`; an extraction's ``entities``
            with offsets in characters and ``relations``), whether every output was ``finished`` within the budget, and
            the ``error`` that kept it from being read, with which the rest is empty; None where it was read.

        Raises:
            ExtractionError: An argument is not what it may be.
            RecordTooLongError: The model's context leaves no room for a text.
        """
        chosen = {**_ASKED, **options}
        name = schema or self._model.schema
        if name not in self._model.instructions:
            known = ", ".join(sorted(self._model.instructions))
            raise ExtractionError(f"there is no schema {name!r}.", where="schema", fix=f"Choose one of {known}.")
        decoding = chosen.pop("decoding")
        if decoding not in ("constrained", "free"):
            raise ExtractionError(f"found {decoding!r}.", where="decoding", fix="Choose constrained or free.")
        if unknown := sorted(chosen.keys() - _ASKED.keys()):
            raise ExtractionError("there is no such parameter.", where=unknown[0], fix=f"Choose of {sorted(_ASKED)}.")
        for option, least in _LEAST.items():
            if not isinstance(chosen[option], Integral) or chosen[option] < least:
                raise ExtractionError(f"found {chosen[option]!r}.", where=option, fix=f"Name a number from {least}.")
        if isinstance(texts, str):  # its characters would be the texts
            raise ExtractionError("found one text.", where="texts", fix="Give a list of texts.")
        reader = Reader(
            self._model.base,
            self._model.adapter,
            task=self._model.task,
            source=name,
            constrained=decoding == "constrained",
            calibrator=self._model.calibrator,
            instructions=self._model.instructions,
            loaded=self._loaded,
            **chosen,
        )
        return [self._row(found) for found in reader.extract(texts)]

    def predict(self, model_input: Any, params: Mapping[str, Any] | None = None) -> Any:
        """Answer as MLflow asks.

        Args:
            model_input: Texts: a list, a single one, or a table with a column ``text``.
            params: Further arguments of :meth:`extract`.

        Returns:
            A table of one row per text.

        Raises:
            ExtractionError: There is no column ``text``, or an argument is not what it may be.
        """
        import pandas

        given = [model_input] if isinstance(model_input, str) else model_input
        table = given if isinstance(given, pandas.DataFrame) else pandas.DataFrame({"text": given})
        # a plain list has the column 0, as MLflow makes a table of it
        column = "text" if "text" in table.columns else next(iter(table.columns), None)
        if column not in ("text", 0):
            raise ExtractionError(
                f"the first column is {column!r}.",
                where="model input",
                fix="Put the texts into a column `text`, the first one.",
            )
        columns = [*(column.name for column in self._model.task.table_columns()), "finished", "error"]
        rows = self.extract(table[column].tolist(), **(params or {}))
        answers = pandas.DataFrame(rows, columns=columns)
        answers["error"] = pandas.Series([row["error"] for row in rows], dtype=object)  # None would become NaN
        return answers

    def _row(self, found: DocumentExtraction | OdinError) -> dict[str, Any]:
        task = self._model.task
        if isinstance(found, OdinError):
            return {**task.table_row(task.read("", "")), "finished": False, "error": str(found)}
        finished = all(window.finished for window in found.windows)
        return {**task.table_row(found.reading), "finished": finished, "error": None}


_LEAST = {"max_new_tokens": 1, "batch_size": 1, "window_tokens": 8, "overlap": 0}


def _load_pyfunc(data_path: str) -> PackagedModel:
    """Load the model for MLflow."""
    return PackagedModel.from_folder(Path(data_path))
