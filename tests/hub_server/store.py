"""Repositories in memory: commits that never change, branches and tags that point at them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import yaml

LFS_SUFFIXES = (".safetensors", ".parquet", ".bin", ".model", ".arrow", ".pt")
LFS_SIZE = 10 * 2**20
DATE = "2026-01-02T03:04:05.000Z"


@dataclass(frozen=True)
class User:
    """Who a token belongs to, and what it may do: ``write``, ``read`` or ``fineGrained``."""

    name: str
    role: str = "write"
    organisations: tuple[str, ...] = ()
    writable: tuple[str, ...] = ()
    """Namespaces that a fine-grained token may write to."""

    def may_write(self, namespace: str) -> bool:
        if self.role == "fineGrained":
            return namespace in self.writable
        return self.role == "write" and namespace in (self.name, *self.organisations)


@dataclass(frozen=True)
class File:
    """Content of a file, and whether LFS holds it."""

    content: bytes
    lfs: bool = False

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.content).hexdigest()

    @property
    def pointer(self) -> bytes:
        return (
            f"version https://git-lfs.github.com/spec/v1\noid sha256:{self.sha256}\nsize {len(self.content)}\n".encode()
        )

    @property
    def git_oid(self) -> str:
        """Git's id of the blob that the repository holds: the file, or the LFS pointer to it."""
        blob = self.pointer if self.lfs else self.content
        return hashlib.sha1(b"blob %d\0" % len(blob) + blob).hexdigest()

    @property
    def etag(self) -> str:
        return self.sha256 if self.lfs else self.git_oid


@dataclass(frozen=True)
class Commit:
    """A snapshot; its id depends on its parent, its message and its files, as in Git."""

    parent: str | None
    message: str
    files: Mapping[str, File]

    @property
    def oid(self) -> str:
        named = sorted((name, file.git_oid) for name, file in self.files.items())
        return hashlib.sha1(json.dumps([self.parent, self.message, named]).encode()).hexdigest()


class Conflict(Exception):
    """A commit has happened since the one that this one builds on."""


@dataclass
class Repository:
    """A model or a dataset with its history."""

    kind: str
    id: str
    private: bool = False
    gated: bool = False
    downloads: int = 0
    likes: int = 0
    modified: str = DATE
    commits: dict[str, Commit] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    pull_requests: dict[str, str] = field(default_factory=dict)
    closed: set[str] = field(default_factory=set)
    """Pull requests that are no longer open."""
    uploaded: dict[str, bytes] = field(default_factory=dict)
    """LFS objects by sha256, whether or not a commit names them."""

    def __post_init__(self) -> None:
        attributes = "".join(f"*{suffix} filter=lfs diff=lfs merge=lfs -text\n" for suffix in LFS_SUFFIXES)
        self._put("main", Commit(None, "initial commit", {".gitattributes": File(attributes.encode())}))

    @property
    def namespace(self) -> str:
        return self.id.split("/")[0]

    @property
    def head(self) -> Commit:
        return self.commits[self.branches["main"]]

    def history(self, revision: str = "main") -> list[Commit]:
        """Commits of a revision, the newest first."""
        found, oid = [], self.resolve(revision)
        while oid is not None:
            found.append(self.commits[oid])
            oid = self.commits[oid].parent
        return found

    def resolve(self, revision: str) -> str | None:
        """Id of the commit that a branch, tag, pull request or commit id names."""
        for names in (self.branches, self.tags, self.pull_requests):
            if revision in names:
                return names[revision]
        name = revision.removeprefix("refs/heads/")
        return self.branches.get(name) or (revision if revision in self.commits else None)

    def commit(
        self,
        changes: Mapping[str, File | None],
        message: str = "change",
        *,
        revision: str = "main",
        parent: str | None = None,
        pull_request: bool = False,
    ) -> str:
        """Apply changes (None deletes) in one commit.

        Raises:
            Conflict: The revision is no longer at ``parent``.
        """
        head = self.resolve(revision)
        if parent is not None and parent != head:
            raise Conflict
        files = dict(self.commits[head].files) if head else {}
        for name, file in changes.items():
            if file is None:
                del files[name]
            else:
                files[name] = file
        commit = Commit(head, message, files)
        if pull_request:
            self.commits[commit.oid] = commit
            self.pull_requests[f"refs/pr/{len(self.pull_requests) + 1}"] = commit.oid
        else:
            self._put(revision, commit)
        return commit.oid

    def put(self, files: Mapping[str, bytes], message: str = "change") -> str:
        """Commit files by content, as a test fills a repository."""
        made = {name: File(content, needs_lfs(name, len(content))) for name, content in files.items()}
        self.uploaded |= {file.sha256: file.content for file in made.values() if file.lfs}
        return self.commit(made, message)

    def card(self, files: Mapping[str, File]) -> dict[str, Any]:
        """Front matter of the README."""
        readme = files.get("README.md")
        return front_matter(readme.content.decode()) if readme else {}

    def info(self, oid: str, *, blobs: bool = False) -> dict[str, Any]:
        """What ``model_info`` and ``dataset_info`` get."""
        files = self.commits[oid].files
        card = self.card(files)
        siblings: list[dict[str, Any]] = [{"rfilename": name} for name in sorted(files)]
        if blobs:
            for sibling in siblings:
                sibling |= entry(sibling["rfilename"], files[sibling["rfilename"]])
                sibling["blobId"] = sibling.pop("oid")
                if "lfs" in sibling:
                    sibling["lfs"]["sha256"] = sibling["lfs"].pop("oid")
                del sibling["path"], sibling["type"]
        found = {**self.listed(), "sha": oid, "siblings": siblings, "cardData": card, "disabled": False}
        if self.kind == "model":
            config = json.loads(files["config.json"].content) if "config.json" in files else None
            if config:
                found["config"] = {key: config[key] for key in ("architectures", "model_type") if key in config}
            parameters = _parameters(files)
            if parameters:
                found["safetensors"] = {"parameters": parameters, "total": sum(parameters.values())}
        return found

    def listed(self) -> dict[str, Any]:
        """What a search shows: no siblings, no card."""
        card = self.card(self.head.files)
        tags = [*card.get("tags", []), *([f"license:{card['license']}"] if card.get("license") else [])]
        found: dict[str, Any] = {
            "_id": hashlib.md5(self.id.encode()).hexdigest()[:24],
            "id": self.id,
            "author": self.namespace,
            "private": self.private,
            "gated": "manual" if self.gated else False,
            "downloads": self.downloads,
            "likes": self.likes,
            "tags": tags,
            "createdAt": DATE,
            "lastModified": self.modified,
        }
        if self.kind == "model":
            found |= {"modelId": self.id, "pipeline_tag": card.get("pipeline_tag")}
            found["library_name"] = card.get("library_name")
        return found

    def _put(self, branch: str, commit: Commit) -> None:
        self.commits[commit.oid] = commit
        self.branches[branch] = commit.oid


class Store:
    """All repositories, and who may come in."""

    def __init__(self) -> None:
        self.users: dict[str, User] = {}
        self.repositories: dict[tuple[str, str], Repository] = {}

    def add(self, kind: str, repo_id: str, **options: Any) -> Repository:
        repository = self.repositories[kind, repo_id] = Repository(kind, repo_id, **options)
        return repository

    def get(self, kind: str, repo_id: str) -> Repository:
        return self.repositories[kind, repo_id]


def entry(name: str, file: File) -> dict[str, Any]:
    """A file as tree and paths-info list it."""
    found: dict[str, Any] = {"type": "file", "path": name, "oid": file.git_oid, "size": len(file.content)}
    if file.lfs:
        found["lfs"] = {"oid": file.sha256, "size": len(file.content), "pointerSize": len(file.pointer)}
    return found


def needs_lfs(name: str, size: int) -> bool:
    return name.endswith(LFS_SUFFIXES) or size > LFS_SIZE


def front_matter(text: str) -> dict[str, Any]:
    """The YAML block at the head of a card; raises yaml.YAMLError."""
    if not text.startswith("---\n"):
        return {}
    head, end, _ = text[4:].partition("\n---")
    return (yaml.safe_load(head) or {}) if end else {}


def _parameters(files: Mapping[str, File]) -> dict[str, int]:
    found: dict[str, int] = {}
    for name, file in files.items():
        if "/" in name or not name.endswith(".safetensors"):
            continue
        length = int.from_bytes(file.content[:8], "little")
        for key, tensor in json.loads(file.content[8 : 8 + length]).items():
            if key != "__metadata__":
                size = 1
                for dimension in tensor["shape"]:
                    size *= dimension
                found[tensor["dtype"]] = found.get(tensor["dtype"], 0) + size
    return found
