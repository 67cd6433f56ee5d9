"""KV rows: where those of a conversation are, and which can be used again."""
