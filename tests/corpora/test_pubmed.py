"""PubMed XML: what a citation's text is, and what a file without citations is told to be."""

from __future__ import annotations

import io
import time
from xml.etree.ElementTree import ParseError

import pytest
from defusedxml import EntitiesForbidden

from odin_slm.corpora.pubmed import citations

DOCTYPE = '<!DOCTYPE PubmedArticleSet PUBLIC "-//NLM//DTD PubMedArticle//EN" "https://dtd.nlm.nih.gov/x.dtd">'


def read(xml: str) -> list[tuple[str | None, str]]:
    return list(citations(io.BytesIO(xml.encode())))


def article(abstract: str, title: str = "Hives.", more: str = "") -> str:
    return (
        f"<PubmedArticle><MedlineCitation><PMID>1</PMID><Article><ArticleTitle>{title}</ArticleTitle>{abstract}</Article>"
        f"{more}</MedlineCitation><PubmedData><ArticleIdList/></PubmedData></PubmedArticle>"
    )


def text(abstract: str, title: str = "Hives.", more: str = "") -> str:
    ((_, found),) = read(f"<PubmedArticleSet>{article(abstract, title, more)}</PubmedArticleSet>")
    return found


def section(content: str, attributes: str = "") -> str:
    return text(f"<Abstract><AbstractText{attributes}>{content}</AbstractText></Abstract>").removeprefix("Hives. ")


@pytest.mark.parametrize("label", ["", " ", "UNLABELLED", "Unlabelled", "UNASSIGNED", "-", "N/A"])
def test_a_placeholder_is_no_label(label: str) -> None:
    assert section("One rash.", f' Label="{label}" NlmCategory="UNASSIGNED"') == "One rash."


def test_labels_stand_before_their_sections() -> None:
    assert section("One rash.", ' Label="AIM AND  SCOPE:"') == "AIM AND SCOPE: One rash."
    assert section("One rash.", ' NlmCategory="METHODS"') == "One rash."
    assert section("Methods: one rash.", ' Label="METHODS"') == "Methods: one rash.", "said once"
    assert section("Methods fail.", ' Label="METHODS"') == "METHODS: Methods fail."
    assert section(" ", ' Label="METHODS"') == "Hives."


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("<b>Final Diagnosis: Hives</b><b>Medication: Quorimab</b>", "Final Diagnosis: Hives Medication: Quorimab"),
        ("<u>hives</u><u>fever</u>", "hives fever"),
        ("<b>Conclusion:</b>Watch <b>Age:</b>16", "Conclusion: Watch Age: 16"),
        ("Worse.<b>Background</b>Quorimab helps.", "Worse. Background Quorimab helps."),
        ("<p>Hives</p><p>Fever</p>", "Hives Fever"),
        ("Hives<list><list-item>fever</list-item><list-item>cough</list-item></list>none", "Hives fever cough none"),
        ("Hives<br/>fever", "Hives fever"),
        ("H<sub>2</sub>O, 10<sup>-3</sup>, <i>m</i>RNA, <b>p</b>H", "H2O, 10-3, mRNA, pH"),
        ("anti-<i>Candida</i>, <i>E</i>. <i>coli</i>, (<b>a</b>)", "anti-Candida, E. coli, (a)"),
        ("<i>in <b>vitro</b></i>", "in vitro"),
        ("Hives <!-- not --> and<?x y?> fever", "Hives and fever"),
        (
            "<AbstractText Label='AIM'>A rash.</AbstractText><AbstractText>No fever.</AbstractText>",
            "AIM: A rash. No fever.",
        ),
        ("a &lt; b &#945;", "a < b α"),
        (
            '<m:math xmlns:m="x"><m:msub> <m:mi>H</m:mi> <m:mn>2</m:mn> </m:msub><m:mfrac><m:mn>1</m:mn><m:mn>2</m:mn>'
            "</m:mfrac><m:annotation>\\frac</m:annotation></m:math> mg",
            "H21/2 mg",
        ),
    ],
)
def test_text_reads_as_it_is_printed(content: str, expected: str) -> None:
    assert section(content) == expected


def test_which_parts_are_the_text() -> None:
    abstract = "<Abstract><AbstractText>One.</AbstractText><CopyrightInformation>(c)</CopyrightInformation></Abstract>"
    other = '<OtherAbstract Language="{}"><AbstractText>Two.</AbstractText></OtherAbstract>'
    assert text(abstract, more=other.format("eng")) == "Hives. One."
    assert text(abstract + "<Abstract>Three.</Abstract>") == "Hives. One. Three."
    assert text("", more=other.format("ger")) == "Hives."
    assert text("", more=other.format("eng")) == "Hives. Two."
    assert text("<VernacularTitle>Nesselsucht.</VernacularTitle>", "[Not Available].") == "Nesselsucht."


def test_citations_of_all_layouts() -> None:
    book = "<PubmedBookArticle><BookDocument><PMID>2</PMID><Book><BookTitle>Skin</BookTitle></Book><Abstract>Rash."
    medline = "<MedlineCitation><PMID>3</PMID><Article><ArticleTitle>Cough.</ArticleTitle></Article></MedlineCitation>"
    assert read(f"<x>{article('')}{book}</Abstract></BookDocument></PubmedBookArticle>{medline}</x>") == [
        *(("1", "Hives."), ("2", "Skin Rash."), ("3", "Cough.")),
    ]
    assert read(medline) == [("3", "Cough.")]
    assert read(f'<set xmlns="urn:x">{article("<Abstract>One.</Abstract>")}</set>') == [("1", "Hives. One.")]
    assert read(medline.replace("<PMID>3</PMID>", "")) == [(None, "Cough.")]


def test_entities_of_html_are_characters_and_others_are_refused() -> None:
    assert read(f"{DOCTYPE}{article('', 'TNF-&alpha;&nbsp;&lt; 2')}") == [("1", "TNF-α < 2")]
    with pytest.raises(ParseError, match="undefined entity"):
        read(f"{DOCTYPE}{article('', '&nonsense;')}")
    with pytest.raises(EntitiesForbidden):
        read(f'<!DOCTYPE x [<!ENTITY a "aaaa">]>{article("", "&a;")}')


@pytest.mark.parametrize(
    ("xml", "reason"),
    [
        ('<article article-type="case-report"><front/></article>', "it is JATS full text"),
        ("<eFetchResult><ERROR>Empty id list</ERROR></eFetchResult>", "a request that failed: Empty id list"),
        (
            "<PubmedArticleSet><DeleteCitation><PMID>1</PMID><PMID>2</PMID></DeleteCitation></PubmedArticleSet>",
            "2 deleted",
        ),
        ("<PubmedArticleSet></PubmedArticleSet>", "it is empty: <PubmedArticleSet>"),
        ("<!DOCTYPE html><html><head><meta charset=utf-8></head></html>", "it is an HTML page"),
        ("<collection><document/></collection>", "it is a BioC collection"),
        ("<notes><note/></notes>", "its root is <notes>"),
    ],
)
def test_a_file_without_citations_is_told_what_it_is(xml: str, reason: str) -> None:
    with pytest.raises(ValueError, match=r"^no PubMed citation in this file; ") as raised:
        read(xml)
    assert reason in str(raised.value)


def test_citations_before_a_cut_are_read() -> None:
    stream = citations(io.BytesIO(f"<PubmedArticleSet>{article('')}<PubmedArt".encode()))
    assert next(stream) == ("1", "Hives.")
    with pytest.raises(ParseError):
        next(stream)


@pytest.mark.parametrize("tag", ["b", "Abstract", 'AbstractText Label="A"', "OtherAbstract", "VernacularTitle"])
def test_deeply_nested_elements_are_read_in_linear_time(tag: str) -> None:
    depth = 80_000 // len(tag)
    name = tag.split()[0]
    begin = time.perf_counter()
    nested = f"{f'<{tag}>' * depth}{f'</{name}>' * depth}"
    assert section(f"{nested}rash").endswith("rash")
    assert text("", "", more=nested) == ""
    assert time.perf_counter() - begin < 10
