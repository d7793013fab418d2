"""A packaged model: one folder that goes from texts to entities with offsets and relations, wherever it is copied.

The folder is a staged model release (adapter, tokenizer, card, and under ``base/`` the base where it is not on the
Hub) with ``extraction.json`` beside it, which says how the model is asked. MLflow loads it by :func:`_load_pyfunc`
(https://mlflow.org/docs/latest/python_api/mlflow.pyfunc.html#loader-module-workflows): nothing is pickled.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from odin_slm.engines.base_model import BaseModel, resolve_base_model
from odin_slm.engines.constraint import Grammar
from odin_slm.engines.generation import Generator, generate
from odin_slm.errors import ExtractionError
from odin_slm.prompt import locate, parse, render_prompt

SETTINGS = "extraction.json"
DEFAULTS = {"decoding": "constrained", "max_new_tokens": 512, "batch_size": 32}
"""What a request may set beside ``schema``."""


class Extractor:
    """A base with its adapter, loaded once and asked many times.

    Args:
        base: The base.
        adapter: Folder of the adapter.
        instructions: Schema name -> instruction that the model was trained with.
        schema: The schema of texts for which none is named.
    """

    def __init__(self, base: BaseModel, adapter: Path, instructions: Mapping[str, str], schema: str) -> None:
        self.instructions = dict(instructions)
        self.schema = schema
        self._base, self._adapter = base, adapter
        self._loaded = Generator(base, adapter)

    @classmethod
    def from_folder(cls, folder: Path) -> Extractor:
        """Load a packaged model.

        Raises:
            ExtractionError: The folder is not one.
            BaseModelError: The base cannot be loaded.
            AdapterError: The adapter does not fit it.
        """
        try:
            settings = json.loads((folder / SETTINGS).read_text(encoding="utf-8"))
            base, instructions, schema = settings["base"], settings["instructions"], settings["schema"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ExtractionError(
                f"not a packaged model ({error!r}).", where=str(folder), fix="Register the model again."
            ) from None
        if (folder / "base").is_dir():
            return cls(resolve_base_model("base", root=folder), folder, instructions, schema)
        return cls(BaseModel(base["id"], None, base["revision"]), folder, instructions, schema)

    def extract(
        self,
        texts: Sequence[str],
        *,
        schema: str = "",
        decoding: str = "constrained",
        max_new_tokens: int = 512,
        batch_size: int = 32,
    ) -> list[dict[str, Any]]:
        """Find the entities and relations of texts.

        Args:
            texts: Texts, each no longer than the model's context.
            schema: Name of what to look for, one of :attr:`instructions`; empty for :attr:`schema`.
            decoding: ``constrained``: every entity is a span of its text; or ``free``.
            max_new_tokens: Budget of an output.
            batch_size: Texts that are read together.

        Returns:
            For each text ``entities`` (``type``, ``text``, ``offsets``: begin and end of every occurrence, in
            characters), ``relations`` (``head``, ``type``, ``tail``), and whether the output was ``finished`` within
            the budget.

        Raises:
            ExtractionError: An argument is not what it may be.
            RecordTooLongError: A text leaves no room for an output.
        """
        name = schema or self.schema
        if name not in self.instructions:
            known = ", ".join(sorted(self.instructions))
            raise ExtractionError(f"there is no schema {name!r}.", where="schema", fix=f"Choose one of {known}.")
        if decoding not in ("constrained", "free"):
            raise ExtractionError(f"found {decoding!r}.", where="decoding", fix="Choose constrained or free.")
        if max_new_tokens < 1 or batch_size < 1:
            raise ExtractionError("must be positive.", where="max_new_tokens, batch_size", fix="Name another number.")
        wrong = next((number for number, text in enumerate(texts) if not isinstance(text, str)), None)
        if wrong is not None:
            raise ExtractionError(f"found {texts[wrong]!r}.", where=f"text {wrong}", fix="Every text must be a string.")
        instruction = self.instructions[name]
        outputs = generate(
            self._base,
            self._adapter,
            [render_prompt(instruction, text) for text in texts],
            batch_size=batch_size,
            max_new_tokens=max_new_tokens,
            grammars=[Grammar.of(instruction, text) for text in texts] if decoding == "constrained" else None,
            names=[f"text {number}" for number in range(len(texts))],
            loaded=self._loaded,
        )
        return [_found(text, output) for text, output in zip(texts, outputs, strict=True)]

    def predict(self, model_input: Any, params: Mapping[str, Any] | None = None) -> Any:
        """Answer as MLflow asks.

        Args:
            model_input: Texts: a list, or a table whose first column is ``text``.
            params: Further arguments of :meth:`extract`.

        Returns:
            A table of one row per text: ``entities``, ``relations``, ``finished``.

        Raises:
            ExtractionError: The column is not ``text``, or an argument is not what it may be.
        """
        import pandas

        table = model_input if isinstance(model_input, pandas.DataFrame) else pandas.DataFrame({"text": model_input})
        column = next(iter(table.columns))
        if column not in ("text", 0):  # 0: a plain list, as MLflow makes a table of it
            raise ExtractionError(
                f"the first column is {column!r}.", where="model input", fix="Put the texts into a column `text`."
            )
        return pandas.DataFrame(
            self.extract(table[column].tolist(), **(params or {})), columns=["entities", "relations", "finished"]
        )


def _load_pyfunc(data_path: str) -> Extractor:
    """Load the model for MLflow."""
    return Extractor.from_folder(Path(data_path))


def _found(text: str, output: Any) -> dict[str, Any]:
    extraction = parse(output.text).extraction
    return {
        "entities": [
            {"type": e.type, "text": e.text, "offsets": [list(span) for span in locate(text, e.text)]}
            for e in extraction.entities
        ],
        "relations": [{"head": r.head, "type": r.type, "tail": r.tail} for r in extraction.relations],
        "finished": output.finished,
    }
