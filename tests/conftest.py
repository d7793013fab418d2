"""Throw-away projects: the real configuration, tiny data, a tiny random base, and a tracking store of their own."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from hypothesis import settings
from kedro.framework.project import configure_project, pipelines
from kedro.framework.session import KedroSession
from kedro.pipeline import Pipeline

from canary import TOKEN, files_with_token

ROOT = Path(__file__).resolve().parents[1]
REGISTRY = "odin_slm.pipeline_registry"

settings.register_profile("any machine", deadline=None)  # how long an example takes says what else the cores do
settings.load_profile("any machine")

SLOW_FIXTURES = {"empty_store", "tiny_base"}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark as slow whatever makes a model, a tracking store or a run; the other slow tests say so themselves."""
    for item in items:
        if SLOW_FIXTURES.intersection(getattr(item, "fixturenames", ())):
            item.add_marker("slow")


@pytest.fixture(scope="session", autouse=True)
def _configured() -> None:
    configure_project("odin_slm")


@pytest.fixture(scope="session", autouse=True)
def _no_token_is_left_behind(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Nothing that the tests wrote holds the token: no store, log, card, cache or session of theirs."""
    yield
    assert files_with_token(tmp_path_factory.getbasetemp()) == []


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Fail a test whose output, log or exception shows the token."""
    report = yield
    if any(TOKEN in text for text in (report.longreprtext, report.caplog, report.capstdout, report.capstderr)):
        report.outcome = "failed"
        report.longrepr = f"{item.nodeid}, {report.when}: the token stands in its output, log or exception"
        report.sections = []
    return report


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tracking store with tables and nothing in it; making the tables takes seconds, copying the file none."""
    import mlflow

    store = tmp_path_factory.mktemp("store") / "mlflow.db"
    mlflow.MlflowClient(f"sqlite:///{store}").search_experiments()
    return store


@pytest.fixture
def bare_project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, empty_store: Path) -> Path:
    """A project with the real globals and tracking configuration, one JSON entry per name, and no parameters."""
    for file in ("pyproject.toml", "conf/base/globals.yml", "conf/base/mlflow.yml", "conf/test/mlflow.yml"):
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / file, tmp_path / file)
    (tmp_path / "conf/local").mkdir()
    (tmp_path / "conf/base/catalog.yml").write_text(
        '"{name}":\n  type: odin_slm.datasets.json_files.CanonicalJSONDataset\n  filepath: data/{name}.json\n'
    )
    (tmp_path / "conf/base/parameters.yml").write_text("training: {epochs: 1.0, lora: {r: 4}}\n")
    _isolate(tmp_path, monkeypatch, empty_store)
    return tmp_path


@pytest.fixture
def register(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """Make the given pipelines the only registered ones, for one test."""

    def replace(**registered: Pipeline) -> None:
        module = ModuleType("registry_of_this_test")
        module.register_pipelines = lambda: dict(registered)  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, module.__name__, module)
        pipelines.configure(module.__name__)

    yield replace
    pipelines.configure(REGISTRY)


@pytest.fixture(scope="session")
def tiny_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Llama of 2 layers with random weights and a byte-level BPE of 512 entries, saved as a base is."""
    import torch
    from tokenizers import ByteLevelBPETokenizer
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("base") / "tiny"
    bpe = ByteLevelBPETokenizer()
    bpe.train_from_iterator(
        [
            "### Instruction:\nExtract entities: Drug, Symptom. Relations: causes.\n\n### Input:\n",
            "### Output:\n### Entities:\n1. [Drug] aspirin\n\n### Relations:\n1. aspirin --[causes]--> nausea",
        ],
        vocab_size=512,
        special_tokens=["<|endoftext|>", "<|pad|>"],
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bpe._tokenizer, eos_token="<|endoftext|>", pad_token="<|pad|>", model_max_length=1024
    )
    torch.manual_seed(0)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=512,
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=1024,
            tie_word_embeddings=True,
            bos_token_id=None,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    (folder / "README.md").write_text("---\nlicense: apache-2.0\n---\n# A base for tests\n", encoding="utf-8")
    return folder


@pytest.fixture(scope="session")
def talkative_base(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny base with larger random weights: under a grammar it lists several different names of a text."""
    import torch
    from transformers import LlamaForCausalLM

    folder = shutil.copytree(tiny_base, tmp_path_factory.mktemp("base") / "talkative")
    model = LlamaForCausalLM.from_pretrained(folder)
    torch.manual_seed(1)
    for weight in model.parameters():
        if weight.dim() > 1:
            weight.data = torch.randn_like(weight) * 0.18
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def sample_corpora(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twenty documents per corpus by the project's own generator, in the original formats."""
    from odin_slm.corpora.synthetic.sample import make_sample
    from odin_slm.datasets.corpus_files import SampleDataset

    folder = tmp_path_factory.mktemp("corpora") / "sample"
    SampleDataset(filepath=str(folder)).save(make_sample(seed=7, documents_per_corpus=20))
    return folder


@pytest.fixture
def project(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, empty_store: Path, tiny_base: Path, sample_corpora: Path
) -> Path:
    """A project with the whole real configuration, the tiny base in the embedded one's place, and a small sample."""
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    shutil.copytree(ROOT / "conf", tmp_path / "conf", ignore=shutil.ignore_patterns("credentials*"))
    shutil.copytree(sample_corpora, tmp_path / "data/01_raw/sample")
    shutil.copytree(tiny_base, tmp_path / "data/06_models/odin-nano")
    _isolate(tmp_path, monkeypatch, empty_store)
    return tmp_path


@pytest.fixture
def run(project: Path) -> Callable[..., dict[str, Any]]:
    """Run pipelines of the throw-away project in the environment ``test``."""
    return runner_in(project, env="test")


def runner_in(project: Path, env: str | None = None) -> Callable[..., dict[str, Any]]:
    """Return ``run(*pipelines, params=…, **options of KedroSession.run)`` for a project."""

    def run(*names: str, params: dict[str, Any] | None = None, **options: Any) -> dict[str, Any]:
        with KedroSession.create(project_path=project, env=env, runtime_params=params or {}) as session:
            return session.run(pipeline_names=list(names) or None, **options)

    return run


def _isolate(project: Path, monkeypatch: pytest.MonkeyPatch, empty_store: Path) -> None:
    shutil.copy(empty_store, project / "mlflow.db")
    monkeypatch.setenv("ODIN_SLM_HOME", str(project))
    monkeypatch.delenv("KEDRO_ENV", raising=False)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(project)
