"""Reading corpora from disk, and writing the sample."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest
import yaml
from kedro.io import DataCatalog, DatasetError, MemoryDataset
from kedro.runner import SequentialRunner

from odin_slm.config.parameters import IngestionParams, SampleParams, TaskParams
from odin_slm.core.errors import CorpusFormatError, MissingInputError, OdinError
from odin_slm.corpora import PARSERS, ade, bc5cdr, biored
from odin_slm.corpora.synthetic.sample import make_sample
from odin_slm.datasets import corpus_files
from odin_slm.datasets.corpus_files import CorpusFilesDataset, SampleDataset
from odin_slm.pipelines.ingestion.nodes import parse_corpus
from odin_slm.pipelines.sample import create_pipeline

CATALOG = Path(__file__).parents[2] / "conf/base/catalog_ingestion.yml"


def refusal(dataset: CorpusFilesDataset) -> tuple[Exception, str]:
    texts = dataset.load()  # nothing is read yet
    with pytest.raises(OdinError) as raised:
        len(texts)
    return raised.value, str(raised.value)


@pytest.fixture(scope="module")
def sample() -> dict[str, dict[str, str]]:
    return make_sample(seed=7, documents_per_corpus=30)


@pytest.fixture
def folder(tmp_path: Path, sample: dict[str, dict[str, str]]) -> Path:
    SampleDataset(filepath=str(tmp_path / "sample")).save(sample)
    return tmp_path / "sample"


def dataset(folder: Path, corpus: str) -> CorpusFilesDataset:
    files = {"ade": [*ade.FILES], "bc5cdr": [*bc5cdr.FILES.values()], "biored": ["BIORED.zip"]}[corpus]
    members = [*biored.BIOC_MEMBERS] if corpus == "biored" else None
    sources = yaml.safe_load(CATALOG.read_text(encoding="utf-8"))[f"{corpus}_raw"]["sources"]
    return CorpusFilesDataset(filepath=str(folder / corpus), files=files, members=members, sources=sources)


@pytest.mark.parametrize("corpus", ["ade", "bc5cdr", "biored"])
def test_what_the_sample_writes_the_corpus_dataset_reads(
    folder: Path, corpus: str, sample: dict[str, dict[str, str]]
) -> None:
    assert dataset(folder, corpus).exists()
    loaded = dataset(folder, corpus).load()
    assert loaded == {name: sample[corpus][name] for name in loaded}
    assert PARSERS[corpus](loaded).documents


def test_all_members_are_read_where_none_is_named(folder: Path, sample: dict[str, dict[str, str]]) -> None:
    loaded = CorpusFilesDataset(filepath=str(folder / "biored"), files=["BIORED.zip"]).load()
    assert loaded == sample["biored"]


def test_a_corpus_that_the_experiment_leaves_out_need_not_be_there(tmp_path: Path) -> None:
    raw = dataset(tmp_path / "nowhere", "biored").load()
    documents, report = parse_corpus(raw, TaskParams(), IngestionParams(corpora=("ade",)))
    assert documents == []
    assert report["skipped"] == "not in ingestion.corpora"
    with pytest.raises(MissingInputError, match=r"BIORED\.zip"):
        parse_corpus(raw, TaskParams(), IngestionParams(corpora=("ade", "biored")))


def test_a_missing_folder_and_a_missing_file_say_what_to_put_there(tmp_path: Path, folder: Path) -> None:
    cause, text = refusal(dataset(tmp_path / "nowhere", "ade"))
    assert isinstance(cause, MissingInputError)
    assert "no such folder; expected it to hold DRUG-AE.rel, DRUG-DOSE.rel, ADE-NEG.txt" in text
    assert "trunghlt/AdverseDrugReaction" in text
    assert "--params corpora=DIR" in text
    (folder / "bc5cdr" / "CDR_TestSet.PubTator.txt").unlink()
    cause, text = refusal(dataset(folder, "bc5cdr"))
    assert isinstance(cause, MissingInputError)
    assert "missing CDR_TestSet.PubTator.txt" in text
    assert "bigbio/bc5cdr" in text
    assert not dataset(folder, "bc5cdr").exists()


def test_bytes_that_are_not_utf8_are_named_with_file_and_line(folder: Path) -> None:
    (folder / "ade" / "DRUG-AE.rel").write_bytes(b"1|fine\n2|na\xefve\n")
    cause, text = refusal(dataset(folder, "ade"))
    assert isinstance(cause, CorpusFormatError)
    assert "DRUG-AE.rel:2: found byte 0xef, which is not UTF-8" in text


def test_a_zip_that_is_broken_incomplete_or_too_large_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = folder / "biored" / "BIORED.zip"
    whole = path.read_bytes()
    for broken in (b"", b"no zip", whole[: len(whole) // 2], whole[:200] + b"\x00" * 40 + whole[240:]):
        path.write_bytes(broken)
        cause, text = refusal(dataset(folder, "biored"))
        assert isinstance(cause, CorpusFormatError)
        assert "no readable zip" in text
    path.write_bytes(whole)
    monkeypatch.setattr(corpus_files, "MAX_MEMBER_BYTES", 100)
    cause, text = refusal(dataset(folder, "biored"))
    assert isinstance(cause, CorpusFormatError)
    assert "member BioRED/Train.BioC.JSON unpacks to more than" in text
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("README", "x")
    cause, text = refusal(dataset(folder, "biored"))
    assert isinstance(cause, MissingInputError)
    assert "no member BioRED/Train.BioC.JSON" in text
    assert "found README" in text


def test_every_flipped_byte_of_a_zip_is_read_or_refused(folder: Path) -> None:
    path = folder / "biored" / "BIORED.zip"
    whole = path.read_bytes()
    causes = []
    for position in range(0, len(whole), max(1, len(whole) // 60)):
        path.write_bytes(whole[:position] + bytes([whole[position] ^ 0xFF]) + whole[position + 1 :])
        try:
            dataset(folder, "biored").read()
        except OdinError as error:
            causes.append(error)
    assert len(causes) > 10
    assert all(isinstance(cause, (CorpusFormatError, MissingInputError)) for cause in causes)


def test_a_corpus_is_never_written_and_the_sample_never_read(folder: Path) -> None:
    with pytest.raises(DatasetError, match="read-only"):
        dataset(folder, "ade").save({})
    with pytest.raises(DatasetError, match="CorpusFilesDataset"):
        SampleDataset(filepath=str(folder)).load()


def test_the_sample_is_byte_identical_and_replaces_an_earlier_one(
    folder: Path, sample: dict[str, dict[str, str]]
) -> None:
    def content() -> dict[str, bytes]:
        return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}

    before = content()
    (folder / "ade" / "leftover.txt").write_text("old")
    SampleDataset(filepath=str(folder)).save(sample)
    assert content() == before
    assert [p.name for p in folder.parent.iterdir()] == [folder.name], "no scratch folder is left"


def test_a_failed_write_leaves_the_earlier_sample(folder: Path, sample: dict[str, dict[str, str]]) -> None:
    before = (folder / "ade" / "DRUG-AE.rel").read_bytes()
    with pytest.raises(DatasetError):
        SampleDataset(filepath=str(folder)).save(sample | {"ade": {"DRUG-AE.rel": "\ud800"}})
    assert (folder / "ade" / "DRUG-AE.rel").read_bytes() == before
    assert [p.name for p in folder.parent.iterdir()] == [folder.name]


def test_the_sample_pipeline_writes_the_folder(tmp_path: Path, sample: dict[str, dict[str, str]]) -> None:
    catalog = DataCatalog(
        {
            "params:sample": MemoryDataset(SampleParams(seed=7, documents_per_corpus=30)),
            "sample_corpora": SampleDataset(filepath=str(tmp_path / "sample")),
        }
    )
    SequentialRunner().run(create_pipeline(), catalog)
    assert (tmp_path / "sample" / "README.md").read_text() == sample["."]["README.md"]
    assert dataset(tmp_path / "sample", "ade").load() == {name: sample["ade"][name] for name in ade.FILES}
