"""What a transaction of the journal is to those above, who hand it on and have no SQL."""

from sqlalchemy import Connection

__all__ = ["Connection"]
