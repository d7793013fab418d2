"""Correcting a queue in the browser: its file is read at the start, and written whole at every save."""

import asyncio
import hashlib
import json
import threading
from pathlib import Path
from typing import Any, Literal

from fastapi import APIRouter, Response
from pydantic import BaseModel, ConfigDict, Field
from starlette.exceptions import HTTPException

from odin_slm.core import json_text
from odin_slm.core.errors import OdinError, ServingError
from odin_slm.core.files import write_text
from odin_slm.core.hashing import canonical_jsonl
from odin_slm.review.queue import MANIFEST, read_queue, task_fault

PAGE = Path(__file__).parents[1] / "templates" / "review.html"


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid")


class _Types(_Body):
    """Types that a correction may name, from the review's manifest; without them nothing would be checked."""

    entities: list[str] = Field(min_length=1)
    relations: list[tuple[str, str, str]]


class Place(_Body):
    """A typed span of the text, in Unicode code points."""

    start: int
    end: int
    label: str


class ReviewedSpan(Place):
    """A mention; without a confidence where a person has accepted, added or changed it."""

    confidence: float | None = Field(default=None, ge=0.0, le=1.0)


class ReviewedRelation(_Body):
    """A relation between two of the mentions."""

    label: str
    head_span: Place
    child_span: Place
    confidence: float | None = Field(default=None, ge=0.0, le=1.0)


class ReviewedDocument(_Body):
    """A document as somebody has corrected it."""

    spans: list[ReviewedSpan]
    relations: list[ReviewedRelation]
    answer: Literal["accept", "ignore"] | None = Field(description="Whether it counts; null: somebody is still at it.")
    tag: str = Field(description="The tag that came with the document: nobody else's correction is then lost.")


class Saved(_Body):
    """The document is in the file."""

    tag: str


class ReviewQueue:
    """A queue that one or several people correct.

    Args:
        file: The queue, as the review pipeline writes it, with its manifest beside it.

    Raises:
        ServingError: The queue or its manifest is missing or broken.
    """

    def __init__(self, file: Path) -> None:
        fix = "Name the queue.jsonl that kedro run --pipelines review has written; review.json stays beside it."
        try:
            manifest = json_text.loads((file.parent / MANIFEST).read_text(encoding="utf-8"))
            types = _Types.model_validate(manifest["types"]).model_dump(mode="json")
            self._about = {"types": types, "made": manifest["made"], "model": manifest["model"]["digest"]}
            text = file.read_text(encoding="utf-8")
            tasks = list(read_queue(file.name, text))
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ServingError(f"no review is there ({error}).", where=f"--review {file}", fix=fix) from None
        except OdinError as error:
            raise ServingError(error.what, where=f"--review {file.parent / error.where}", fix=error.fix) from None
        if not tasks:
            raise ServingError("the queue is empty.", where=f"--review {file}", fix=fix)
        self._file, self._text = file, text
        self._tasks = {task["id"]: task for task in tasks}
        self._lock = threading.Lock()

    def listed(self) -> dict[str, Any]:
        """Return all documents, each with its tag, and the manifest."""
        return {**self._about, "documents": [{**task, "tag": _tag(task)} for task in self._tasks.values()]}

    def save(self, name: str, given: ReviewedDocument) -> str:
        """Put a document into the file, which is replaced as a whole; return the document's new tag.

        Raises:
            HTTPException: There is no such document (404), somebody else has changed it or the file (409), or it is
                invalid (422).
        """
        with self._lock:
            known = self._tasks.get(name)
            if known is None:
                raise HTTPException(404, "there is no such document in the queue.")
            task = {**known, **given.model_dump(exclude={"tag"})}
            if fault := task_fault(task, self._about["types"]):
                raise HTTPException(422, f"{fault}.")
            if given.tag != _tag(known) and task != known:  # the same correction may be sent twice
                raise HTTPException(409, "somebody else has changed this document; load the page again.")
            if not self._file.is_file() or self._file.read_text(encoding="utf-8") != self._text:
                raise HTTPException(409, "the queue was changed outside this page; start the service again.")
            tasks = {**self._tasks, name: task}
            text = canonical_jsonl(list(tasks.values()))
            write_text(self._file, text)
            self._tasks, self._text = tasks, text
            return _tag(task)


def _tag(task: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(task, sort_keys=True).encode()).hexdigest()[:16]


def review_router(queue: ReviewQueue, page: str, policy: dict[str, str], **options: Any) -> APIRouter:
    """Return the page and what it asks for.

    Args:
        queue: The queue.
        page: The page.
        policy: Its headers.
        **options: Of the router: what its answers may be, who may ask.
    """
    router = APIRouter()
    guarded = APIRouter(**options)

    @router.get("/review", include_in_schema=False)
    async def index() -> Response:
        return Response(page, media_type="text/html", headers=policy)

    @guarded.get("/review/queue", tags=["review"])
    async def listed() -> dict[str, Any]:
        """Return the documents to correct, with the types that they may name."""
        return queue.listed()

    @guarded.put("/review/documents/{name:path}", response_model=Saved, tags=["review"])
    async def save(name: str, body: ReviewedDocument) -> Any:
        """Save a corrected document."""
        return {"tag": await asyncio.to_thread(queue.save, name, body)}

    router.include_router(guarded)
    return router
