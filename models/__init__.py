"""The shipped tiny chat model: its training text, its network, its training and its check."""
