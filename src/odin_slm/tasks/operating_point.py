"""The operating point of a model: how readily it ends its lists, and how sure it must be of what it lists.

It lies in the model's calibrator, under ``operating_point``, so that it travels with it: into the registry, a release,
the service and a batch job. Calibrators without one leave decoding as it is.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from odin_slm.core.errors import AdapterError

KEY = "operating_point"
VERSION = 1
"""Of the layout below; a reader refuses a later one, as the figures of such a model would not be its own."""

_OBJECTIVE = re.compile(r"f1|precision=(0?\.(?!0+$)\d+|1(\.0+)?)")


def point_of(calibrator: Mapping[str, Any] | None) -> Mapping[str, Any]:
    """Return a calibrator's operating point; empty where it has none.

    Its keys are a task's own, but for ``version``. Extraction knows, each by kind (``entity``, ``relation``):
    ``end_bias``, which is added to the log-odds of ending a list against going on (0 where there is no list);
    ``threshold``, the confidence below which nothing is listed; ``validation``, on what both were fitted.

    Raises:
        AdapterError: A later version of this package has written it.
    """
    point: Mapping[str, Any] = (calibrator or {}).get(KEY) or {}
    if point and point.get("version") != VERSION:
        raise AdapterError(
            f"the operating point has version {point.get('version')!r}, expected {VERSION}.",
            where=f"calibrator.json, {KEY}",
            fix="Install the version of odin-slm that the model was evaluated with, or evaluate it again.",
        )
    return point


def required_precision(objective: str) -> float | None:
    """Return the precision that an objective asks for: ``precision=0.9``; None for ``f1``.

    Raises:
        ValueError: It is neither.
    """
    if not _OBJECTIVE.fullmatch(objective):
        raise ValueError(f"found {objective!r}; name f1, precision=0.9 (a share above 0, up to 1), or none.")
    return float(objective.partition("=")[2]) if "=" in objective else None
