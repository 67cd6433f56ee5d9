"""GraphQL as gateways answer it: the queries of AO's clients, filters, pages, and errors that tell what is wrong."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest

from canister.ao.encoding import Malformed
from canister.ao.storage.graphql import MAX_DEPTH, read_query
from canister.ao.storage.queries import Filter, Record, answer

META = """
    query GetTransactions ($transactionIds: [ID!]!) {
      transactions(ids: $transactionIds) {
        edges { node { owner { address } tags { name value } block { id height timestamp } } }
      }
    }"""
LOCATION = """
    query GetSchedulerLocation ($owner: String!) {
      transactions (
        owners: [$owner]
        tags: [{ name: "Data-Protocol", values: ["ao"] }, { name: "Type", values: ["Scheduler-Location"] }]
        # Only need the most recent one
        sort: HEIGHT_DESC
        first: 1
      ) { edges { node { tags { name value } } } }
    }"""
PROCESS = """
    query ($ids: [ID!]!) {
      transactions(ids: $ids) {
        pageInfo { hasNextPage }
        edges { cursor node {
          id anchor signature recipient block { timestamp } owner { address key }
          fee { winston ar } quantity { winston ar } tags { name value } data { size } parent { id }
        } }
      }
    }"""
FRAGMENTS = """
    query a($full: Boolean = false) { newest: transactions(first: 1) { ...page edges @include(if: $full) { cursor } } }
    fragment page on TransactionConnection { edges { node { ... on Transaction { id } __typename } } }"""
QUERIES = [META, LOCATION, PROCESS, FRAGMENTS, '{transaction(id:"x"){data{size type}}}']


def record(place: int, owner: str = "o", **tags: str) -> Record:
    pairs = tuple((name.replace("_", "-").encode(), value.encode()) for name, value in tags.items())
    return Record(
        place, f"id{place}", owner, "key", "t", "", "s", pairs, 7, "block", place // 2, 100 + place, 5, 10**12
    )


RECORDS = [record(i, f"o{i % 2}", Type="Process" if i % 3 else "Module", N=str(i)) for i in range(10)]


def stored(_: Filter) -> Iterable[Record]:
    return reversed(RECORDS)


def ask(query: str, **variables: Any) -> Any:
    told = answer({"query": query, "variables": variables}, stored)
    assert "errors" not in told, told
    return told["data"]


def ids(query: str, **variables: Any) -> list[str]:
    return [edge["node"]["id"] for edge in ask(query, **variables)["transactions"]["edges"]]


def test_what_aoconnect_asks_for() -> None:
    node = ask(META, transactionIds=["id3"])["transactions"]["edges"][0]["node"]
    assert node == {
        "owner": {"address": "o1"},
        "tags": [{"name": "Type", "value": "Module"}, {"name": "N", "value": "3"}],
        "block": {"id": "block", "height": 1, "timestamp": 103},
    }
    assert ask(META, transactionIds=["unknown"]) == {"transactions": {"edges": []}}
    assert ask(LOCATION, owner="o1") == {"transactions": {"edges": []}}
    told = ask(PROCESS, ids=["id4"])["transactions"]
    assert told["pageInfo"] == {"hasNextPage": False}
    assert told["edges"][0]["node"]["fee"] == {"winston": "1000000000000", "ar": "1.000000000000"}
    assert told["edges"][0]["node"]["quantity"] == {"winston": "5", "ar": "0.000000000005"}
    assert told["edges"][0]["node"]["parent"] is None


def test_fragments_aliases_and_directives() -> None:
    assert ask(FRAGMENTS) == {"newest": {"edges": [{"node": {"id": "id9", "__typename": "Transaction"}}]}}
    assert list(ask(FRAGMENTS, full=True)["newest"]["edges"][0]) == ["cursor"]


def test_filters() -> None:
    query = """query($tags: [TagFilter!], $owners: [String!]) {
        transactions(tags: $tags, owners: $owners) { edges { node { id } } }
    }"""
    assert ids(query, tags=[{"name": "Type", "values": ["Module"]}]) == ["id9", "id6", "id3", "id0"]
    assert ids(query, tags=[{"name": "Type", "values": ["Module"]}, {"name": "N", "values": ["3", "4"]}]) == ["id3"]
    assert ids(query, tags=[{"name": "Type", "values": ["module"]}]) == []
    assert ids(query, owners=["o0"]) == ["id8", "id6", "id4", "id2", "id0"]
    assert ids('{ transactions(recipients: "x") { edges { node { id } } } }') == []
    assert ids("{ transactions(block: {min: 1, max: 1}) { edges { node { id } } } }") == ["id3", "id2"]
    assert ask('{ transaction(id: "id2") { id } }') == {"transaction": {"id": "id2"}}
    assert ask('{ transaction(id: "no") { id } }') == {"transaction": None}


@pytest.mark.parametrize(("sort", "expected"), [("HEIGHT_DESC", range(9, -1, -1)), ("HEIGHT_ASC", range(10))])
def test_pages_have_all_and_none_twice(sort: str, expected: range) -> None:
    found: list[str] = []
    cursor, has_more = "", True
    query = """query($s: SortOrder, $c: String) {
        transactions(sort: $s, first: 3, after: $c) { pageInfo { hasNextPage } edges { cursor node { id } } }
    }"""
    while has_more:
        page = ask(query, s=sort, c=cursor)["transactions"]
        found += [edge["node"]["id"] for edge in page["edges"]]
        cursor, has_more = page["edges"][-1]["cursor"], page["pageInfo"]["hasNextPage"]
    assert found == [f"id{i}" for i in expected]


@pytest.mark.parametrize(
    ("query", "told"),
    [
        ("", "must have one query"),
        ("{", "ends within its braces"),
        ("mutation { x }", "only queries"),
        ("{ blocks { edges } }", "there is no 'blocks' here"),
        ("{ transactions(color: 1) { edges } }", "no argument 'color'"),
        ("{ transactions(first: -1) { edges } }", "first is -1"),
        ("{ transactions(first: 1001) { edges } }", "first is 1001"),
        ("{ transactions(ids: [1]) { edges } }", "ids is no list"),
        ("{ transactions(tags: [{name: 1}]) { edges } }", "each of tags"),
        ('{ transactions(after: "???") { edges } }', "none of this gateway"),
        ("{ transactions { edges { node { color } } } }", "no 'color'"),
        ("{ transactions { edges { node { owner { color } } } } }", "an? Owner has no 'color'"),
        ("{ transactions { nodes } }", "transactions has no 'nodes'"),
        ("query($a: Int!) { transactions(first: $a) { edges } }", r"\$a has no value"),
        ("{ ...missing }", "no fragment 'missing'"),
        ("{ transactions % }", "no GraphQL"),
        ("query a { x } query b { x }", "operationName"),
        ("{ ...a } fragment a on T { ...a }", "nested more than"),
        ("{ ...a } fragment a on T { ...a ...a }", "nested more than|more than 1000"),
        ("{" + " a" * 1001 + "}", "more than 1000 fields"),
        ("{ a " * (MAX_DEPTH + 2) + "}" * (MAX_DEPTH + 2), "nested more than"),
        ("{" + " " * 20_000 + "a }", "at most 20000"),
    ],
)
def test_errors_tell_what_is_wrong(query: str, told: str) -> None:
    with pytest.raises(Malformed, match=told):
        raise Malformed(answer({"query": query}, stored)["errors"][0]["message"])  # type: ignore[index]


@pytest.mark.parametrize("body", [None, [], {}, {"query": 1}, {"query": "{a}", "variables": []}])
def test_bodies_that_are_no_queries(body: object) -> None:
    assert answer(body, stored)["data"] is None


def test_values_are_those_of_graphql() -> None:
    document = '{ f(a: -1, b: 1.5e3, c: "x\\"\\u00e9", d: [true false null], e: {k: ENUM}, g: """block""") }'
    (field,) = read_query(document)
    assert field.arguments == {
        "a": -1,
        "b": 1500.0,
        "c": 'x"é',
        "d": [True, False, None],
        "e": {"k": "ENUM"},
        "g": "block",
    }
