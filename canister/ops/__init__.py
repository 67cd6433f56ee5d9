"""A data folder from outside: backed up, examined, mended."""
