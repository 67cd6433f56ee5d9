"""Both wires of processes, with signed messages to a real server: what is told and refused, and hostile programs."""

from __future__ import annotations

import base64
import json
import re
import secrets
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from canister.ao.encoding import from_base64url, to_base64url
from canister.ao.signing.http_messages import Request, sign
from canister.ao.signing.items import Item, sign_item
from canister.ao.signing.tags import texts
from canister.ao.signing.wallets import ArweaveWallet, Ed25519Wallet
from canister.client.ao.network import Network, Refusal
from canister.client.local_server import LocalServer
from tests.ao.lua.attacks import ATTACKS, LIMIT
from tests.bench.ao import memory_mib

pytest.importorskip("lupa", reason="Lua programs need lupa, of the extra `ao`")

ECHO = """
Handlers.add("echo", "Echo", function(msg) msg.reply({ Action = "Echoed", Data = msg.From .. ": " .. msg.Data }) end)
Handlers.add("publish", "Publish", function(msg)
  Send({ device = "patch@1.0", Balances = { alice = "5", bob = "7" }, List = { "one", "two" }, count = 3 })
end)
"""


@pytest.fixture(scope="module")
def network(ao_server: LocalServer) -> Iterator[Network]:
    """Ed25519 signs in no time."""
    with Network(ao_server.url, Ed25519Wallet.generate()) as found:
        yield found


@pytest.fixture(scope="module")
def echo(network: Network) -> str:
    process = network.spawn()
    evaluate(network, process, ECHO)
    return process


def evaluate(network: Network, process: str, code: str) -> dict[str, Any]:
    told = network.result(process, network.send(process, [("Action", "Eval")], code.encode()))
    assert "Error" not in told, told
    return told


def replies(told: dict[str, Any]) -> list[str]:
    return [message["Data"] for message in told["Messages"]]


def message(target: str, *tags: tuple[str, str], data: bytes = b"hi") -> Item:
    named = texts([("Data-Protocol", "ao"), ("Type", "Message"), ("Variant", "ao.TN.1"), *tags])
    to = from_base64url(target) if target else b""
    return sign_item(Ed25519Wallet.generate(), data, named, target=to, anchor=secrets.token_bytes(32))


def test_the_same_item_again_runs_once_and_is_found_at_the_gateway(network: Network, echo: str) -> None:
    item = message(echo, ("Action", "Echo"))
    before = int(network.request("GET", f"/{echo}/slot/current").text)
    for _ in range(3):
        answer = network.request("POST", "/mu", content=item.to_bytes())
        assert (answer.status_code, answer.json()["id"]) == (202, item.id)
    assert replies(network.result(echo, item.id)) == [f"{item.head.address}: hi"]
    assert int(network.request("GET", f"/{echo}/slot/current").text) == before + 1
    assert network.request("GET", f"/{item.id}").content == b"hi"
    assert network.request("GET", f"/{echo}").status_code == 200


@pytest.mark.parametrize("name", ["From-Process", "from-process", "FROM-PROCESS", "From-Module", "Pushed-For"])
def test_nobody_speaks_for_another_process(network: Network, echo: str, name: str) -> None:
    item = message(echo, ("Action", "Echo"), (name, echo))
    network.request("POST", "/mu", content=item.to_bytes())
    assert replies(network.result(echo, item.id)) == [f"{item.head.address}: hi"]


def test_what_is_wrong_is_refused_with_a_sentence(network: Network, echo: str) -> None:
    item = message(echo, ("Action", "Echo"))
    nowhere, data = to_base64url(bytes(32)), item.to_bytes()
    wrong: list[tuple[int, str, str, dict[str, Any]]] = [
        (400, "POST", "/mu", {"content": data[:-1] + b"?"}),
        (400, "POST", "/mu", {"content": b"nonsense"}),
        (400, "POST", "/mu", {"content": message("").to_bytes()}),
        (404, "POST", "/mu", {"content": message(nowhere).to_bytes()}),
        (400, "POST", "/mu", {"params": {"process-id": echo}}),
        (400, "POST", "/mu", {"params": {"assign": echo}}),
        (404, "POST", "/mu", {"params": {"process-id": nowhere, "assign": item.id}}),
        (404, "GET", f"/cu/result/{nowhere}", {"params": {"process-id": echo}}),
        (404, "GET", f"/cu/result/{nowhere}", {"params": {"process-id": nowhere}}),
        (400, "GET", f"/cu/result/{nowhere}", {}),
        (400, "GET", "/cu/result/short", {"params": {"process-id": echo}}),
        (400, "GET", f"/cu/results/{echo}", {"params": {"sort": "UP"}}),
        (400, "GET", f"/cu/results/{echo}", {"params": {"limit": "-1"}}),
        (400, "GET", f"/cu/results/{echo}", {"params": {"from": "nonsense"}}),
        (400, "POST", "/cu/dry-run", {"params": {"process-id": echo}, "content": b"["}),
        (400, "POST", "/cu/dry-run", {"params": {"process-id": echo}, "json": {"Tags": [{"name": "x"}]}}),
        (404, "POST", "/cu/dry-run", {"params": {"process-id": nowhere}, "json": {}}),
        (404, "GET", f"/cu/state/{echo}", {}),
        (404, "GET", f"/cu/state/{nowhere}", {}),
        (400, "POST", f"/mu/monitor/{echo}", {"content": data}),
        (400, "DELETE", f"/mu/monitor/{echo}", {"content": message(nowhere).to_bytes()}),
        (405, "PUT", "/mu", {}),
        (400, "POST", "/push", {}),
        (400, "POST", f"/{nowhere}~process@1.0/push", {"content": data}),
        (400, "POST", "/push", {"content": message("").to_bytes()}),
        (404, "POST", f"/{echo}~process@1.0/compute/results=999", {}),
        (404, "GET", f"/{echo}~process@1.0/now/nothing", {}),
        (404, "GET", f"/{echo}/nonsense", {}),
        (401, "POST", "/ao/mint", {"json": {"account": nowhere, "amount": "1"}}),
    ]
    for status, verb, path, given in wrong:
        with pytest.raises(Refusal) as refused:
            network.request(verb, path, **given)
        assert (refused.value.status, bool(str(refused.value))) == (status, True), (verb, path, str(refused.value))
    with pytest.raises(Refusal):
        network.request("GET", f"/{item.id}")  # what nobody got is not kept


def test_pages_of_results(network: Network) -> None:
    process = network.spawn()
    for number in range(4):
        evaluate(network, process, f"return {number}")

    def page(**params: str) -> tuple[list[str], list[str], bool]:
        told = network.request("GET", f"/cu/results/{process}", params=params).json()
        edges = told["edges"]
        outputs = [edge["node"]["Output"]["data"] for edge in edges]
        return outputs, [edge["cursor"] for edge in edges], told["pageInfo"]["hasNextPage"]

    outputs, cursors, has_next = page()
    assert (outputs[1:], has_next) == (["0", "1", "2", "3"], False)
    assert json.loads(base64.b64decode(cursors[2]))["ordinate"] == "2"
    assert page(limit="2") == (outputs[:2], cursors[:2], True)
    assert page(**{"from": cursors[1], "to": cursors[3]})[0] == ["1", "2"]
    assert page(**{"from": cursors[3], "to": cursors[1], "sort": "DESC"})[0] == ["1", "0"]
    falling = page(sort="DESC", limit="2")
    assert (falling[0], falling[2]) == (["3", "2"], True)
    assert page(**{"sort": "DESC", "from": falling[1][-1]})[0] == ["1", "0", outputs[0]]


def test_a_dry_run_changes_nothing_and_is_from_nobody(network: Network, ao_server: LocalServer, echo: str) -> None:
    evaluate(network, echo, "Secret = 'kept'")
    (said,) = replies(network.dry_run(echo, [("Action", "Echo")], "hello", owner=Ed25519Wallet.generate().address))
    assert said == f"{'0' * 43}: hello"
    info = network.request("GET", "/ao").json()
    for owner in (info["address"], echo, None):
        told = network.dry_run(echo, [("Action", "Eval")], "Secret = 'gone' return Secret", owner=owner)
        assert "gone" not in json.dumps(told)
    assert evaluate(network, echo, "return Secret")["Output"]["data"] == "kept"
    for path in (
        f"/{echo}~process@1.0/as=execution/compute&Action=Echo&X-Y=z",
        f"/{echo}%7Eprocess%401.0/as%3Dexecution/compute%26Action%3DEcho",
        f"/{echo}/as=execution/compute&Action=Echo",
    ):
        told = httpx.post(f"{ao_server.url}{path}", content=message(echo, data=b"by path").to_bytes()).json()
        assert replies(told["raw"]) == [f"{'0' * 43}: by path"]


def test_a_message_is_assigned_to_another_process(network: Network, echo: str) -> None:
    item = message(echo, ("Action", "Echo"), data=b"for both")
    network.request("POST", "/mu", content=item.to_bytes())
    other = network.spawn()
    evaluate(network, other, "ao.addAssignable('any', function() return true end)" + ECHO)
    told = network.request("POST", "/mu", params={"process-id": other, "assign": item.id})
    assert (told.status_code, told.json()["id"]) == (202, item.id)
    network.result(other, item.id)


def test_published_state_is_read_by_its_path(network: Network, ao_server: LocalServer, echo: str) -> None:
    network.result(echo, network.send(echo, [("Action", "Publish")]))
    top = f"{ao_server.url}/{echo}~process@1.0"
    for path, text in (
        ("now/balances/alice", "5"),
        ("compute/Balances/BOB", "7"),
        ("now/list/1", "one"),
        ("now/count", "3"),
    ):
        assert httpx.get(f"{top}/{path}").text == text
    assert httpx.get(f"{top}/now/balances").json() == {"alice": "5", "bob": "7"}
    as_json = httpx.get(f"{top}/now/list", headers={"Accept": "application/json"})
    assert as_json.json() == ["one", "two"]
    assert httpx.get(f"{top}/now/balances/carol").status_code == 404


def test_a_signed_request_counts_for_its_signed_target_alone(ao_server: LocalServer, rsa_wallet: ArweaveWallet) -> None:
    with Network(ao_server.url, rsa_wallet) as network:
        one, other = network.spawn(), network.spawn()
        evaluate(network, one, ECHO)
        fields = {"target": one, "type": "Message", "action": "Echo", "from-process": other}
        headers = sign(rsa_wallet, Request("POST", "", fields, b"signed"))
        path = f"{ao_server.url}/{{}}~process@1.0/push"
        told = httpx.post(path.format(one), headers=headers, content=b"signed").json()
        assert replies(told["raw"]) == [f"{rsa_wallet.address}: signed"]
        again = httpx.post(path.format(one), headers=headers, content=b"signed").json()
        assert again["slot"] == told["slot"]
        for process, changed, body in (
            (other, {}, b"signed"),
            (one, {"target": other}, b"signed"),
            (one, {"action": "Eval"}, b"signed"),
            (one, {}, b"other"),
            (one, {}, b""),
        ):
            refused = httpx.post(path.format(process), headers={**headers, **changed}, content=body)
            assert refused.status_code == 400, refused.text
        unsigned = {**headers, "x-extra": "not signed"}
        assert httpx.post(path.format(one), headers=unsigned, content=b"signed").json()["slot"] == told["slot"]


def test_clients_find_modules_and_schedulers_by_graphql(network: Network, ao_server: LocalServer) -> None:
    about = network.request("GET", "/ao").json()
    query = "query ($ids: [ID!]!) { transactions(ids: $ids) { edges { node { tags { name value } } } } }"
    asked = {"query": query, "variables": {"ids": [about["module"]]}}
    (edge,) = network.request("POST", "/graphql", json=asked).json()["data"]["transactions"]["edges"]
    tags = {tag["name"]: tag["value"] for tag in edge["node"]["tags"]}
    assert (tags["Data-Protocol"], tags["Type"]) == ("ao", "Module")
    assert {"Module-Format", "Input-Encoding", "Output-Encoding"} <= tags.keys()

    query = """query ($owner: String!) { transactions(owners: [$owner], first: 1, tags: [
        {name: "Data-Protocol", values: ["ao"]}, {name: "Type", values: ["Scheduler-Location"]}
    ]) { edges { node { owner { address } tags { name value } } } } }"""
    somebody = Ed25519Wallet.generate().address
    asked = {"query": query, "variables": {"owner": somebody}}
    (edge,) = network.request("POST", "/graphql", json=asked).json()["data"]["transactions"]["edges"]
    tags = {tag["name"]: tag["value"] for tag in edge["node"]["tags"]}
    assert (edge["node"]["owner"]["address"], tags["Url"]) == (somebody, ao_server.url)
    assert int(tags["Time-To-Live"]) > 0


# -- hostile programs, as messages

SAMPLE = ("loop_in_pcall", "loop_in_xpcall_handler", "tostring_loops")
FENCE = b"while true do end"  # takes its whole budget
HUNGRY = (
    b"local t = {} while true do t[#t + 1] = ('x'):rep(1000) end",
    b"local s = 'x' while true do s = s .. s end",
    b"Kept = ('x'):rep(3e6) return pcall(string.rep, 'x', 1e9)",
)
N_HUNGRY = 24  # more than there are cages at once
MAX_GROWN_MIB = 48.0


@pytest.mark.nightly
@pytest.mark.parametrize("name", ATTACKS)
def test_every_hostile_program_ends_and_another_answers_meanwhile(
    network: Network, echo: str, ao_server: LocalServer, name: str
) -> None:
    told = attacked_beside(network, echo, ao_server, ATTACKS[name][0])
    assert "secret" not in json.dumps(told)


@pytest.mark.nightly
def test_the_memory_of_a_server_stays_flat_under_hostile_programs(network: Network, ao_server: LocalServer) -> None:
    def attacked() -> float:
        for number in range(N_HUNGRY):
            process = network.spawn()
            network.result(process, network.send(process, [("Action", "Eval")], HUNGRY[number % len(HUNGRY)]))
        return memory_mib(ao_server.pid)

    before = attacked()
    assert attacked() - before < MAX_GROWN_MIB


def test_the_openai_door_stands_at_a_path_of_ao_too(network: Network, ao_server: LocalServer) -> None:
    headers = {"Authorization": f"Bearer {ao_server.api_key}"}
    body = {"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 3}
    for path in ("/~inference@1.0/chat/completions", "/~inference@1.0/v1/chat/completions"):
        for verb, at in (("GET", path.replace("chat/completions", "models")), ("POST", path)):
            given = {} if verb == "GET" else {"json": body}
            answer = network.request(verb, at, headers=headers, **given)
            assert answer.json()["object"] in ("list", "chat.completion")


@pytest.mark.parametrize("name", SAMPLE)
def test_a_hostile_program_ends_while_another_answers(
    network: Network, echo: str, ao_server: LocalServer, name: str
) -> None:
    told = attacked_beside(network, echo, ao_server, ATTACKS[name][0])
    assert re.search(LIMIT, str(told.get("Error", "")))
    assert not told["Messages"]


def attacked_beside(network: Network, echo: str, server: LocalServer, code: str) -> dict[str, Any]:
    """What comes of an attack. Another process answers before the hostile one is through with its messages, which is
    alive afterwards and as it was; no file has come.
    """
    process = network.spawn()
    evaluate(network, process, "Kept = 'yes'")
    files = names_in(server.data_dir)
    attack, *fences = (network.send(process, [("Action", "Eval")], each) for each in (code.encode(), FENCE, FENCE))
    beside = network.result(echo, network.send(echo, [("Action", "Echo")], b"beside"))
    assert replies(beside)[0].endswith("beside")
    done = network.request("GET", f"/cu/results/{process}").json()["edges"]
    assert len(done) < 5  # the process, what is kept, the attack, and two more
    assert re.search(LIMIT, str(network.result(process, fences[-1]).get("Error")))
    assert evaluate(network, process, "return Kept")["Output"]["data"] == "yes"
    assert names_in(server.data_dir) - files <= {"tried"}  # which the model's load may leave meanwhile
    return network.result(process, attack)


def names_in(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_nothing_of_the_machine_is_within_reach(network: Network) -> None:
    process = network.spawn()
    for code in (
        "return tostring(io and io.open) .. tostring(package.loadlib) .. tostring(debug and debug.getregistry)",
        "return tostring(python) .. tostring(package.loaded.python) .. tostring(loadfile) .. tostring(dofile)",
        "return tostring(os.execute) .. tostring(os.getenv and os.getenv('PATH')) .. tostring(os.remove)",
        "return tostring(string.dump) .. tostring(io and io.popen) .. tostring(require and package.searchers)",
    ):
        told = evaluate(network, process, code)
        assert re.fullmatch("(nil)+", str(told["Output"]["data"])), told
    started = time.time()
    assert abs(float(evaluate(network, process, "return os.time()")["Output"]["data"]) - started * 1000) < 600_000
