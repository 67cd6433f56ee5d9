"""Ways in: each turns requests into calls for dispatch, and replies into answers."""
