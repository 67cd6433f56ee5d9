"""What wallets sign, without I/O: ANS-104 items and bundles, deep hashes, HTTP messages (RFC 9421)."""
