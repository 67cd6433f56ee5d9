"""A network of AO from outside: files that are published, processes that are spawned and sent messages."""
