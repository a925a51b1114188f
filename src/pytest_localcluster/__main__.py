"""``python -m pytest_localcluster``: clusters without tests, and what the machine can do."""

from __future__ import annotations

import sys

from ._cli import main

if __name__ == "__main__":
    sys.exit(main())
