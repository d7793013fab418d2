"""``kedro corpus``: what annotated files of your own hold, before any run."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from odin_slm.cli.errors import ExplainedGroup

if TYPE_CHECKING:
    from odin_slm.corpora.faults import Faults
    from odin_slm.corpora.own.assembly import Assembled
    from odin_slm.corpora.own.block import OwnCorpus

_SHOWN = 10
"""Places of overlaps and mentions in pieces that are printed; ``--json`` has all."""
_FORMATS = ("brat", "bioc_xml", "bioc_json", "pubtator", "iob", "jsonl", "csv", "parquet", "records")


@click.group(cls=ExplainedGroup)
def corpus() -> None:
    """Look at annotated files of your own."""


@corpus.command()
@click.argument("target")
@click.option("--format", "form", type=click.Choice(_FORMATS), help="How the files in the folder TARGET are written.")
@click.option("--files", multiple=True, help="Names of the files, as train/*.ann; by default those of the format.")
@click.option("--env", "-e", default=None, help="Kedro environment whose own_corpora has TARGET.")
@click.option("--json", "as_json", is_flag=True, help="Write JSON.")
def check(target: str, form: str | None, files: tuple[str, ...], env: str | None, as_json: bool) -> None:
    """Say what TARGET holds, and what would stop a run.

    TARGET is a folder, whose format is named, or a corpus of own_corpora in the environment. The exit status is 1 where
    a run would stop.
    """
    from odin_slm.corpora import own
    from odin_slm.corpora.faults import Faults
    from odin_slm.datasets.own_corpora import RawOwnCorpus

    if form:
        name, root = Path(target).resolve().name, Path.cwd()
        block = _validated({"folder": target, "format": form, "files": files}, "kedro corpus check", "")
    else:
        name, (root, block) = target, _configured(target, env)
    raw = RawOwnCorpus(name, block, root)
    faults = Faults(drop=block.on_fault == "drop")
    found = own.survey(name, block, raw, faults)
    report = {
        **found.report(name, block, faults, raw.digests),
        "signatures": [[*signature, count] for signature, count in sorted(found.signatures.items())],
        "overlaps": found.overlaps,
        "in_pieces": found.pieces,
        "faults": [{"where": one.where, "what": one.what, "fix": one.fix} for one in faults.listed],
        "stops": bool(faults.count) or not found.documents,
    }
    if as_json:
        click.echo(json.dumps(report, ensure_ascii=False, indent=1))
    else:
        click.echo("\n".join(_lines(block, report, faults)))
        if form and found.documents:
            click.echo("\n".join(["", "As a corpus of conf/<env>/globals.yml:", "", *_block(name, block, found)]))
    sys.exit(1 if report["stops"] else 0)


def _configured(name: str, env: str | None) -> tuple[Path, OwnCorpus]:
    """Return the project's folder and the block of an environment's corpus."""
    from odin_slm.config.loader import configuration
    from odin_slm.core.errors import MissingInputError

    project, loader = configuration(env)
    blocks: dict[str, Any] = loader["globals"].get("own_corpora") or {}
    where = f"conf/{env or 'base'}/globals.yml, own_corpora"
    if name not in blocks:
        raise MissingInputError(
            f"there is no corpus {name!r}; there are {', '.join(blocks) or 'none'}.",
            where=where,
            fix="Name one of them, or a folder and its --format.",
        )
    return project, _validated(blocks[name], where, f".{name}")


def _validated(block: Any, where: str, key: str) -> OwnCorpus:
    from pydantic import ValidationError

    from odin_slm.core.errors import WrongParameterError
    from odin_slm.corpora.own.block import OwnCorpus

    try:
        return OwnCorpus.model_validate(block)
    except ValidationError as error:
        first = error.errors()[0]
        place = "".join(f".{part}" for part in first["loc"])
        what = f"{first['msg'].rstrip('.')}."
        raise WrongParameterError(what, where=f"{where}{key}{place}", fix="Mend the value.") from None


def _lines(block: OwnCorpus, report: Mapping[str, Any], faults: Faults) -> Iterator[str]:
    splits = ", ".join(f"{split} {count}" for split, count in report["splits"].items())
    yield f"{report['corpus']}, in {block.format}"
    yield f"  documents   {report['documents']}" + (f" ({splits})" if splits else "")
    yield f"  offsets     {report['offsets']}"
    yield f"  entities    {_counts(report['mentions'])}"
    yield f"  relations   {_counts(report['relations'])}"
    for kind, head, tail, count in report["signatures"]:
        yield f"              {head} {kind} {tail}: {count}"
    yield f"  overlapping {_places(report['overlaps'])}"
    yield f"  in pieces   {_places(report['in_pieces'])}"
    yield f"  respelt     {report['normalised_mentions']}"
    for reason, count in report["dropped"].items():
        yield f"  dropped     {count} {reason}"
    total = faults.count + faults.dropped.total()
    yield f"  faults      {total}"
    for fault in faults.listed:
        yield f"    {fault.where}: {fault.what}"
    if total > len(faults.listed):
        yield f"    and {total - len(faults.listed)} more"
    for fix in dict.fromkeys(fault.fix for fault in faults.listed):
        yield f"  fix         {fix}"
    if report["stops"]:
        yield "A run would stop."


def _counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in counts.items()) or "none"


def _places(places: list[str]) -> str:
    shown = ", ".join(places[:_SHOWN]) + (" …" if len(places) > _SHOWN else "")
    return f"{len(places)}: {shown}" if places else "0"


def _block(name: str, block: OwnCorpus, found: Assembled) -> Iterator[str]:
    """Yield the lines of a configuration that keeps all types, by names that an output can hold."""
    types = _names(m.type for document in found.documents for m in document.mentions)
    named = _names(kind for kind, _, _ in found.signatures)
    kept = sorted(types) if all(name == kind for kind, name in types.items()) else dict(sorted(types.items()))
    yield "own_corpora:"
    yield f"  {json.dumps(name, ensure_ascii=False)}:"
    yield f"    folder: {json.dumps(block.folder, ensure_ascii=False)}"
    yield f"    format: {block.format}"
    if block.files:
        yield f"    files: {json.dumps(list(block.files), ensure_ascii=False)}"
    yield f"    entities: {json.dumps(kept, ensure_ascii=False)}"
    ends: dict[str, tuple[dict[str, None], dict[str, None]]] = {}
    for kind, head, tail in sorted(found.signatures):
        heads, tails = ends.setdefault(kind, ({}, {}))
        heads[types[head]], tails[types[tail]] = None, None
    if ends:
        yield "    relations:"
    for kind, both in ends.items():
        head, tail = (json.dumps(list(names), ensure_ascii=False) for names in both)
        renamed = f"type: {json.dumps(named[kind], ensure_ascii=False)}, " if named[kind] != kind else ""
        yield f"      {json.dumps(kind, ensure_ascii=False)}: {{{renamed}head: {head}, tail: {tail}}}"


def _names(kinds: Iterable[str]) -> dict[str, str]:
    """Return type -> its name as one word, as it stands between brackets in an output; no two have the same."""
    from pydantic import TypeAdapter, ValidationError

    from odin_slm.tasks.extraction.schema import Name

    names: dict[str, str] = {}
    for kind in (given := sorted(set(kinds))):
        try:
            names[kind] = TypeAdapter(Name).validate_python(kind)
        except ValidationError:
            continue
    for kind in (kind for kind in given if kind not in names):
        word = re.sub(r"[^A-Za-z0-9-]+", "_", kind).strip("_-")[:36] or "Type"
        word = word if word[0].isalpha() else f"T_{word}"
        tried = (word, *(f"{word}_{number}" for number in range(2, len(names) + 3)))
        names[kind] = next(name for name in tried if name not in names.values())
    return names
