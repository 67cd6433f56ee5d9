"""Checking receipts on this machine: signature and chain, cost, and the tokens by a replay."""
