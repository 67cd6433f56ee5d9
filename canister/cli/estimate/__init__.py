"""`canister estimate`: the question, the ways to answer it, and what is shown."""
