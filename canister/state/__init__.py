"""The committed state of a canister and of the server, a module a table."""
