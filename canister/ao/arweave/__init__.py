"""Arweave's base layer, without I/O: data in chunks with proofs below one root, and the transactions that sign it."""
