"""PubMed citations in XML: title and abstract of each, as running text.

Format: https://dtd.nlm.nih.gov/ncbi/pubmed/doc/out/250101/
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import lru_cache
from html.entities import html5
from typing import IO, Any
from xml.etree.ElementTree import Element, TreeBuilder

_CITATIONS = frozenset({"pubmedarticle", "pubmedbookarticle", "medlinecitation"})
_OTHERS = {
    "article": "JATS full text",
    "pmc-articleset": "JATS full text",
    "collection": "a BioC collection",
    "html": "an HTML page",
    "esearchresult": "a list of PubMed ids",
    "esummaryresult": "summaries without abstracts",
}
"""Root element -> what such a file is."""
_BLOCKS = frozenset(
    """
    abstract abstracttext blockquote boxed-text br break caption dd def-item def-list disp-formula disp-quote
    dispformula div dl dt fig h1 h2 h3 h4 h5 h6 hr label li list list-item mtd mtr ol p paragraph sec section table td
    th title tr ul
    """.split()
)
_RUNS = frozenset("b bold em i italic strong u underline".split())
_SKIPPED = frozenset({"copyrightinformation", "annotation", "annotation-xml"})
_NO_LABELS = frozenset({"unlabelled", "unlabeled", "unassigned", "none", "null", "n/a"})
_NO_TITLES = frozenset({"[not available].", "[not available]", "not available."})

# Marks within text that XML itself cannot hold.
_EDGE, _LABEL, _LABEL_END = "\x01", "\x02", "\x03"
_GLUED = re.compile(
    rf"(?<=[^\W\d_]{{3}}[.:;!?]){_EDGE}+(?=[^\W_])"  # <b>Conclusion:</b>Watch
    rf"|(?<=[a-z]{{3}}){_EDGE}+(?=[A-Z][a-z]{{2}})"  # <b>Conclusion</b>Watch
)


def citations(stream: IO[bytes]) -> Iterator[tuple[str | None, str]]:
    """Iterate over the citations of a file, which is never held as a whole.

    Yields:
        PubMed id, or None where it is missing, and title and abstract, joined by a space as the corpora join them.

    Raises:
        ValueError: There is none; the message says what the file is instead.
        xml.etree.ElementTree.ParseError: It is not well-formed.
        defusedxml.EntitiesForbidden: It defines entities; those of HTML need no definition.
    """
    from defusedxml.ElementTree import DefusedXMLParser, iterparse

    parser = DefusedXMLParser(target=TreeBuilder())
    parser.entity.update({name.removesuffix(";"): text for name, text in html5.items()})
    root: Any = None
    depth = count = 0
    for event, element in iterparse(stream, events=("start", "end"), parser=parser):
        if root is None:
            root = element
            if _name(root.tag) in _OTHERS:
                raise ValueError(f"no PubMed citation in this file; it is {_OTHERS[_name(root.tag)]}")
        if _name(element.tag) not in _CITATIONS:
            continue
        depth += 1 if event == "start" else -1  # a PubmedArticle holds a MedlineCitation
        if event == "end" and not depth:
            count += 1
            yield _citation(element)
            root.clear()  # what has been read is not needed any more, in a file of 30,000 articles
    if not count:
        raise ValueError(f"no PubMed citation in this file; {_instead(root)}")


def running_text(element: Element) -> str:
    """Return the text of an element as it reads: spaces collapsed, blocks and bold runs apart, labels before sections.

    Labels are those of ``AbstractText``; placeholders for a missing one are no text, nor are copyright and the source
    of a formula.
    """
    parts = _GLUED.sub(" ", "".join(_marked(element))).replace(_EDGE, "").split(_LABEL)
    texts = [" ".join(parts[0].split())]
    for part in parts[1:]:
        label, _, content = part.partition(_LABEL_END)
        content = " ".join(content.split())
        if content and not re.match(rf"{re.escape(label)}\s*[:.–—-]", content, re.IGNORECASE):
            content = f"{label}: {content}"
        texts.append(content)
    return " ".join(part for part in texts if part)


def _citation(record: Element) -> tuple[str | None, str]:
    namespace = record.tag[: record.tag.rfind("}") + 1]

    def first(*names: str) -> str:
        """Return the first of these elements that says something."""
        for name in names:
            for element in _outermost(record, namespace + name):
                if (text := running_text(element)) and text.casefold() not in _NO_TITLES:
                    return text
        return ""

    abstracts = _outermost(record, f"{namespace}Abstract")
    text = " ".join(filter(None, (running_text(abstract) for abstract in abstracts)))
    if not text:
        others = _outermost(record, f"{namespace}OtherAbstract")
        english = (running_text(other) for other in others if other.get("Language", "eng") == "eng")
        text = next(filter(None, english), "")
    title = first("ArticleTitle", "VernacularTitle", "BookTitle")
    return first("PMID") or None, f"{title} {text}".strip()


def _outermost(record: Element, tag: str) -> Iterator[Element]:
    """Yield the elements of a name that lie in no other of that name."""
    inner: set[int] = set()
    for element in record.iter(tag):
        if id(element) not in inner:
            inner.update(id(below) for below in element.iter(tag))
            yield element


def _marked(top: Element) -> Iterator[str]:
    """Yield the pieces of an element's text with spaces around blocks, and marks at the edges of runs and labels."""
    yield top.text or ""
    stack = [(top, iter(top), "math" if _name(top.tag) == "math" else "")]
    before = ""  # the run that ends right here
    while stack:
        parent, children, within = stack[-1]
        child = next(children, None)
        if child is None:
            stack.pop()
            name, tail = _name(parent.tag), (parent.tail or "") if stack else ""
            yield " " if name in _BLOCKS else _EDGE if name in _RUNS else ""
            yield tail.strip() if stack and stack[-1][2] else tail
            before = "" if tail else name
            continue
        name = _name(child.tag)
        if name in _SKIPPED:
            yield child.tail or ""
            continue
        yield _opening(child, name, before, _name(parent.tag) == "mfrac" and child is not parent[0])
        within = within or ("math" if name == "math" else "")
        yield (child.text or "").strip() if within else child.text or ""
        before = ""
        stack.append((child, iter(child), within))


def _opening(element: Element, name: str, before: str, is_denominator: bool) -> str:
    """Return what stands between the text before an element and its own."""
    if name == "abstracttext":
        label = " ".join((element.get("Label") or "").split()).rstrip(" :")
        if label.casefold() not in _NO_LABELS and any(letter.isalnum() for letter in label):
            return f" {_LABEL}{label}{_LABEL_END}"
    if name in _BLOCKS or name == "mspace":
        return " "
    if is_denominator:
        return "/"
    # Two bold runs side by side are two: of one word an editor would make one run.
    return " " if name in _RUNS and name == before else _EDGE if name in _RUNS else ""


@lru_cache(maxsize=1024)
def _name(tag: str) -> str:
    """Return the name of an element without its namespace, in small letters."""
    return tag[tag.rfind("}") + 1 :].casefold()


def _instead(root: Element) -> str:
    """Say what a file without citations holds."""
    fault = next((running_text(element) for element in root.iter("ERROR")), "")
    if fault:
        return f"it is the answer to a request that failed: {fault}"
    deleted = sum(1 for element in root.iter("DeleteCitation") for _ in element.iter("PMID"))
    if deleted:
        return f"it names {deleted} deleted citation{'s' if deleted > 1 else ''}"
    return f"it is empty: <{root.tag}>" if not len(root) else f"its root is <{root.tag}>"
