"""Hostile Lua 5.3 behind three fences: a state without ways out, a meter, and a child process that can be killed."""
