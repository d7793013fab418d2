"""TRL's training step as data parallelism on a CPU: rows of similar length form groups, and each core computes some.

Sorting by length leaves hardly any padding to compute.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from odin_slm.config.parameters import TrainingParams
from odin_slm.models.backends import cuda, may_run_data_parallel
from odin_slm.training.collation import IGNORED
from odin_slm.training.data_parallel import DataParallel
from odin_slm.training.packing import pack


def data_parallel_of(model: Any, params: TrainingParams, processes: int = 1) -> DataParallel | None:
    """Return replicas of the model, one per core, or None if one model should compute the whole batch.

    The replicas have to be made before TRL patches the model's forward method.
    """
    import copy

    import torch

    cores = min(torch.get_num_threads(), int(params.batch_size))
    if cuda() or processes > 1 or cores < 2 or not may_run_data_parallel(model.config.model_type, params):
        return None
    if getattr(model, "is_loaded_in_4bit", False):  # a base may be stored so, whatever the parameters say
        return None
    twin = copy.deepcopy(model)
    for own, shared in zip(twin.parameters(), model.parameters(), strict=True):
        own.data = shared.data
    return DataParallel(twin.train(), cores)


def with_data_parallel(trainer: type[Any], parallel: DataParallel | None, packing: bool = False) -> type[Any]:
    """Return a trainer class that splits every batch among the replicas, or the class unchanged without replicas.

    Args:
        trainer: TRL's trainer class.
        parallel: The replicas.
        packing: Whether the rows of a group are concatenated into one row instead of padded to the longest.
    """
    if parallel is None:
        return trainer
    shared = parallel

    class DataParallelTrainer(trainer):
        """Computes the same loss as TRL, the mean over the labelled tokens, without padding the whole batch."""

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

    return DataParallelTrainer


def _summed_loss(model: Any, ids: Any, labels: Any, mask: Any, positions: Any) -> Any:
    """Return the sum of the loss over the labelled tokens; logits are computed for those tokens only."""
    import torch

    causal = model.get_base_model()
    output = causal.get_decoder()(input_ids=ids, attention_mask=mask, position_ids=positions, use_cache=False)
    hidden = output.last_hidden_state[:, :-1]
    targets = labels[:, 1:]
    labelled = targets != IGNORED
    logits = causal.get_output_embeddings()(hidden[labelled]).float()
    return torch.nn.functional.cross_entropy(logits, targets[labelled], reduction="sum")


def _groups(inputs: dict[str, Any], replicas: int, packing: bool) -> list[list[tuple[Any, ...]]]:
    """Return for each replica its groups of a padded batch, as ids, labels, mask and positions.

    A group is cut to the length of its longest row. With packing it is a single row, with positions instead of a mask.
    """
    names = ("input_ids", "labels", "attention_mask")
    lengths = inputs["attention_mask"].sum(1).tolist()

    def group_of(rows: list[int]) -> tuple[Any, ...]:
        group = {name: inputs[name][rows, : lengths[rows[0]]] for name in names}
        if packing:
            group = {"attention_mask": None, **pack(group, None)}
        return (*(group[name] for name in names), group.get("position_ids"))

    return [[group_of(rows) for rows in share] for share in share_rows(lengths, replicas)]


def share_rows(lengths: Sequence[int], replicas: int, tokens: int = 512) -> list[list[list[int]]]:
    """Share the rows of a batch among replicas with little padding, so that all finish at about the same time.

    A random batch of sentences and abstracts consists mostly of padding. Sorted by length and cut into groups of at
    most ``tokens`` tokens each, it has hardly any. The largest group goes first, each to the replica with the least
    work so far (Graham, 1969, "Bounds on multiprocessing timing anomalies").

    Args:
        lengths: Tokens of each row.
        replicas: Number of replicas.
        tokens: Most tokens of a group, padding included; a longer row forms a group by itself.

    Returns:
        For each replica its groups of row numbers. The first row of a group is its longest.
    """
    order = sorted(range(len(lengths)), key=lambda row: (-lengths[row], row))
    # A small batch would fit into one group and leave the other replicas idle.
    limit = min(tokens, max(1, sum(lengths) // replicas))
    groups: list[list[int]] = []
    for row in order:
        if groups and lengths[groups[-1][0]] * (len(groups[-1]) + 1) <= limit:
            groups[-1].append(row)
        else:
            groups.append([row])
    shares: list[list[list[int]]] = [[] for _ in range(replicas)]
    load = [0] * replicas
    for group in sorted(groups, key=lambda rows: -lengths[rows[0]] * len(rows)):
        least = load.index(min(load))
        shares[least].append(group)
        load[least] += lengths[group[0]] * len(group)
    return shares
