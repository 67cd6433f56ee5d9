"""What a herd answers beside the interface of its canisters.

GET  /herd/info     anybody: prices, the last multiplier, how many jobs wait, how many workers there are
POST /herd/quote    anybody: what a job costs
POST /herd/inference            {"prompt" | "messages", "tokens", "fee" | "multiplier"}: an answer that is paid for
GET  /herd/inference            the caller's jobs that are not answered yet; those of all, for controllers; by pages
GET  /herd/inference/{id}       that answer again, or how far it is
POST /herd/inference/{id}/fee   {"fee"}: more is paid for a job that waits, by whoever pays for it or a controller
GET  /herd/balance  callers: what they have, and what is held
GET  /herd/status   controllers: each worker and what it does, the queue by price
POST /herd/drain    controllers: {"worker": "w1"} gets no more jobs
GET  /herd/published   admins: the prompt caches from which every caller's prompts may start, by their heads
POST /herd/publish     admins: {"prompt_cache": "system.cache"} of the caller's own becomes one of them
POST /herd/unpublish   admins: {"head": "…"} is none of them any more
POST /herd/restart  controllers: {"worker": "w1"} is drained, ended, and started again; answered when it is ready
"""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from canister.api.herd_requests import job_of_key
from canister.api.herd_wire import N_HEAD
from canister.api.records import RunOutputRecord
from canister.dispatch import Reply, guard
from canister.errors import BadArgument, CanisterError, Forbidden, NotFound, Trap, Unauthenticated
from canister.herd import fees
from canister.herd.inference import METHOD, ROW, Paid, check_prompt, read_amount
from canister.herd.proxy import Templates
from canister.herd.replies import of_answer, to_reply
from canister.herd.standby import KEPT_SEEN_SECONDS
from canister.ic.principal import ANONYMOUS
from canister.runtime import access
from canister.store.cache_paths import sessions_of

if TYPE_CHECKING:
    from canister.herd.herd import Herd
    from canister.herd.workers import Worker
    from canister.runtime.canister import Canister

MAX_BODY_BYTES = 1024 * 1024


class UnknownWorker(Trap):
    reject_code = 3
    error_code = "unknown_worker"
    http_status = 404


class UnknownJob(Trap):
    reject_code = 3
    error_code = "unknown_job"
    http_status = 404


class HerdDoor:
    """The routes of one herd."""

    def __init__(self, herd: Herd) -> None:
        self._herd = herd
        self._templates = Templates(herd)

    def routes(self) -> list[BaseRoute]:
        return [
            Route("/herd/info", self.info, methods=["GET"]),
            Route("/herd/quote", self.quote, methods=["POST"]),
            Route("/herd/inference", self.infer, methods=["POST"]),
            Route("/herd/inference", self.unanswered, methods=["GET"]),
            Route("/herd/inference/{id}", self.answer, methods=["GET"]),
            Route("/herd/inference/{id}/fee", self.raise_fee, methods=["POST"]),
            Route("/herd/balance", self.balance, methods=["GET"]),
            Route("/herd/status", self.status, methods=["GET"]),
            Route("/herd/drain", self.drain, methods=["POST"]),
            Route("/herd/restart", self.restart, methods=["POST"]),
            Route("/herd/published", self.published, methods=["GET"]),
            Route("/herd/publish", self.publish, methods=["POST"]),
            Route("/herd/unpublish", self.unpublish, methods=["POST"]),
        ]

    async def info(self, request: Request) -> Response:
        """What somebody needs to know who would pay for a job. Fees are in the token's smallest unit."""
        leader, prices = self._herd.leader, self._herd.settings.prices
        return _json(
            {
                "base_fee": str(prices.base),
                "token_fee": str(prices.per_token),
                "last_multiplier": fees.published(leader.last_multiplier),
                "queue_length": leader.n_queued,
                "workers": sum(not worker.is_gone for worker in self._herd.workers.all),
            }
        )

    async def quote(self, request: Request) -> Response:
        """What a job of this prompt costs now, and the least that it may be paid."""
        body = await _body(request)
        prompt, tokens = check_prompt(await self._prompt(request, body), body.get("tokens"))
        with _told_as_trap():
            least, fee = self._herd.inference.quote(prompt, tokens, *read_amount(body))
        return _json({"needed": str(least), "fee": str(fee), "words": fees.words(prompt), "tokens": tokens})

    async def infer(self, request: Request) -> Response:
        """One answer, paid for by its caller. With an Idempotency-Key it can be asked for again, and is paid once."""
        caller = _named(request)
        body = await _body(request)
        prompt, tokens = check_prompt(await self._prompt(request, body), body.get("tokens"))
        canister = self._canister(body)
        key = request.headers.get("idempotency-key")
        id = secrets.token_bytes(32) if key is None else job_of_key(canister.id, caller, f"inference {key}")
        with _told_as_trap():
            reply = await guard.read_argument(canister, ROW, caller, lambda: None)
            if reply.error is not None:
                raise reply.error
            wanted = self._herd.inference.wanted(canister.id, prompt, tokens, *read_amount(body))
            done, paid = await self._herd.inference.run(id, caller, wanted)
            return _answer(id, to_reply(ROW, done), paid.fee, paid.multiplier)

    async def answer(self, request: Request) -> Response:
        """A job of the caller's: its answer, or that it waits."""
        caller = _named(request)
        row = await self._herd.journal.find(_id(request.path_params["id"]))
        if row is None or row.caller != caller or row.method != METHOD:
            raise UnknownJob("there is no such job of this caller")
        if row.answer is None:
            return _json({"id": row.id.hex(), "status": row.state, "fee": str(row.hold)}, 202)
        with _told_as_trap():
            return _answer(row.id, to_reply(ROW, of_answer(row.answer)), row.hold, row.multiplier)

    async def unanswered(self, request: Request) -> Response:
        """Jobs that wait or run, the dearest first; ?limit= and ?after= give a page."""
        caller = _named(request)
        canister = self._canister(dict(request.query_params))
        whose = None if self._is_controller(request) else caller
        limit, after = (request.query_params.get(name) for name in ("limit", "after"))
        with _told_as_trap():
            jobs, following = self._herd.inference.paid(canister.id, whose, limit, after)
        return _json({"jobs": [_told_paid(job) for job in jobs], **following})

    async def raise_fee(self, request: Request) -> Response:
        """Pay more for a job that waits, so that it has its turn earlier. The same fee again changes nothing."""
        caller = _named(request)
        body = await _body(request)
        fee, by = read_amount(body)
        if fee is None or by is not None:
            raise BadArgument('say what is to be paid in all, in smallest units: {"fee": "24"}')
        id = _id(request.path_params["id"])
        with _told_as_trap():
            row = await self._herd.journal.find(id)
            if row is None or row.method != METHOD or (row.caller != caller and not self._is_controller(request)):
                raise UnknownJob("there is no such job of this caller")
            return _json(_told_paid(await self._herd.inference.raise_fee(id, fee)))

    async def balance(self, request: Request) -> Response:
        """What the caller has, in smallest units."""
        found = await self._herd.journal.balance(_named(request))
        return _json({"free": str(found.free), "held": str(found.held)})

    async def _prompt(self, request: Request, body: dict[str, Any]) -> object:
        """The prompt of a body; of messages, the one that the model's chat template makes."""
        messages = body.get("messages")
        if messages is None or "prompt" in body:
            return body.get("prompt")
        return await self._templates.prompt_of(self._canister(body).name, request.state.caller, messages)

    def _canister(self, body: dict[str, Any]) -> Canister:
        name = body.get("canister")
        host = self._herd.host
        return host.default if name is None else host.find(str(name))

    async def status(self, request: Request) -> Response:
        """Each worker, and the queue."""
        self._check_controller(request)
        herd, leader = self._herd, self._herd.leader
        supply = await herd.journal.supply()
        leads = await herd.journal.leader()
        waiting = await herd.journal.doors(time.time_ns() - int(KEPT_SEEN_SECONDS * 1e9))
        return _json(
            {
                "epoch": leader.epoch,
                "leader": None if leads is None else {"holder": leads.holder, "address": leads.address},
                "standing_by": [
                    {"holder": door.holder, "address": door.address}
                    for door in waiting
                    if leads is None or door.address != leads.address
                ],
                "workers": [_told(worker) for worker in herd.workers.all],
                "jobs": {"waiting": leader.n_queued, "running": leader.n_jobs - leader.n_queued},
                "queue": [{"multiplier": multiplier, "jobs": n} for multiplier, n in leader.by_multiplier()],
                "last_multiplier": leader.last_multiplier,
                "money": {"minted": str(supply.minted), "free": str(supply.free), "held": str(supply.held)},
                "control": {one.name: herd.control.rev(one.id) for one in herd.host.canisters},
            }
        )

    async def drain(self, request: Request) -> Response:
        """A worker gets no more jobs; what it runs is finished."""
        self._check_controller(request)
        body = await _body(request)
        id = body.get("worker")
        worker = await self._herd.workers.drain(id) if isinstance(id, str) else None
        return _json(_told(self._known(worker, id)))

    async def restart(self, request: Request) -> Response:
        """A worker leaves in order, and comes back as a new process."""
        self._check_controller(request)
        body = await _body(request)
        id, restarts = body.get("worker"), self._herd.restarts
        with _told_as_trap():
            worker = await restarts.restart(id) if isinstance(id, str) and restarts is not None else None
        return _json(_told(self._known(worker, id)))

    async def published(self, request: Request) -> Response:
        """What is published for the model that is loaded."""
        canister = self._for_admins(request, dict(request.query_params))
        model, publishing = self._herd.model_of(canister.id), self._herd.publishing
        heads = [] if model is None or publishing is None else await publishing.heads(canister.id, model)
        return _json({"published": [head.hex() for head in heads]})

    async def publish(self, request: Request) -> Response:
        """Every caller's prompt that begins as this prompt cache does starts from its rows."""
        body = await _body(request)
        canister, caller = self._for_admins(request, body), request.state.caller
        if self._herd.publishing is None or not isinstance(body.get("prompt_cache"), str):
            raise BadArgument('say which: {"prompt_cache": "NAME"}')
        with _told_as_trap():
            path = canister.clean(f"{sessions_of(caller)}/{body['prompt_cache'].lstrip('/')}")
            found = await self._herd.publishing.publish((canister.id, caller, path))
        return _json({"head": found.head.hex(), "tokens": found.n_tokens})

    async def unpublish(self, request: Request) -> Response:
        body = await _body(request)
        canister, publishing = self._for_admins(request, body), self._herd.publishing
        with _told_as_trap():
            head = _head(body.get("head"))
            if publishing is None or not await publishing.unpublish(canister.id, head):
                raise NotFound(f"no prompt cache with the head {head.hex()} is published; GET /herd/published has all")
        return _json({"head": head.hex()})

    def _for_admins(self, request: Request, named: dict[str, Any]) -> Canister:
        canister = self._canister(named)
        if not access.allows(canister, request.state.caller, "admin_update"):
            raise Forbidden("this is for admins of the canister: send 'Authorization: Bearer <API key>' of one")
        return canister

    def _known(self, worker: Worker | None, asked: object) -> Worker:
        if worker is None:
            known = ", ".join(worker.id for worker in self._herd.workers.all)
            raise UnknownWorker(f"there is no worker {str(asked)[:80]!r}; this herd has: {known or 'none'}")
        return worker

    def _is_controller(self, request: Request) -> bool:
        return all(request.state.caller in canister.controllers for canister in self._herd.host.canisters)

    def _check_controller(self, request: Request) -> None:
        if not self._is_controller(request):
            raise Forbidden(
                "this is for the controllers of the herd: send 'Authorization: Bearer <API key>' of one, such as that "
                "in controller.key of its data folder"
            )


def _told_paid(job: Paid) -> dict[str, object]:
    return {
        "id": job.id.hex(),
        "caller": job.caller,
        "status": "queued" if job.waits else "running",
        "fee": str(job.fee),
        "multiplier": job.multiplier,
    }


def _told(worker: Worker) -> dict[str, object]:
    state = worker.state
    return {
        "id": worker.id,
        "generation": worker.ref.generation,
        "phase": worker.phase,
        "url": worker.ref.url,
        "pid": worker.ref.pid,
        "version": None if state is None else state.version,
        "jobs": [
            {"id": job.id.hex(), "caller": job.caller, "method": job.method.name, "tries": job.tries}
            for job in worker.jobs
        ],
        "answers": worker.n_answers,
        "done": worker.n_done,
        "call_seconds": round(worker.call_seconds, 3),
        "canisters": []
        if state is None
        else [
            {
                "name": one.name,
                "rev": one.rev,
                "model": None if one.model is None else one.model.sha256.hex(),
                "exact": None if one.model is None else one.model.exact,
                "slots": one.slots,
                "prefill_tps": one.prefill_tps,
                "decode_tps": one.decode_tps,
            }
            for one in state.canisters
        ],
        **({"refusal": worker.refusal} if worker.refusal else {}),
    }


async def _body(request: Request) -> dict[str, Any]:
    data = bytearray()
    async for piece in request.stream():
        data += piece
        if len(data) > MAX_BODY_BYTES:
            raise BadArgument(f"the body has more than {MAX_BODY_BYTES} bytes")
    try:
        content = json.loads(bytes(data))
    except ValueError as error:
        raise BadArgument(f"the body is no JSON: {error}") from None
    if not isinstance(content, dict):
        raise BadArgument(f"the body is a JSON object, not {str(content)[:80]}")
    return content


def _named(request: Request) -> str:
    caller: str = request.state.caller
    if caller == ANONYMOUS:
        raise Unauthenticated("the anonymous caller has no money: send 'Authorization: Bearer <API key>'")
    return caller


def _id(text: str) -> bytes:
    try:
        return bytes.fromhex(text)
    except ValueError:
        raise UnknownJob(f"{text[:80]!r} is no id of a job") from None


def _head(text: object) -> bytes:
    try:
        head = bytes.fromhex(text) if isinstance(text, str) else b""
    except ValueError:
        head = b""
    if len(head) != N_HEAD:
        raise BadArgument(f"head: {str(text)[:80]!r} is not {2 * N_HEAD} hex digits")
    return head


@contextmanager
def _told_as_trap() -> Iterator[None]:
    """Errors of this door have one form, whatever they are."""
    try:
        yield
    except CanisterError as error:
        trap = Trap(str(error))
        trap.http_status, trap.error_code = error.http_status, type(error).__name__
        raise trap from error


def _answer(id: bytes, reply: Reply, fee: int, multiplier: float) -> Response:
    value = reply.value
    assert isinstance(value, RunOutputRecord)
    return _json(
        {
            "id": id.hex(),
            "status": "done",
            "output": value.output,
            "tokens": value.n_tokens_generated,
            "ended": value.generated_eog,
            "fee": str(fee),
            "multiplier": multiplier,
        }
    )


def _json(content: object, status: int = 200) -> Response:
    return Response(json.dumps(content, ensure_ascii=False).encode() + b"\n", status, media_type="application/json")
