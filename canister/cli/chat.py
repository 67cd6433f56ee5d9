"""`canister chat`: hold a conversation with a canister, by default with one that lives only as long.

The answer goes to stdout, everything else to stderr, so that `canister chat "…"` can stand in a pipe.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import signal
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from canister.cli.options import LOCAL, Anonymous, ApiKey, CanisterName, Connection, DataDir, connection
from canister.config import DEFAULT_CANISTER

if TYPE_CHECKING:
    from canister.cli.conversation import Conversation, Step
    from canister.client import Canister

MODEL_NAME = "models/model.gguf"
TOKENS_PER_CALL = 16  # on our own server; few, so that one sees an answer come out of several calls
LARGE_MODEL_CONTEXT_TOKENS = 4096  # a model of the user's may have room for more than this machine has memory


def chat(
    question: Annotated[
        str | None, typer.Argument(help="Ask this once. Without it: a conversation.", show_default=False)
    ] = None,
    url: Annotated[
        str | None,
        typer.Option(
            "--url",
            "--network",
            "-n",
            metavar="local|URL",
            help="A running server, whose canister has a model with ChatML turns loaded. "
            "Without it a server is started for this conversation.",
            show_default=False,
        ),
    ] = None,
    canister: CanisterName = DEFAULT_CANISTER,
    model: Annotated[
        Path | None,
        typer.Option(
            "-m",
            "--model",
            metavar="FILE",
            help="GGUF for the server that is started. [default: the shipped model]",
            show_default=False,
        ),
    ] = None,
    system: Annotated[str, typer.Option(metavar="TEXT", help="System prompt.", show_default=False)] = "",
    temp: Annotated[
        float, typer.Option(min=0.0, metavar="T", help="Temperature; 0 always takes the likeliest token.")
    ] = 0.0,
    max_tokens: Annotated[int, typer.Option(min=2, metavar="N", help="Longest answer.")] = 512,
    calls: Annotated[bool, typer.Option("--calls", help="Show every call.")] = False,
    api_key: ApiKey = None,
    anonymous: Anonymous = False,
    data_dir: DataDir = None,
) -> None:
    """Chat with a model, through run_update calls that each do a bounded piece of work.

    In a conversation /new begins another one, /calls shows or hides the calls, /quit or Ctrl-D leaves, and
    Ctrl-C stops an answer.
    """
    from canister.client import Canister

    if url is not None and model is not None:
        raise typer.BadParameter("-m is for a server that is started here; a running one has load_model")
    if question is None and not sys.stdin.isatty():
        question = sys.stdin.read()
    if question is not None and not question.strip():
        raise typer.BadParameter("the question is empty")

    _leave_in_order_when_told_to()
    how = Manner(system, temp, max_tokens, calls)
    with asyncio.Runner() as runner, ExitStack() as stack:
        if url is None:
            file = _model_file(model)
            server = stack.enter_context(_own_server(canister, how))
            session = Session(runner, Canister(server.url, canister, server.api_key), how)
            stack.callback(session.close)
            session.load(file, 0 if model is None else LARGE_MODEL_CONTEXT_TOKENS)
        else:
            server = connection(url or LOCAL, api_key, anonymous, data_dir)
            session = Session(runner, Canister(server.url, canister, server.api_key), how)
            stack.callback(session.close)
        if question is None:
            session.talk()
        else:
            session.ask(question.strip())


@dataclass(slots=True)
class Manner:
    """How a person wants the conversation."""

    system: str
    temperature: float
    answer_tokens: int
    show_calls: bool


class Session:
    """A person at a terminal, or a pipe, and the conversation that they are in."""

    def __init__(self, runner: asyncio.Runner, client: Canister, how: Manner) -> None:
        self._runner = runner
        self._client = client
        self._how = how
        self._conversation: Conversation | None = None

    def load(self, model: Path, context_tokens: int) -> None:
        """Put a model into an empty canister, as anybody would."""
        self._runner.run(self._load(model, context_tokens))

    def ask(self, question: str) -> None:
        """One question, one answer."""
        self._runner.run(self._ask(question))

    def talk(self) -> None:
        """Question and answer, until the person leaves."""
        with contextlib.suppress(ImportError):
            import readline  # noqa: F401  gives input() line editing and a history
        print("/new, /calls, /quit; Ctrl-C stops an answer", file=sys.stderr)
        while True:
            try:
                line = input("> ").strip()
            except EOFError:
                print()
                return
            except KeyboardInterrupt:
                print("\n/quit or Ctrl-D leaves", file=sys.stderr)
                continue
            if line == "/quit":
                return
            if line == "/calls":
                self._how.show_calls = not self._how.show_calls
            elif line == "/new":
                self._runner.run(self._forget())
            elif line.startswith("/"):
                print(f"{line.split()[0]} is not known: /new, /calls, /quit", file=sys.stderr)
            elif line:
                self._answer(line)

    def close(self) -> None:
        """Leave nothing behind on the server."""
        self._runner.run(self._close())

    def _answer(self, question: str) -> None:
        from canister.client import ClientError

        try:
            self.ask(question)
        except KeyboardInterrupt:
            print("\n(stopped)", file=sys.stderr)
        except ClientError as error:
            print(f"\ncanister: {error}", file=sys.stderr)

    async def _load(self, model: Path, context_tokens: int) -> None:
        from canister import transfer
        from canister.records import InputRecord, MaxTokensRecord

        done = await transfer.upload(self._client, model, MODEL_NAME)
        self._note("file_upload_chunk", f"{MODEL_NAME}: {done.filesize} bytes, sha256 {done.sha256}")
        args = ["--model", MODEL_NAME, "--ctx-size", str(context_tokens)]
        loaded = await self._client.call("load_model", InputRecord(args=args))
        self._note("load_model", loaded.value.output)
        limit = MaxTokensRecord(max_tokens_update=TOKENS_PER_CALL, max_tokens_query=TOKENS_PER_CALL)
        await self._client.call("set_max_tokens", limit)
        self._note("set_max_tokens", f"{TOKENS_PER_CALL} tokens a call")

    async def _ask(self, question: str) -> None:
        conversation = self._conversation or await self._begin()
        text = ""
        if self._how.show_calls:
            print(TABLE_HEAD, file=sys.stderr)
        async with contextlib.aclosing(conversation.ask(question)) as steps:
            number = 0
            async for step in steps:
                number += 1
                if self._how.show_calls:
                    print(_table_row(number, step), file=sys.stderr, flush=True)
                else:
                    print(step.text if text else step.text.lstrip(), end="", flush=True)
                text += step.text
        print(text.strip() if self._how.show_calls else "", flush=True)

    async def _begin(self) -> Conversation:
        from canister.cli.conversation import Conversation

        conversation = Conversation(
            self._client,
            f"chat-{secrets.token_hex(8)}",
            system=self._how.system,
            flags=("--temp", f"{self._how.temperature:g}"),
            answer_tokens=self._how.answer_tokens,
        )
        self._note("new_chat", (await conversation.open()).output)
        self._conversation = conversation
        return conversation

    async def _forget(self) -> None:
        if self._conversation is not None:
            conversation, self._conversation = self._conversation, None
            await conversation.close()

    async def _close(self) -> None:
        from canister.client import ClientError

        # The cleanup timer of the canister removes what cannot be removed now.
        with contextlib.suppress(ClientError):
            await self._forget()
        await self._client.close()

    def _note(self, method: str, text: str) -> None:
        if self._how.show_calls:
            print(f"{method:<18} {text}", file=sys.stderr, flush=True)


TABLE_HEAD = "run_update  cached  ingested  remaining  generated        ms  instructions  text"


def _table_row(number: int, step: Step) -> str:
    """A call as a line; – for what the server does not tell."""
    counts = step.record
    cells = (
        f"call {number:<5}",
        f"{_known(counts.n_prompt_tokens_cached):>6}",
        f"{_known(counts.n_prompt_tokens_decoded):>8}",
        f"{_known(counts.n_prompt_tokens_remaining):>9}",
        f"{_known(counts.n_tokens_generated):>9}",
        f"{step.milliseconds:>8.1f}",
        f"{_known(step.instructions):>12}",
        repr(step.text) if step.text else "",
    )
    return "  ".join(cells).rstrip()


def _known(count: int | None) -> str:
    return "–" if count is None else f"{count:,}"


def _model_file(model: Path | None) -> Path:
    from canister.shipped import SHIPPED_MODEL, shipped_model

    if model is not None:
        if not model.is_file():
            raise typer.BadParameter(f"-m {model} is not a file")
        return model
    shipped = shipped_model()
    if shipped is None:
        raise typer.BadParameter(f"{SHIPPED_MODEL} is not in this installation; give a GGUF with -m FILE")
    return shipped


@contextmanager
def _own_server(canister: str, how: Manner) -> Iterator[Connection]:
    """A server on a temporary data folder, both gone at the end."""
    from canister.cli.local import LocalServer

    with (
        tempfile.TemporaryDirectory(prefix="canister-chat-") as folder,
        LocalServer(Path(folder), "--canister", canister, "--slots", "1") as server,
    ):
        if how.show_calls:
            print(f"listening on {server.url}, data in {folder} until the end", file=sys.stderr, flush=True)
        yield Connection(server.url, server.api_key)


def _leave_in_order_when_told_to() -> None:
    """Let a signal end us through our `finally`s, so that no server and no folder stay behind."""

    told_to = (signal.SIGTERM, signal.SIGHUP)

    def leave(number: int, frame: object) -> None:
        for other in told_to:
            signal.signal(other, signal.SIG_IGN)  # we are on our way
        raise SystemExit(128 + number)

    for number in told_to:
        signal.signal(number, leave)
