"""`python -m fastdmt`: the same as the `fastdmt` command."""

import sys

from .cli import main

sys.exit(main())
