"""Ways in. Each turns requests into calls for dispatch, and replies into answers."""
