"""Names that stand in paths, commands, tables, MLflow and on the Hub, so that none of these has to escape them."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import StringConstraints

SourceName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=64)]
"""Name of a corpus; it stands in paths, tables and requests."""
LONGEST = 64
"""Characters of a name, at most; the Hub allows 96, and a name is a part of what is built of it."""
HUB_ID = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9_])?/[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9_])?")
"""``owner/name``, as https://huggingface.co/docs/huggingface_hub/package_reference/utilities has it."""

_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9_])?")
_DEVICES = re.compile(r"(con|prn|aux|nul|com[0-9]|lpt[0-9])(\..*)?", re.IGNORECASE)


def name_fault(value: object, longest: int = LONGEST) -> str:
    """Return why a value will not do as a name; empty where it will.

    Args:
        value: What stands in the configuration, as YAML reads it.
        longest: Characters that it may have.
    """
    if not isinstance(value, str):
        return f"{value!r} is no text; where YAML reads a number, a date or a truth value, put it in quotes"
    if not _NAME.fullmatch(value):
        return (
            f"{value[:80]!r} is no name: letters a to z, digits, and - _ . between them; no space, no other letter, "
            "and neither - nor . at an end"
        )
    if ".." in value or "--" in value or value.endswith(".git"):
        return f"{value!r} holds .. or --, or ends in .git, which the Hub refuses"
    if len(value) > longest:
        return f"{value[:20]}… has {len(value)} characters, at most {longest} are allowed"
    return f"{value!r} is the name of a device on Windows" if _DEVICES.fullmatch(value) else ""


def hub_id_fault(value: str) -> str:
    """Return why a text is no id of a repository on the Hub; empty where it is one."""
    owner, slash, name = value.partition("/")
    if not slash or not HUB_ID.fullmatch(value):
        return f"{value[:80]!r} is no Hub id (owner/name, of letters a to z, digits, and - _ . between them)"
    return name_fault(owner, 96) or name_fault(name, 96)
