"""Why a call gave a client no value.

ClientError
  UnknownMethod      no such method; said before anything is sent
  Unreachable        no answer: connection broken, or too slow
    NotConnected     nobody listens there; nothing was sent
  ProtocolError      an answer that no canister gives
  Refused            the method answered `Err`; holds the record
  Rejected           the call failed as a whole and was rolled back
  Stuck              a call brought a conversation no further
"""

from __future__ import annotations

from canister.api.records import ApiError, RunOutputRecord


class ClientError(Exception):
    """Why there is no value. The message is for a person."""


class Stuck(ClientError):
    """A call brought the conversation no further."""


class UnknownMethod(ClientError):
    pass


class Unreachable(ClientError):
    pass


class NotConnected(Unreachable):
    pass


class ProtocolError(ClientError):
    pass


class Refused(ClientError):
    """record: what stood inside `Err`. retry_after_seconds: when the server asked for a pause."""

    def __init__(
        self, record: ApiError | RunOutputRecord, http_status: int, retry_after_seconds: float | None = None
    ) -> None:
        super().__init__(_err_text(record))
        self.record = record
        self.http_status = http_status
        self.retry_after_seconds = retry_after_seconds


class Rejected(ClientError):
    def __init__(
        self,
        reject_code: int,
        error_code: str,
        message: str,
        http_status: int,
        retry_after_seconds: float | None = None,
    ) -> None:
        super().__init__(message)
        self.reject_code = reject_code
        self.error_code = error_code
        self.message = message
        self.http_status = http_status
        self.retry_after_seconds = retry_after_seconds


def _err_text(record: ApiError | RunOutputRecord) -> str:
    if isinstance(record, RunOutputRecord):
        return record.error
    return record.Other if record.Other is not None else f"StatusCode {record.StatusCode}"
