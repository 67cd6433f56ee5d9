"""What lives while a server runs: canisters, calls, turns, locks, the loaded model."""
