"""The closed sets: entity types, relation types, and which of them each corpus annotates.

A corpus that does not annotate a type says nothing about it: BC5CDR never marks ``treats``, ADE marks a drug only
where the sentence reports an adverse effect of it. The prompt therefore names what the corpus at hand annotates.
"""

from __future__ import annotations

from dataclasses import dataclass

ENTITY_TYPES = ("Drug", "Disease", "Symptom")
RELATION_TYPES = ("causes", "treats", "associated_with", "interacts_with")

_CONDITIONS = frozenset({"Disease", "Symptom"})

SIGNATURES: dict[str, frozenset[tuple[str, str]]] = {
    "causes": frozenset(("Drug", tail) for tail in _CONDITIONS),
    "treats": frozenset(("Drug", tail) for tail in _CONDITIONS),
    "associated_with": frozenset({("Drug", "Disease"), ("Drug", "Symptom"), ("Drug", "Drug")}),
    "interacts_with": frozenset({("Drug", "Drug")}),
}
"""Legal (head type, tail type) pairs of each relation type."""


@dataclass(frozen=True)
class Schema:
    """What one corpus annotates.

    Attributes:
        entities: Entity types, in the order of :data:`ENTITY_TYPES`.
        relations: Relation types, in the order of :data:`RELATION_TYPES`.
    """

    entities: tuple[str, ...]
    relations: tuple[str, ...]


SCHEMAS: dict[str, Schema] = {
    "ade": Schema(("Drug", "Symptom"), ("causes",)),
    "bc5cdr": Schema(("Drug", "Disease"), ("causes",)),
    "biored": Schema(("Drug", "Disease"), RELATION_TYPES),
    "synthetic": Schema(ENTITY_TYPES, RELATION_TYPES),
}
"""Schema of each source; the keys are the values of a record's ``source``. A parser module adds its own."""
