"""How likely each of several outputs is among them, after one prompt that is read once.

The outputs form a tree of tokens. A model reads it in a single pass behind the prompt: every token sees the prompt and
its own ancestors alone (tree attention, as in SpecInfer: Miao et al., 2024, arXiv 2305.09781). Where only one token can
follow, it has the probability 1, as under a grammar that allows these outputs and no others: the tree is read as far
as its last forks, which for many lines about few names is little more than the prompt.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import takewhile
from typing import TYPE_CHECKING, Any

from odin_slm.core.errors import RecordTooLongError
from odin_slm.models.tokens import completion_ids

if TYPE_CHECKING:
    import torch

    from odin_slm.inference.decoding.kv_cache import Begin
    from odin_slm.inference.generation import Generator


Known = tuple[Sequence[int], "Begin | None"]
"""Tokens, and the keys and values of the first ones of them, as far as a model has read them."""


def log_shares(
    generator: Generator, prompt: Sequence[int], outputs: Sequence[str], known: Known = ((), None)
) -> list[float]:
    """Return the log-probability (natural) of each output, given that the model writes one of them.

    Args:
        generator: The model.
        prompt: Token ids of what all outputs follow; it is never cut.
        outputs: Whole outputs; equal ones count as one.
        known: What the model has read of a text that begins alike; that is not read again.

    Returns:
        One value per output, in their order. The probabilities of distinct outputs add up to 1.

    Raises:
        RecordTooLongError: Prompt and outputs exceed the model's context.
    """
    tree = TokenTree()
    leaves = [tree.add([*prompt, *completion_ids(generator.tokenizer, output)]) for output in outputs]
    values = _fork_values(generator, tree, known)
    return [tree.log_probability(leaf, values) for leaf in leaves]


@dataclass
class TokenTree:
    """Sequences of tokens that share what they begin with; node 0 is before the first token.

    Attributes:
        tokens: Token of every node.
        parents: Node before every node; a parent comes before its children.
        children: For every node token -> node.
    """

    tokens: list[int] = field(default_factory=lambda: [-1])
    parents: list[int] = field(default_factory=lambda: [-1])
    children: list[dict[int, int]] = field(default_factory=lambda: [{}])

    def add(self, tokens: Sequence[int]) -> int:
        """Add a sequence; return its last node."""
        node = 0
        for token in tokens:
            below = self.children[node]
            if token not in below:
                below[token] = len(self.tokens)
                self.tokens.append(token)
                self.parents.append(node)
                self.children.append({})
            node = below[token]
        return node

    @property
    def forks(self) -> list[int]:
        """Nodes that several tokens can follow."""
        return [node for node, below in enumerate(self.children) if len(below) > 1]

    def path(self, node: int) -> list[int]:
        """Return the nodes from the first token to a node."""
        found = []
        while node:
            found.append(node)
            node = self.parents[node]
        return found[::-1]

    def log_probability(self, leaf: int, values: dict[int, float]) -> float:
        """Add up what the nodes on the way to a leaf are worth; those that are not named have no alternative."""
        return sum(values.get(node, 0.0) for node in self.path(leaf))


def _fork_values(generator: Generator, tree: TokenTree, known: Known) -> dict[int, float]:
    """Return, for every child of a fork, its log-probability among the children of this fork."""
    import torch

    forks = tree.forks
    if not forks:
        return {}
    nodes = sorted({node for fork in forks for node in tree.path(fork)})
    begin = _cut(known, [tree.tokens[node] for node in tree.path(forks[0])])
    width = begin[0][0].shape[2] if begin else 0
    place = {node: number for number, node in enumerate(nodes)}  # the first fork's path comes first
    seen = torch.zeros(len(nodes), len(nodes), dtype=torch.bool)
    depths: list[int] = []
    for node, number in place.items():
        before = place.get(tree.parents[node])
        depths.append(0 if before is None else depths[before] + 1)
        if before is not None:
            seen[number] = seen[before]
        seen[number, number] = True
    if generator.context is not None and max(depths) >= generator.context:
        raise RecordTooLongError(
            f"prompt and outputs have {max(depths) + 1} tokens and the model's context {generator.context}.",
            fix="Shorten the input, or choose a base with a longer context.",
        )
    tokens = [tree.tokens[node] for node in nodes[width:]]
    places = [place[fork] - width for fork in forks]
    with torch.inference_mode():
        logits = _logits(generator.model, tokens, seen[width:], depths[width:], places, begin)
    values: dict[int, float] = {}
    for fork, row in zip(forks, logits, strict=True):
        below = tree.children[fork]
        values.update(zip(below.values(), row[list(below)].log_softmax(-1).tolist(), strict=True))
    return values


def _cut(known: Known, path: Sequence[int]) -> Begin | None:
    """Return what is known of all tokens of a path but the last, as far as they are equal."""
    tokens, begin = known
    if not begin:
        return None
    most = min(begin[0][0].shape[2], len(path) - 1)
    pairs = zip(tokens[:most], path, strict=False)
    equal = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
    return [(keys[:, :, :equal], values[:, :, :equal]) for keys, values in begin] if equal else None


def _logits(
    model: Any,
    tokens: list[int],
    seen: torch.Tensor,
    positions: list[int],
    places: list[int],
    begin: Begin | None,
) -> torch.Tensor:
    """Return the logits after some of the tokens, shape (places, vocabulary), where each token sees what it may.

    Args:
        model: The model.
        tokens: Token ids.
        seen: What each of them sees, shape (tokens, known tokens and tokens).
        positions: Position of each of them.
        places: Those after which logits are wanted.
        begin: Keys and values of the known tokens; None without any.
    """
    import torch

    from odin_slm.inference.decoding.fused_llama import FusedLlama
    from odin_slm.inference.decoding.kv_cache import BatchCache

    dtype, one = model.get_input_embeddings().weight.dtype, torch.zeros(1, dtype=torch.long, device=model.device)
    mask = torch.zeros(seen.shape, dtype=dtype).masked_fill_(~seen, torch.finfo(dtype).min)[None, None]
    inputs = {
        "input_ids": torch.tensor([tokens], device=model.device),
        "attention_mask": mask.to(model.device),
        "position_ids": torch.tensor([positions], device=model.device),
        "past_key_values": BatchCache(model.config.num_hidden_layers, one, seen.shape[1], one, begin),
    }
    chosen = torch.tensor(places, device=model.device)
    logits: torch.Tensor
    if isinstance(getattr(model, "model", None), FusedLlama):
        logits = model.lm_head(model.model(**inputs).last_hidden_state[0, chosen])
    else:
        logits = model(**inputs, logits_to_keep=chosen).logits[0]
    return logits.float()
