"""llama.cpp's command-line flags: their table, their values, and what they parse to."""
