"""`python -m canister.herd.launch.child PARENT ARGS…`: become `canister ARGS…`, which ends when its parent does.

The kernel keeps that wish when a process becomes another program. Only Linux can; see `folder.end_orphan`.
"""

from __future__ import annotations

import os
import sys

from canister.system import sandbox


def main() -> None:
    sandbox.end_with_parent(int(sys.argv[1]))
    os.execv(sys.executable, [sys.executable, "-P", "-m", "canister", *sys.argv[2:]])


if __name__ == "__main__":
    main()
