"""What a task adds whose outputs have confidences: a calibrator, an operating point, and what is weighed beside.

The calibrator is a model's, and travels with it as ``calibrator.json``. A task that does not override anything here has
none, and its outputs are read as the model writes them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Self

from odin_slm.tasks.rows import Rows


class Calibrated:
    """The part of :class:`~odin_slm.tasks.base.Task` that is about confidences."""

    def with_calibrator(self, calibrator: Mapping[str, Any] | None) -> Self:
        """Return the task as a model with this calibrator is asked; see :meth:`fit_calibration`."""
        return self

    @property
    def reading(self) -> dict[str, Any]:
        """What ``score_documents`` has to know of how the model is read; rows of documents hold it."""
        return {}

    def kept(
        self, text: str, output: str, lines: Sequence[float | None], calibrator: Mapping[str, Any] | None
    ) -> tuple[str, tuple[float | None, ...]]:
        """Return a constrained output, and its lines' log-probabilities, without what the operating point leaves out.

        Args:
            text: The input.
            output: What the model wrote.
            lines: Log-probability of every line.
            calibrator: The model's, with its operating point.
        """
        return output, tuple(lines)

    def to_calibrate(self, relations: str = "list") -> Self:
        """Return the task as a model is asked about validation records, on which its calibrator is fitted.

        Args:
            relations: ``evaluation.relations``.
        """
        return self

    def exploration(self, explored: Rows, method: str, objective: str | None) -> Mapping[str, Any] | None:
        """Return with which operating point validation records are to be read next; None: what was read is enough.

        By default they are read once, as the model reads without one.

        Args:
            explored: What was read so far: none at first, then the rows that :meth:`fit_calibration` takes.
            method: ``evaluation.calibration``.
            objective: ``evaluation.operating_point``; None where none is to be fitted.
        """
        return None if explored else {}

    def fit_calibration(
        self,
        predictions: Rows,
        method: str,
        objective: str | None = None,
        relations: str = "list",
        *,
        abbreviations: bool = False,
    ) -> dict[str, Any] | None:
        """Fit what turns log-probabilities into chances to be right, on validation predictions; None: there is none.

        Args:
            predictions: Rows of the last reading of validation records; ``explored`` holds ``text``, ``lines`` and
                ``ends`` (:class:`odin_slm.inference.generation.Generation`) of every reading that :meth:`exploration`
                has asked for with an operating point, in their order.
            method: ``evaluation.calibration``.
            objective: ``evaluation.operating_point``: what an operating point is fitted for beside; None for none.
            relations: ``evaluation.relations``; where it is not ``list``, rows hold ``weighed`` (:meth:`to_calibrate`).
            abbreviations: ``evaluation.abbreviations``, which the calibrator then says.
        """
        return None

    def with_confidence(self, row: dict[str, Any], calibrator: Mapping[str, Any] | None) -> dict[str, Any]:
        """Return a row of the predictions file with the calibrated confidences of what it lists."""
        return row
