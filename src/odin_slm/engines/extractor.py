"""The loader that models of an older registry name: their folder is laid out as today's."""

from odin_slm.inference.packaged_model import _load_pyfunc

__all__ = ["_load_pyfunc"]
