"""`make bench`: all benchmarks of this folder, one after the other; docs/benchmarks.md tells what they mean."""

from __future__ import annotations

from tests.bench import calls

if __name__ == "__main__":
    calls.main()
