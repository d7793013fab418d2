"""What decoding asks of a task that holds outputs to their text: the grammar of one output, in phases."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Step:
    """What follows a text that a grammar has been asked about; one of the three.

    Attributes:
        lark: The grammar of the next phase.
        forced: Text that has to follow; the grammar is asked again after it.
        closed: Whether the output is complete as it is, without its last line break.
    """

    lark: str = ""
    forced: str = ""
    closed: bool = False


@dataclass(frozen=True, slots=True)
class Judgement:
    """An output after alternatives to it were weighed.

    Attributes:
        text: The output.
        lines: Log-probability of every line.
        weighed: What was weighed, as a line of the output, and its score (a log-probability).
    """

    text: str
    lines: tuple[float | None, ...]
    weighed: tuple[tuple[str, float], ...] = ()


@dataclass(frozen=True, slots=True)
class Ending:
    """How the list that is being written may end.

    Attributes:
        text: What would end it; empty for the end of the output.
        bias: What is added to the log-odds of ending it against going on.
    """

    text: str
    bias: float


class Grammar(Protocol):
    """What one output may say, in phases; both engines of decoding follow it."""

    @property
    def biased(self) -> bool:
        """Whether :meth:`ending` has anything to say."""

    def ending(self, text: str) -> Ending | None:
        """Return how the list may end that a text writes; None where a line is under way that has to go on.

        Args:
            text: All that has been written. At its end stands the begin of a line, or the last character of an item.
        """

    def lark(self) -> str:
        """Return the grammar of the first phase, as llguidance reads it."""

    def step(self, phase: int, text: str) -> Step | None:
        """Return what follows a text that has just reached the end of a line; None: the phase goes on.

        Args:
            phase: Number of the phase, from 0.
            text: All that has been written.
        """

    @property
    def repeats(self) -> bool:
        """Whether :meth:`likely` has anything to say."""

    def likely(self, text: str) -> str:
        """Return what probably follows a text, as a draft for the model; empty where there is none.

        Args:
            text: All that has been written.
        """

    def complete(self, text: str) -> str:
        """Return an output that the token budget cut off as a whole one."""

    def accepts(self, output: str) -> bool:
        """Tell whether an output can be written under the grammar."""

    @property
    def judges(self) -> bool:
        """Whether :meth:`alternatives` are weighed once an output is written."""

    def alternatives(self, output: str) -> Sequence[str]:
        """Return outputs that are to be weighed against each other after an output; there may be none."""

    def judged(self, output: str, lines: Sequence[float | None], log_shares: Sequence[float]) -> Judgement:
        """Return what becomes of an output.

        Args:
            output: What was written.
            lines: Log-probability of every line.
            log_shares: Log-probability of each of the :meth:`alternatives`, given that the model writes one of them.
        """
