"""The machine below: what the kernel lets us do, cores and memory, small files, the data folder."""
