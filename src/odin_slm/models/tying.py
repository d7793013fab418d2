"""Embeddings and head of a model, which may share their weights, while an adapter of one of them is merged."""

from __future__ import annotations

from typing import Any


def untie(adapted: Any) -> None:
    """Give the head of a PEFT model weights of its own where an adapter lies on it or on the embeddings.

    Merging adds to a layer's weights in place: where two layers share them, the adapter of one would change the other,
    or both adapters both.
    """
    import torch
    from peft.tuners.tuners_utils import BaseTunerLayer

    ends = _ends(adapted.get_base_model())
    if ends[1] is None or not any(isinstance(layer, BaseTunerLayer) for layer in ends):
        return
    inputs, outputs = (layer.get_base_layer() if isinstance(layer, BaseTunerLayer) else layer for layer in ends)
    if inputs.weight is outputs.weight:
        outputs.weight = torch.nn.Parameter(outputs.weight.detach().clone(), requires_grad=False)


def settle(model: Any) -> Any:
    """Return a merged model whose configuration says whether embeddings and head are still the same.

    Otherwise a reader of the saved files would take the embeddings for the head, which an adapter has changed.
    """
    import torch

    embeddings, head = _ends(model)
    if head is None or not model.config.get_text_config().tie_word_embeddings or embeddings.weight is head.weight:
        return model
    if torch.equal(embeddings.weight, head.weight):
        head.weight = embeddings.weight
    else:
        model.config.tie_word_embeddings = model.config.get_text_config().tie_word_embeddings = False
    return model


def _ends(model: Any) -> tuple[Any, Any]:
    return model.get_input_embeddings(), model.get_output_embeddings()
