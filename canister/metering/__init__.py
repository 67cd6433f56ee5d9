"""What a call costs on the Internet Computer: pure functions."""
