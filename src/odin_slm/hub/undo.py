"""Taking back what others see of a publication that failed."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from odin_slm.core.errors import HubError
from odin_slm.hub.client import Hub, status_of
from odin_slm.hub.plan import Plan, Progress


def remember(plan: Plan, hub: Hub, commit: str, names: Sequence[str], progress: Progress) -> None:
    """Note what a commit holds under these names, so that it can be put there again."""

    def look(api: Any) -> dict[str, bool]:
        found = api.get_paths_info(plan.repo_id, list(names), repo_type=plan.kind, revision=commit)
        return {entry.path: entry.lfs is not None for entry in found}

    present = hub.ask(f"read the files of {commit[:12]}", look, patient=True)
    progress.kept = [name for name, lfs in present.items() if lfs]
    progress.former = dict.fromkeys(name for name in names if name not in present)
    progress.former |= _read(plan, hub, commit, [name for name, lfs in present.items() if not lfs])


def take_back(plan: Plan, hub: Hub, progress: Progress) -> str:
    """Undo what others can see of a publication, and say what is left of it.

    The Hub is in trouble where this is called, so it is asked for as little as will do.

    Returns:
        A sentence for the user; it says so where the Hub refuses to take something back.
    """
    if progress.unsure:
        return (
            "Whether the commit went through cannot be seen from here; the same command, run again, looks before it "
            "commits."
        )
    made = progress.commit or progress.proposal
    if not progress.visible:
        if made:
            return (
                f"The repository is private, and nobody else sees anything; {_title(progress)} stays there unverified."
            )
        return f"The new repository {plan.repo_id} is empty." if progress.created else "Nothing was changed on the Hub."
    try:
        if progress.proposal:
            _close(plan, hub, progress.proposal)
        if progress.branched:
            _remove_branch(plan, hub, progress)
        elif progress.commit:
            _restore(plan, hub, progress)
        if progress.tagged:
            _remove_tag(plan, hub, progress.tagged)
    except HubError as error:
        return (
            f"On {plan.where}, {_title(progress)} is visible and could not be taken back ({error}); revert it by hand, "
            "or run the same command again."
        )
    if progress.proposal:
        return f"The pull request {progress.proposal} was closed."
    if progress.branched:
        return f"The branch {plan.branch} of {plan.where} was taken back."
    what = f"The commit {progress.commit} of {plan.where}"
    return f"{what} was taken back by another one: {plan.branch} is as it was before."


def _title(progress: Progress) -> str:
    if progress.proposal:
        return f"the pull request {progress.proposal}"
    return f"the commit {progress.commit}" if progress.commit else "the new branch"


def _close(plan: Plan, hub: Hub, proposal: str) -> None:
    def close(api: Any) -> None:
        api.change_discussion_status(plan.repo_id, number_of(proposal), "closed", repo_type=plan.kind)

    hub.ask(f"close {proposal}", close, patient=True)


def _remove_branch(plan: Plan, hub: Hub, progress: Progress) -> None:
    def remove(api: Any) -> None:
        try:
            if head_of(api, plan) in (progress.before, progress.commit):  # else somebody works on it by now
                api.delete_branch(plan.repo_id, branch=plan.branch, repo_type=plan.kind)
        except Exception as error:
            if status_of(error) != 404:  # never made, or gone after an answer that was lost
                raise

    hub.ask(f"remove the branch {plan.branch}", remove, patient=True)


def _remove_tag(plan: Plan, hub: Hub, tag: str) -> None:
    def remove(api: Any) -> None:
        try:
            api.delete_tag(plan.repo_id, tag=tag, repo_type=plan.kind)
        except Exception as error:
            if status_of(error) != 404:  # gone, after an answer that was lost
                raise

    hub.ask(f"remove the tag {tag}", remove, patient=True)


def _restore(plan: Plan, hub: Hub, progress: Progress) -> None:
    """Commit the files as they were before."""
    from huggingface_hub import CommitOperationAdd, CommitOperationCopy, CommitOperationDelete

    before, after = str(progress.before), str(progress.commit)
    asked = False

    def restore(api: Any) -> None:
        nonlocal asked
        if head_of(api, plan) != after:
            if asked:  # only the answer was lost
                return
            raise HubError("somebody has committed since.", where="take the commit back")
        asked = True
        api.create_commit(
            plan.repo_id,
            [
                *(CommitOperationCopy(name, name, src_revision=before) for name in progress.kept),
                *(
                    CommitOperationDelete(name) if content is None else CommitOperationAdd(name, content)
                    for name, content in progress.former.items()
                ),
            ],
            commit_message=f"Take back {after[:12]}, which could not be verified",
            repo_type=plan.kind,
            revision=plan.branch,
            parent_commit=after,
        )

    hub.ask("take the commit back", restore, patient=True)


def _read(plan: Plan, hub: Hub, commit: str, names: Sequence[str]) -> dict[str, bytes]:
    with tempfile.TemporaryDirectory(prefix="odin-slm-former-") as scratch:

        def read(api: Any) -> dict[str, bytes]:
            return {
                name: Path(
                    api.hf_hub_download(plan.repo_id, name, repo_type=plan.kind, revision=commit, cache_dir=scratch)
                ).read_bytes()
                for name in names
            }

        return hub.ask(f"read what {commit[:12]} holds", read)


def number_of(address: str) -> int:
    """Return the number of a pull request."""
    return int(address.rpartition("/")[2])


def head_of(api: Any, plan: Plan) -> str:
    """Return the commit that a branch stands at."""
    return str(api.repo_info(plan.repo_id, repo_type=plan.kind, revision=plan.branch).sha)
