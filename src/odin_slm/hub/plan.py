"""What is to be published, and how far its publication came."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from odin_slm.hub.client import RepositoryType

if TYPE_CHECKING:
    from odin_slm.models.base_model import BaseModel


@dataclass(frozen=True)
class Plan:
    """What is to be published, where and how.

    Attributes:
        kind: Model or dataset.
        folder: The staged release; all of its files are published.
        repo_id: ``owner/name``.
        private: Whether the repository is to stay hidden.
        message: First line of the commit's message.
        tag: Name for the commit; None derives one from the content.
        branch: Where the commit goes.
        pull_request: Propose the commit instead of making it; it is then neither tagged nor made visible.
    """

    kind: RepositoryType
    folder: Path
    repo_id: str
    private: bool
    message: str
    tag: str | None = None
    branch: str = "main"
    pull_request: bool = False

    @property
    def where(self) -> str:
        """What messages call the repository."""
        return f"{self.kind} {self.repo_id}"


@dataclass(frozen=True)
class Request:
    """A staged release, and whether it goes to the Hub.

    Attributes:
        folder: The staged release.
        plan: How to publish it; None where that was not asked for.
        base: The base that a downloaded adapter is tried on where its release does not hold one; None for data.
        questions: What a downloaded adapter is asked, with the local ``answer``.
        undo: Takes back what this run has published before, where this fails; it returns a sentence about that.
    """

    folder: Path
    plan: Plan | None
    base: BaseModel | None = None
    questions: Sequence[Mapping[str, Any]] = ()
    undo: Callable[[], str] | None = None


@dataclass
class Progress:
    """How far a publication came: what has to be said, and undone, when it fails."""

    was_public: bool = False
    created: bool = False
    unsure: bool = False
    branched: bool = False
    before: str | None = None
    commit: str | None = None
    proposal: str | None = None
    tagged: str | None = None
    former: dict[str, bytes | None] = field(default_factory=dict)
    """What a commit that others see changes: name -> old content, LFS files excepted; None for no file."""
    kept: list[str] = field(default_factory=list)
    """LFS files that it changes; the Hub copies them from the commit before."""

    @property
    def visible(self) -> bool:
        """Whether others see something that this publication made."""
        return self.was_public and bool(self.commit or self.proposal or self.branched)
