"""Training steps on a CPU without padding: rows of like length share a group, and the groups are dealt to the cores."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from odin_slm.config.parameters import TrainingParams
from odin_slm.models.backends import cuda, may_thread
from odin_slm.training.collation import IGNORED
from odin_slm.training.data_parallel import Workers
from odin_slm.training.packing import pack


def threads_of(model: Any, params: TrainingParams, processes: int = 1) -> Workers | None:
    """Return copies of the model that share its weights, one per core; None where one model serves better.

    The copies are made before TRL changes the model's forward.
    """
    import copy

    import torch

    cores = min(torch.get_num_threads(), int(params.batch_size))
    if cuda() or processes > 1 or cores < 2 or not may_thread(model.config.model_type, params):
        return None
    twin = copy.deepcopy(model)
    for own, shared in zip(twin.parameters(), model.parameters(), strict=True):
        own.data = shared.data
    return Workers(twin.train(), cores)


def with_threads(trainer: type[Any], workers: Workers | None, packing: bool = False) -> type[Any]:
    """Return a trainer whose steps share the rows of a batch among threads, or the trainer as it is.

    Args:
        trainer: TRL's trainer.
        workers: The threads.
        packing: Whether the rows of a group become one row, in place of a rectangle with hardly any padding.
    """
    if workers is None:
        return trainer
    shared = workers

    class Threaded(trainer):
        """Computes the gradient of TRL's loss, the mean over the labelled tokens, without TRL's padding."""

        def training_step(self, model: Any, inputs: dict[str, Any], num_items_in_batch: Any = None) -> Any:
            model.train()
            labels = inputs["labels"]
            total = (labels[:, 1:] != IGNORED).sum() if num_items_in_batch is None else num_items_in_batch

            def mean_of(replica: Any, *tensors: Any) -> Any:
                return _summed_loss(replica, *tensors) / total

            loss = shared.accumulate(mean_of, _groups(inputs, len(shared.replicas), packing))
            for own, twin in zip(model.parameters(), shared.replicas[0].parameters(), strict=True):
                if twin.grad is not None:
                    own.grad = twin.grad if own.grad is None else own.grad.add_(twin.grad)
                    twin.grad = None
            return loss

        def prediction_step(self, model: Any, inputs: dict[str, Any], *_: Any, **__: Any) -> tuple[Any, None, None]:
            import torch

            groups = [group for share in _groups(inputs, len(shared.replicas), packing) for group in share]
            losses = shared.evaluate(lambda replica, group: float(_summed_loss(replica, *group)), groups)
            return torch.tensor(sum(losses) / int((inputs["labels"][:, 1:] != IGNORED).sum())), None, None

    return Threaded


def _summed_loss(model: Any, ids: Any, labels: Any, mask: Any, positions: Any) -> Any:
    """Return the loss added up over the labelled tokens; logits of the others are never computed."""
    import torch

    causal = model.get_base_model()
    output = causal.get_decoder()(input_ids=ids, attention_mask=mask, position_ids=positions, use_cache=False)
    hidden = output.last_hidden_state[:, :-1]
    wanted = labels[:, 1:]
    chosen = wanted != IGNORED
    logits = causal.get_output_embeddings()(hidden[chosen]).float()
    return torch.nn.functional.cross_entropy(logits, wanted[chosen], reduction="sum")


def _groups(inputs: dict[str, Any], workers: int, packing: bool) -> list[list[tuple[Any, ...]]]:
    """Return each worker's groups of a padded batch as ids, labels, mask and positions.

    A group is no longer than its longest row, or one packed row, which has positions in place of a mask.
    """
    names = ("input_ids", "labels", "attention_mask")
    lengths = inputs["attention_mask"].sum(1).tolist()

    def group_of(rows: list[int]) -> tuple[Any, ...]:
        group = {name: inputs[name][rows, : lengths[rows[0]]] for name in names}
        if packing:
            group = {"attention_mask": None, **pack(group, None)}
        return (*(group[name] for name in names), group.get("position_ids"))

    return [[group_of(rows) for rows in share] for share in share_rows(lengths, workers)]


def share_rows(lengths: Sequence[int], workers: int, tokens: int = 512) -> list[list[list[int]]]:
    """Share the rows of a batch among workers, so that little is padded and all end at about the same time.

    A random batch of sentences and abstracts is mostly padding when it is one rectangle. Sorted by length and cut into
    groups of at most ``tokens`` padded tokens, it is hardly any; the groups go to the worker with the least to do, the
    largest first (Graham 1969, "Bounds on multiprocessing timing anomalies").

    Args:
        lengths: Tokens of each row.
        workers: Number of workers.
        tokens: Padded tokens of a group of more than one row.

    Returns:
        For each worker its groups of row numbers; the first row of a group is its longest.
    """
    order = sorted(range(len(lengths)), key=lambda row: (-lengths[row], row))
    # no group larger than an even share, so that no worker idles in a batch that would fit into one group
    limit = min(tokens, max(1, sum(lengths) // workers))
    groups: list[list[int]] = []
    for row in order:
        if groups and lengths[groups[-1][0]] * (len(groups[-1]) + 1) <= limit:
            groups[-1].append(row)
        else:
            groups.append([row])
    shares: list[list[list[int]]] = [[] for _ in range(workers)]
    load = [0] * workers
    for group in sorted(groups, key=lambda rows: -lengths[rows[0]] * len(rows)):
        least = load.index(min(load))
        shares[least].append(group)
        load[least] += lengths[group[0]] * len(group)
    return shares
