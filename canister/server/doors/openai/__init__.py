"""The OpenAI door: routes of OpenAI's interface, and of those that its clients know beside it."""
