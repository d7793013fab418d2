"""Tables and figures in Markdown, as cards show them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any


def table(headers: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table; a bar inside a cell is escaped, a line break becomes a space."""
    lines = [[_cell(cell) for cell in line] for line in (headers, ["---"] * len(headers), *rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def number(value: Any) -> str:
    """Return a count with thousands separators, a measure with four figures, a list by its items."""
    if isinstance(value, bool) or value is None:
        return str(value).lower()
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list | tuple):
        return ", ".join(number(item) for item in value)
    return str(value)


def score(value: float) -> str:
    """Return a score with three decimals."""
    return f"{value:.3f}"


def interval(bounds: Sequence[float]) -> str:
    """Return the two ends of an interval in brackets."""
    return f"[{bounds[0]:.3f}, {bounds[1]:.3f}]"


def code(names: Iterable[str]) -> str:
    """Return names as code, parted by commas."""
    return ", ".join(f"`{name}`" for name in names)
