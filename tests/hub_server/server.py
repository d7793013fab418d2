"""The HTTP side: routes, the journal, and faults."""

from __future__ import annotations

import base64
import json
import os
import re
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal
from urllib.parse import parse_qs, unquote, urlencode, urlsplit

import yaml

from hub_server.store import DATE, Conflict, File, Repository, Store, entry, front_matter, needs_lfs
from hub_server.xet import XetStorage


@dataclass(frozen=True)
class Request:
    """One request as it arrived."""

    method: str
    target: str
    headers: Mapping[str, str]
    body: bytes = field(repr=False)

    @property
    def path(self) -> str:
        return self.target.partition("?")[0]

    @property
    def query(self) -> dict[str, list[str]]:
        return parse_qs(urlsplit(self.target).query)

    @property
    def name(self) -> str:
        """Method and route without ids, commits and hashes, for example ``POST commit``."""
        kinds = "whoami-v2|create|validate-yaml|preupload|commit|paths-info|tree|refs|revision|tag|branch|settings"
        kinds += (
            "|auth-check|discussions|xet-write-token|xet-read-token|xorbs|xorb-grants|shards|chunks|reconstructions"
        )
        if match := re.search(rf"/({kinds})(?:/|$)", self.path):
            return f"{self.method} {match[1]}"
        for part in ("objects/batch", "resolve", "cdn", "lfs", "verify"):
            if f"/{part}" in self.path:
                return f"{self.method} {part}"
        return f"{self.method} info"

    def json(self) -> Any:
        return json.loads(self.body)


@dataclass
class Fault:
    """What goes wrong at requests that match.

    Attributes:
        match: Whether a request is meant; the first ``skip`` of them pass.
        kind: ``status`` answers at once; ``cut`` resets the connection before anything is done; ``lost`` does what was
            asked and resets the connection instead of answering; ``cut_body`` answers half.
        status: Of the answer.
        headers: Of the answer.
        times: How many requests it hits; None for all from then on.
        skip: How many pass before.
    """

    match: Callable[[Request], bool]
    kind: Literal["status", "cut", "lost", "cut_body"] = "status"
    status: int = 500
    headers: Mapping[str, str] = field(default_factory=dict)
    times: int | None = 1
    skip: int = 0
    hits: int = 0

    def strikes(self, request: Request) -> bool:
        if not self.match(request) or (self.times is not None and self.hits >= self.times):
            return False
        if self.skip:
            self.skip -= 1
            return False
        self.hits += 1
        return True


@dataclass
class Answer:
    """Status, body and headers; ``length`` where a HEAD speaks of a body that is not sent."""

    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)

    @staticmethod
    def of(value: Any, status: int = 200, **headers: str) -> Answer:
        named = {name.replace("_", "-"): text for name, text in headers.items()}
        return Answer(status, json.dumps(value).encode(), {"Content-Type": "application/json", **named})

    @staticmethod
    def error(status: int, message: str, code: str = "") -> Answer:
        headers = {"X-Error-Message": message, **({"X-Error-Code": code} if code else {})}
        return Answer(status, json.dumps({"error": message}).encode(), {"Content-Type": "application/json", **headers})


class HubServer:
    """A Hub on 127.0.0.1, with its store, its journal and its faults.

    LFS content is served under ``localhost``: the client must take it for another host, as the Hub's storage is.
    """

    def __init__(self) -> None:
        self.store = Store()
        self.journal: list[Request] = []
        self.faults: list[Fault] = []
        self.page = 1000
        self.xet: XetStorage | None = None
        """Storage that the Hub offers beside LFS; None where it has none."""
        self.scratch: Any = None
        """Something of a test that lives as long as the server."""
        self._lock = threading.RLock()
        self._http = _Listener(("127.0.0.1", 0), _handler(self))

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self._http.server_port}"

    @property
    def storage(self) -> str:
        return f"http://localhost:{self._http.server_port}"

    @contextmanager
    def running(self) -> Iterator[HubServer]:
        thread = threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        try:
            yield self
        finally:
            self._http.shutdown()
            self._http.server_close()
            thread.join()

    def begin(self, request: Request) -> Fault | None:
        """Write a request into the journal and return the fault that strikes it."""
        with self._lock:
            self.journal.append(request)
            return next((fault for fault in self.faults if fault.strikes(request)), None)

    def answer(self, request: Request) -> Answer:
        """Do what a request asks."""
        with self._lock:
            try:
                return self._route(request)
            except _Refused as refusal:
                return refusal.answer

    def _route(self, request: Request) -> Answer:
        parts = [unquote(part) for part in request.path.strip("/").split("/")]
        match parts:
            case ["cdn", digest]:
                return _ranged(request, self._object(digest))
            case ["xet", *rest] if self.xet is not None:
                return self._xet(request, self.xet, rest)
            case ["lfs", kind, owner, name, digest]:
                return self._store_object(request, kind, f"{owner}/{name}", digest)
            case ["api", "whoami-v2"]:
                return self._whoami(request)
            case ["api", "validate-yaml"]:
                return self._validate(request)
            case ["api", "repos", "create"]:
                return self._create(request)
            case ["api", "repos", "delete"]:
                return self._delete(request)
            case ["api", ("models" | "datasets") as kinds]:
                return self._search(request, kinds[:-1])
            case ["api", ("models" | "datasets") as kinds, owner, name, *rest]:
                return self._repository(request, kinds[:-1], f"{owner}/{name}", rest)
            case ["datasets", owner, name, *rest]:
                return self._files(request, "dataset", owner, name, rest)
            case [owner, name, *rest]:
                return self._files(request, "model", owner, name, rest)
        return Answer.error(404, "Not found")

    # Who is it?

    def _token(self, request: Request) -> str:
        return request.headers.get("authorization", "").removeprefix("Bearer ")

    def _whoami(self, request: Request) -> Answer:
        user = self.store.users.get(self._token(request))
        if user is None:
            return Answer.error(401, "Invalid credentials in Authorization header")
        organisations = [{"type": "org", "name": name, "roleInOrg": "write"} for name in user.organisations]
        token = {"displayName": "test", "role": user.role}
        return Answer.of(
            {
                "type": "user",
                "name": user.name,
                "orgs": organisations,
                "auth": {"type": "access_token", "accessToken": token},
            }
        )

    def _readable(self, request: Request, kind: str, repo_id: str) -> Repository:
        found = self.store.repositories.get((kind, repo_id))
        user = self.store.users.get(self._token(request))
        own = found and user and found.namespace in (user.name, *user.organisations)
        if found is None or (found.private and not own):
            raise _Refused(Answer.error(404 if user else 401, "Repository not found", "RepoNotFound"))
        return found

    def _writable(self, request: Request, kind: str, repo_id: str) -> Repository:
        found = self._readable(request, kind, repo_id)
        user = self.store.users.get(self._token(request))
        if user is None:
            raise _Refused(Answer.error(401, "Invalid credentials in Authorization header"))
        if not user.may_write(found.namespace):
            raise _Refused(
                Answer.error(403, "You have read access but not the required permissions for this operation")
            )
        return found

    # Repositories

    def _create(self, request: Request) -> Answer:
        wanted = request.json()
        user = self.store.users.get(self._token(request))
        if user is None:
            return Answer.error(401, "Invalid credentials in Authorization header")
        kind, owner = wanted.get("type") or "model", wanted.get("organization") or user.name
        if not user.may_write(owner):
            return Answer.error(403, f"You don't have the rights to create a {kind} under the namespace {owner!r}")
        repo_id = f"{owner}/{wanted['name']}"
        url = f"{self.endpoint}/{'datasets/' if kind == 'dataset' else ''}{repo_id}"
        if (kind, repo_id) in self.store.repositories:
            return Answer.of({"error": "You already created this repo", "url": url}, 409)
        self.store.add(kind, repo_id, private=wanted.get("visibility") == "private")
        return Answer.of({"url": url})

    def _delete(self, request: Request) -> Answer:
        wanted = request.json()
        kind, repo_id = wanted.get("type") or "model", f"{wanted['organization']}/{wanted['name']}"
        self._writable(request, kind, repo_id)
        del self.store.repositories[kind, repo_id]
        return Answer.of({})

    def _validate(self, request: Request) -> Answer:
        try:
            card = front_matter(request.json()["content"])
        except yaml.YAMLError as error:
            return Answer.of({"errors": [{"message": f"YAML: {error}"}], "warnings": []}, 400)
        base = card.get("base_model")
        if base is not None and not re.fullmatch(r"[\w.-]+/[\w.-]+", str(base)):
            message = f'"base_model" with value {base!r} is not valid. Use a model id from https://hf.co/models.'
            return Answer.of({"errors": [{"message": message}], "warnings": []}, 400)
        return Answer.of({"errors": [], "warnings": []})

    def _search(self, request: Request, kind: str) -> Answer:
        query = request.query
        user = self.store.users.get(self._token(request))
        words = [word.casefold() for word in query.get("search", [])]
        found = []
        for (its_kind, repo_id), repository in self.store.repositories.items():
            listed = repository.listed()
            seen = not repository.private or (user and repository.namespace in (user.name, *user.organisations))
            if its_kind != kind or not seen or not all(word in repo_id.casefold() for word in words):
                continue
            labels = {*listed["tags"], listed.get("pipeline_tag"), listed.get("library_name")}
            wanted = [*query.get("filter", []), *query.get("pipeline_tag", [])]
            if (
                all(label in labels for label in wanted)
                and query.get("author", [listed["author"]])[0] == listed["author"]
            ):
                found.append(listed)
        if "sort" in query:
            key = {"trendingScore": "likes"}.get(query["sort"][0], query["sort"][0])
            if key not in ("downloads", "likes", "lastModified", "createdAt"):
                return Answer.error(400, f"Invalid sort parameter: {key}")
            found.sort(key=lambda listed: listed[key], reverse=True)
        if "limit" in query:
            found = found[: int(query["limit"][0])]
        return self._paged(request, found)

    def _paged(self, request: Request, found: list[Any]) -> Answer:
        query = request.query
        start = int(query.pop("cursor", ["0"])[0])
        answer = Answer.of(found[start : start + self.page])
        if start + self.page < len(found):
            following = urlencode({**query, "cursor": str(start + self.page)}, doseq=True)
            answer.headers["Link"] = f'<{self.endpoint}{request.path}?{following}>; rel="next"'
        return answer

    def _repository(self, request: Request, kind: str, repo_id: str, rest: list[str]) -> Answer:
        match request.method, rest:
            case "GET", []:
                return self._info(request, kind, repo_id, "main")
            case "GET", ["revision", revision]:
                return self._info(request, kind, repo_id, revision)
            case "GET", ["auth-check"]:
                self._readable(request, kind, repo_id)
                return Answer.of({})
            case "GET", ["auth-check", "write"]:
                self._writable(request, kind, repo_id)
                return Answer.of({})
            case "GET", ["tree", revision, *folder]:
                return self._tree(request, self._readable(request, kind, repo_id), revision, "/".join(folder))
            case "POST", ["paths-info", revision]:
                return self._paths_info(request, self._readable(request, kind, repo_id), revision)
            case "GET", ["xet-write-token", _] if self.xet is not None:
                self._writable(request, kind, repo_id)
                return self._xet_token()
            case "GET", ["xet-read-token", _] if self.xet is not None:
                self._readable(request, kind, repo_id)
                return self._xet_token()
            case "GET", ["refs"]:
                return self._refs(self._readable(request, kind, repo_id))
            case "GET", ["commits", revision]:
                return self._commits(request, self._readable(request, kind, repo_id), revision)
            case "POST", ["preupload", revision]:
                return self._preupload(request, self._writable(request, kind, repo_id), revision)
            case "POST", ["commit", revision]:
                return self._commit(request, self._writable(request, kind, repo_id), revision)
            case "POST", ["tag", revision]:
                return self._tag(request, self._writable(request, kind, repo_id), revision)
            case "DELETE", ["tag", name]:
                repository = self._writable(request, kind, repo_id)
                if repository.tags.pop(name, None) is None:
                    return Answer.error(404, "Tag not found", "RevisionNotFound")
                return Answer.of({})
            case "POST", ["branch", name]:
                repository = self._writable(request, kind, repo_id)
                if name in repository.branches:
                    return Answer.error(409, "Reference already exists")
                start = (request.json() if request.body else {}).get("startingPoint", "main")
                repository.branches[name] = self._oid(repository, start)
                return Answer.of({})
            case "DELETE", ["branch", name]:
                repository = self._writable(request, kind, repo_id)
                if repository.branches.pop(name, None) is None:
                    return Answer.error(404, "Branch not found", "RevisionNotFound")
                return Answer.of({})
            case "GET", ["discussions"]:
                return self._discussions(self._readable(request, kind, repo_id))
            case "POST", ["discussions", number, "status"]:
                repository, status = self._writable(request, kind, repo_id), request.json()["status"]
                changed = repository.closed.discard if status == "open" else repository.closed.add
                changed(f"refs/pr/{number}")
                event = {"id": "0" * 24, "type": "status-change", "createdAt": DATE, "data": {"status": status}}
                return Answer.of({"newStatus": event})
            case "PUT", ["settings"]:
                repository = self._writable(request, kind, repo_id)
                wanted = request.json()
                repository.private = (
                    wanted.get("visibility", "private" if repository.private else "public") == "private"
                )
                repository.gated = bool(wanted.get("gated", repository.gated))
                return Answer.of({"private": repository.private})
        return Answer.error(404, "Not found")

    def _oid(self, repository: Repository, revision: str) -> str:
        oid = repository.resolve(revision)
        if oid is None:
            raise _Refused(Answer.error(404, f"Invalid rev id: {revision}", "RevisionNotFound"))
        return oid

    def _info(self, request: Request, kind: str, repo_id: str, revision: str) -> Answer:
        repository = self._readable(request, kind, repo_id)
        return Answer.of(repository.info(self._oid(repository, revision), blobs="blobs" in request.query))

    def _tree(self, request: Request, repository: Repository, revision: str, folder: str) -> Answer:
        files = repository.commits[self._oid(repository, revision)].files
        prefix = f"{folder}/" if folder else ""
        inside = {name: file for name, file in files.items() if name.startswith(prefix)}
        if folder and not inside:
            return Answer.error(404, f"{folder} does not exist on {revision!r}", "EntryNotFound")
        folders = {prefix + part for part in _folders(name[len(prefix) :] for name in inside)}
        found = [{"type": "directory", "path": name, "oid": "0" * 40, "size": 0} for name in sorted(folders)]
        found += [entry(name, file) for name, file in sorted(inside.items())]
        if request.query.get("recursive", ["false"])[0].lower() not in ("true", "1"):
            found = [item for item in found if "/" not in item["path"][len(prefix) :]]
        return self._paged(request, found)

    def _paths_info(self, request: Request, repository: Repository, revision: str) -> Answer:
        files = repository.commits[self._oid(repository, revision)].files
        if "json" in request.headers.get("content-type", ""):
            wanted = request.json()["paths"]
        else:
            wanted = parse_qs(request.body.decode()).get("paths", [])
        found = [entry(name, files[name]) for name in wanted if name in files]
        folders = _folders(files)
        found += [{"type": "directory", "path": name, "oid": "0" * 40} for name in wanted if name in folders]
        return Answer.of(found)

    def _refs(self, repository: Repository) -> Answer:
        def listed(names: Mapping[str, str], prefix: str) -> list[dict[str, str]]:
            return [{"name": name, "ref": f"{prefix}{name}", "targetCommit": oid} for name, oid in names.items()]

        return Answer.of(
            {
                "branches": listed(repository.branches, "refs/heads/"),
                "tags": listed(repository.tags, "refs/tags/"),
                "converts": [],
                "pullRequests": listed(repository.pull_requests, ""),
            }
        )

    def _discussions(self, repository: Repository) -> Answer:
        found = [
            {
                "num": int(ref.rpartition("/")[2]),
                "title": repository.commits[oid].message,
                "author": {"name": repository.namespace},
                "repo": {"name": repository.id, "type": repository.kind},
                "createdAt": DATE,
                "status": "closed" if ref in repository.closed else "open",
                "isPullRequest": True,
            }
            for ref, oid in repository.pull_requests.items()
        ]
        return Answer.of({"discussions": found, "start": 0, "count": len(found)})

    def _commits(self, request: Request, repository: Repository, revision: str) -> Answer:
        self._oid(repository, revision)
        found = [
            {
                "id": commit.oid,
                "title": commit.message,
                "message": "",
                "date": repository.modified,
                "authors": [{"user": repository.namespace}],
            }
            for commit in repository.history(revision)
        ]
        return self._paged(request, found)

    def _preupload(self, request: Request, repository: Repository, revision: str) -> Answer:
        files = repository.commits[self._oid(repository, revision)].files
        answers = []
        for wanted in request.json()["files"]:
            lfs = needs_lfs(wanted["path"], wanted["size"])
            answer = {"path": wanted["path"], "uploadMode": "lfs" if lfs else "regular", "shouldIgnore": False}
            present = files.get(wanted["path"])
            if present is not None and present.lfs == lfs:
                answer["oid"] = present.etag
            answers.append(answer)
        return Answer.of({"files": answers})

    def _commit(self, request: Request, repository: Repository, revision: str) -> Answer:
        lines = [json.loads(line) for line in request.body.splitlines() if line.strip()]
        header, changes = lines[0]["value"], {}
        oid = self._oid(repository, revision)
        present = repository.commits[oid].files
        for line in lines[1:]:
            value = line["value"]
            match line["key"]:
                case "file":
                    changes[value["path"]] = File(base64.b64decode(value["content"]))
                case "lfsFile":
                    if self.xet and (content := self.xet.content(value["oid"])) is not None:
                        repository.uploaded[value["oid"]] = content
                    if value["oid"] not in repository.uploaded:
                        return Answer.error(400, f"LFS pointer pointed to a file that does not exist: {value['path']}")
                    changes[value["path"]] = File(repository.uploaded[value["oid"]], lfs=True)
                case "deletedFile":
                    if value["path"] not in present:
                        return Answer.error(404, "A file with this name doesn't exist", "EntryNotFound")
                    changes[value["path"]] = None
                case "deletedFolder":
                    changes |= {name: None for name in present if name.startswith(value["path"].rstrip("/") + "/")}
        if not changes:
            return Answer.error(400, "The commit is empty")
        pull_request = request.query.get("create_pr") == ["1"]
        try:
            made = repository.commit(
                changes,
                header["summary"],
                revision=revision,
                parent=header.get("parentCommit"),
                pull_request=pull_request,
            )
        except Conflict:
            return Answer.error(412, "A commit has happened since. Please refresh and try again.")
        web = f"{self.endpoint}/{'datasets/' if repository.kind == 'dataset' else ''}{repository.id}"
        answer = {"success": True, "commitOid": made, "commitUrl": f"{web}/commit/{made}", "hookOutput": ""}
        if pull_request:
            answer["pullRequestUrl"] = f"{web}/discussions/{len(repository.pull_requests)}"
        return Answer.of(answer)

    def _tag(self, request: Request, repository: Repository, revision: str) -> Answer:
        name = request.json()["tag"]
        if name in repository.tags:
            return Answer.error(409, "Tag reference exists already")
        repository.tags[name] = self._oid(repository, revision)
        return Answer.of({})

    # Files

    def _files(self, request: Request, kind: str, owner: str, name: str, rest: list[str]) -> Answer:
        match rest:
            case ["info", "lfs", "objects", "batch"]:
                return self._batch(request, self._writable(request, kind, f"{owner}/{name.removesuffix('.git')}"))
            case ["resolve", revision, *path]:
                return self._resolve(
                    request, self._readable(request, kind, f"{owner}/{name}"), revision, "/".join(path)
                )
        return Answer.error(404, "Not found")

    def _batch(self, request: Request, repository: Repository) -> Answer:
        objects = []
        for wanted in request.json()["objects"]:
            digest, size = wanted["oid"], wanted["size"]
            found = {"oid": digest, "size": size}
            if digest not in repository.uploaded:
                href = f"{self.storage}/lfs/{repository.kind}/{repository.id}/{digest}"
                verify = {"href": f"{self.endpoint}/lfs/{repository.kind}/{repository.id}/{digest}?verify=1"}
                found["actions"] = {"upload": {"href": href}, "verify": verify}
            objects.append(found)
        return Answer.of({"transfer": "basic", "objects": objects})

    def _store_object(self, request: Request, kind: str, repo_id: str, digest: str) -> Answer:
        repository = self.store.get(kind, repo_id)
        if request.method == "POST":
            held = repository.uploaded.get(digest)
            return Answer.of({}) if held is not None and len(held) == request.json()["size"] else Answer.error(404, "?")
        if File(request.body).sha256 != digest:
            return Answer.error(400, "The content does not match the object's id")
        repository.uploaded[digest] = request.body
        return Answer()

    def _xet_token(self) -> Answer:
        """Return the storage's address and a token of its own: the Hub's is not for it."""
        named = {"casUrl": f"{self.storage}/xet", "accessToken": "xet-token", "exp": int(time.time()) + 3600}
        answer = Answer.of(named)
        for key, header in (("casUrl", "Cas-Url"), ("accessToken", "Access-Token"), ("exp", "Token-Expiration")):
            answer.headers[f"X-Xet-{header}"] = str(named[key])
        return answer

    def _xet(self, request: Request, storage: XetStorage, parts: list[str]) -> Answer:
        match request.method, parts:
            case "POST", ["v1", "xorbs", "default", digest]:
                storage.xorbs[digest] = request.body
                return Answer.of({"was_inserted": True})
            case "POST", ["v1", "shards"]:
                try:
                    storage.add_shard(request.body)
                except ValueError as error:
                    return Answer.error(400, str(error))
                return Answer.of({"result": 1})
            case "GET", ["v1", "reconstructions", digest]:
                found = storage.reconstruction(digest, f"{self.storage}/xet/xorbs")
                return Answer.of(found) if found else Answer.error(404, "No such file")
            case "GET", ["xorbs", digest] if digest in storage.xorbs:
                return _ranged(request, File(storage.xorbs[digest]))
        return Answer.error(404, "Not found")

    def _object(self, digest: str) -> File:
        for repository in self.store.repositories.values():
            if digest in repository.uploaded:
                return File(repository.uploaded[digest], lfs=True)
        raise _Refused(Answer.error(404, "No such object"))

    def _resolve(self, request: Request, repository: Repository, revision: str, path: str) -> Answer:
        user = self.store.users.get(self._token(request))
        if repository.gated and not (user and user.name == repository.namespace):
            return Answer.error(403, "Access to this resource is gated", "GatedRepo")
        oid = self._oid(repository, revision)
        file = repository.commits[oid].files.get(path)
        if file is None:
            answer = Answer.error(404, "Entry not found", "EntryNotFound")
            answer.headers["X-Repo-Commit"] = oid
            return answer
        if not file.lfs:
            answer = _ranged(request, file)
            answer.headers |= {"X-Repo-Commit": oid, "ETag": f'"{file.etag}"'}
            return answer
        xet = {}
        if self.xet and file.sha256 in self.xet.by_sha256:
            kinds = f"/api/{repository.kind}s/{repository.id}"
            xet = {
                "X-Xet-Hash": self.xet.by_sha256[file.sha256],
                "Link": f'<{self.endpoint}{kinds}/xet-read-token/{oid}>; rel="xet-auth"',
            }
        return Answer(
            302,
            b"",
            {
                **xet,
                "Location": f"{self.storage}/cdn/{file.sha256}",
                "X-Repo-Commit": oid,
                "X-Linked-Etag": f'"{file.etag}"',
                "X-Linked-Size": str(len(file.content)),
                "ETag": f'"{file.git_oid}"',
            },
        )


class _Listener(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Stay silent about clients that hang up; anything else shows as a failed request."""


class _Refused(Exception):
    def __init__(self, answer: Answer) -> None:
        self.answer = answer


def _folders(names: Any) -> set[str]:
    return {name[: match.start()] for name in names for match in re.finditer("/", name)}


def _ranged(request: Request, file: File) -> Answer:
    content, headers = file.content, {"Accept-Ranges": "bytes", "ETag": f'"{file.etag}"'}
    if match := re.fullmatch(r"bytes=(\d+)-(\d*)", request.headers.get("range", "")):
        first, last = int(match[1]), min(int(match[2] or len(content) - 1), len(content) - 1)
        if first >= len(content):
            return Answer(416, b"", {"Content-Range": f"bytes */{len(content)}"})
        headers["Content-Range"] = f"bytes {first}-{last}/{len(content)}"
        return Answer(206, content[first : last + 1], headers)
    return Answer(200, content, headers)


def _handler(hub: HubServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True  # 40 ms per answer otherwise

        def _serve(self) -> None:
            headers = {name.lower(): value for name, value in self.headers.items()}
            request = Request(self.command, self.path, headers, self._body(headers))
            fault = hub.begin(request)
            if fault is None:
                self._send(hub.answer(request))
            elif fault.kind == "status":
                answer = Answer.error(fault.status, f"Fault {fault.status} of the test")
                answer.headers |= fault.headers
                self._send(answer)
            elif fault.kind == "cut_body":
                answer = hub.answer(request)
                self._send(answer, half=True)
                self._reset()
            else:
                if fault.kind == "lost":
                    hub.answer(request)
                self._reset()

        do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = _serve

        def _body(self, headers: Mapping[str, str]) -> bytes:
            if headers.get("transfer-encoding", "").lower() != "chunked":
                return self.rfile.read(int(headers.get("content-length", 0)))
            body = b""
            while size := int(self.rfile.readline().split(b";")[0], 16):
                body += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            return body

        def _send(self, answer: Answer, *, half: bool = False) -> None:
            self.send_response(answer.status)
            for name, value in answer.headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(answer.body)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(answer.body[: len(answer.body) // 2] if half else answer.body)

        def _reset(self) -> None:
            """Send a TCP reset: a socket that is closed with unsent linger time 0 is not closed politely."""
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.close_connection = True
            os.close(self.connection.detach())

        def log_message(self, format: str, *args: Any) -> None:
            """Stay silent: the journal remembers."""

    return Handler
