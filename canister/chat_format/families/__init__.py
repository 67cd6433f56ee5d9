"""The families, a module each."""
