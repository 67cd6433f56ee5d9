"""`canister herd`: one canister on many workers; `serve` is its door, the others look at it and see to its money."""
