"""Whose terms bind a release: the sources of its texts and the base of its adapter.

No licence is guessed: text whose terms are not in the table is withheld, a base whose terms are unclear is refused.
This is no legal advice.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from odin_slm.core.document import is_synthetic
from odin_slm.core.errors import ReleaseError
from odin_slm.core.hashing import sha256_text

_LICENSE_IDS = """
    apache-2.0 mit openrail bigscience-openrail-m creativeml-openrail-m bigscience-bloom-rail-1.0 bigcode-openrail-m
    afl-3.0 artistic-2.0 bsl-1.0 bsd bsd-2-clause bsd-3-clause bsd-3-clause-clear c-uda cc cc0-1.0 cc-by-2.0 cc-by-2.5
    cc-by-3.0 cc-by-4.0 cc-by-sa-3.0 cc-by-sa-4.0 cc-by-nc-2.0 cc-by-nc-3.0 cc-by-nc-4.0 cc-by-nd-4.0 cc-by-nc-nd-3.0
    cc-by-nc-nd-4.0 cc-by-nc-sa-2.0 cc-by-nc-sa-3.0 cc-by-nc-sa-4.0 cdla-sharing-1.0 cdla-permissive-1.0
    cdla-permissive-2.0 wtfpl ecl-2.0 epl-1.0 epl-2.0 etalab-2.0 eupl-1.1 eupl-1.2 agpl-3.0 gfdl gpl gpl-2.0 gpl-3.0
    lgpl lgpl-2.1 lgpl-3.0 isc lppl-1.3c ms-pl mpl-2.0 odc-by odbl openrail++ osl-3.0 postgresql ofl-1.1 ncsa unlicense
    zlib pddl lgpl-lr llama2 llama3 llama3.1 llama3.2 llama3.3 llama4 gemma other"""
LICENSES = frozenset(_LICENSE_IDS.split())
"""The licence ids that a card on the Hub may name."""

OPEN_LICENSES = frozenset(
    {"apache-2.0", "mit", "bsd-2-clause", "bsd-3-clause", "isc", "cc0-1.0", "cc-by-4.0", "unlicense", "pddl"}
)
"""Hub licence ids under which a base may be put into a release as it is, with its own card beside it."""


@dataclass(frozen=True)
class SourceTerms:
    """Terms of one source of records.

    Attributes:
        title: Name that people know the corpus by.
        terms: What its publisher says about use, in a few words.
        redistributable: Whether its text may be published again.
        hub_id: Where the Hub holds the original, or ``original`` for text of our own.
        citation: The paper to cite; empty where there is none.
    """

    title: str
    terms: str
    redistributable: bool
    hub_id: str
    citation: str


SOURCES: dict[str, SourceTerms] = {
    "ade": SourceTerms(
        "ADE Corpus V2",
        "free for research; no terms of redistribution given",
        False,
        "ade-benchmark-corpus/ade_corpus_v2",
        "H. Gurulingappa, A. M. Rajput, A. Roberts, J. Fluck, M. Hofmann-Apitius, L. Toldo: Development of a benchmark "
        "corpus to support the automatic extraction of drug-related adverse effects from medical case reports. Journal "
        "of Biomedical Informatics 45(5), 885-892, 2012. https://doi.org/10.1016/j.jbi.2012.04.008",
    ),
    "bc5cdr": SourceTerms(
        "BioCreative V CDR",
        "public domain (United States Government work)",
        True,
        "bigbio/bc5cdr",
        "J. Li, Y. Sun, R. J. Johnson, D. Sciaky, C.-H. Wei, R. Leaman, A. P. Davis, C. J. Mattingly, T. C. Wiegers, "
        "Z. Lu: BioCreative V CDR task corpus: a resource for chemical disease relation extraction. Database 2016, "
        "baw068, 2016. https://doi.org/10.1093/database/baw068",
    ),
    "biored": SourceTerms(
        "BioRED",
        "freely available; no terms of redistribution given",
        False,
        "bigbio/biored",
        "L. Luo, P.-T. Lai, C.-H. Wei, C. N. Arighi, Z. Lu: BioRED: a rich biomedical relation extraction dataset. "
        "Briefings in Bioinformatics 23(5), bbac282, 2022. https://doi.org/10.1093/bib/bbac282",
    ),
    "words": SourceTerms(
        "SCOWL, American English, and the tokens of the base",
        "Copyright 2000-2011 by Kevin Atkinson. Permission to use, copy, modify, distribute and sell these word lists, "
        "the associated scripts, the output created from the scripts, and its documentation for any purpose is hereby "
        "granted without fee, provided that the above copyright notice appears in all copies and that both that "
        "copyright notice and this permission notice appear in supporting documentation. Kevin Atkinson makes no "
        'representations about the suitability of this array for any purpose. It is provided "as is" without express '
        "or implied warranty.",
        True,
        "original",
        "K. Atkinson: SCOWL (Spell Checker Oriented Word Lists). http://wordlist.sourceforge.net",
    ),
    "synthetic": SourceTerms("Synthetic corpus", "Apache-2.0, written by this project", True, "original", ""),
}
_UNKNOWN_SOURCE = SourceTerms("unknown source", "unknown", False, "original", "")


def terms_of(source: str, synthetic_sources: Iterable[str] = ()) -> SourceTerms:
    """Return the terms of a source in one experiment.

    Args:
        source: A record's ``source``.
        synthetic_sources: Sources whose documents the project's own generator wrote here, in the corpus's format.
    """
    terms = SOURCES.get(source) or replace(_UNKNOWN_SOURCE, title=source or _UNKNOWN_SOURCE.title)
    if source in set(synthetic_sources):
        own = SOURCES["synthetic"]
        title = own.title if source == "synthetic" else f"synthetic, in the format of {terms.title}"
        return replace(own, title=title, citation=terms.citation)
    return terms


def publishable_rows(records: Sequence[Mapping[str, Any]], synthetic_sources: Iterable[str]) -> list[dict[str, Any]]:
    """Turn records into the rows of the dataset release.

    Where a source's terms do not allow its text to be published again, ``input`` and ``output`` are None; the
    hashes let whoever has the corpus rebuild the row and verify it.

    Args:
        records: Records of one split.
        synthetic_sources: Sources whose documents the project's own generator wrote.

    Returns:
        One row per record: ``id``, ``source``, ``document_id``, ``instruction``, ``input``, ``output``,
        ``input_sha256``, ``output_sha256``.

    Raises:
        ReleaseError: A record of a source that is called synthetic does not come from the generator.
    """
    synthetic = frozenset(synthetic_sources)
    rows = []
    for record in records:
        source = record["source"]
        if source in synthetic and not any(is_synthetic(part) for part in record["document_id"].split("-")):
            raise ReleaseError(
                f"the manifest calls the source {source} synthetic, but the generator did not write this document.",
                where=f"record {record['id']}",
                fix="Run kedro run --pipelines data again, so that the manifest fits the data.",
            )
        published = terms_of(source, synthetic).redistributable
        rows.append(
            {
                "id": record["id"],
                "source": source,
                "document_id": record["document_id"],
                "instruction": record["instruction"],
                "input": record["input"] if published else None,
                "output": record["output"] if published else None,
                "input_sha256": sha256_text(record["input"]),
                "output_sha256": sha256_text(record["output"]),
            }
        )
    return rows


@dataclass(frozen=True)
class BaseTerms:
    """What the licence of a base model asks of an adapter trained on it.

    Attributes:
        license: Hub licence id that the adapter carries.
        name_prefix: What the adapter's name begins with.
        statement: Sentence that the card shows prominently; empty where none is asked.
        notice: Text of the NOTICE file.
    """

    license: str
    name_prefix: str
    statement: str
    notice: str


def _llama(version: str, name_prefix: str = "Llama", statement: str = "Built with Llama", meta: str = "") -> BaseTerms:
    return BaseTerms(
        f"llama{version}",
        name_prefix,
        statement,
        f"{meta}Llama {version} is licensed under the {meta}Llama {version} Community License, Copyright © Meta "
        "Platforms, Inc. All Rights Reserved.\n",
    )


_LLAMA_VERSIONS: tuple[tuple[re.Pattern[str], BaseTerms], ...] = (
    (re.compile(r"llama[-_]?3[._]3"), _llama("3.3")),
    (re.compile(r"llama[-_]?3[._]2"), _llama("3.2")),
    (re.compile(r"llama[-_]?3[._]1"), _llama("3.1")),
    (re.compile(r"llama[-_]?3(?![\d._]*\d)"), _llama("3", "Llama 3", "Built with Meta Llama 3", "Meta ")),
    (re.compile(r"llama[-_]?4(?!\d)"), _llama("4")),
)
"""Section 1.b of the Llama Community License Agreements, by the version that a base's id names."""

_LLAMA_IN_NAME_ONLY = ("tinyllama/", "openlm-research/open_llama")
"""Bases that carry the name and come from others than Meta, under Apache-2.0."""


def base_terms(base_id: str) -> BaseTerms | None:
    """Return what a base model's licence asks of an adapter, or None where the adapter's licence is free.

    Args:
        base_id: Hub id of the base, ``owner/name``.

    Raises:
        ReleaseError: The id speaks of Llama, but not of a version whose terms are known.
    """
    lowered = base_id.casefold()
    if "llama" not in lowered or lowered.startswith(_LLAMA_IN_NAME_ONLY):
        return None
    for pattern, terms in _LLAMA_VERSIONS:
        if pattern.search(lowered):
            return terms
    raise ReleaseError(
        "the base's name speaks of Llama without a version from 3 to 4, so its licence terms are not known.",
        where=f"base model {base_id}",
        fix="Train on a base whose id names its version, for example meta-llama/Llama-3.1-8B.",
    )


def require_base_terms(base_id: str, *, names: Mapping[str, str], license_id: str) -> BaseTerms | None:
    """Check name and licence of an adapter against its base's licence.

    Args:
        base_id: Hub id of the base.
        names: Configuration key -> the adapter's name there.
        license_id: Hub licence id that the adapter would carry.

    Returns:
        The base's terms, or None where it has none of its own.

    Raises:
        ReleaseError: Names the key to change and the value that would do.
    """
    terms = base_terms(base_id)
    if terms is None:
        return None
    for key, name in names.items():
        own = name.rpartition("/")[2]
        if not re.sub(r"[-_ ]", " ", own).startswith(terms.name_prefix):
            raise ReleaseError(
                f"{own!r} must begin with {terms.name_prefix!r}: the licence of {base_id} asks for it.",
                where=key,
                fix=f"Set {key}={name.removesuffix(own)}{terms.name_prefix.replace(' ', '-')}-{own}.",
            )
    if license_id != terms.license:
        raise ReleaseError(
            f"found {license_id!r}, but an adapter of {base_id} falls under {terms.license!r}.",
            where="publishing.license",
            fix=f"Set publishing.license={terms.license}.",
        )
    return terms


def require_base_license(base_id: str, *, stated: str | None, license_id: str) -> None:
    """Check the licence of an adapter against that of a base whose terms are in no table here.

    Args:
        base_id: Hub id of the base.
        stated: Hub licence id that the base's card states, or that the user has read elsewhere; None: nobody knows.
        license_id: Hub licence id that the adapter would carry.

    Raises:
        ReleaseError: The base's licence is unknown, or it is not an open one and the adapter would carry another.
    """
    if stated is None:
        raise ReleaseError(
            "its licence is not known: neither a card beside it nor the Hub states one.",
            where=f"base model {base_id}",
            fix="Read the licence on its page and set publishing.base_license=ID; if it is not an open one, "
            "publishing.license=ID and publishing.license_file=FILE too.",
        )
    if stated not in OPEN_LICENSES and license_id != stated:
        raise ReleaseError(
            f"found {license_id!r}, but the base {base_id} is under {stated!r}, which has conditions of its own.",
            where="publishing.license",
            fix=f"Read it. If an adapter may be published, set publishing.license={stated}"
            + (", publishing.license_name=NAME" if stated == "other" else "")
            + " and publishing.license_file=FILE with its text.",
        )
