"""One of the agents from PyPI, told what to do by tests/conformance/clients.py: a JSON line in, a JSON line out.

    python driver.py icp-py-core|ic-py

The agents are used as their documentation shows. Only the process's clock may be set wrong; and ic-py, which gives up
on an answer after five seconds, waits for a busy machine.
"""

import functools
import json
import sys
import time
import traceback

PATIENCE_SECONDS = 120


class IcpPyCore:
    """Typed by the `candid:service` that the canister publishes; checks the certificates of updates."""

    def open(self, url, canister, identity, root_key):
        from icp_agent.agent import Agent
        from icp_agent.client import Client
        from icp_candid.candid import Types
        from icp_canister.canister import Canister
        from icp_certificate import certificate
        from icp_identity.identity import Identity

        certificate.IC_ROOT_KEY = bytes.fromhex(root_key)
        names = {"prime256v1": "p256"}
        self.types = Types
        self.id = canister
        kind = names.get(identity["kind"], identity["kind"])
        if kind == "anonymous":
            sender = Identity(anonymous=True)
        else:
            sender = Identity(privkey=identity["secret"] or "", type=kind)
        # Its check of query signatures, off by default, takes every root subnet for the main network's.
        self.agent = Agent(sender, Client(url=url))
        # Asked for anonymously, so that it works whatever this process's clock says.
        published = Canister(Agent(Identity(anonymous=True), Client(url=url)), canister, auto_fetch_candid=True)
        self.canister = Canister(self.agent, canister, candid_str=published.candid_str)
        return sender.sender().to_str()

    def call(self, method, arg):
        bound = getattr(self.canister, method)
        (value,) = bound() if arg is None else bound(arg)
        return value.get("value", value) if isinstance(value, dict) and set(value) == {"type", "value"} else value

    def call_wrongly(self, method, arg):
        arg = [] if arg is None else [{"type": self.types.Text, "value": arg}]
        if method in ("run_update", "no_such_query"):
            return self.agent.query(self.id, method, arg or None)
        return self.agent.update(self.id, method, arg or None)[0]["value"]

    def certified_data(self, certificate, root_key, canister):
        import cbor2
        from icp_certificate import certificate as certificates
        from icp_principal.principal import Principal

        certificates.IC_ROOT_KEY = root_key
        checked = certificates.Certificate(cbor2.loads(certificate))
        checked.assert_certificate_valid(canister)
        return checked.lookup([b"canister", Principal.from_str(canister).bytes, b"certified_data"])


class IcPy:
    """Checks nothing; asks for updates with polling only."""

    def __init__(self):
        import httpx

        for name in ("get", "post"):
            setattr(httpx, name, functools.partial(getattr(httpx, name), timeout=PATIENCE_SECONDS))

    def open(self, url, canister, identity, root_key):
        from ic.agent import Agent
        from ic.candid import Types, encode
        from ic.client import Client
        from ic.identity import Identity

        if identity["kind"] == "anonymous":
            sender = Identity(anonymous=True)
        else:
            sender = Identity(privkey=identity["secret"] or "", type=identity["kind"])
        self.id, self.types, self.encode = canister, Types, encode
        self.agent = Agent(sender, Client(url=url))
        return sender.sender().to_str()

    def call(self, method, arg):
        t = self.types
        api_error = t.Variant({"Other": t.Text, "StatusCode": t.Nat16})
        run_input = t.Record({"args": t.Vec(t.Text)})
        output = t.Record(
            {
                "status_code": t.Nat16,
                "output": t.Text,
                "conversation": t.Text,
                "error": t.Text,
                "prompt_remaining": t.Text,
            }
        )
        run = (run_input, t.Variant({"Ok": output, "Err": output}))
        chunk = {"filename": t.Text, "chunksize": t.Nat64, "offset": t.Nat64}
        details = t.Record({"filename": t.Text, "filesize": t.Nat64, "filesha256": t.Text})
        status = t.Variant({"Ok": t.Record({"status_code": t.Nat16}), "Err": api_error})
        receipt = t.Record({"id": t.Text, "method": t.Text, "file": t.Vec(t.Nat8)})
        methods = {
            "health": (None, status),
            "whoami": (None, t.Text),
            "set_max_tokens": (t.Record({"max_tokens_update": t.Nat64, "max_tokens_query": t.Nat64}), status),
            "file_upload_chunk": (
                t.Record({**chunk, "chunk": t.Vec(t.Nat8)}),
                t.Variant({"Ok": details, "Err": api_error}),
            ),
            "get_receipt": (
                t.Record({"call_id": t.Text, "since": t.Opt(t.Nat64)}),
                t.Variant({"Ok": receipt, "Err": api_error}),
            ),
            **dict.fromkeys(("load_model", "new_chat", "run_update", "run_query", "remove_prompt_cache"), run),
        }
        taken, given = methods[method]
        args = self.encode([] if taken is None else [{"type": taken, "value": arg}])
        ask = (
            self.agent.query_raw
            if method in ("health", "whoami", "run_query", "get_receipt")
            else self.agent.update_raw
        )
        answer = ask(self.id, method, args, [given])
        if isinstance(answer, str):
            raise RuntimeError(answer)  # so it tells of a reject
        return answer[0]["value"]

    def call_wrongly(self, method, arg):
        args = self.encode([] if arg is None else [{"type": self.types.Text, "value": arg}])
        ask = self.agent.query_raw if method in ("run_update", "no_such_query") else self.agent.update_raw
        answer = ask(self.id, method, args, [self.types.Text])
        if isinstance(answer, str):
            raise RuntimeError(answer)
        return answer[0]["value"]


def rich(value):
    if isinstance(value, dict):
        return bytes.fromhex(value["hex"]) if "hex" in value else {name: rich(item) for name, item in value.items()}
    return value


def plain(value):
    if isinstance(value, bytes):
        return {"hex": value.hex()}
    if isinstance(value, dict):
        return {str(name): plain(item) for name, item in value.items()}
    return [plain(item) for item in value] if isinstance(value, list | tuple) else value


def set_clock(seconds, now=time.time, now_ns=time.time_ns):
    if seconds:
        time.time, time.time_ns = lambda: now() + seconds, lambda: now_ns() + seconds * 10**9


def main():
    client = {"icp-py-core": IcpPyCore, "ic-py": IcPy}[sys.argv[1]]()
    answers, sys.stdout = sys.stdout, sys.stderr  # the agents print
    for line in sys.stdin:
        given = json.loads(line)
        operation = given.pop("operation")
        set_clock(given.pop("clock_seconds", 0))
        try:
            answer = {"value": plain(getattr(client, operation)(**{key: rich(item) for key, item in given.items()}))}
        except Exception as error:
            answer = {"error": traceback.format_exc(), "message": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer), file=answers, flush=True)


main()
