"""`canister chat`: hold a conversation with a canister of a running server, or of one that lives as long as the chat.

The answer goes to stdout, everything else to stderr, so that `canister chat "…"` can stand in a pipe.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from canister.cli.shared.app import Command
from canister.cli.shared.connection import LOCAL, caller, url_of
from canister.cli.shared.options import Anonymous, ApiKey, CanisterName, DataDir, IdentityName
from canister.defaults import DEFAULT_CANISTER

if TYPE_CHECKING:
    from canister.cli.talk.servers import OwnModel
    from canister.cli.talk.session import ChatBackend, ChatOptions, Session
    from canister.client.ic import IcCanister
    from canister.client.rest import Canister

TOKENS_PER_CALL = 16  # on our own server; few, so that an answer visibly comes from several calls
NEWEST = ""  # of --resume without a name


class ChatCommand(Command):
    """The name after --resume may be left out, which Typer cannot express."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        named = []
        for i, argument in enumerate(args):
            is_bare = argument == "--resume" and (i + 1 == len(args) or args[i + 1].startswith("-"))
            named.append(f"--resume={NEWEST}" if is_bare else argument)
        return super().parse_args(ctx, named)


def chat(
    question: Annotated[
        str | None, typer.Argument(help="A single question. Without it, hold a conversation.", show_default=False)
    ] = None,
    url: Annotated[
        str | None,
        typer.Option(
            "--url",
            "--network",
            "-n",
            metavar="local|URL",
            help="The server to talk to. [default: the one at `local` if it runs and has a model loaded, else a "
            "server started for this chat]",
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
            help="Start a server for this chat only, with this GGUF.",
            show_default=False,
        ),
    ] = None,
    temporary: Annotated[
        bool, typer.Option("--temporary", help="Start a server for this chat only, with the shipped model.")
    ] = False,
    resume: Annotated[
        str | None,
        typer.Option(
            "--resume",
            metavar="[NAME]",
            help="Continue a kept chat, without a name the last one; see `canister chats list`.",
            show_default=False,
        ),
    ] = None,
    forget: Annotated[
        bool, typer.Option("--forget", help="Remove the conversation from the server at its end.")
    ] = False,
    system: Annotated[str, typer.Option(metavar="TEXT", help="System prompt.", show_default=False)] = "",
    keep_system: Annotated[
        bool,
        typer.Option(
            "--keep-system",
            help="When the context is full, leave out the oldest turns, but not the system prompt.",
        ),
    ] = False,
    raw: Annotated[
        bool, typer.Option("--raw", help="Send texts as they are, without a chat template, as for base models.")
    ] = False,
    think: Annotated[
        bool, typer.Option("--think/--no-think", help="Whether a model that can think does so before it answers.")
    ] = True,
    temp: Annotated[
        float | None,
        typer.Option(min=0.0, metavar="T", help="Temperature; 0, the default, always takes the likeliest token."),
    ] = None,
    seed: Annotated[int | None, typer.Option(min=0, metavar="N", help="Seed of the draws.", show_default=False)] = None,
    max_tokens: Annotated[
        int | None, typer.Option(min=2, metavar="N", help="Longest answer. [default: 512]", show_default=False)
    ] = None,
    calls: Annotated[bool, typer.Option("--calls", help="Show every call.")] = False,
    api_key: ApiKey = None,
    anonymous: Anonymous = False,
    identity: IdentityName = None,
    data_dir: DataDir = None,
) -> None:
    """Chat with a model, on the running server or a new one.

    Each answer comes from run_update calls that each do a bounded piece of work. In a conversation /help lists the
    commands, Ctrl-C stops an answer, and /quit or Ctrl-D leaves. A running server keeps the conversation under a name
    for --resume. A single question is not kept, unless it continues a kept chat.
    """
    from canister.cli.talk.choices import Choices
    from canister.cli.talk.lines import LineEditor, default_history
    from canister.cli.talk.session import ChatOptions

    is_own = model is not None or temporary
    if is_own and (url is not None or resume is not None):
        raise typer.BadParameter("-m and --temporary start a server; --url and --resume are for one that runs")
    if forget and resume is not None:
        raise typer.BadParameter("either --forget or --resume: `canister chats rm NAME` removes a kept chat")
    if question is None and not sys.stdin.isatty():
        question = sys.stdin.read()
    if question is not None and not question.strip():
        raise typer.BadParameter("the question is empty")
    given = {"temp": temp, "seed": seed, "max-tokens": max_tokens}
    choices = Choices({name: value for name, value in given.items() if value is not None})
    options = ChatOptions(system, choices, shows_calls=calls, drops_oldest=keep_system, is_raw=raw, thinks=think)
    target = ChatTarget(url, canister, api_key, anonymous, identity, data_dir)

    _leave_in_order_when_told_to()
    with asyncio.Runner() as runner, ExitStack() as stack:
        opening = Opening(
            runner,
            stack,
            options,
            keeps=not forget and (question is None or resume is not None),
            is_once=question is not None,
        )
        if is_own:
            session = opening.own(model, canister)
        else:
            session = opening.running(target, must_run=resume is not None or target.is_named)
        if resume is not None:
            session.resume(resume)
        if question is None:
            session.talk(LineEditor(default_history()))
        else:
            session.ask(question if raw else question.strip())


@dataclass(frozen=True, slots=True)
class ChatTarget:
    """The server and the caller that the options name."""

    url: str | None
    canister: str
    api_key: str | None
    anonymous: bool
    identity: str | None
    data_dir: Path | None

    @property
    def is_named(self) -> bool:
        """Do the options name a running server?"""
        said = (self.url, self.api_key, self.identity, self.data_dir, os.environ.get("CANISTER_URL"))
        return self.anonymous or any(said)

    @property
    def network(self) -> str:
        return self.url or LOCAL

    def client(self) -> Canister | IcCanister:
        return caller(
            self.network,
            self.canister,
            self.api_key,
            self.anonymous,
            self.data_dir,
            identity=self.identity,
            prefers_rest=True,
        )()


class Opening:
    """Finds or starts the server and opens a session there, which `stack` closes. keeps: under a name, if possible."""

    def __init__(
        self, runner: asyncio.Runner, stack: ExitStack, options: ChatOptions, *, keeps: bool, is_once: bool
    ) -> None:
        self._runner = runner
        self._stack = stack
        self._options = options
        self._keeps = keeps
        self._is_once = is_once

    def running(self, target: ChatTarget, *, must_run: bool) -> Session:
        """A session on the running server. If none can be used, one on our own server, unless it must run."""
        from canister.cli.talk.servers import look
        from canister.client.errors import ClientError

        url = url_of(target.network)
        if must_run:
            return self._session(target.client(), url, says=not (self._is_once and target.url))
        found = look(url, target.canister)
        if found is None:
            return self.own(None, target.canister)
        if found.model is None:
            missing = "has no model loaded" if found.has_canister else f"has no canister {target.canister}"
            return self.own(None, target.canister, f"the server at {url} {missing}; ")
        try:
            return self._session(target.client(), url, says=True)
        except ClientError as error:
            return self.own(None, target.canister, f"the server at {url} cannot be used: {error}; ")

    def own(self, file: Path | None, canister: str, why: str = "") -> Session:
        """A session on a server of its own, which ends with it."""
        from canister.cli.talk.servers import own_model, own_server
        from canister.client.rest import Canister

        model = own_model(file)
        server = self._stack.enter_context(own_server(canister, model, why))
        client = Canister(server.url, canister, server.api_key)
        self._keeps = False
        if self._options.shows_calls:
            from canister.cli.talk import view

            view.note(f"listening on {server.url}, all is gone at the end")
        try:
            self._runner.run(_load(client, model, shows_calls=self._options.shows_calls))
        except BaseException:
            self._runner.run(client.close())
            raise
        return self._session(client, server.url, says=False)

    def _session(self, client: Canister | IcCanister, url: str, *, says: bool) -> Session:
        from canister.cli.talk.session import Session

        try:
            backend = self._runner.run(_meet(client, url, self._options, keeps=self._keeps, says=says))
        except BaseException:
            self._runner.run(client.close())
            raise
        session = Session(self._runner, backend, self._options)
        self._stack.callback(lambda: self._runner.run(client.close()))
        self._stack.callback(session.close)
        return session


async def _meet(
    client: Canister | IcCanister, url: str, options: ChatOptions, *, keeps: bool, says: bool
) -> ChatBackend:
    """What must be known of the model before the first question. Tells the person what matters to them."""
    from canister.api.rest_records import Props
    from canister.cli.shared.hints import told_who
    from canister.cli.talk import view
    from canister.cli.talk.named import NamedChats
    from canister.cli.talk.prompts import ChatMl, Raw, Templated
    from canister.cli.talk.session import ChatBackend
    from canister.client.rest import Canister

    if not isinstance(client, Canister):
        if says:
            view.say(f"talking to canister {client.name} at {url}")
        if not options.is_raw:
            view.say("ChatML is used, since signed calls cannot ask for the model's chat template (--raw: plain text)")
        return ChatBackend(client, Raw() if options.is_raw else ChatMl())
    async with told_who(client, client.name):
        props = Props.model_validate(await client.document("GET", "props"))
    n_ctx = props.default_generation_settings.n_ctx
    if says:
        view.say(
            f"talking to {props.model_path} ({props.description}, {n_ctx:,} tokens of context) in canister "
            f"{client.name} at {url}"
        )
    if not options.is_raw and props.chat_template_source == "chatml":
        view.say("the model has no chat template, but the tokens of ChatML: these are used (--raw: plain text)")
    if not options.is_raw and props.chat_template_source == "none":
        view.say("the model has no chat template: texts go to it as they are, as with --raw")
        options.is_raw = True
    prompts = Raw() if options.is_raw else Templated(client, thinks=options.thinks)
    return ChatBackend(client, prompts, n_ctx, NamedChats(client) if keeps else None)


async def _load(client: Canister, model: OwnModel, *, shows_calls: bool) -> None:
    """Put a model into an empty canister, as anybody would."""
    from canister.api.records import InputRecord, MaxTokensRecord
    from canister.cli.talk import view
    from canister.client import transfer

    def note(method: str, text: str) -> None:
        if shows_calls:
            view.note(f"{method:<18} {text}")

    name = f"models/{model.file.name}"
    done = await transfer.upload(client, model.file, name)
    note("file_upload_chunk", f"{name}: {done.filesize} bytes, sha256 {done.sha256}")
    loaded = await client.load_model(InputRecord(args=["--model", name, "--ctx-size", str(model.n_ctx)]))
    note("load_model", loaded.value.output)
    await client.set_max_tokens(MaxTokensRecord(max_tokens_update=TOKENS_PER_CALL, max_tokens_query=TOKENS_PER_CALL))
    note("set_max_tokens", f"{TOKENS_PER_CALL} tokens a call")


def _leave_in_order_when_told_to() -> None:
    """Let a signal end us through our `finally`s, so that no server and no folder stay behind."""

    told_to = (signal.SIGTERM, signal.SIGHUP)

    def leave(number: int, frame: object) -> None:
        for other in told_to:
            signal.signal(other, signal.SIG_IGN)  # we are on our way
        raise SystemExit(128 + number)

    for number in told_to:
        signal.signal(number, leave)
