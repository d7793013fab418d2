"""The Hub's client: one place where requests are retried, waits are honoured and failures are explained.

``huggingface_hub`` retries uploads and pages by itself, but neither the questions (who am I, what is there) nor a
commit, a tag or a setting. Its errors are translated here: nothing that leaves this module holds a token.
"""

from __future__ import annotations

import email.utils
import logging
import os
import re
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Literal, TypeVar
from urllib.parse import urlsplit

from odin_slm.core.errors import HubError, HubUnreachableError
from odin_slm.hub.credentials import HUGGING_FACE, Token, redact

if TYPE_CHECKING:
    from huggingface_hub import HfApi

logger = logging.getLogger(__name__)

RepositoryType = Literal["model", "dataset"]
T = TypeVar("T")

ATTEMPTS = 5
LONGEST_WAIT = 300.0
"""Seconds; a Hub that asks for more is not waited for."""
_TRANSIENT = frozenset({408, 425, 429, 500, 502, 503, 504})
_LOOPBACK = frozenset({"127.0.0.1", "::1", "localhost"})
_FIXES = {
    401: "Make a token with write access ({endpoint}/settings/tokens), and give it by HF_TOKEN or `hf auth login`.",
    403: "Use a token with write access to that name, or publish under a name of your own.",
    404: "Check the name, and that your token may see it.",
    409: "Somebody is at work on the repository, or the name is taken: look at it, then run the command again.",
    412: "Somebody else commits to the repository: run the command again when it is quiet.",
    413: "Publish less at once: publishing.include_base=never leaves the base out.",
    429: "The Hub asks to wait: run the command again later.",
}
_XET_STATUS = re.compile(r"HTTP status \w+ error \((\d{3})")
_NETWORK_FIX = "Check the network and {endpoint}, then run the command again."


class Hub:
    """Access to one Hub with one token.

    Args:
        endpoint: Address; None takes HF_ENDPOINT, or huggingface.co.
        token: Who asks; None asks as a stranger.
        pause: Waits so many seconds; None sleeps.

    Raises:
        HubError: The address would send the token over the network in clear text.
    """

    def __init__(
        self, endpoint: str | None = None, token: Token | None = None, *, pause: Callable[[float], None] | None = None
    ) -> None:
        self.endpoint = (endpoint or os.environ.get("HF_ENDPOINT") or HUGGING_FACE).rstrip("/")
        self.token = token
        self._pause = pause or time.sleep
        address = urlsplit(self.endpoint)
        if address.scheme != "https" and address.hostname not in _LOOPBACK:
            raise HubError(
                "the address is not https, so that the token could be read on the way.",
                where=f"HF_ENDPOINT={redact(self.endpoint, token)}",
                fix="Use an https address.",
            )

    @property
    def api(self) -> HfApi:
        """The client of ``huggingface_hub``; without a token of ours it uses none at all."""
        from huggingface_hub import HfApi

        return HfApi(
            endpoint=self.endpoint,
            token=self.token.reveal() if self.token else False,
            library_name="odin-slm",
        )

    def ask(self, what: str, request: Callable[[HfApi], T], *, patient: bool = False, attempts: int = ATTEMPTS) -> T:
        """Make a request that may be repeated, as often as it takes.

        Args:
            what: What the request does, for messages: "read anna/odin".
            request: Makes it.
            patient: Whether refusals are tried again too. Right after a write that went through they are hiccups.
            attempts: How often it is tried.

        Raises:
            HubError: The Hub refuses, or still fails after ``attempts``.
        """
        for attempt in range(1, attempts + 1):
            try:
                return request(self.api)
            except HubError:
                raise
            except Exception as error:
                if not is_remote(error):
                    raise
                wait = wait_of(error, attempt)
                if attempt == attempts or wait > LONGEST_WAIT or not (patient or is_transient(error)):
                    raise self.explain(what, error, attempt) from None
                logger.warning("%s: %s; trying again in %.0f s.", what, self.reason(error), wait)
                self.wait(wait)
        raise AssertionError("unreachable")

    def wait(self, seconds: float) -> None:
        """Wait."""
        self._pause(seconds)

    def explain(self, what: str, error: BaseException, attempts: int = 1) -> HubError:
        """Return what a user needs to know about a failed request."""
        status = status_of(error)
        if status is None and not is_transient(error):
            fix = "See the message; run the command again when it is mended."
        else:
            fix = _FIXES.get(status or 0, _NETWORK_FIX).format(endpoint=self.endpoint)
        tried = f" after {attempts} attempts" if attempts > 1 else ""
        kind = HubUnreachableError if status is None and is_transient(error) else HubError
        return kind(f"{self.reason(error)}{tried}.", where=what, fix=fix)

    def reason(self, error: BaseException) -> str:
        """Return the Hub's own words, or the network's, in a line and without secrets."""
        status = status_of(error)
        response = _response(error)
        if status is not None and response is None:
            return f"the Hub's storage answers {status}"
        if status is not None:
            message = str(response.headers.get("X-Error-Message") or getattr(error, "server_message", None) or "")
            words = redact(" ".join(message.split())[:300], self.token).rstrip(".")
            return f"the Hub answers {status}" + (f" ({words})" if words else "")
        if is_transient(error):
            return f"no answer from {self.endpoint} ({type(_root(error)).__name__})"
        return redact(" ".join(str(error).split())[:300], self.token).rstrip(".")


def is_remote(error: BaseException) -> bool:
    """Whether a failure is one of the Hub, the network or its client, and no defect of this program."""
    import httpx
    from huggingface_hub.errors import HfHubHTTPError

    kinds = (HfHubHTTPError, httpx.HTTPError, httpx.InvalidURL, ConnectionError, TimeoutError)
    if any(isinstance(cause, kinds) for cause in _causes(error)):
        return True
    # huggingface_hub wraps a failed upload in RuntimeError and refuses a card with ValueError.
    return isinstance(error, RuntimeError | ValueError | OSError) and not isinstance(error, FileNotFoundError)


def is_transient(error: BaseException) -> bool:
    """Whether the same request may well succeed a little later."""
    import httpx
    from huggingface_hub.errors import OfflineModeIsEnabled

    if any(isinstance(cause, OfflineModeIsEnabled) for cause in _causes(error)):
        return False
    status = status_of(error)
    if status is not None:
        return status in _TRANSIENT
    return any(isinstance(c, httpx.TransportError | ConnectionError | TimeoutError) for c in _causes(error))


def status_of(error: BaseException) -> int | None:
    """Return the HTTP status behind a failure, or None where the server did not answer."""
    response = _response(error)
    if response is not None:
        return int(response.status_code)
    # Xet's client, which is no Python, tells it in words.
    status = next((match for cause in _causes(error) if (match := _XET_STATUS.search(str(cause)))), None)
    return int(status[1]) if status else None


def lacks_xet(error: BaseException) -> bool:
    """Whether an upload failed because the Hub has no Xet storage."""
    return status_of(error) == 404 and "/xet-write-token/" in str(error)


def upload_by_lfs() -> None:
    """Let this process upload by LFS from now on, and no longer through Xet."""
    from huggingface_hub import constants

    constants.HF_HUB_DISABLE_XET = True


def wait_of(error: BaseException, attempt: int) -> float:
    """Return the seconds to wait before the next attempt.

    That is what the Hub asks for, by ``Retry-After`` (RFC 9110, section 10.2.3: seconds or a date) or the rate-limit
    header's ``t``, or else 1, 2, 4, … seconds, 16 at most.
    """
    response = _response(error)
    headers = response.headers if response is not None else {}
    asked = headers.get("Retry-After", "")
    if asked.strip().isdigit():
        return float(asked)
    if asked:
        try:
            return max(0.0, email.utils.parsedate_to_datetime(asked).timestamp() - time.time())
        except ValueError:
            pass
    if match := re.search(r"\bt=(\d+)", headers.get("RateLimit", "")):
        return float(match[1])
    return float(2 ** min(attempt - 1, 4))


def _response(error: BaseException) -> Any:
    for cause in _causes(error):
        response = getattr(cause, "response", None)
        if response is not None:
            return response
    return None


def _root(error: BaseException) -> BaseException:
    return list(_causes(error))[-1]


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        yield error
        seen.add(id(error))
        error = error.__cause__ or error.__context__
