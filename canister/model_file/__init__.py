"""What a GGUF file says, apart from its weights."""
