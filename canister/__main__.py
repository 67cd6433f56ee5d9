"""The command: `canister`, and `python -m canister` where that is not on the path."""

from __future__ import annotations

import gc
import sys

INTERRUPTED = 130  # as a shell tells of a command that Ctrl-C ended; canister.cli is not imported yet


def main() -> None:
    """Run the command line and exit; Ctrl-C shows no stack, also while the command is imported."""
    gc.disable()  # modules are no garbage, and looking for some takes a tenth of a call; cli/shared/app.py goes back
    try:
        from canister.server import head_start

        head_start.begin(sys.argv[1:])
        from canister.cli import main as command

        command()
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)


if __name__ == "__main__":
    main()
