"""Texts without what belongs to one machine or to one person: absolute paths and secrets."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

_SECRETS = {
    "a Hugging Face token": re.compile(r"hf_[A-Za-z0-9]{16,}"),
    "a GitHub token": re.compile(r"gh[pousr]_[A-Za-z0-9]{36,}"),
    "an AWS access key": re.compile(r"\bAKIA[0-9A-Z]{16}\b"),
    "a private key": re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----(?:[\s\S]*?-----END [A-Z ]*PRIVATE KEY-----)?"),
}
"""What it looks like -> how it is known."""
_IN_ADDRESSES = re.compile(
    r"(?<=://)[^\s/@]+(?=@)"  # user and password
    r"|(?<=[?&])(?P<name>(?:x-amz-[\w-]+|signature|sig|token|policy|key-pair-id)=)[^&\s'\"]+",
    re.IGNORECASE,
)
_HIDDEN = "***"
_SECRET_VARIABLE = re.compile(r"TOKEN|SECRET|PASSWORD|API_?KEY|CREDENTIAL", re.IGNORECASE)
_MARKS_OF_TEXT = "".join(f"(?<!{name}_)" for name in ("bos", "eos", "pad", "unk", "sep", "cls", "mask"))
# narrower than that of variables: a configuration of ours counts tokens, and names those of a vocabulary
_SECRET_KEY = re.compile(rf"{_MARKS_OF_TEXT}token$|secret|password|api[-_]?key", re.IGNORECASE)
_SHORTEST_SECRET = 8
"""Shorter values would be found inside ordinary words."""
_NO_SECRETS = frozenset({"user", "username", "host", "hostname", "port", "database", "dbname", "region", "region_name"})
"""Keys of credentials whose values are no secrets, and may be ordinary words; an address may hold a password."""
# "office/home/work" is no path, so that what stands before it counts; in JSON that may be the n of an escape
_BEFORE_A_PATH = r"(?:(?<![\w.~-])|(?<=\\[nrt]))"
_AFTER_A_PATH = r"(?![\w-]|\.\w)"


class Redactor:
    """Replaces a run's absolute paths and secrets in what is tracked.

    A path inside the project becomes relative to it, one from elsewhere keeps its last part; a secret becomes ``***``.

    Args:
        root: The project's folder.
        values: What the user gave: values of ``--params``, nested.
        credentials: Values of ``credentials.yml``, nested.
        environment: Environment variables; those named like secrets are taken for secrets.
    """

    def __init__(
        self,
        root: Path,
        values: Mapping[str, Any] | None = None,
        credentials: Mapping[str, Any] | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self._root = root
        named = (os.environ if environment is None else environment).items()
        secrets = {value for name, value in named if _SECRET_VARIABLE.search(name)}
        secrets |= set(_texts(credentials or {}, without=_NO_SECRETS))
        hidden = {secret: _HIDDEN for secret in secrets if len(secret) >= _SHORTEST_SECRET}
        given = {value for value in _texts(values or {}) if Path(value).is_absolute() and len(Path(value).parts) > 1}
        paths = {path: self.path(path) for path in given}
        if root != root.parent:
            paths |= {f"{root}/": "", str(root): "."}
        patterns = {secret: re.escape(secret) for secret in hidden} | {path: _pattern_of(path) for path in paths}
        self._replaced = hidden | paths
        # the longest first, so that a path goes before the folder that it lies in
        self._pattern = re.compile("|".join(patterns[text] for text in sorted(patterns, key=len, reverse=True)))

    def path(self, path: str) -> str:
        """Return a path as anyone may read it."""
        if not Path(path).is_absolute():
            return path
        inside = Path(path).is_relative_to(self._root)
        return Path(path).relative_to(self._root).as_posix() if inside else f"…/{Path(path).name}"

    def text(self, text: str) -> str:
        """Return a text without them."""
        return self._pattern.sub(lambda match: self._replaced[match[0]], text) if self._replaced else text

    def value(self, value: Any) -> Any:
        """Return a nested value without them; paths that stand alone go too, whoever named them."""
        if isinstance(value, Mapping):
            return {key: self.value(inner) for key, inner in value.items()}
        if isinstance(value, list | tuple):
            return [self.value(inner) for inner in value]
        if not isinstance(value, str):
            return value
        replaced = self.text(value)
        alone = replaced == value and value.startswith("/") and "\n" not in value and Path(value).exists()
        return self.path(value) if alone else replaced


def _pattern_of(path: str) -> str:
    """Return what finds a path, but not the same letters within a word or a longer name."""
    return _BEFORE_A_PATH + re.escape(path) + ("" if path.endswith("/") else _AFTER_A_PATH)


def _texts(value: Any, without: Collection[str] = ()) -> Iterator[str]:
    if isinstance(value, Mapping):
        for key, inner in value.items():
            if key not in without:
                yield from _texts(inner, without)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _texts(inner, without)
    elif isinstance(value, str | Path):
        yield str(value)


def secrets_in(text: str) -> Iterator[str]:
    """Yield what a text seems to hold, such as "a GitHub token"; the secret itself is never repeated."""
    return (title for title, pattern in _SECRETS.items() if pattern.search(text))


def hide_secrets(text: str) -> str:
    """Return a text without secrets, and without the signatures and passwords of addresses."""
    for pattern in _SECRETS.values():
        text = pattern.sub(_HIDDEN, text)
    return _IN_ADDRESSES.sub(lambda match: f"{match['name'] or ''}{_HIDDEN}", text)


def without_secret_keys(value: Any) -> Any:
    """Return configuration without what stands under the keys of secrets, however deep."""
    if isinstance(value, Mapping):
        return {
            key: _HIDDEN
            if _SECRET_KEY.search(str(key)) and not isinstance(item, bool | None)
            else without_secret_keys(item)
            for key, item in value.items()
        }
    return [without_secret_keys(item) for item in value] if isinstance(value, list) else value


VOCABULARY_FILES = frozenset({"tokenizer.json", "vocab.json", "merges.txt", "added_tokens.json"})
"""Files whose strings are tokens: ``/home/`` is a token of many vocabularies and no path of anybody's."""

_HOME_PATH = re.compile(_BEFORE_A_PATH + r"(?:/home|/Users|/root)/[\w.-]+|[A-Za-z]:\\+Users\\")


def text_problems(name: str, text: str) -> Iterator[str]:
    """Yield secrets and home directories in a text file; the secret itself is never repeated."""
    for title in secrets_in(text):
        yield f"{name}: holds what looks like {title}"
    if name.rpartition("/")[2] not in VOCABULARY_FILES and (match := _HOME_PATH.search(text)):
        yield f"{name}: holds a path of this machine ({match[0]})"
