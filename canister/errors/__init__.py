"""Every error that the package raises on purpose, each with its numbers.

    CanisterError            a reply: the method answered `Err`              record  http
      AccessDenied           the caller may not call this method             401     401
      BadRequest             the arguments do not make sense                 500     400
        ContextExceeded      a prompt that does not fit the context          500     400
      NotSupported           the loaded model is of another kind             500     501
      NotFound               no such file, cache, chat or model              500     404
      Conflict               not in a state in which this can be done        500     409
        CacheChanged         a prompt cache that others have changed         500     409
      TooLarge               over a size limit                               500     413
      Busy                   too many at once; try again                     500     429
      InsufficientBalance    an account of a herd has not that much          500     402
      StorageFull            the disk has no room                            500     507
      StoreDamaged           stable memory fails its checks                  500     500
    Trap                     a reject: the call is rolled back               reject  http
      BadArgument            the argument does not decode                    5       400
      Unauthenticated        credentials that are not known here             4       401
      CanisterNotFound       IC0301                                          3       404
      MethodNotFound         IC0536                                          5       404
      MessageTooLarge        the message is over the ingress limit           4       413
      UnsupportedEncoding    a body that is compressed in another way        4       415
      Forbidden              not for this web page, host name or caller      4       403
      InstructionLimit       IC0522                                          5       429
      OutOfCycles            IC0207                                          2       402
      CallerBusy             IC0201: too much of this caller at once         2       429
      CanisterBusy           IC0201: too much of all callers at once         2       503
      CanisterStopping       IC0509: or the server is shutting down          5       503
        CanisterStopped      IC0508                                          5       503
      NotController          IC0512                                          5       403
      NotBegun               a herd's call that must not run here now        2       409
      CanisterUnavailable    its files cannot be read; others are served     5       503
        JournalUnavailable   the database of a herd does not answer          5       503
        LeadershipLost       another process leads the herd by now           5       503
      Cancelled              the client went away                            4       499
      CallTimeout            IC0202: the call took too long                  2       504
      CanisterTrapped        IC0503: a fault of ours                         5       500

The record status is fixed by the specification and independent of the HTTP status, which is for REST callers only.
Anything else that escapes a handler is a bug: it is rolled back, logged with its stack and answered as CanisterTrapped.
"""

from __future__ import annotations

from typing import Literal


class CanisterError(Exception):
    """A reply of the kind `Err`; the message says what happened, with the value, and what to do."""

    record_status = 500
    http_status = 500


class AccessDenied(CanisterError):
    record_status = 401
    http_status = 401

    def __init__(self, message: str = "Access Denied") -> None:
        super().__init__(message)


class BadRequest(CanisterError):
    http_status = 400


class ContextExceeded(BadRequest):
    """A prompt that leaves no room for an answer. Clients look for these words, which are llama-server's."""

    def __init__(self, n_prompt_tokens: int, n_ctx: int) -> None:
        super().__init__(
            f"request ({n_prompt_tokens} tokens) exceeds the available context size ({n_ctx} tokens), try increasing it"
        )
        self.n_prompt_tokens, self.n_ctx = n_prompt_tokens, n_ctx


class NotSupported(CanisterError):
    """What the loaded model cannot do, and will not do if asked again."""

    http_status = 501


class NotFound(CanisterError):
    http_status = 404


class Conflict(CanisterError):
    http_status = 409


class ModelUnloaded(Conflict):
    """The model was unloaded, or exchanged, while a call used it. The next call finds what is loaded then."""


class CacheChanged(Conflict):
    """A prompt cache that is not as the call before left it."""


class TooLarge(CanisterError):
    http_status = 413


class Busy(CanisterError):
    http_status = 429


class InsufficientBalance(CanisterError):
    http_status = 402


class StorageFull(CanisterError):
    http_status = 507


class StoreDamaged(CanisterError):
    http_status = 500


class Trap(Exception):
    """A reject: the call failed as a whole and every change of it is rolled back.

    charge: what it cost all the same (fees.Charge), set where that is known.
    """

    reject_code = 5
    error_code = "IC0502"
    http_status = 500
    charge: object = None


class BadArgument(Trap):
    error_code = "IC0503"
    http_status = 400


class Unauthenticated(Trap):
    reject_code = 4
    error_code = "unauthenticated"
    http_status = 401


class CanisterNotFound(Trap):
    reject_code = 3
    error_code = "IC0301"
    http_status = 404


class MethodNotFound(Trap):
    error_code = "IC0536"
    http_status = 404


class MessageTooLarge(Trap):
    reject_code = 4
    error_code = "message_too_large"
    http_status = 413


class UnsupportedEncoding(Trap):
    reject_code = 4
    error_code = "unsupported_encoding"
    http_status = 415


class Forbidden(Trap):
    """What the operator has not opened: to other web pages, under other names, or metrics."""

    reject_code = 4
    error_code = "forbidden"
    http_status = 403


class InstructionLimit(Trap):
    """The call would take more instructions than one message may; nothing of it remains but the cycles it cost."""

    error_code = "IC0522"
    http_status = 429

    def __init__(self, canister_id: str, limit: int, more: str = "") -> None:
        super().__init__(
            f"Error from Canister {canister_id}: Canister exceeded the limit of {limit} instructions "
            f"for single message execution.{more}"
        )


class OutOfCycles(Trap):
    """The canister cannot pay for the call."""

    reject_code = 2
    error_code = "IC0207"
    http_status = 402

    def __init__(self, canister_id: str, missing_cycles: int) -> None:
        super().__init__(
            f"Canister {canister_id} is out of cycles: please top up the canister with at least "
            f"{missing_cycles} additional cycles"
        )


class CallerBusy(Trap):
    """Too many calls of one caller are running and waiting; this one was not begun."""

    reject_code = 2
    error_code = "IC0201"
    http_status = 429


class CanisterBusy(Trap):
    """Too many calls of all callers together are running and waiting; this one was not begun."""

    reject_code = 2
    error_code = "IC0201"
    http_status = 503


class CanisterStopping(Trap):
    error_code = "IC0509"
    http_status = 503


class CanisterStopped(CanisterStopping):
    error_code = "IC0508"


class CanisterUnavailable(Trap):
    """The canister's own files keep it from running; the message says what is wrong with them."""

    error_code = "IC0503"
    http_status = 503


class JournalUnavailable(CanisterUnavailable):
    """The herd's database does not answer. What was asked for may have been done all the same: ask again."""


class LeadershipLost(CanisterUnavailable):
    """Another process leads the herd by now, so this one may change nothing."""


NotBegunWhy = Literal["head", "epoch", "rev", "draining", "busy"]


class NotBegun(Trap):
    """A call of a herd that this worker must not run now. It is as if it had never come.

    why: as `api.herd_wire.Conflict` has it. path, head: of a chat that is another here.
    """

    reject_code = 2
    error_code = "not_begun"
    http_status = 409

    def __init__(self, why: NotBegunWhy, message: str, path: str | None = None, head: bytes | None = None) -> None:
        super().__init__(message)
        self.why, self.path, self.head = why, path, head


class NotController(Trap):
    error_code = "IC0512"
    http_status = 403


class Cancelled(Trap):
    reject_code = 4
    error_code = "cancelled"
    http_status = 499


class CallTimeout(Trap):
    """The call was not done in the time that the settings give it; nothing of it remains."""

    reject_code = 2
    error_code = "IC0202"
    http_status = 504

    def __init__(self, canister_id: str, method: str, seconds: float) -> None:
        super().__init__(
            f"{method} on canister {canister_id} was not done within {seconds:g} seconds (--call-timeout), waiting "
            "included; it was cancelled and rolled back. Call again, let one call do less (--n-predict, "
            "set_max_tokens), or raise the limit."
        )


class CanisterTrapped(Trap):
    error_code = "IC0503"
