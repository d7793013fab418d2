"""Install this project, with some of its extras, into the environment of the Python that runs this file.

    .venv/bin/python requirements/install.py pipelines,serve

uv does it where it is, or where pip can bring it: the same pins in a fraction of pip's time. pip does it otherwise. uv
reads nothing of pip's configuration, so that it would not see an index, a folder of wheels, a certificate or a
constraint that pip has been told of on this machine; all of them are handed on. Nothing but pip is needed to run this.
"""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PINS = "requirements/constraints.txt"
PIP = (sys.executable, "-m", "pip", "--disable-pip-version-check")
OLDEST_UV = (0, 8)
"""An older one does not know all variables below, and ignores what it does not know."""

VARIABLES = {
    "index-url": "UV_DEFAULT_INDEX",
    "extra-index-url": "UV_INDEX",
    "find-links": "UV_FIND_LINKS",
    "no-index": "UV_NO_INDEX",
    "trusted-host": "UV_INSECURE_HOST",
    "cert": "SSL_CERT_FILE",
    "client-cert": "SSL_CLIENT_CERT",
    "proxy": "ALL_PROXY",
    "default-timeout": "UV_HTTP_TIMEOUT",
    "timeout": "UV_HTTP_TIMEOUT",
    "retries": "UV_HTTP_RETRIES",
}
"""pip's option -> the variable by which uv takes the same."""


def main(extras: str) -> int:
    """Install by uv, or by pip where uv cannot.

    Args:
        extras: Names of extras, separated by commas.

    Returns:
        The exit status: 0 when everything is installed.
    """
    os.chdir(ROOT)
    wanted = ["-c", PINS, "-e", f".[{extras}]"]
    if uv := find_uv() or bring_uv():
        configured = pip_configuration()
        constraints = [word for file in configured.get("constraint", "").split() for word in ("-c", file)]
        command = [uv, "pip", "install", "--quiet", "--python", sys.executable, *constraints, *wanted]
        if not subprocess.run(command, env=uv_environment(configured), check=False).returncode:
            return 0
        print("uv cannot install this (see above); pip does it instead, which takes longer.", file=sys.stderr)
    else:
        print("There is no uv here, and pip cannot bring it; pip installs, which takes longer.", file=sys.stderr)
    return subprocess.run([*PIP, "install", "--quiet", *wanted], check=False).returncode


def find_uv() -> str | None:
    """Return the command of a uv that is new enough, of this environment or on the path."""
    for found in (shutil.which("uv", path=Path(sys.executable).parent), shutil.which("uv")):
        if found:
            done = subprocess.run([found, "--version"], capture_output=True, text=True, check=False)
            version = re.match(r"uv (\d+)\.(\d+)", done.stdout)
            if version and tuple(map(int, version.groups())) >= OLDEST_UV:
                return found
    return None


def bring_uv() -> str | None:
    """Install uv into this environment; return its command, or None where that fails."""
    command = [*PIP, "install", "--quiet", "--only-binary", "uv", "-c", PINS, "uv"]
    subprocess.run(command, check=False)
    return find_uv()


def pip_configuration() -> dict[str, str]:
    """Return what ``pip install`` has been told on this machine, by files and variables: option -> value."""
    done = subprocess.run([*PIP, "config", "list"], capture_output=True, text=True, check=True)
    told = dict(_entries(done.stdout))
    values: dict[str, str] = {}
    for section in ("global", "install", ":env:"):  # a later one wins
        values |= {name: value for (of, name), value in told.items() if of == section}
    return values


def _entries(listing: str) -> Iterator[tuple[tuple[str, str], str]]:
    """Yield ((section, option), value) of lines like ``global.find-links='wheels'``."""
    for section, option, value in re.findall(r"^(.+?)\.([\w-]+)=('.*'|\".*\")$", listing, re.MULTILINE):
        if text := ast.literal_eval(value).strip():
            yield (section, option), text


def uv_environment(configured: dict[str, str]) -> dict[str, str]:
    """Return the variables for uv; those that are set already stay as they are.

    Args:
        configured: pip's options.
    """
    # pip takes the best version of all places, and so the build of torch for this machine, whichever has it.
    variables = {"UV_INDEX_STRATEGY": "unsafe-best-match"}
    for option, value in configured.items():
        if option in VARIABLES:
            variables[VARIABLES[option]] = ("," if option == "find-links" else " ").join(value.split())
    return {**variables, **os.environ}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
