"""AO, as pure functions and files: signatures, permanent storage, model files, Lua."""
