"""Publishing a staged folder: one commit that is verified, or a Hub that looks as before.

The order is that of distrust: nothing is sent before the token, the namespace and the visibility are known; what was
committed is compared by hash, tagged, downloaded into an empty cache and used; only then may it become visible.

``HfApi`` hashes, uploads, commits and compares. What it has no call for stands here and in
:mod:`odin_slm.hub.undo`: it does not look for a commit whose answer was lost, it takes nothing back, and its
``upload_folder`` splits a large folder over several commits, where a release is one.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from odin_slm.core.errors import HubError, OdinError
from odin_slm.core.hashing import checksum_lines, file_hashes, sha256_text
from odin_slm.hub.client import (
    LONGEST_WAIT,
    Hub,
    RepositoryType,
    is_remote,
    is_transient,
    lacks_xet,
    status_of,
    upload_by_lfs,
    wait_of,
)
from odin_slm.hub.plan import Plan, Progress
from odin_slm.hub.undo import head_of, number_of, remember, take_back

logger = logging.getLogger(__name__)

_OF_THE_HUB = frozenset({".gitattributes"})
"""Files that the Hub itself puts into a repository."""
_COMMIT_ATTEMPTS = 3
_AGAIN = "Run the same command again: it goes on from there, and equal content makes no second commit."


def publish(
    plan: Plan, hub: Hub, verify: Callable[[Path], Mapping[str, Any]], progress: Progress | None = None
) -> dict[str, Any]:
    """Publish a staged release and prove it.

    Args:
        plan: What, where and how.
        hub: The Hub, with a token.
        verify: Uses the downloaded folder and returns what it found; raises :class:`HubError` where that is wrong.
        progress: Filled in, for a later :func:`take_back`.

    Returns:
        ``repo_id``, ``repo_type``, ``endpoint``, ``revision`` (the commit), ``tag``, ``private``, ``committed`` (False
        where the same content was there already), ``pull_request``, ``files`` (name -> sha256) and ``verified``.

    Raises:
        HubError: With what happened, what was left on the Hub, and the way out.
        OdinError: The same, where ``verify`` finds the download unusable.
    """
    progress = progress or Progress()
    try:
        return _publish(plan, hub, verify, progress)
    except OdinError as error:
        left = take_back(plan, hub, progress)
        raise type(error)(f"{error.what} {left}", where=f"{plan.where}: {error.where}", fix=error.fix) from None
    except BaseException:  # a defect, or somebody who stops the run: nobody has verified what others see by now
        logger.error("%s: %s", plan.where, take_back(plan, hub, progress))
        raise


def set_visibility(hub: Hub, kind: RepositoryType, repo_id: str, *, private: bool) -> None:
    """Show or hide a repository, and look whether it is.

    Raises:
        HubError: The Hub refuses.
    """
    what = f"{'hide' if private else 'show'} {kind} {repo_id}"

    def change(api: Any) -> bool:
        failure = None
        try:
            api.update_repo_settings(repo_id, private=private, repo_type=kind)
        except Exception as error:
            if not is_remote(error):
                raise
            failure = error
        found = bool(api.repo_info(repo_id, repo_type=kind).private)
        if failure is not None and found != private:  # otherwise only the answer was lost
            raise failure
        return found

    if hub.ask(what, change, patient=True) != private:
        raise HubError("the Hub took the setting, but the repository is as visible as before.", where=what)


def _publish(plan: Plan, hub: Hub, verify: Callable[[Path], Mapping[str, Any]], progress: Progress) -> dict[str, Any]:
    files = file_hashes(plan.folder)
    tag = None if plan.pull_request else plan.tag or content_tag(files)
    _check_identity(plan, hub)
    _prepare_repository(plan, hub, progress)
    head = _head(plan, hub, progress)
    _check_tag(plan, hub, tag)
    progress.before = head
    commit, proposal = _commit(plan, hub, head, progress)
    progress.commit = commit if commit != head and proposal is None else None
    if differing := _differences(hub, plan, commit):
        raise HubError(
            f"the commit {commit} does not hold what was staged: {', '.join(differing[:5])}.",
            where="compare hashes",
            fix="Do not use this commit. " + _AGAIN,
        )
    if tag:
        _tag(plan, hub, tag, commit, progress)
    verified = _verify_download(plan, hub, commit, files, verify)
    logger.info("Published %s at %s, verified.", plan.where, commit)
    return {
        "repo_id": plan.repo_id,
        "repo_type": plan.kind,
        "endpoint": hub.endpoint,
        "revision": commit,
        "tag": tag,
        "private": not progress.was_public,
        "committed": commit != head,
        "pull_request": proposal,
        "files": files,
        "verified": dict(verified),
    }


def content_tag(files: Mapping[str, str]) -> str:
    """Return a tag that equal content shares and other content does not."""
    return f"release-{sha256_text(checksum_lines(files))[:12]}"


def _check_identity(plan: Plan, hub: Hub) -> None:
    """Ask whose token it is, before anything is sent."""
    me = hub.ask("ask who the token belongs to", lambda api: api.whoami())
    names = [me["name"], *(organisation["name"] for organisation in me.get("orgs", []))]
    owner = plan.repo_id.split("/")[0]
    role = me.get("auth", {}).get("accessToken", {}).get("role")
    if owner not in names:
        raise HubError(
            f"the token belongs to {me['name']}, who may publish under {', '.join(names)}.",
            where="check the namespace",
            fix=f"Set publishing.{plan.kind}_repo={me['name']}/{plan.repo_id.split('/')[1]}, or use another token.",
        )
    if role == "read":
        raise HubError(
            "the token can only read.",
            where="check the token",
            fix=f"Make one with write access: {hub.endpoint}/settings/tokens",
        )


def _prepare_repository(plan: Plan, hub: Hub, progress: Progress) -> None:
    """Make the repository, hidden, or look at the one that is there; prove that it may be written to."""
    from huggingface_hub.errors import RepositoryNotFoundError

    def look(api: Any) -> bool | None:
        try:
            return bool(api.repo_info(plan.repo_id, repo_type=plan.kind).private)
        except RepositoryNotFoundError as error:
            if status_of(error) != 404:
                raise
            return None

    def create(api: Any) -> None:
        try:
            api.create_repo(plan.repo_id, repo_type=plan.kind, private=True)
        except Exception as error:
            # 409 after an answer that was lost: it is there. Whether it is hidden is asked next in any case.
            if status_of(error) != 409:
                raise

    private = hub.ask(f"look for {plan.repo_id}", look)
    if private is None:
        hub.ask(f"create {plan.repo_id}", create)
        progress.created = True
        private = hub.ask(f"look at {plan.repo_id}", look, patient=True)
        if private is None:
            raise HubError("the repository was created and cannot be found.", where="create", fix=_AGAIN)
        if not private:
            raise HubError(
                "the repository was to be private, and is public.",
                where="check the visibility",
                fix="Make it private on its settings page, then run the command again.",
            )
    progress.was_public = not private
    if plan.private and not private:
        raise HubError(
            "the repository is public, and publishing.private is true.",
            where="check the visibility",
            fix="Set publishing.private=false, or make the repository private on its settings page.",
        )
    hub.ask(
        "check write access", lambda api: api.auth_check(plan.repo_id, repo_type=plan.kind, write=True), patient=False
    )


def _head(plan: Plan, hub: Hub, progress: Progress) -> str:
    from huggingface_hub.errors import RevisionNotFoundError

    def look(api: Any) -> str | None:
        try:
            return str(api.repo_info(plan.repo_id, repo_type=plan.kind, revision=plan.branch).sha)
        except RevisionNotFoundError:
            return None

    head = hub.ask(f"read {plan.branch}", look)
    what = f"create the branch {plan.branch}"
    for _ in range(2 if head is None else 0):  # "it exists" may be a hiccup too, so that it is looked for
        progress.branched = True
        hub.ask(
            what, lambda api: api.create_branch(plan.repo_id, repo_type=plan.kind, branch=plan.branch, exist_ok=True)
        )
        head = hub.ask(f"read {plan.branch}", look, patient=True)
        if head is not None:
            break
    if head is None:
        raise HubError("the Hub says that it exists, and does not find it.", where=what, fix=_AGAIN)
    return head


def _check_tag(plan: Plan, hub: Hub, tag: str | None) -> None:
    """Refuse a tag that names other content, before anything is committed: tags are never moved."""
    commit = _tags(plan, hub).get(tag or "")
    if commit and _differences(hub, plan, commit):
        raise HubError(
            f"the tag {tag} names other content, the commit {commit}; a tag is never moved.",
            where="check the tag",
            fix="Choose another publishing.tag.",
        )


def _commit(plan: Plan, hub: Hub, head: str, progress: Progress) -> tuple[str, str | None]:
    """Make the branch, or a pull request to it, hold exactly the files.

    Returns:
        The commit that does, and the pull request's address.
    """
    moved = 0
    for attempt in range(1, _COMMIT_ATTEMPTS + 2):
        differing = _differences(hub, plan, head)
        if not differing:
            return head, None
        if plan.pull_request and (found := _proposed(plan, hub)):
            return found
        if progress.was_public and not plan.pull_request:
            remember(plan, hub, head, differing, progress)
        progress.unsure = True
        try:
            made = hub.api.create_commit(
                plan.repo_id,
                _operations(plan, differing),
                commit_message=plan.message,
                repo_type=plan.kind,
                revision=plan.branch,
                parent_commit=head,
                create_pr=plan.pull_request,
            )
        except Exception as error:
            if not is_remote(error):
                raise
            # The commit may have gone through and only its answer be lost: look before anything is repeated.
            now = hub.ask("look whether the commit went through", lambda api: head_of(api, plan), patient=True)
            there = not _differences(hub, plan, now)
            found = _proposed(plan, hub) if plan.pull_request and not there else None
            progress.unsure = False
            if there:
                return now, None
            if found:
                progress.proposal = found[1]
                return found
            if now != head:
                moved += 1
                head = progress.before = now
                if moved > 1:
                    raise hub.explain("commit", error) from None
                continue
            if lacks_xet(error):
                logger.info("%s has no Xet storage: files are uploaded by LFS.", hub.endpoint)
                upload_by_lfs()
                continue
            wait = wait_of(error, attempt)
            if attempt >= _COMMIT_ATTEMPTS or wait > LONGEST_WAIT or not is_transient(error):
                raise hub.explain("commit", error, attempt) from None
            logger.warning("commit: %s; trying again in %.0f s.", hub.reason(error), wait)
            hub.wait(wait)
        else:
            progress.unsure = False
            progress.proposal = made.pr_url
            return str(made.oid), made.pr_url
    raise AssertionError("unreachable")


def _operations(plan: Plan, names: Sequence[str]) -> list[Any]:
    """Return what makes the Hub hold the folder's files under these names, or none where the folder has none."""
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete

    return [
        CommitOperationAdd(name, plan.folder / name) if (plan.folder / name).is_file() else CommitOperationDelete(name)
        for name in names
    ]


def _proposed(plan: Plan, hub: Hub) -> tuple[str, str] | None:
    """Return the open pull request that already holds exactly the files."""

    def read(api: Any) -> dict[int, str]:
        refs = api.list_repo_refs(plan.repo_id, repo_type=plan.kind, include_pull_requests=True).pull_requests or []
        commits = {number_of(ref.ref): ref.target_commit for ref in refs if ref.ref.startswith("refs/pr/")}
        if not commits:
            return {}
        proposals = api.get_repo_discussions(plan.repo_id, repo_type=plan.kind, discussion_type="pull_request")
        return {p.num: commits[p.num] for p in proposals if p.status in ("open", "draft") and p.num in commits}

    for number, commit in hub.ask("read the pull requests", read, patient=True).items():
        if not _differences(hub, plan, commit):
            folder = "datasets/" if plan.kind == "dataset" else ""
            return commit, f"{hub.endpoint}/{folder}{plan.repo_id}/discussions/{number}"
    return None


def _tag(plan: Plan, hub: Hub, tag: str, commit: str, progress: Progress) -> None:
    named = _tags(plan, hub).get(tag)
    if named == commit or (named and not _differences(hub, plan, named)):
        return  # it names this very content, perhaps in an earlier commit: what was published before comes back

    def create(api: Any) -> None:
        try:
            api.create_tag(plan.repo_id, tag=tag, revision=commit, repo_type=plan.kind)
        except Exception as error:
            # Where only the answer was lost, the tag is there; what it names is looked at below.
            if not is_remote(error) or tag not in _tags(plan, hub):
                raise

    progress.tagged = tag
    hub.ask(f"tag {tag}", create, patient=True)
    found = _tags(plan, hub).get(tag)
    if found != commit:
        progress.tagged = None
        raise HubError(
            f"the tag {tag} names {found or 'nothing'}, not {commit}; a tag is never moved.",
            where="tag",
            fix="Choose another publishing.tag.",
        )


def _verify_download(
    plan: Plan,
    hub: Hub,
    commit: str,
    files: Mapping[str, str],
    verify: Callable[[Path], Mapping[str, Any]],
) -> Mapping[str, Any]:
    """Download the commit as a stranger would, into an empty cache: an old one would answer for a Hub that is down."""
    with tempfile.TemporaryDirectory(prefix="odin-slm-verify-") as scratch:

        def download(api: Any) -> Path:
            return Path(
                api.snapshot_download(plan.repo_id, repo_type=plan.kind, revision=commit, cache_dir=f"{scratch}/cache")
            )

        folder = hub.ask(f"download {commit}", download, patient=True)
        if {name: digest for name, digest in file_hashes(folder).items() if name not in _OF_THE_HUB} != files:
            raise HubError("the download differs from what was staged.", where=f"download {commit}", fix=_AGAIN)
        return verify(folder)


def _differences(hub: Hub, plan: Plan, commit: str) -> list[str]:
    """Return the names under which a commit and the staged folder differ."""
    # The commit's id came from the Hub a moment ago; that it is not found now is a hiccup.
    found = hub.ask(
        f"read the files of {commit[:12]}",
        lambda api: api.verify_repo_checksums(
            plan.repo_id, repo_type=plan.kind, revision=commit, local_dir=plan.folder
        ),
        patient=True,
    )
    names = {*(mismatch["path"] for mismatch in found.mismatches), *found.missing_paths, *found.extra_paths}
    return sorted(names - _OF_THE_HUB)


def _tags(plan: Plan, hub: Hub) -> dict[str, str]:
    refs = hub.ask("read the tags", lambda api: api.list_repo_refs(plan.repo_id, repo_type=plan.kind), patient=True)
    return {ref.name: ref.target_commit for ref in refs.tags}
