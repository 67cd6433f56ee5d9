"""The OpenAI door: routes of OpenAI's interface, and of the other interfaces that its clients know.

    body → fields → Turn → run (render, a chain of calls) → events → the dialect's objects and streams

`turn.py` and `events.py` are the middle. Each dialect has modules on both sides of it.
"""
