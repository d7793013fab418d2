"""Errors that name the thing, the place and the way out.

Every error that a user can cause derives from :class:`OdinError`. It is raised once, where the cause is known, and
the command line shows its text without a traceback.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any, TypeVar

T = TypeVar("T")


class OdinError(Exception):
    """A failure that the user can mend: what happened, where, and what to do.

    Args:
        what: What was found and what was expected.
        where: File and line, record id, or configuration key; empty when there is no such place.
        fix: The way out, as an instruction.
    """

    def __init__(self, what: str, *, where: str = "", fix: str = "") -> None:
        self.what = what
        self.where = where
        self.fix = fix
        super().__init__(what, where, fix)

    def to_dict(self) -> dict[str, str]:
        """Return the error as plain values, for another process; :func:`error_of` makes it an error again."""
        return {"kind": type(self).__name__, "what": self.what, "where": self.where, "fix": self.fix}

    def __reduce__(self) -> tuple[Any, ...]:
        return partial(type(self), where=self.where, fix=self.fix), (self.what,)  # another process may raise it

    def __str__(self) -> str:
        text = f"{self.where}: {self.what}" if self.where else self.what
        return f"{text} {self.fix}" if self.fix else text


class CorpusFormatError(OdinError):
    """A corpus file does not follow its publisher's format."""


class MissingInputError(OdinError):
    """A file or folder that a run needs is not there."""


class StorageError(OdinError):
    """A storage cannot be reached, or does not let this user in."""


class FetchError(OdinError):
    """A corpus file cannot be fetched, or is not what its publisher published."""


class BaseModelError(OdinError):
    """A base model folder or id cannot be loaded."""


class RecordTooLongError(OdinError):
    """A record does not fit into the token budget and windowing is off."""


class LeakageError(OdinError):
    """A document, or a near-duplicate of it, would lie in two splits."""


class UnknownEnvironmentError(OdinError):
    """``--env`` names a configuration folder that does not exist."""


class InvalidNameError(OdinError):
    """A name of the configuration would not fit into paths, commands, tables or the Hub."""


class UnknownParameterError(OdinError):
    """``--params`` names a key that nothing reads."""


class WrongParameterError(OdinError):
    """A parameter is given a kind of value that it does not take."""


class PredictionsError(OdinError):
    """A predictions file does not hold what scoring needs."""


class ReleaseError(OdinError):
    """A release may not be staged or published as it is."""


class BackendError(OdinError):
    """A training backend cannot run on this machine."""


class MachineLostError(OdinError):
    """A machine of a training on several no longer answers."""


class DeviceMemoryError(OdinError):
    """A job does not fit into the memory of the machine or its accelerator."""


class AdapterError(OdinError):
    """A folder holds no LoRA adapter, or one that does not fit the base."""


class GrammarError(OdinError):
    """The grammar of an input cannot be built, or it refused a token that it had allowed."""


class ServingError(OdinError):
    """The service cannot start with these settings or this model."""


class ExtractionError(OdinError):
    """A packaged model is asked something that it cannot answer."""


class ReviewError(OdinError):
    """A review would lose corrections, or brings back what it may not."""


class RegistryError(OdinError):
    """The model registry does not hold, or does not admit, what was asked for."""


class ExperimentFolderError(OdinError):
    """A folder of experiments from before cannot be read."""


class HubError(OdinError):
    """The Hub refuses, cannot be reached, or holds something else than it should."""


class HubUnreachableError(HubError):
    """The Hub gives no answer at all."""


def error_of(told: Mapping[str, str]) -> OdinError:
    """Return the error that :meth:`OdinError.to_dict` describes."""
    kind = globals().get(told["kind"])  # another process's word: only the name of an error here is taken
    known = kind if isinstance(kind, type) and issubclass(kind, OdinError) else OdinError
    return known(told["what"], where=told["where"], fix=told["fix"])


def required(value: T | None, name: str) -> T:
    """Return what the catalog holds for a run that cannot do without it.

    Args:
        value: A value of a dataset that may be absent.
        name: Its file.

    Raises:
        MissingInputError: It is absent.
    """
    if value is None:
        raise MissingInputError(
            "there is no such file.",
            where=name,
            fix="Run the pipelines before this one, as kedro run --pipelines data; kedro run runs all.",
        )
    return value
