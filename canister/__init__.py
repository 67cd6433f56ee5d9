"""A server that behaves as an Internet Computer canister running llama.cpp, at native speed."""
