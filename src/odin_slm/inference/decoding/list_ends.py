r"""The bias of ending a list, where a grammar leaves the choice between another line and the end.

Greedy decoding ends a list as soon as that is likelier than going on, and with small models lists end too early on long
texts. Here a bias is added to the log-odds of ending, at this choice alone: which line is written is never biased.

The choice is one token's, but which one depends on the tokenizer: after the last character of an item ``\n\n`` ends
the list and ``\n`` goes on; where a tokenizer has no ``\n\n``, the next token decides, ``\n`` against a number. An
empty list is decided between ``None`` and a number, the last list by the end of the output. Tokens that mean both, as
the first ``\n`` of a blank line does, count as going on where another token would end the list.

Where ends are biased, the log-probability of a line is that of being written at all: what going on costs counts for
the line that it begins, not for the one before, and the bias counts for neither. So it does not depend on the bias.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy
    import torch

    from odin_slm.inference.decoding.constraint import Vocabulary
    from odin_slm.tasks.grammar import Ending, Grammar


class ListEnds:
    """Weighs the ends of the lists of one output.

    Args:
        vocabulary: The model's tokens.
        grammar: Says where a list may end, and how it is biased.
    """

    def __init__(self, vocabulary: Vocabulary, grammar: Grammar) -> None:
        self._vocabulary, self._grammar = vocabulary, grammar
        self._odds: dict[int, float] = {}
        self._owed = 0.0

    def odds(self, lines: int) -> tuple[float | None, ...]:
        """Return, for each of an output's lines, the log-odds of ending its list after it; None: it was not asked."""
        return tuple(self._odds.get(line) for line in range(lines))

    def settled(self) -> float:
        """Return what going on has cost and no token was charged with yet."""
        owed, self._owed = self._owed, 0.0
        return owed

    def weigh(
        self,
        token: int,
        log_probability: float,
        scores: torch.Tensor,
        ids: numpy.ndarray[Any, Any] | None,
        at_begin: bool,
        text: Callable[[], str],
    ) -> tuple[int, float]:
        """See :meth:`odin_slm.inference.decoding.constraint.Constraint.weigh`.

        Args:
            token: The token of the highest score.
            log_probability: Of it.
            scores: Logits, -inf where a token is forbidden.
            ids: Their tokens; None for all.
            at_begin: Whether a line begins here.
            text: Returns what is written so far.
        """
        owed = self.settled()
        vocabulary = self._vocabulary
        if not (at_begin or token in vocabulary.newlines or token in vocabulary.ends):
            return token, log_probability + owed
        written = text()
        ending = self._grammar.ending(written)
        if ending is None:
            return token, log_probability + owed
        found = _finite(scores, ids)
        end, on = self._sides(token, found, ending, at_begin)
        if not end or not on:
            return token, log_probability + owed
        last, following = max(end, key=found.__getitem__), max(on, key=found.__getitem__)
        odds = found[last] - found[following]
        line = written.count("\n") - at_begin
        self._odds[line] = round(max(odds, self._odds.get(line, odds)), 6)
        chosen = token if ending.bias == 0 else last if odds + ending.bias > 0 else following
        total = found[token] - log_probability
        if at_begin:
            return chosen, found[chosen] - total + owed
        either = _log_sum(found[one] for one in (*end, *on))
        if chosen in on:
            self._owed = found[chosen] - either
        return chosen, min(0.0, either - total) + owed

    def _sides(
        self, token: int, found: dict[int, float], ending: Ending, at_begin: bool
    ) -> tuple[list[int], list[int]]:
        """Return the tokens that end the list here, and those that go on with it."""
        vocabulary, ending_bytes = self._vocabulary, ending.text.encode()
        end: list[int] = []
        on: list[int] = []
        if at_begin:
            for one in found:
                token_bytes = vocabulary.tokens.decode_bytes([one])
                ends = token_bytes.startswith(ending_bytes) or ending_bytes.startswith(token_bytes)
                (end if ends else on).append(one)
            return end, on
        # what a token says of the item itself before its line break is no part of the choice
        item = vocabulary.newlines.get(token, b"").partition(b"\n")[0]
        for one in found:
            if one in vocabulary.ends:
                if not ending_bytes and not item:
                    end.append(one)
            elif vocabulary.newlines.get(one, b"").startswith(item + b"\n"):
                ends = bool(ending_bytes) and vocabulary.newlines[one].startswith(item + ending_bytes)
                (end if ends else on).append(one)
        return end, on


def _finite(scores: torch.Tensor, ids: numpy.ndarray[Any, Any] | None) -> dict[int, float]:
    import torch

    places = torch.isfinite(scores).nonzero()[:, 0]
    values = scores[places].tolist()
    return dict(zip(places.tolist() if ids is None else ids[places.cpu().numpy()].tolist(), values, strict=True))


def _log_sum(values: Any) -> float:
    import numpy

    return float(numpy.logaddexp.reduce([*values]))
