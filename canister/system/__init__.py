"""The machine below: the kernel's confinement, cores and memory, small files, the data folder."""
