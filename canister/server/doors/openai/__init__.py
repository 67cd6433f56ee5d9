"""The OpenAI door: routes of OpenAI's interface, and of those that its clients know beside it.

    body → fields → Turn → run (render, a chain of calls) → events → the dialect's objects and streams

`turn.py` and `events.py` are the middle; on both sides of it is a module a dialect. Failures of all are `errors.py`.
"""
