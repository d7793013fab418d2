"""``python -m odin_slm`` is ``kedro run``."""

from __future__ import annotations

import sys
from typing import Any

from kedro.framework.project import configure_project


def main(*args: Any, **kwargs: Any) -> Any:
    """Run pipelines with the options of ``kedro run``."""
    configure_project("odin_slm")
    from odin_slm.cli.run import run

    return run(*args, **kwargs)


if __name__ == "__main__":
    sys.exit(main())
