"""The module that fills the pages of the site, which is no part of the package."""

from __future__ import annotations

import importlib.util
from functools import cache
from types import ModuleType

from conftest import ROOT


@cache
def generator() -> ModuleType:
    """Return ``docs/generate.py``."""
    spec = importlib.util.spec_from_file_location("site_generator", ROOT / "docs/generate.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
