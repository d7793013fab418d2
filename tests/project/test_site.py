"""The front door and the site: what a strict build of the site does not see by itself."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
import yaml

from conftest import ROOT
from odin_slm.config.loader import environments
from site_pages import generator

LARGEST_README = 12 * 1024
LARGEST_PICTURE = 150 * 1024


def test_the_readme_is_a_front_door() -> None:
    assert len((ROOT / "README.md").read_bytes()) <= LARGEST_README


def test_pictures_are_small() -> None:
    pictures = list((ROOT / "docs/images").glob("*.png"))
    assert len(pictures) >= 3
    assert not [picture.name for picture in pictures if picture.stat().st_size > LARGEST_PICTURE]


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md", "CHANGELOG.md"])
def test_links_of_the_root_lead_somewhere(name: str) -> None:
    """The site's own links are checked by its build."""
    text = (ROOT / name).read_text(encoding="utf-8")
    targets = re.findall(r"\]\((?!https?:|#)([^)#]+)(?:#([^)]*))?\)", text)
    assert name == "CHANGELOG.md" or targets
    for path, anchor in targets:
        assert (ROOT / path).exists(), path
        if anchor:
            headings = re.findall(r"^#+ (.*)$", (ROOT / path).read_text(encoding="utf-8"), re.MULTILINE)
            assert anchor in {_slug(heading) for heading in headings}, f"{path}#{anchor}"


def _slug(heading: str) -> str:
    return re.sub(r"[\s-]+", "-", re.sub(r"[^\w\s-]", "", heading).strip().lower())


def test_every_generated_part_has_its_place() -> None:
    pages = [page.read_text(encoding="utf-8") for page in (ROOT / "docs").rglob("*.md")]
    used = re.findall(r"^<!-- generate: ([a-z_]+) -->$", "\n".join(pages), re.MULTILINE)
    assert sorted(used) == sorted(generator().PARTS)


def test_an_unknown_part_ends_the_build() -> None:
    class Source:
        src_uri = "page.md"

    class Page:
        file = Source()

    with pytest.raises(ValueError, match=r"page\.md: there is no part 'nothing'"):
        generator().on_page_markdown("<!-- generate: nothing -->", Page())


def test_the_reference_describes_every_parameter() -> None:
    page = generator().parameters()
    assert "| `training.lora.r` | int ≥ 1 | Rank. | `32` |" in page
    assert "v15: `1024`" in page
    rows = [line.split(" | ") for line in page.splitlines() if line.startswith("| `")]
    assert not [row[0] for row in rows if not row[2].strip()], "without a meaning"


def test_the_reference_describes_every_environment_entry_and_pipeline() -> None:
    described = re.findall(r"^## (\S+)$", generator().environments(), re.MULTILINE)
    assert set(described) == set(environments(ROOT / "conf")) - {"base", "local"}
    files = (ROOT / "conf/base").glob("catalog_*.yml")
    entries = {name for file in files for name in yaml.safe_load(file.read_text()) if not name.startswith("_")}
    assert set(re.findall(r"^\| `([\w{}]+)`<br>", generator().catalog(), re.MULTILINE)) == entries
    assert "`data/05_model_input/<experiment>/train.json`" in generator().catalog()
    assert "| `train_adapter` |" in generator().pipelines()


def test_commands_show_their_own_help() -> None:
    page = generator().command_line()
    for command in ("kedro run", "kedro champion promote", "kedro hub check", "python -m odin_slm.serving new-key"):
        assert f"## {command}\n" in page


def test_version_and_citation_agree() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    changes = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert citation["version"] == version
    assert f"## {version} - {citation['date-released']}" in changes


def test_no_page_of_the_site_loads_anything_from_elsewhere() -> None:
    settings = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    assert "font: false" in settings
    loaded = re.findall(r"(?:extra_css|extra_javascript|polyfills): \[([^\]]*)\]", settings)
    assert loaded
    assert not [name for name in loaded if "://" in name]
    assert all(Path(ROOT / "docs" / name).is_file() for names in loaded for name in names.split(", "))
