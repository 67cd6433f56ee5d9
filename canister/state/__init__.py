"""The committed state of a canister and of the server: one module a table."""
