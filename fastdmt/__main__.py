"""`python -m fastdmt`: the same as the `fastdmt` command."""

import os
import sys

# `python -m` looks for every module in the current folder first, and that folder may be one that was downloaded.
if not getattr(sys.flags, "safe_path", False) and sys.path and sys.path[0] in ("", os.getcwd()):
    del sys.path[0]

from fastdmt.cli.main import main

sys.exit(main())
