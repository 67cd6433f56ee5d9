"""Bytes that survive a crash: a canister's files, its tables, and the container of prompt caches. Knows no canister."""
