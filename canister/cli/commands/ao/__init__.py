"""`canister ao`: a network of AO on this machine, and what its programs, wallets and models need."""
