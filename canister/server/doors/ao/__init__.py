"""AO's units and Arweave's gateway under one root: what wallets, AO's clients and its programs' users send requests to.

Credentials of this server count for nothing here: whoever signs a message is its sender, and what is stored is public.
"""
