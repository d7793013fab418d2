"""The token: three ways in, and no way out."""

from __future__ import annotations

import json
import logging
import os
import pickle
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlflow
import pytest

from canary import TOKEN, files_with_token, requests_with_token
from conftest import ROOT
from hub.releases import hub_of, model_files, plan, stage
from hub_server import Fault, HubServer
from odin_slm.cli.errors import explain
from odin_slm.core.errors import HubError, UnknownParameterError
from odin_slm.hub.client import Hub
from odin_slm.hub.credentials import Token, find_token, redact, require_token
from odin_slm.hub.upload import publish

DOCUMENT = ROOT / "docs/how-to/publish.md"
MISPLACED = f"hf_{'misplaced' * 3}"
PUSH = {"push": True, "model_repo": "anna/odin", "dataset_repo": "anna/odin-data", "private": False}


def test_the_three_ways_in_and_their_order(hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert find_token() is None
    with pytest.raises(HubError, match=r"there is no token.*HF_TOKEN.*hf auth login.*credentials\.yml"):
        require_token()
    login = Path(os.environ["HF_TOKEN_PATH"])
    login.parent.mkdir(parents=True)
    login.write_text("hf_login\n")
    assert require_token().reveal() == "hf_login"
    monkeypatch.setenv("HF_TOKEN", " hf_environment\n")
    assert require_token().reveal() == "hf_environment"
    file = tmp_path / "credentials.yml"
    monkeypatch.setenv("MY_TOKEN", "hf_named")
    file.write_text("hub: {token_env: MY_TOKEN}\n")
    assert require_token(file).reveal() == "hf_named"
    (tmp_path / "secret").write_text("hf_filed\n")
    file.write_text(f"hub: {{token_file: {tmp_path / 'secret'}}}\n")
    assert require_token(file).reveal() == "hf_filed"
    file.write_text("hub: {token: hf_written}\n")
    assert require_token(file).reveal() == "hf_written"
    file.write_text("other: {}\n")
    assert require_token(file).reveal() == "hf_environment"


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        ("{token_env: NOT_SET_ANYWHERE}", r"hub\.token_env: the environment variable NOT_SET_ANYWHERE is not set"),
        ("{token_file: /no/such/file}", "the file /no/such/file is not there"),
        ("{token: ''}", "the token is empty"),
        ("{password: x}", "found 'password'; expected token_env"),
        ("plain", "expected one of token_env"),
    ],
)
def test_a_credentials_entry_that_gives_no_token_is_named(
    hub: HubServer, tmp_path: Path, entry: str, expected: str
) -> None:
    file = tmp_path / "credentials.yml"
    file.write_text(f"hub: {entry}\n")
    with pytest.raises(HubError, match=expected):
        find_token(file)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (f"hub: {{token_env: {MISPLACED}}}", r"the environment variable \*\*\* is not set"),
        (f"hub: {{token_file: {MISPLACED}}}", r"the file \*\*\* is not there"),
        (f"hub: {{{MISPLACED}: x}}", r"found '\*\*\*'; expected"),
        (f"hub: {{token: {MISPLACED}", r"credentials\.yml:\d+: it is no YAML"),
        (f"\thub:\n  token: {MISPLACED}", r"credentials\.yml:1: it is no YAML"),
        (MISPLACED, r"credentials\.yml: expected keys with values"),
    ],
)
def test_a_token_in_a_wrong_place_of_the_file_is_not_repeated(
    hub: HubServer, tmp_path: Path, text: str, expected: str
) -> None:
    file = tmp_path / "credentials.yml"
    file.write_text(text)
    with pytest.raises(HubError, match=expected) as refusal:
        find_token(file)
    assert MISPLACED[:12] not in str(explain(refusal.value)) + repr(refusal.value.__cause__)


def test_a_token_shows_itself_to_nobody() -> None:
    token = Token(TOKEN, "HF_TOKEN")
    for shown in (repr(token), str(token), f"{token}", f"{token!r}", str([token]), str(vars(Hub(token=token)))):
        assert TOKEN not in shown
    with pytest.raises(TypeError, match="not pickled"):
        pickle.dumps(token)
    for broken in (f"{TOKEN}\nx", f"{TOKEN} {TOKEN}", f"{TOKEN}é", ""):
        with pytest.raises(HubError) as refusal:
            Token(broken, "HF_TOKEN")
        assert TOKEN not in str(refusal.value)


def test_texts_lose_their_secrets() -> None:
    text = f"Bearer {TOKEN} at https://s3/x?X-Amz-Signature=abc&b=1&sig=99 mine: s3cretS, git https://me:pw@host/x"
    clean = redact(text, Token("s3cretS", "a file"))
    assert clean == "Bearer *** at https://s3/x?X-Amz-Signature=***&b=1&sig=*** mine: ***, git https://***@host/x"
    key = "-----BEGIN PRIVATE KEY-----\nMIIabc\n-----END PRIVATE KEY-----"
    assert redact(f"AKIA{'Q' * 16} ghp_{'x' * 36} {key} end") == "*** *** *** end"


def test_a_token_is_not_sent_in_clear_text() -> None:
    with pytest.raises(HubError, match="is not https"):
        Hub("http://hub.example.org", Token(TOKEN, "HF_TOKEN"))
    Hub("https://hub.example.org", Token(TOKEN, "HF_TOKEN"))


def test_errors_of_every_kind_hold_no_token(
    hub: HubServer, naps: list[float], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)  # below that httpcore writes down what a server says
    folder = stage(tmp_path / "release", model_files())
    for name in (
        "GET whoami-v2",
        "POST create",
        "POST preupload",
        "POST objects/batch",
        "PUT lfs",
        "POST commit",
        "GET cdn",
    ):
        for kind in ("status", "cut"):
            hub.faults = [Fault(lambda r, n=name: r.name == n, kind, 403, {"X-Error-Message": TOKEN}, times=None)]  # type: ignore[misc]
            with pytest.raises(HubError) as refusal:
                publish(plan(folder, repo_id="anna/x"), hub_of(hub, naps.append), lambda folder: {})
            error: BaseException | None = refusal.value
            assert TOKEN not in str(error)
            assert TOKEN.encode() not in pickle.dumps(error)
            while error is not None:
                assert error.__suppress_context__ or error.__context__ is None, "the cause holds the request's headers"
                error = error.__cause__
    assert TOKEN not in caplog.text


def test_a_token_that_any_test_shows_or_leaves_behind_fails_it(tmp_path: Path) -> None:
    """The checks of ``conftest.py``, which run with every test: they can fail."""
    (tmp_path / "test_leaks.py").write_text(
        "import logging\nfrom canary import TOKEN\n"
        "def test_printed(): print(TOKEN)\n"
        "def test_logged(): logging.getLogger('x').warning(TOKEN)\n"
        "def test_raised(): raise ValueError(TOKEN)\n"
        "def test_silent(): pass\n"
        "def test_written(tmp_path): (tmp_path / 'f').write_text(TOKEN)\n"
    )
    paths = os.pathsep.join(str(ROOT / name) for name in ("src", "tests"))
    command = [sys.executable, "-m", "pytest", "-q", "-n0", "-p", "conftest", "-p", "no:cacheprovider", "-rfE"]
    done = subprocess.run(
        [*command, f"--basetemp={tmp_path / 'base'}", "--rootdir", str(tmp_path), str(tmp_path)],
        env={**os.environ, "PYTHONPATH": paths},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
    )
    shutil.rmtree(tmp_path / "base")
    # What two of them printed and logged is still there when they are torn down; the third error is the file.
    assert "3 failed, 2 passed, 3 errors" in done.stdout, done.stdout.replace(TOKEN, "***")
    assert TOKEN not in done.stdout + done.stderr


def test_a_token_among_the_parameters_stops_the_run_before_it_is_tracked(
    project: Path, run: Callable[..., dict[str, Any]]
) -> None:
    with pytest.raises(UnknownParameterError, match=r"--params publishing\.message: .*a Hugging Face token") as refusal:
        run("publishing", params={"publishing": {"message": f"by {TOKEN}"}})
    assert TOKEN not in str(refusal.value)
    assert files_with_token(project) == []


def test_a_whole_run_leaves_the_token_nowhere(hub: HubServer, project: Path, tmp_path: Path) -> None:
    """``kedro run`` to a published release in a process of its own, with everything written down that can be."""
    (project / "src").mkdir()
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "HF_HOME": str(tmp_path / "home")}
    environment |= {"HF_TOKEN": TOKEN, "HF_DEBUG": "1"}
    parameters = [f"publishing.{key}={str(value).lower()}" for key, value in PUSH.items()]
    parameters += ["evaluation.num_samples=6", "evaluation.max_new_tokens=24", "evaluation.bootstrap_resamples=100"]
    command = [sys.executable, "-m", "kedro", "run", "--env", "test", "--params", ",".join(parameters)]
    done = subprocess.run(command, env=environment, cwd=project, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stdout + done.stderr
    publication = json.loads((project / "data/08_reporting/test/publication.json").read_text())
    assert publication["model"]["revision"] == hub.store.get("model", "anna/odin").branches["main"]
    assert publication["model"]["verified"]["prediction_of"]

    client = mlflow.MlflowClient(f"sqlite:///{project}/mlflow.db")
    (tracked,) = client.search_runs([client.get_experiment_by_name("odin-slm-test").experiment_id])
    said = {name: value for name, value in tracked.data.tags.items() if name.startswith("hub_")}
    assert said == {
        f"hub_{kind}_{key}": publication[kind][name]
        for kind in ("model", "dataset")
        for key, name in (("repo", "repo_id"), ("revision", "revision"), ("tag", "tag"))
    }
    assert f"anna/odin at {publication['model']['revision'][:12]}, public, verified" in done.stdout
    documented = re.findall(r"^ {4}((?:model|dataset) (?:release|on the Hub) .*)$", DOCUMENT.read_text(), re.MULTILINE)
    assert len(documented) == 4
    for line in documented:
        shown = re.escape(line.replace("OWNER/NAME", "anna/odin").replace("private", "public"))
        assert re.search(rf"^\s*{shown.replace('COMMIT', '[0-9a-f]{12}')}\s*$", done.stdout, re.MULTILINE), line

    assert TOKEN not in done.stdout + done.stderr
    assert files_with_token(project) == []
    assert files_with_token(tmp_path / "home") == []
    for repository in hub.store.repositories.values():
        for commit in repository.history():
            assert not [name for name, file in commit.files.items() if TOKEN.encode() in file.content]
    assert list(requests_with_token(hub.journal)) == []
    assert [request for request in hub.journal if "authorization" in request.headers]

    read_only = subprocess.run(
        [*command[:4], "--env", "test", "--pipelines", "publishing", "--params", ",".join(parameters[:4])],
        env={**environment, "HF_TOKEN": "hf_" + "rEaD0nLy7k" * 3},
        cwd=project,
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert read_only.returncode == 1
    assert "the token can only read" in read_only.stderr
    assert "Traceback" not in read_only.stderr
