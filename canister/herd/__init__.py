"""A herd: one canister on many workers, behind one door. docs/herd.md shows how it is set up."""
