"""Receipts of calls: a record a call, a tree over all records, and the certificate that holds the tree's head.

Pure functions and records, no I/O: whoever has a receipt checks it with these, and with no server.
"""
