"""One base for everything that a person can mend, in all packages, and no torch for who catches it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from fastdmt.errors import FastDMTError, told_in
from fastdmt_loaders.errors import DataError, InputError, MachineError

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("kind", [FastDMTError, DataError, MachineError])
def test_one_clause_catches_every_kind(kind):
    with pytest.raises(InputError, match="why"):
        raise kind("why")


def test_catching_needs_no_torch_and_the_loaders_are_whole():
    code = (
        "import sys\n"
        "from fastdmt.errors import FastDMTError, InputError\n"
        "from fastdmt_loaders.errors import DataError\n"
        "assert not {'torch', 'numpy', 'av'} & set(sys.modules)\n"
        "import fastdmt_loaders\n"
        "for name in fastdmt_loaders.__all__: getattr(fastdmt_loaders, name)\n"
        "assert fastdmt_loaders.DataError is DataError and 'torch' in sys.modules\n"
        "try: fastdmt_loaders.nothing\n"
        "except AttributeError: print('whole')\n"
    )
    paths = os.pathsep.join(map(str, (ROOT, ROOT / "kernels", ROOT / "loaders")))
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=os.environ | {"PYTHONPATH": paths}
    )
    assert done.stdout == "whole\n", done.stderr


def test_an_error_of_another_process_is_found_by_its_class():
    class Special(MachineError):
        """Whatever class comes later counts too."""

    trace = "Traceback (most recent call last):\n  File x\n    raise ValueError: no\n"
    for kind in (FastDMTError, DataError, MachineError, Special):
        said = f"{trace}{kind.__module__}.{kind.__name__}: a.jpg: is empty\n"
        assert told_in(said) == "a.jpg: is empty"
    assert told_in(trace + "ValueError: no\n") is None and told_in("") is None
