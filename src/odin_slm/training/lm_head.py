"""TRL's fused language-model head in plain PyTorch, for machines without Triton.

``trl.SFTTrainer`` (1.15) computes its loss with Triton kernels and finds ``None`` in their place where PyTorch came
without Triton: every CPU-only build. This is the same function by autograd: logits are made only for the positions
that carry a label, which TRL's caller has chosen already. ``tests/test_training.py`` compares loss and gradients with
the model's own cross-entropy.
"""

from __future__ import annotations

from typing import Any


def install() -> None:
    """Put the plain function where TRL lacks its kernels; leave the kernels alone where they are."""
    from trl.trainer import utils

    if utils._ChunkedLogProbFunction is None:
        utils._ChunkedLogProbFunction = PlainLogProbs


class PlainLogProbs:
    """Stand-in for ``ChunkedLogProbFunction``: ``apply`` takes the same arguments and returns the same fields."""

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
        """Return log-probabilities of the labels, and what else ``outputs`` names.

        Args:
            hidden: Hidden states of the labelled positions, (positions, features).
            weight: Weight of the head, (vocabulary, features).
            bias: Bias of the head, or None.
            labels: Token ids to score, (positions,).
            temperature: The logits are divided by it.
            chunk_size: Ignored: positions of one batch fit a CPU's memory at once.
            softcap: Bound of the logits by ``tanh`` (Gemma), or None.
            scale: Factor of the logits.
            outputs: Fields to compute besides ``log_probs``: ``entropy`` and ``is_top1``.

        Returns:
            ``log_probs``, ``entropy``, None, None, ``is_top1``, each (positions,) or None; only the first carries a
            gradient, the others are metrics.

        Raises:
            NotImplementedError: ``outputs`` asks for fields that only TRL's reinforcement learning uses.
        """
        import torch

        unknown = set(outputs) - {"log_probs", "entropy", "is_top1"}
        if unknown:
            raise NotImplementedError(f"fields {sorted(unknown)} are not computed without Triton.")
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
