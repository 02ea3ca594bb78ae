# SPDX-License-Identifier: Apache-2.0
"""A wrong wall clock for a process: the environment that gives it one."""

import functools
import pathlib
import subprocess
import tempfile


@functools.cache
def _library():
    folder = tempfile.TemporaryDirectory(prefix="allezon-clock-")
    path = pathlib.Path(folder.name) / "shifted_clock.so"
    subprocess.run(["c++", "-std=c++20", "-O2", "-shared", "-fPIC", "-o", str(path),
                    str(pathlib.Path(__file__).with_name("shifted_clock.cc"))], check=True)
    return folder, path


def environment(shift_s):
    """So many seconds ahead; below 0: behind. Not for programs with a sanitizer."""
    return {"LD_PRELOAD": str(_library()[1]), "ALLEZON_CLOCK_SHIFT_S": str(int(shift_s))} if shift_s else {}
