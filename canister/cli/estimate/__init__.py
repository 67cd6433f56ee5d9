"""`canister estimate`: what is asked, the ways to answer it, and what is shown."""
