"""Backends: what a machine is found to be good at does not depend on what else it does."""

import os
import subprocess
import sys

from odin_slm.models.backends import multiplies_faster_in_bf16


def test_the_choice_of_precision_is_that_of_an_idle_machine() -> None:
    measure = multiplies_faster_in_bf16.__wrapped__
    expected = measure()
    others = [
        subprocess.Popen([sys.executable, "-c", "while True: pass"], process_group=0)
        for _ in range(2 * len(os.sched_getaffinity(0)))
    ]
    try:
        assert [measure() for _ in range(4)] == [expected] * 4
    finally:
        for other in others:
            other.kill()
            other.wait()
