"""Processes that this node runs itself: a token, a herder with its queue, and workers. They speak like any other."""
