"""Fills the reference pages from the code and the configuration, while MkDocs builds the site.

A page says where a part goes by a line of its own, ``<!-- generate: NAME -->``; NAME is a key of :data:`PARTS`. Nothing
generated is kept, so nothing can fall behind. A part that cannot be made ends the build.
"""

from __future__ import annotations

import ast
import importlib.util
import inspect
import logging
import re
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import click
    from kedro.pipeline import Pipeline
    from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[1]
SOURCES = ROOT / "src" / "odin_slm"
BASE_MODEL = "data/06_models/odin-nano"
_MARKER = re.compile(r"^<!-- generate: ([a-z_]+) -->$", re.MULTILINE)


def on_page_markdown(markdown: str, page: Page, **_: Any) -> str:
    """Replace the markers of a page; MkDocs calls this for each of them."""

    def part(match: re.Match[str]) -> str:
        if match[1] not in PARTS:
            raise ValueError(f"{page.file.src_uri}: there is no part {match[1]!r}; there are {', '.join(PARTS)}.")
        return PARTS[match[1]]().strip()

    return _MARKER.sub(part, markdown)


# Parts


def parameters() -> str:
    """Every parameter: type and limits, meaning, the value in base, and where an environment sets another."""
    pages = []
    for group, model in sorted(_parameter_models().items()):
        base = _flat({group: _configured("base")["parameters"].get(group)})
        others = {env: _flat({group: _configured(env)["parameters"].get(group)}) for env in _environments()}
        rows = []
        for key, field in _fields(model, group):
            known = key in base
            elsewhere = [
                f"{env}: {_code(values[key])}" for env, values in others.items() if _differs(key, values, base)
            ]
            rows.append(
                [
                    f"`{key}`",
                    _type(field),
                    _prose(field.description or ""),
                    _code(base[key] if known else _default(field)),
                    "<br>".join(elsewhere),
                ]
            )
        header = ["parameter", "type", "meaning", "base", "elsewhere"]
        pages.append(f"## {group}\n\n{_first_sentence(model)}\n\n{_table(header, rows)}")
    return "\n\n".join(pages)


def own_corpora() -> str:
    """Every key of a corpus by configuration."""
    from odin_slm.corpora.own.block import OwnCorpus, OwnRelation, Split

    rows = [
        [f"`{key}`", _type(field), _prose(field.description or ""), _code(_default(field))]
        for model, prefix in ((OwnCorpus, ""), (OwnRelation, "relations.NAME."), (Split, "split."))
        for key, field in ((f"{prefix}{key[1:]}", field) for key, field in _fields(model, ""))
    ]
    return _table(["key", "type", "meaning", "default"], rows)


def environments() -> str:
    """Every environment: its own words, and what it changes."""
    pages = []
    base = _flat(_configured("base")["parameters"]) | _globals("base")
    for env in _environments():
        files = sorted((ROOT / "conf" / env).glob("*.yml"), key=lambda file: (file.name != "globals.yml", file.name))
        said = next((_opening_comment(file) for file in files), "")
        own = _flat(_configured(env)["parameters"]) | _globals(env)
        changed = [
            [f"`{key}`", _code(base[key]) if key in base else "–", _code(value)]
            for key, value in own.items()
            if (key not in base or base[key] != value) and not key.endswith(".experiment")
        ]
        table = _table(["changed", "in base", "here"], changed) if changed else "It changes no parameter."
        pages.append(f"## {env}\n\n{_comment(said)}\n\n{table}")
    return "\n\n".join(pages)


def catalog() -> str:
    """Every entry of the catalog, by file: class, place, layer, and the nodes that write and read it."""
    pages = []
    entries = _configured("base")["catalog"]
    written, read = _users()
    for file in sorted((ROOT / "conf/base").glob("catalog_*.yml")):
        rows = []
        for name, comment in _entries(file):
            entry = entries[name]
            layer = ((entry.get("metadata") or {}).get("kedro-viz") or {}).get("layer", "")
            entry = entry.get("dataset") or entry  # what one that may be absent is otherwise
            pattern = re.compile(re.escape(name).replace(r"\{corpus\}", r"\w+"))
            writers = sorted(
                {node for dataset, nodes in written.items() if pattern.fullmatch(dataset) for node in nodes}
            )
            readers = sorted({node for dataset, nodes in read.items() if pattern.fullmatch(dataset) for node in nodes})
            kind = str(entry["type"]).rsplit(".", 1)[-1]
            place = next((v for k in ("filepath", "path", "source") if isinstance(v := entry.get(k), str)), "")
            place = place.replace("/demo/", "/<experiment>/")
            place = place.removeprefix(f"{ROOT.as_posix()}/")
            words = [_prose(comment)] if comment else []
            words += [f"`{place}`"] if place else []
            rows.append([f"`{name}`<br>{kind}", layer, "<br>".join(words), _nodes(writers), _nodes(readers)])
        header = ["entry, class", "layer", "place", "written by", "read by"]
        title = file.stem.removeprefix("catalog_")
        pages.append(f"## {title}\n\n{_comment(_opening_comment(file))}\n\n{_table(header, rows)}")
    return "\n\n".join(pages)


def dataset_classes() -> str:
    """The catalog's own classes; the first sentence of each says what no class of a library does."""
    entries = _configured("base")["catalog"].values()
    kinds = {one["type"] for entry in entries for one in (entry, entry.get("dataset") or entry)}
    rows = []
    for kind in sorted(kind for kind in kinds if kind.startswith("odin_slm.")):
        module, _, name = kind.rpartition(".")
        rows.append([f"`{name}`", _first_sentence(getattr(importlib.import_module(module), name))])
    return _table(["class", ""], rows)


def pipelines() -> str:
    """Every pipeline that can be run by name, with its nodes."""
    pages = []
    for name, pipeline in _pipelines().items():
        if name in ("__default__", "data"):
            continue
        rows = []
        for node in pipeline.nodes:
            inputs = [f"`{dataset}`" for dataset in node.inputs]
            outputs = [f"`{dataset}`" for dataset in node.outputs]
            rows.append([f"`{node.name}`", _first_sentence(node.func), "<br>".join(inputs), "<br>".join(outputs)])
        said = _factory_docstring(name)
        tags = sorted({tag for node in pipeline.nodes for tag in node.tags} - {name})
        tagged = f" Tags: {', '.join(f'`{tag}`' for tag in tags)}." if tags else ""
        pages.append(f"## {name}\n\n{said}{tagged}\n\n{_table(['node', 'what it does', 'reads', 'writes'], rows)}")
    return "\n\n".join(pages)


def command_line() -> str:
    """The help of every command, as the command prints it."""
    from odin_slm.cli import cli
    from odin_slm.serving.__main__ import main as serving

    parts = [_help(command, f"kedro {name}") for name, command in sorted(cli.commands.items())]
    parts.append(_help(serving, "python -m odin_slm.serving"))
    return "\n\n".join(text for part in parts for text in part)


def make_targets() -> str:
    """The targets of the Makefile."""
    found = re.findall(r"^([a-z-]+):.*## (.*)", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    return _table(["command", ""], [[f"`make {name}`", said] for name, said in found])


def serving_settings() -> str:
    """The options of the service."""
    from odin_slm.serving.settings import ServingSettings

    rows = []
    for name, field in ServingSettings.model_fields.items():
        default = "" if field.default in (None, "") else f"`{field.default}`"
        rows.append([f"`--{name.replace('_', '-')}`", default, _prose(field.description or "")])
    return _table(["option", "default", "meaning"], rows)


def http_api() -> str:
    """Endpoints and fields, from the OpenAPI document of the service."""
    document = _openapi()
    pages = []
    for path, item in document["paths"].items():
        for method, operation in item.items():
            answers = []
            for status, answer in operation["responses"].items():
                answers.append([f"`{status}`", _prose(answer["description"]), _body(answer)])
            asked = _body(operation.get("requestBody", {}))
            body = f"The body is a {asked}.\n\n" if asked else ""
            pages.append(
                f"### {method.upper()} {path}\n\n{operation.get('description', operation.get('summary', ''))}\n\n{body}"
                f"{_table(['status', '', 'body'], answers)}"
            )
    pages.append("## Bodies")
    for name, schema in sorted(document["components"]["schemas"].items()):
        rows = [
            [
                f"`{field}`",
                _json_type(value),
                "" if field in schema.get("required", ()) else _json_default(value),
                _meaning(value),
            ]
            for field, value in schema.get("properties", {}).items()
        ]
        table = _table(["field", "type", "default", "meaning"], rows) if rows else ""
        pages.append(f"### {name}\n\n{schema.get('description', '')}\n\n{table}")
    return "\n\n".join(pages)


def error_words() -> str:
    """The words by which the service names its errors."""
    from odin_slm.serving.middleware import WORDS

    return _table(["status", "`error`"], [[f"{status}", f"`{word}`"] for status, word in WORDS.items()])


def metrics() -> str:
    """What Prometheus can scrape."""
    from dataclasses import replace

    from odin_slm.serving.observability import Metrics

    scored = {metric.name: 0.0 for metric in _served_model().task.headline}
    registry = Metrics(replace(_served_model(), metrics=scored), 1).registry
    rows = []
    for family in registry.collect():
        if family.name.startswith("odin_"):
            labels = registry._names_to_collectors[family.name]._labelnames  # type: ignore[attr-defined]
            name = f"{family.name}_total" if family.type == "counter" else family.name
            rows.append([f"`{name}`", family.type, ", ".join(f"`{label}`" for label in labels), family.documentation])
    return _table(["metric", "kind", "labels", "meaning"], rows)


def errors() -> str:
    """The errors that a user can mend."""
    from odin_slm.core import errors as module

    found = [
        value for value in vars(module).values() if isinstance(value, type) and issubclass(value, module.OdinError)
    ]
    return _table(["error", "meaning"], [[f"`{error.__name__}`", _first_sentence(error)] for error in found])


def scoring_rules() -> str:
    """The rules that outputs are scored by, beside the exact one."""
    from odin_slm.tasks.extraction.metrics.rules import RULES

    return _table(["rule", "what it changes"], [[f"`{rule.name}`", _prose(rule.meaning)] for rule in RULES])


def modules() -> str:
    """Every module with the first sentence of its docstring."""
    pages = []
    folders = sorted({file.parent for file in SOURCES.rglob("*.py")})
    for folder in folders:
        rows = []
        for file in sorted(folder.glob("*.py")):
            text = ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or ""
            if text and file.stem != "__init__":
                rows.append([f"`{file.name}`", _sentence(text)])
        if rows:
            about = ast.get_docstring(ast.parse((folder / "__init__.py").read_text(encoding="utf-8"))) or ""
            name = folder.relative_to(SOURCES.parent).as_posix()
            pages.append(f"## {name}/\n\n{_sentence(about)}\n\n{_table(['module', ''], rows)}")
    return "\n\n".join(pages)


def contributing() -> str:
    """CONTRIBUTING.md, with links as the site needs them."""
    return _from_the_root("CONTRIBUTING.md")


def changelog() -> str:
    """CHANGELOG.md, with links as the site needs them."""
    return _from_the_root("CHANGELOG.md")


def readers() -> str:
    """What each reader does with each kind of input, found by giving it one."""
    spec = importlib.util.spec_from_file_location("reader_matrix", ROOT / "tests/reader_matrix.py")
    if spec is None or spec.loader is None:
        raise FileNotFoundError("tests/reader_matrix.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    meaning = _table(["it says", "what happens"], [[word, said] for word, said in module.OUTCOMES.items()])
    return f"{_table(['input', *module.READERS], list(module.matrix()))}\n\n{meaning}"


PARTS: Mapping[str, Callable[[], str]] = {
    part.__name__: part
    for part in (
        parameters,
        own_corpora,
        environments,
        catalog,
        dataset_classes,
        pipelines,
        command_line,
        make_targets,
        serving_settings,
        http_api,
        error_words,
        metrics,
        errors,
        scoring_rules,
        modules,
        contributing,
        changelog,
        readers,
    )
}


# The project


@cache
def _pipelines() -> dict[str, Pipeline]:
    from kedro.framework.project import configure_project, pipelines

    configure_project("odin_slm")
    # What a library says while it is imported is no part of a site, and a warning would end a strict build.
    logging.getLogger("kedro").setLevel(logging.ERROR)
    return dict(pipelines)


@cache
def _configured(env: str) -> dict[str, dict[str, Any]]:
    from kedro.framework.project import settings

    from odin_slm.config.loader import ProjectConfigLoader

    _pipelines()
    loader = ProjectConfigLoader(ROOT / "conf", env, **settings.CONFIG_LOADER_ARGS)
    # All at once: the next loader puts its own globals in the place of these.
    return {kind: dict(loader[kind]) for kind in ("globals", "parameters", "catalog")}


def _environments() -> list[str]:
    from odin_slm.config.loader import environments

    return [env for env in environments(ROOT / "conf") if env not in ("base", "local")]


def _globals(env: str) -> dict[str, Any]:
    return {str(key): value for key, value in _configured(env)["globals"].items()}


@cache
def _parameter_models() -> dict[str, type[Any]]:
    from kedro.validation.type_extractor import TypeExtractor

    found = TypeExtractor(_pipelines()).extract_types_from_pipelines()
    return {name: model for name, model in found.items() if hasattr(model, "model_fields")}


@cache
def _users() -> tuple[dict[str, set[str]], dict[str, set[str]]]:
    written: dict[str, set[str]] = {}
    read: dict[str, set[str]] = {}
    for node in {node for pipeline in _pipelines().values() for node in pipeline.nodes}:
        for dataset in node.outputs:
            written.setdefault(dataset, set()).add(node.name)
        for dataset in node.inputs:
            read.setdefault(dataset, set()).add(node.name)
    return written, read


@cache
def _served_model() -> Any:
    from odin_slm.inference.served_model import resolve_model

    return resolve_model(BASE_MODEL, root=ROOT)


@cache
def _openapi() -> dict[str, Any]:
    from odin_slm.serving.__main__ import build
    from odin_slm.serving.settings import ApiKeys, ServingSettings

    # The description is the same whoever decodes; a server that is never asked needs no weights here.
    settings = ServingSettings(engine="vllm", vllm_url="http://127.0.0.1:8001")
    document: dict[str, Any] = build(settings, ApiKeys(), _served_model()).openapi()
    return document


# Parameters


def _fields(model: type[Any], prefix: str) -> Iterator[tuple[str, Any]]:
    """Yield (dotted key, field), those of nested models below their own key."""
    for name, field in model.model_fields.items():
        key = f"{prefix}.{field.alias or name}"
        if hasattr(field.annotation, "model_fields"):
            yield from _fields(field.annotation, key)
        else:
            yield key, field


def _flat(values: Any, prefix: str = "") -> dict[str, Any]:
    """Return nested values by dotted key; an empty mapping is a value, and so is a list."""
    if not (isinstance(values, Mapping) and (values or not prefix)):
        return {prefix: values}
    found: dict[str, Any] = {}
    for key, value in values.items():
        found |= {f"{prefix}.{key}" if prefix else str(key): value} | (
            _flat(value, f"{prefix}.{key}" if prefix else str(key)) if isinstance(value, Mapping) else {}
        )
    return {key: value for key, value in found.items() if not (isinstance(value, Mapping) and value)}


def _differs(key: str, values: Mapping[str, Any], base: Mapping[str, Any]) -> bool:
    return key in values and values[key] != base.get(key) and not key.endswith(".experiment")


def _type(field: Any) -> str:
    text = str(field.annotation) if not isinstance(field.annotation, type) else field.annotation.__name__
    text = re.sub(r", (?:StringConstraints|AfterValidator)\([^()]*\)", "", text)
    text = re.sub(r"typing\.|\w+(?:\.\w+)+\.(?=\w)|, FieldInfo\(.*?\)|Annotated\[([^,\]]+)[^\]]*\]", r"\1", text)
    text = re.sub(r"Literal\[([^\]]*)\]", lambda match: match[1].replace("'", "").replace(", ", " \\| "), text)
    text = re.sub(r"Optional\[((?:[^\[\]]|\[[^\[\]]*\])*)\]", r"\1 or null", text)
    text = text.replace(" | None", " or null").replace("NoneType", "null").replace(" | ", " or ")
    limits = [_limit(limit) for limit in field.metadata]
    return " ".join(_escaped(part) for part in (text, ", ".join(filter(None, limits))) if part)


def _limit(limit: Any) -> str:
    words = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<"}
    for name, sign in words.items():
        if getattr(limit, name, None) is not None:
            return f"{sign} {getattr(limit, name)}"
    return ""


def _default(field: Any) -> Any:
    return "required" if field.is_required() else field.get_default(call_default_factory=True)


# Configuration files


def _opening_comment(file: Path) -> str:
    lines = []
    for line in file.read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            break
        lines.append(line.removeprefix("#").removeprefix(" "))
    return "\n".join(lines)


def _comment(text: str) -> str:
    """Return a comment as paragraphs; its commands, which are indented, as code."""
    blocks: list[tuple[bool, list[str]]] = []
    for line in text.splitlines():
        command = line.startswith("  ")
        if not line.strip():
            blocks.append((False, []))
        elif blocks and blocks[-1][0] == command and blocks[-1][1]:
            blocks[-1][1].append(line)
        else:
            blocks.append((command, [line]))
    shown = []
    for command, lines in blocks:
        if lines:
            shown.append("\n".join(f"  {line}" for line in lines) if command else _prose("\n".join(lines)))
    return "\n\n".join(shown)


def _entries(file: Path) -> Iterator[tuple[str, str]]:
    """Yield (name, the comment above it) of every entry in a catalog file."""
    comment: list[str] = []
    opening = True
    for line in file.read_text(encoding="utf-8").splitlines():
        if line.startswith("#"):
            comment += [] if opening else [line.lstrip("# ")]
        elif match := re.match(r'"?([\w{}]+)"?:', line):
            if not match[1].startswith("_"):  # a template of entries, which the loader leaves out
                yield match[1], " ".join(comment)
            comment, opening = [], False
        elif not line.strip():
            comment, opening = [], False


# Code


def _factory_docstring(package: str) -> str:
    """Return what ``create_pipeline`` of a package says it returns."""
    tree = ast.parse((SOURCES / "pipelines" / package / "pipeline.py").read_text(encoding="utf-8"))
    factory = next(node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == "create_pipeline")
    text = _sentence(ast.get_docstring(factory) or "").removeprefix("Return ")
    return text[:1].upper() + text[1:]


def _first_sentence(thing: Any) -> str:
    return _sentence(inspect.getdoc(thing) or "")


def _sentence(text: str) -> str:
    paragraph = " ".join(text.split("\n\n", 1)[0].split())
    return _prose(paragraph)


def _help(command: click.Command, name: str) -> Iterator[str]:
    import click

    context = click.Context(command, info_name=name, terminal_width=100, max_content_width=100)
    shown = command.get_help(context)
    yield f"## {name}\n\n```text\n{shown}\n```"
    if isinstance(command, click.Group):
        for sub, found in sorted(command.commands.items()):
            yield from _help(found, f"{name} {sub}")


# OpenAPI


def _body(holder: Mapping[str, Any]) -> str:
    for kind, content in (holder.get("content") or {}).items():
        return _json_type(content["schema"]) if content.get("schema") else f"`{kind}`"
    return ""


def _json_type(schema: Mapping[str, Any]) -> str:
    if "$ref" in schema:
        name = schema["$ref"].rsplit("/", 1)[-1]
        return f"[{name}](#{name.lower()})"
    if "anyOf" in schema:
        return " or ".join(_json_type(part) for part in schema["anyOf"])
    if "enum" in schema or "const" in schema:
        return ", ".join(f"`{value}`" for value in schema.get("enum", [schema.get("const")]))
    if schema.get("type") == "array":
        return f"list of {_json_type(schema.get('items', {}))}"
    if schema.get("type") == "object" and isinstance(schema.get("additionalProperties"), Mapping):
        return f"object of {_json_type(schema['additionalProperties'])}"
    return str(schema.get("type", "any"))


def _json_default(schema: Mapping[str, Any]) -> str:
    return _code(schema["default"]) if "default" in schema else ""


def _meaning(schema: Mapping[str, Any]) -> str:
    texts = [schema.get("description"), *(part.get("description") for part in schema.get("anyOf", ()))]
    return next((_prose(text) for text in texts if text), "")


# Markdown


def _from_the_root(name: str) -> str:
    """Return a page of the repository's root without its title; links into docs/ stay, others become plain text."""
    text = (ROOT / name).read_text(encoding="utf-8")
    text = re.sub(r"\A# .*\n", "", text)
    text = re.sub(r"\]\(docs/([^)]*)\)", r"](\1)", text)
    names = {"CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md"}
    for source, target in names.items():
        text = text.replace(f"]({source}", f"]({target}")
    outside = re.compile(r"\[([^\]]+)\]\((?!https?:|#|[\w./-]+\.md)[^)]*\)")
    return outside.sub(r"\1", text)


def _table(headers: list[str], rows: list[list[str]]) -> str:
    if not rows:
        return ""
    lines = [f"| {' | '.join(headers)} |", f"|{'---|' * len(headers)}"]
    lines += [f"| {' | '.join(cell.replace(chr(10), ' ') for cell in row)} |" for row in rows]
    return "\n".join(lines)


def _code(value: Any) -> str:
    if value is None:
        return "`null`"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    if isinstance(value, list | tuple) and value and all(isinstance(item, Mapping) for item in value):
        return f"{len(value)} entries"
    if isinstance(value, list | tuple):
        return f"`[{', '.join(str(item) for item in value)}]`"
    text = str(value).replace("|", "\\|")
    return f"`{text}`" if text else '`""`'


def _nodes(names: list[str]) -> str:
    return "<br>".join(f"`{name}`" for name in names) or "–"


def _prose(text: str) -> str:
    """Return prose whose angle brackets, bars and double backquotes mean what they mean in plain text."""
    text = re.sub(r":\w+:`~?([^`<]+?)`", lambda match: f"`{match[1].rsplit('.', 1)[-1]}`", text)
    text = text.replace("``", "`")
    parts = re.split(r"(`[^`]*`)", text)
    return "".join(part if part.startswith("`") else _escaped(part) for part in parts).replace("\n", " ")


def _escaped(text: str) -> str:
    return re.sub(r"(?<!\\)\|", r"\\|", text.replace("<", "&lt;")).replace("*", "\\*").replace("_", "\\_")
