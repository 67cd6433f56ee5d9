"""Models of llama2.c: from `model.bin` and `tokenizer.bin` to GGUF, and back."""
