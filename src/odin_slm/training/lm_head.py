"""TRL's fused language-model head in plain PyTorch, for machines without Triton.

``trl.SFTTrainer`` (1.15) computes its loss with Triton kernels, and has ``None`` in their place if PyTorch was built
without Triton, as every CPU-only build is. This is the same function by autograd. TRL's caller passes only the
positions that carry a label. ``tests/training/test_training.py`` compares loss and gradients with those of the model's
own cross-entropy.
"""

from __future__ import annotations

from typing import Any


def install() -> None:
    """Install the plain function if TRL lacks its kernels."""
    from trl.trainer import utils

    if utils._ChunkedLogProbFunction is None:
        utils._ChunkedLogProbFunction = PlainLogProbs


class PlainLogProbs:
    """Replaces ``ChunkedLogProbFunction``: ``apply`` takes the same arguments and returns the same fields."""

    @staticmethod
    def apply(
        hidden: Any,
        weight: Any,
        bias: Any,
        labels: Any,
        temperature: float,
        chunk_size: int,
        softcap: float | None,
        scale: float,
        outputs: tuple[str, ...],
    ) -> tuple[Any, Any, Any, Any, Any]:
        """Return the log-probabilities of the labels and the fields that ``outputs`` names.

        Args:
            hidden: Hidden states of the labelled positions, (positions, features).
            weight: Weight of the head, (vocabulary, features).
            bias: Bias of the head, or None.
            labels: Token ids to score, (positions,).
            temperature: Divisor of the logits.
            chunk_size: Ignored: all positions of a batch fit into a CPU's memory.
            softcap: Bound of the logits by ``tanh`` (Gemma), or None.
            scale: Factor of the logits.
            outputs: Fields to compute besides ``log_probs``: ``entropy`` and ``is_top1``.

        Returns:
            ``log_probs``, ``entropy``, None, None, ``is_top1``, each (positions,) or None. Only the first has a
            gradient; the others are metrics.

        Raises:
            NotImplementedError: ``outputs`` names a field that only TRL's reinforcement learning uses.
        """
        import torch

        unknown = set(outputs) - {"log_probs", "entropy", "is_top1"}
        if unknown:
            raise NotImplementedError(f"the fields {sorted(unknown)} need Triton, which this build of PyTorch lacks.")
        logits = torch.nn.functional.linear(hidden, weight, bias).float() * (scale / temperature)
        if softcap:
            logits = softcap * torch.tanh(logits / softcap)
        log_probs = logits.gather(-1, labels[:, None])[:, 0] - logits.logsumexp(-1)
        entropy = is_top1 = None
        with torch.no_grad():
            if "entropy" in outputs:
                shares = logits.softmax(-1)
                entropy = logits.logsumexp(-1) - (shares * logits).sum(-1)
            if "is_top1" in outputs:
                is_top1 = logits.argmax(-1) == labels
        return log_probs, entropy, None, None, is_top1
