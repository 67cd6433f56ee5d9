"""`python -m scripts.upload FILE`: put a file into a canister, with the flags of the original project's script.

The same as `canister upload`; see `--help`.
"""

from __future__ import annotations

import sys

from canister.cli import main

if __name__ == "__main__":
    main(["upload", *sys.argv[1:]])
