"""The Hub's token: three ways in, no way out."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any, NoReturn

import yaml

from odin_slm.core.errors import HubError
from odin_slm.core.redaction import hide_secrets

HUGGING_FACE = "https://huggingface.co"
_WAYS_IN = (
    "Set HF_TOKEN, or run `hf auth login`, or let conf/local/credentials.yml name its source (hub: {token_env: NAME} "
    "or token_file)."
)


class Token:
    """A token that is not shown, printed, formatted or pickled; only the Hub's client asks for its value."""

    __slots__ = ("_value", "source")

    def __init__(self, value: str, source: str) -> None:
        # A line break inside would put the whole header, token included, into the HTTP client's error message.
        if not re.fullmatch(r"[\x21-\x7e]+", value):
            raise HubError("the token holds a space, a line break or a character that no token has.", where=source)
        self._value = value
        self.source = source

    def reveal(self) -> str:
        """Return the value."""
        return self._value

    def __repr__(self) -> str:
        return f"Token(***, from {self.source})"

    __str__ = __repr__

    def __reduce__(self) -> NoReturn:
        raise TypeError("a token is not pickled")


def find_token(credentials: Path | None = None) -> Token | None:
    """Look for a token.

    In this order: the entry ``hub`` of a credentials file, which names an environment variable (``token_env``), a file
    (``token_file``) or holds the ``token`` itself; the variable HF_TOKEN; the cached login.

    Raises:
        HubError: The credentials file cannot be read, or names a source that holds no token, or the token cannot be
            one.
    """
    if credentials is not None and credentials.is_file():
        entry = _read(credentials).get("hub")
        if entry:
            return _from_entry(entry, credentials.name)
    if value := os.environ.get("HF_TOKEN", "").strip():
        return Token(value, "HF_TOKEN")
    from huggingface_hub import get_token

    value = get_token()
    return Token(value.strip(), "the cached login") if value else None


def require_token(credentials: Path | None = None) -> Token:
    """Return the token.

    Raises:
        HubError: There is none.
    """
    token = find_token(credentials)
    if token is None:
        raise HubError("there is no token, and publishing needs one with write access.", fix=_WAYS_IN)
    return token


def redact(text: str, token: Token | None = None) -> str:
    """Return a text without this token and whatever else looks like a secret."""
    if token is not None:
        text = text.replace(token.reveal(), "***")
    return hide_secrets(text)


def _read(credentials: Path) -> dict[str, Any]:
    """Return the entries; what is wrong with the file is said without a word of it, as any may be the token's."""
    try:
        entries = yaml.safe_load(credentials.read_text(encoding="utf-8")) or {}
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{credentials.name}:{mark.line + 1}" if mark else credentials.name
        raise HubError("it is no YAML.", where=where, fix=_WAYS_IN) from None
    if not isinstance(entries, dict):
        raise HubError("expected keys with values, as `hub:`.", where=credentials.name, fix=_WAYS_IN)
    return entries


def _from_entry(entry: object, where: str) -> Token:
    place = f"{where}: hub"
    if not isinstance(entry, dict) or len(entry) != 1:
        raise HubError("expected one of token_env, token_file and token.", where=place, fix=_WAYS_IN)
    ((kind, value),) = entry.items()
    if kind == "token_env":
        found = os.environ.get(str(value), "").strip()
        missing = f"the environment variable {hide_secrets(str(value))} is not set."
    elif kind == "token_file":
        file = Path(str(value)).expanduser()
        found = file.read_text(encoding="utf-8").strip() if file.is_file() else ""
        missing = f"the file {hide_secrets(str(value))} is not there, or empty."
    elif kind == "token":
        found, missing = str(value or "").strip(), "the token is empty."
    else:
        found = hide_secrets(repr(kind))
        raise HubError(f"found {found}; expected token_env, token_file or token.", where=place, fix=_WAYS_IN)
    if not found:
        raise HubError(missing, where=f"{place}.{kind}", fix=_WAYS_IN)
    return Token(found, place)
