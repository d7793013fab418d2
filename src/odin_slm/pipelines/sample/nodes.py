"""Node of the sample pipeline."""

from odin_slm.config.parameters import SampleParams
from odin_slm.corpora.synthetic.sample import make_sample


def write_sample(params: SampleParams) -> dict[str, dict[str, str]]:
    """Write the synthetic corpora in the public corpora's formats.

    Returns:
        Folder -> file name -> text.
    """
    return make_sample(params.seed, params.documents_per_corpus)
