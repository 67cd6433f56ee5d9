"""`canister verify` and `canister receipt` at the command line."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from canister.ic import cbor, principal
from canister.ic.receipts import document
from canister.ic.receipts import record as records
from canister.ic.receipts.record import Record
from canister.metering import fees
from tests.cli.conftest import Command
from tests.receipt_forge import Forge, Said

TERMS = cbor.encode({"nodes": 13, "canister": principal.from_text(principal.canister_id(0))})


def said(n: int) -> Said:
    """A call that decoded nothing."""
    cycles = fees.update_cycles(1_000_000 + n, 10)
    terms, nothing, parts = document.terms_hash(TERMS), bytes(32), {"base": 1_000_000 + n}
    record = Record(0, n, records.NO_HASH, terms, b"\4", "x", False, "ok", nothing, nothing, 10, cycles, parts)
    return Said(record, TERMS, b"")


@pytest.fixture
def forge() -> Forge:
    return Forge()


def test_that_what_holds_is_told_line_by_line(canister: Command, forge: Forge, tmp_path: Path) -> None:
    files = forge.files([said(n) for n in range(3)], tmp_path / "r")
    done = canister("verify", *files, "--root-key", forge.key.public_key_der.hex())
    assert done.code == 0, done.err
    assert "call 2: x by 2vxsx-fae" in done.out
    assert "by the root key; record 2 of 3" in done.out
    assert "not looked at: give --model" in done.out
    assert "3 receipts, all hold" in done.out
    told = json.loads(canister("verify", *files, "--json").out)
    assert (told["ok"], [call["ok"] for call in told["calls"]]) == (True, [True] * 3)


def test_that_what_does_not_hold_ends_with_one(canister: Command, forge: Forge, tmp_path: Path) -> None:
    wrong = said(1)
    wrong = replace(wrong, record=replace(wrong.record, cycles=1))
    (file,) = forge.files([wrong], tmp_path / "r")
    done = canister("verify", file)
    assert done.code == 1
    assert "FAULT      the cost is wrong: 1 cycles are charged" in done.out
    file.write_bytes(file.read_bytes().replace(b'"size": 1', b'"size": 2'))
    done = canister("verify", file, tmp_path / "none")
    assert done.code == 1
    assert "the way from the record to the head is wrong" in done.out
    assert "the file cannot be read: No such file or directory" in done.out
    assert "2 receipts, 2 of them wrong" in done.out


def test_that_bad_options_are_refused_by_name(canister: Command, forge: Forge, tmp_path: Path) -> None:
    files = forge.files([said(0), said(1)], tmp_path / "r")
    for arguments, text in (
        (("verify", *files, "--root-key", "xyz"), "'xyz' is not in hex"),
        (("verify", *files, "--argument", files[0]), "go with one receipt"),
        (("verify", files[0], "--argument", tmp_path / "none"), "is no JSON that can be read"),
        (("receipt",), "either ids of receipts, or --cache NAME"),
    ):
        done = canister(*arguments)
        assert done.code == 2, done.out
        assert text in " ".join(done.err.replace("│", " ").split()), done.err
