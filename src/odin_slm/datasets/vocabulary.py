"""A corpus' files together with the vocabulary of the base: for tasks about tokens."""

from __future__ import annotations

from typing import Any

from odin_slm.datasets.corpus_files import CorpusFilesDataset, RawCorpus
from odin_slm.datasets.models import BaseModelDataset

VOCABULARY = "vocabulary.txt"


class VocabularyDataset(CorpusFilesDataset):
    """Files as texts, and beside them ``vocabulary.txt``: the text of every token of the base, one a line.

    Args:
        base: Arguments of :class:`~odin_slm.datasets.models.BaseModelDataset`.
        **files: Arguments of :class:`~odin_slm.datasets.corpus_files.CorpusFilesDataset`.
    """

    def __init__(self, *, base: dict[str, Any], **files: Any) -> None:
        super().__init__(**files)
        self._base = BaseModelDataset(**base)

    def load(self) -> RawCorpus:
        """Return file name -> text; files and base are read when a text is first asked for."""
        return RawCorpus(self._folder.name, lambda: {**self.read(), VOCABULARY: self._vocabulary()})

    def _vocabulary(self) -> str:
        """Return what each token decodes to, in the order of ids; tokens with a line break are left out."""
        from odin_slm.models.base_model import load_tokenizer

        tokenizer = load_tokenizer(self._base.load())
        texts = tokenizer.batch_decode([[token] for token in range(len(tokenizer))], skip_special_tokens=True)
        return "".join(f"{text}\n" for text in texts if text and not set(text) & {"\n", "\r", "\ufffd"})
