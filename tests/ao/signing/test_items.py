"""ANS-104: the vectors of its implementations, every item back as it was, every changed byte refused."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from canister.ao.encoding import Malformed, WrongSignature, from_base64url, is_id, to_base64url
from canister.ao.signing import ethereum, kinds
from canister.ao.signing.bundles import read_bundle, write_bundle
from canister.ao.signing.deep_hash import Hashed, deep_hash
from canister.ao.signing.items import MAX_HEAD_BYTES, Head, read_head, read_item, sign_item, verify
from canister.ao.signing.keccak import SHA3, keccak256, sponge
from canister.ao.signing.tags import decode_tags, encode_tags
from canister.ao.signing.wallets import ArweaveWallet, EthereumWallet, Wallet

TAGS = st.lists(st.tuples(st.binary(max_size=40), st.binary(max_size=60)), max_size=8)
SMALL = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def test_vectors_of_tags_and_deep_hash() -> None:
    assert encode_tags([(b"Action", b"Ping")]).hex() == "020c416374696f6e0850696e6700"
    head = Head(kinds.KINDS[1], b"", bytes(512), b"", b"", b"", ())
    expected = "W4__vsHdbQd9jgrhTXBc1HsNJ5SiQ-SFjWQayN8OZ4ZtzYRAp_cTd6Elcd-rhCfX"
    assert to_base64url(head.message(b"hello")) == expected
    assert to_base64url(head.message(Hashed(5, hashlib.sha384(b"hello").digest()))) == expected


def test_deep_hashes_of_nested_lists_differ() -> None:
    trees: list[object] = [b"ab", [b"ab"], [b"a", b"b"], [[b"a"], b"b"], [[b"a", b"b"]], [], b""]
    assert len({deep_hash(tree) for tree in trees}) == len(trees)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"", "c5d2460186f7233c927e7db2dcc703c0e500b653ca82273b7bfad8045d85a470"),
        (b"abc", "4e03657aea45a94fc7d47ba826c8d667c0d1e6e33a64a036ec44f58fa12d6c45"),
        (b"transfer(address,uint256)", "a9059cbb"),
    ],
)
def test_vectors_of_keccak(data: bytes, expected: str) -> None:
    assert keccak256(data).hex().startswith(expected)


def test_with_its_other_padding_it_is_sha3() -> None:
    data = bytes(range(256)) * 2
    for n_bytes in (0, 1, 134, 135, 136, 137, 271, 272, 300):
        assert sponge(data[:n_bytes], SHA3) == hashlib.sha3_256(data[:n_bytes]).digest()


def test_addresses_of_ethereum_have_checksums_in_their_case() -> None:
    wallet = EthereumWallet.from_secret(bytes(31) + b"\1")
    assert wallet.address == "0x7E5F4552091A69125d5DfCb7b8C2659029395Bdf"


def test_a_signature_of_ethereum_is_that_of_its_wallets() -> None:
    """The signature that ethers makes of "Some data" with this key."""
    secret = bytes.fromhex("4c0883a69102937d6231471b5dbb6204fe5129617082792ae468d01a3f362318")
    wallet = EthereumWallet.from_secret(secret)
    assert wallet.address == "0x2c7536E3605D9C16a7a3D7b1898e529396a65c23"
    signature = bytes.fromhex(
        "b91467e570a6466aa9e9876cbcd013baba02900b8979d43fe208a4a4f339f5fd"
        "6007e74cd82e037b800186422fc2da167c747ef045e5d18a5f5d4300f8e1a0291c"
    )
    assert ethereum.is_signed(wallet.owner, signature, b"Some data")


@SMALL
@given(data=st.binary(max_size=300), tags=TAGS, target=st.sampled_from([b"", bytes(range(32))]))
def test_an_item_comes_back_as_it_was(
    wallet: Wallet, data: bytes, tags: list[tuple[bytes, bytes]], target: bytes
) -> None:
    item = sign_item(wallet, data, tags, target=target, anchor=target)
    back = read_item(item.to_bytes())
    assert back == item
    verify(back.head, data)
    assert (back.head.tags, back.head.target, back.head.anchor) == (tuple(tags), target, target)
    assert back.head.address == wallet.address
    assert is_id(back.id)


def test_no_changed_byte_verifies(wallet: Wallet) -> None:
    raw = sign_item(wallet, b"data", [(b"Name", b"value")], target=bytes(32)).to_bytes()
    n_signature = kinds.kind_of(wallet.kind).signature_bytes
    places = [*range(4), *range(2 + n_signature - 3, 2 + n_signature + 3), *range(len(raw) - 120, len(raw))]
    for at in places:
        changed = bytearray(raw)
        changed[at] ^= 1
        with pytest.raises((Malformed, WrongSignature)):
            _verified(bytes(changed))


def test_every_cut_is_refused(wallet: Wallet) -> None:
    raw = sign_item(wallet, b"", [(b"Name", b"value")], target=bytes(32), anchor=bytes(32)).to_bytes()
    assert len(raw) <= MAX_HEAD_BYTES
    for n_bytes in range(0, len(raw), 7):
        with pytest.raises(Malformed):
            read_item(raw[:n_bytes])


def test_a_signature_of_ethereum_has_one_form() -> None:
    """The other s of a point, and other last bytes, would be items with other ids."""
    wallet = EthereumWallet.generate()
    order = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141
    for i in range(8):
        signature = wallet.sign(b"%d" % i)
        assert ethereum.is_signed(wallet.owner, signature, b"%d" % i)
        other_s = (order - int.from_bytes(signature[32:64], "big")).to_bytes(32, "big")
        forms = [signature[:32] + other_s + bytes([last]) for last in (27, 28)]
        forms += [signature[:64] + bytes([last]) for last in range(256) if last != signature[64]]
        assert not any(ethereum.is_signed(wallet.owner, form, b"%d" % i) for form in forms)


def test_short_and_degenerate_keys_sign_nothing() -> None:
    for modulus in (bytes(512), bytes(511) + b"\1", bytes(512 - 128) + b"\xff" * 128):
        assert not kinds.is_rsa_signed(modulus, bytes(512), b"")
        assert not kinds.is_rsa_signed(modulus, bytes(511) + b"\1", b"")


@pytest.mark.parametrize(
    ("raw", "told"),
    [
        ("02", "cut off"),
        ("020c416374696f6e0850696e67", "cut off"),
        ("020c416374696f6e0850696e670000", "1 bytes follow"),
        ("0200", "cut off"),
        ("02ff", "cut off"),
        ("8200" + "00", "longer than it need be"),
        ("ffffffffffff7f", "longer than it need be"),
        ("0201", "runs past the end"),
        ("8204", "more than 128 tags"),
        ("010202610262" + "00", "not as long as it says"),
    ],
)
def test_damaged_tags_are_refused(raw: str, told: str) -> None:
    with pytest.raises(Malformed, match=told):
        decode_tags(bytes.fromhex(raw))


def test_blocks_with_their_sizes_are_read() -> None:
    assert decode_tags(bytes.fromhex("0108" + "02610262" + "02" + "02630264" + "00")) == ((b"a", b"b"), (b"c", b"d"))


def test_too_many_tags_and_too_long_ones_are_refused() -> None:
    assert len(decode_tags(encode_tags([(b"n", b"v")] * 128))) == 128
    with pytest.raises(Malformed, match="129 tags"):
        encode_tags([(b"n", b"v")] * 129)
    longest = [(b"Prompt", b"x" * (4096 - 6 - 5))]
    assert len(encode_tags(longest)) == 4096
    with pytest.raises(Malformed, match="4097 bytes"):
        encode_tags([(b"Prompt", longest[0][1] + b"x")])


def test_an_items_counts_must_agree(wallet: Wallet) -> None:
    item = sign_item(wallet, b"", [(b"a", b"b")])
    raw = bytearray(item.to_bytes())
    at = len(raw) - len(item.head.raw_tags) - 16
    for n_tags, told in [(0, "has 1"), (2, "has 1"), (129, "at most 128"), (2**63, "at most 128")]:
        raw[at : at + 8] = n_tags.to_bytes(8, "little")
        with pytest.raises(Malformed, match=told):
            read_item(bytes(raw))


def test_types_of_signatures_that_are_not_taken_are_named() -> None:
    with pytest.raises(Malformed, match=r"signature type is 4; the types here are 1 .*, 2 .*, 3"):
        read_item(b"\4\0" + bytes(200))


def test_a_head_is_read_without_the_data(wallet: Wallet) -> None:
    item = sign_item(wallet, b"x" * 100_000, [(b"n", b"v")])
    head, at = read_head(item.to_bytes()[:MAX_HEAD_BYTES])
    assert head == item.head
    assert item.to_bytes()[at:] == item.data
    verify(head, Hashed(100_000, hashlib.sha384(item.data).digest()))


@SMALL
@given(contents=st.lists(st.binary(max_size=50), max_size=5))
def test_a_bundle_comes_back_as_it_was(contents: list[bytes]) -> None:
    wallet = EthereumWallet.generate()
    items = tuple(sign_item(wallet, data) for data in contents)
    assert read_bundle(write_bundle(items)) == items


def test_damaged_bundles_are_refused() -> None:
    wallet = EthereumWallet.generate()
    raw = write_bundle([sign_item(wallet, b"one"), sign_item(wallet, b"two")])
    for n_bytes in range(0, len(raw), 11):
        with pytest.raises(Malformed):
            read_bundle(raw[:n_bytes])
    with pytest.raises(Malformed, match="1 bytes follow"):
        read_bundle(raw + b"\0")
    with pytest.raises(Malformed, match="another one"):
        read_bundle(raw[:64] + bytes(32) + raw[96:])
    with pytest.raises(Malformed, match="at most 10000"):
        read_bundle(b"\xff" * 32 + raw)


def test_a_wallet_goes_into_its_file_and_back(rsa_wallet: ArweaveWallet) -> None:
    back = ArweaveWallet.from_jwk(rsa_wallet.to_jwk())
    assert (back.owner, back.address) == (rsa_wallet.owner, rsa_wallet.address)
    verify((item := sign_item(back, b"x")).head, item.data)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"kty": "RSA"}', '{"kty": "EC", "n": "AQAB"}', "[" * 100_000])
def test_what_is_no_wallet_is_told(text: str) -> None:
    with pytest.raises(Malformed, match="the wallet"):
        ArweaveWallet.from_jwk(text)


def test_a_damaged_wallet_does_not_show_its_key(rsa_wallet: ArweaveWallet) -> None:
    jwk = rsa_wallet.to_jwk()
    start = jwk.index('"d": "') + 6
    secret = jwk[start : start + 30]
    for damaged in (jwk.replace(secret, secret[::-1]), jwk.replace(secret, "!" + secret[1:])):
        with pytest.raises(Malformed) as refusal:
            ArweaveWallet.from_jwk(damaged)
        assert secret[5:25] not in str(refusal.value)


@given(st.binary(max_size=40))
def test_base64url_has_one_form(data: bytes) -> None:
    text = to_base64url(data)
    assert from_base64url(text) == data
    for other in (text + "=", text + "A" * 4 + "=", text[:-1] + "+", text + "\n"):
        if other != text:
            with pytest.raises(Malformed):
                from_base64url(other, n_bytes=len(data))


def _verified(raw: bytes) -> None:
    item = read_item(raw)
    verify(item.head, item.data)
