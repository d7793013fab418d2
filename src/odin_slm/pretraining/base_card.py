"""The model card of the embedded base, from the figures of its own training."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from odin_slm.release.cards import fill

CITATIONS = {
    "craft": "CRAFT (open-access articles, CC BY)",
    "pubmedqa": "PubMedQA (MIT)",
    "ncbi-disease": "NCBI Disease (Doğan et al., 2014)",
    "bionlp09": "BioNLP shared task 2009",
    "bionlp11": "BioNLP shared task 2011",
    "bionlp13": "BioNLP shared task 2013",
    "bc2gm": "BioCreative II gene mention (Smith et al., 2008)",
    "ex-ptm": "exhaustive PTM (Pyysalo et al., 2011)",
    "anatem": "AnatEM (Pyysalo and Ananiadou, 2014)",
    "linnaeus": "LINNAEUS (Gerner et al., 2010)",
}
"""Prefix of a text file's name -> the collection to cite."""


def base_card(state: Mapping[str, Any], evaluation: Mapping[str, Any], *, experiment: str) -> str:
    """Return the card of a base.

    Args:
        state: State of pretraining: history, tokens, seconds, device, sources, parameters of the run.
        evaluation: Results of the probes.
        experiment: The experiment that made the base; the card gives its command.

    Returns:
        Markdown with the Hub's front matter.
    """
    scored = [row for row in state["history"] if "eval_decision_loss" in row]
    step = max(1, len(scored) // 10)
    files = state["sources"]["files"]
    return fill(
        "base_card.md.j2",
        **{key: state[key] for key in ("parameters", "sources", "tokens", "steps", "seconds", "device")},
        **{key: state["parameters_of_run"][key] for key in ("architecture", "phases", "schedule")},
        curve=[*scored[:-1:step], *scored[-1:]],
        files_cited=[text for name, text in CITATIONS.items() if any(file.startswith(name) for file in files)],
        evaluation=evaluation,
        experiment=experiment,
    )
