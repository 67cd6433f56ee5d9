"""Large bytes of a herd, in a folder or in S3: model files and arguments by SHA-256, KV rows of chats as a cache."""
