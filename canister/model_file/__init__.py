"""What a GGUF file says besides its weights."""
