"""Processes: messages and results, the world that a Lua program of AO lives in, and what runs one in its cage."""
