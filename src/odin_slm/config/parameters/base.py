"""What all parameters share."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict

Precision = Literal["fp32", "bf16", "auto"]
"""Of reading on a CPU; see :class:`odin_slm.inference.generation.Generator`."""


class Parameters(BaseModel):
    """Base of all parameters: unknown keys are refused, values are frozen."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=(), use_attribute_docstrings=True)
