"""`python -m scripts.download NAME`: fetch a file from a canister, with the flags of the original project's script.

The same as `canister download`; see `--help`.
"""

from __future__ import annotations

import sys

from canister.cli import main

if __name__ == "__main__":
    main(["download", *sys.argv[1:]])
