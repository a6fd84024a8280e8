"""`python -m fastdmt`: the same as the `fastdmt` command."""

import sys

from fastdmt.cli.main import main

sys.exit(main())
