"""llama.cpp's own routes, for clients of llama-server."""
