"""Drafts of the tokens that come next in a chat: from its text, from its caller's other chats, from a small model."""
