"""The house's rules, as tests: names, catalog, configuration, imports, files, and commands that documents name."""

from __future__ import annotations

import ast
import graphlib
import importlib
import inspect
import json
import os
import pickle
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import packages_distributions
from pathlib import Path
from typing import Any

import pytest
from kedro.framework.project import pipelines, settings
from kedro.io import DataCatalog
from kedro.pipeline import Node, Pipeline
from kedro.validation.parameter_validator import ParameterValidator
from kedro.validation.type_extractor import TypeExtractor

from conftest import ROOT
from odin_slm.cli.run import _read, run
from odin_slm.config import parameters
from odin_slm.config.loader import ProjectConfigLoader, environments

STAGES = ("ingestion", "combination", "training", "evaluation", "publishing")
ENVIRONMENTS = environments(ROOT / "conf")
NODE_NAME = re.compile(r"([a-z0-9_]+\.)?[a-z]+(_[a-z0-9]+)+")
DATASET_NAME = re.compile(r"[a-z0-9]+(_[a-z0-9]+)*")
LARGEST_FILE = 25 * 2**20
MACHINE_PATH = re.compile(r"(?<![\w.:/<{])/(?:home|root|Users|work)/\w")
DOCUMENTS = ("README.md", "CONTRIBUTING.md", *sorted(p.relative_to(ROOT).as_posix() for p in ROOT.glob("docs/**/*.md")))


def loader(env: str | None = None, params: dict[str, Any] | None = None) -> ProjectConfigLoader:
    return ProjectConfigLoader(ROOT / "conf", env, params, **settings.CONFIG_LOADER_ARGS)


def in_git() -> list[Path]:
    """All files that are in git or would go into it."""
    command = ["git", "-C", str(ROOT), "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    try:
        listed = subprocess.run(command, capture_output=True, check=True, text=True).stdout
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("not a git checkout")
    return [path for name in listed.split("\0") if name and (path := ROOT / name).is_file()]


# Registry


def test_the_registry_holds_the_names_that_users_type() -> None:
    named = {"data", "backfill", "comparison", "extraction", "pretraining", "review", "sample", "sweep", "__default__"}
    assert set(pipelines) == {*STAGES, "join_training"} | named


def test_the_default_run_is_the_five_stages() -> None:
    assert set(pipelines["__default__"].nodes) == {node for stage in STAGES for node in pipelines[stage].nodes}
    assert set(pipelines["data"].nodes) == {*pipelines["ingestion"].nodes, *pipelines["combination"].nodes}


def test_what_a_licence_refuses_is_refused_before_training() -> None:
    order = [node.name for node in pipelines["__default__"].nodes]
    assert order.index("settle_license") < order.index("train_adapter")


def test_node_names_say_what_is_done_to_what() -> None:
    names = {node.name for name in pipelines for node in pipelines[name].nodes}
    assert not sorted(name for name in names if not NODE_NAME.fullmatch(name))


def test_every_node_is_tagged_with_its_pipeline() -> None:
    assert not [node.name for stage in STAGES for node in pipelines[stage].nodes if stage not in node.tags]


def test_node_functions_have_a_name_and_a_docstring() -> None:
    functions = {node.func for name in pipelines for node in pipelines[name].nodes}
    assert not [f for f in functions if f.__name__ == "<lambda>" or not f.__doc__]


MOST_INPUTS = 6
IMPURE = re.compile(r"\b(print|mlflow\.\w+|unlink|rmtree|write_text|write_bytes|mkdir|makedirs)\(")
"""Calls that are a hook's or a dataset's."""


def nodes() -> set[Node]:
    return {node for pipeline in pipelines.values() for node in pipeline.nodes}


def test_a_node_takes_few_inputs() -> None:
    assert not sorted(node.name for node in nodes() if len(node.inputs) > MOST_INPUTS)


def test_nodes_leave_reading_writing_and_tracking_to_datasets_and_hooks() -> None:
    files = {Path(inspect.getfile(inspect.unwrap(node.func))) for node in nodes()}
    found = {file.parent.name: IMPURE.findall(file.read_text(encoding="utf-8")) for file in files}
    assert not {name: calls for name, calls in found.items() if calls}


def test_every_node_can_be_handed_to_another_process() -> None:
    for node in nodes():
        assert pickle.loads(pickle.dumps(node)).name == node.name


# Catalog

MEMORY = {
    *("parse_reports", "combined", "cleaned", "checked_adapter", "tuned_adapter", "raw_predictions", "evidence"),
    *("data_reports", "verified_splits", "thresholds", "reference_answers", "prediction_scores"),
    *("released_adapter", "model_evidence", "model_files", "model_draft", "past_experiments", "sweep_plan"),
    *("release_to_export", "release_terms"),
}
"""Handed from node to node. An entry of the type MemoryDataset would be each process' own under ParallelRunner; without
an entry Kedro makes memory that the processes share."""


def test_one_file_is_one_entry() -> None:
    places: dict[str, list[str]] = {}
    for name, entry in loader()["catalog"].items():
        path = (entry.get("dataset") or entry).get("filepath") or entry.get("path")
        if path:
            places.setdefault(path, []).append(name)
    assert not [sorted(names) for names in places.values() if len(names) > 1]


def used_datasets() -> set[str]:
    used = {dataset for name in pipelines for dataset in pipelines[name].datasets()}
    return {name for name in used if not name.startswith("params:")}


@pytest.mark.parametrize("env", [env for env in ENVIRONMENTS if env != "base"])
def test_nothing_falls_back_to_memory_and_nothing_is_unused(env: str) -> None:
    entries = loader(env)["catalog"]
    catalog = DataCatalog.from_config(entries)
    assert {name for name in used_datasets() if name not in catalog} == MEMORY, "in no catalog file"
    explicit = {name for name in entries if "{" not in name}
    assert not sorted(explicit - used_datasets()), "used by no pipeline"


def test_every_parameter_that_a_node_takes_is_configured() -> None:
    taken = {name for pipeline in pipelines.values() for name in pipeline.inputs() if name.startswith("params:")}
    assert not sorted(taken - {f"params:{name}" for name in loader()["parameters"]})


def test_dataset_names_are_nouns_in_snake_case() -> None:
    assert not sorted(name for name in used_datasets() if not DATASET_NAME.fullmatch(name))


def test_every_dataset_has_a_layer_for_kedro_viz() -> None:
    layers = {"raw", "intermediate", "primary", "feature", "model_input", "models", "model_output", "reporting"}
    found = {
        name: (entry.get("metadata") or {}).get("kedro-viz", {}).get("layer")
        for name, entry in loader()["catalog"].items()
    }
    assert not {name: layer for name, layer in found.items() if layer not in layers}


# Configuration


@pytest.mark.parametrize("env", [env for env in ENVIRONMENTS if env != "base"])
def test_the_parameters_of_every_environment_are_valid(env: str) -> None:
    values = loader(env)["parameters"]
    typed = ParameterValidator(dict(pipelines)).validate_raw_params(values)
    assert not sorted(name for name, value in typed.items() if isinstance(value, dict)), "read by no node as a model"


def test_every_group_of_parameters_has_a_model() -> None:
    # Kedro hands a node the plain dict when one of its annotations cannot be resolved, with no more than a warning.
    groups = {name for name, value in loader()["parameters"].items() if isinstance(value, dict)}
    typed = TypeExtractor(dict(pipelines)).extract_types_from_pipelines()
    assert groups <= set(typed)
    assert not [name for name in groups if not issubclass(typed[name], parameters.Parameters)]
    for pipeline in pipelines.values():
        for node in pipeline.nodes:
            taken = {name.removeprefix("params:") for name in node.inputs if name.startswith("params:")}
            found = TypeExtractor({"one": Pipeline([node])}).extract_types_from_pipelines()
            assert taken & groups <= set(found), f"{node.name} gets a dict"


@pytest.mark.parametrize("env", ENVIRONMENTS)
def test_every_configuration_file_opens_with_a_comment(env: str) -> None:
    files = [file for file in (ROOT / "conf" / env).rglob("*.yml") if env != "local"]
    assert not [file.name for file in files if not file.read_text(encoding="utf-8").startswith("#")]


def test_the_process_is_set_up_before_torch_is_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    import odin_slm.settings

    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setenv("GOMP_SPINCOUNT", "7")
    importlib.reload(odin_slm.settings)
    assert os.environ["OMP_WAIT_POLICY"] == "PASSIVE"
    assert os.environ["GOMP_SPINCOUNT"] == "7", "what the user has set stays"
    assert "HF_HUB_OFFLINE" not in os.environ


def test_telemetry_is_off() -> None:
    assert all(os.environ[name] for name in ("DO_NOT_TRACK", "MLFLOW_DISABLE_TELEMETRY", "HF_HUB_DISABLE_TELEMETRY"))
    assert (ROOT / ".telemetry").read_text().strip() == "consent: false"
    assert "kedro_telemetry" not in (ROOT / "pyproject.toml").read_text()


# Imports


def test_the_registry_imports_nothing_heavy() -> None:
    heavy = ("torch", "transformers", "peft", "trl", "unsloth", "datasets", "mlflow", "matplotlib", "plotly", "pandas")
    program = (
        "import sys, odin_slm.pipeline_registry as registry; registry.register_pipelines();"
        f"print([name for name in {heavy} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip().splitlines()[-1] == "[]"


def test_kedro_registry_list_imports_no_model_library() -> None:
    heavy = ("torch", "transformers", "peft", "trl", "datasets")
    program = (
        "import sys, atexit; from kedro.framework.cli.cli import main; sys.argv = ['kedro', 'registry', 'list'];"
        f"atexit.register(lambda: print([name for name in {heavy} if name in sys.modules])); main()"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT)
    assert "__default__" in done.stdout
    assert done.stdout.strip().splitlines()[-1] == "[]"


def test_every_imported_package_is_declared() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    optional = [requirement for extra in project["optional-dependencies"].values() for requirement in extra]
    declared = {_distribution(requirement) for requirement in (*project["dependencies"], *optional)}
    distributions = packages_distributions()
    missing = {}
    for file in sorted((ROOT / "src").rglob("*.py")):
        for module in _imports(file):
            names = {_distribution(name) for name in distributions.get(module, [module])}
            if module not in sys.stdlib_module_names and module != "odin_slm" and not names & declared:
                missing[module] = file.relative_to(ROOT).as_posix()
    assert not missing


LONGEST_FUNCTION = 60
"""Lines, from ``def`` on: what fits on a screen."""


def test_a_function_fits_on_a_screen() -> None:
    found = {
        f"{file.relative_to(ROOT)}: {node.name}": node.end_lineno - node.lineno + 1
        for file in sorted((ROOT / "src").rglob("*.py"))
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.end_lineno is not None
    }
    assert not {name: lines for name, lines in found.items() if lines > LONGEST_FUNCTION}


def _imports(file: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module.split(".")[0]


def _distribution(requirement: str) -> str:
    return re.split(r"[\[<>=!~ ;]", requirement)[0].lower().replace("_", "-")


# Files


def test_no_file_in_git_is_larger_than_25_mb() -> None:
    assert not [path.relative_to(ROOT).as_posix() for path in in_git() if path.stat().st_size > LARGEST_FILE]


def test_no_file_in_git_names_a_path_of_a_machine() -> None:
    found = {}
    for path in in_git():
        if path.is_relative_to(ROOT / "tests"):  # they hold made-up ones, to see that none gets through
            continue
        text = path.read_bytes()
        if b"\0" not in text[:8000] and (match := MACHINE_PATH.search(text.decode("utf-8", "replace"))):
            found[path.relative_to(ROOT).as_posix()] = match[0]
    assert not found


def test_notebooks_hold_no_outputs() -> None:
    for notebook in sorted((ROOT / "notebooks").glob("*.ipynb")):
        cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
        code = [cell for cell in cells if cell["cell_type"] == "code"]
        assert not [cell for cell in code if cell["outputs"] or cell["execution_count"]], notebook.name


# Commands that documents name


def commands() -> list[tuple[str, str]]:
    """Every ``kedro run`` and ``make`` command in the documents' code and in the comments of the configuration."""
    found = []
    for name in DOCUMENTS:
        path = ROOT / name
        text = path.read_text(encoding="utf-8") if path.exists() else ""
        blocks = re.findall(r"^```[^\n]*\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
        lines = [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]
        lines += re.findall(r"^    (.*)", text.replace("\\\n", " "), re.MULTILINE)
        found += [(name, line) for line in (*lines, *re.findall(r"(?<!`)`([^`\n]+)`(?!`)", text))]
    for path in sorted((ROOT / "conf").rglob("*.yml")):
        lines = re.findall(r"^#\s*(.*)", path.read_text(encoding="utf-8"), re.MULTILINE)
        found += [(path.relative_to(ROOT).as_posix(), line) for line in lines]
    pattern = re.compile(r"(?:^|\s{2,}|\$ )((?:kedro run|make)\b.*?)(?:\s{2,}|$)")
    return [(name, match[1]) for name, line in found if (match := pattern.search(line))]


def described(kind: str) -> set[str]:
    """Names of what documents show how to make, by the files in the titles of their blocks."""
    texts = [(ROOT / name).read_text(encoding="utf-8") for name in DOCUMENTS]
    return set(re.findall(rf'^```\w+ title="{kind}/([\w-]+)/', "\n".join(texts), re.MULTILINE))


def test_the_readme_names_commands() -> None:
    assert ("README.md", "make run") in commands()


@pytest.mark.parametrize(("document", "command"), commands())
def test_commands_in_documents_exist(document: str, command: str) -> None:
    words = shlex.split(command, comments=True)
    if words[0] == "make":
        targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
        named = [word for word in words[1:] if "=" not in word]
        assert set(named) <= targets
        arguments = [word.removeprefix("ARGS=") for word in words if word.startswith("ARGS=")]
        words = ["kedro", "run", *shlex.split(arguments[0])] if named == ["run"] and arguments else []
    if words[:2] != ["kedro", "run"]:
        return
    options = run.make_context("run", words[2:]).params
    known = set(options["pipelines"] or ["__default__"]) - described("src/odin_slm/pipelines")
    assert known <= set(pipelines)
    nodes = {node.name for name in known for node in pipelines[name].nodes}
    assert {*options["from_nodes"], *options["to_nodes"], *options["node_names"]} <= nodes
    env = None if options["env"] in described("conf") else options["env"]
    loader(env, _read(options["params"], str(ROOT / "conf"), env))


@pytest.mark.parametrize(
    "name", ["__default__", "data", "training", "evaluation", "publishing", "pretraining", "backfill", "review"]
)
def test_kedro_viz_can_order_the_layers(name: str) -> None:
    """Kedro-Viz draws no layers at all where they form a circle."""
    entries = loader("nano")["catalog"]
    catalog = DataCatalog.from_config(entries)

    def layer(dataset: str) -> str:
        found = catalog.get(dataset)
        return str((found.metadata or {})["kedro-viz"]["layer"]) if found else ""

    edges = {
        (layer(source), layer(target))
        for node in pipelines[name].nodes
        for source in node.inputs
        for target in node.outputs
        if not source.startswith("params:") and layer(source) and layer(target) and layer(source) != layer(target)
    }
    order = graphlib.TopologicalSorter()
    for source, target in edges:
        order.add(target, source)
    order.prepare()  # raises CycleError, which names the circle
