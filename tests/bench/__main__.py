"""`make bench`: all benchmarks of this folder, one after the other; docs/benchmarks.md tells what they mean."""

from __future__ import annotations

from tests.bench import calls, candid, ic_door, meter

if __name__ == "__main__":
    for name, bench in (("calls", calls), ("candid", candid), ("ic_door", ic_door), ("meter", meter)):
        print(f"\n== tests.bench.{name}")
        bench.main()
