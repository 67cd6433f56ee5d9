"""Keccak-256 as Ethereum uses it: the permutation of SHA-3 with the padding that it had before it became a standard.

Neither hashlib nor cryptography has it. Only short texts are hashed here: addresses and digests.
"""

from __future__ import annotations

_RATE_BYTES = 136
KECCAK, SHA3 = 0x01, 0x06
_MASK = (1 << 64) - 1
_LANES = 25


def _rotations() -> tuple[int, ...]:
    """By lane x + 5y: how far a lane is turned."""
    turns = [0] * _LANES
    x, y = 1, 0
    for t in range(24):
        turns[x + 5 * y] = (t + 1) * (t + 2) // 2 % 64
        x, y = y, (2 * x + 3 * y) % 5
    return tuple(turns)


def _round_constants() -> tuple[int, ...]:
    constants = []
    state = 1
    for _ in range(24):
        constant = 0
        for j in range(7):
            if state & 1:
                constant |= 1 << ((1 << j) - 1)
            state = (state << 1) ^ (0x171 if state & 0x80 else 0)
        constants.append(constant)
    return tuple(constants)


_TURNS = _rotations()
_CONSTANTS = _round_constants()
_TARGETS = tuple((lane // 5) + 5 * ((2 * (lane % 5) + 3 * (lane // 5)) % 5) for lane in range(_LANES))


def keccak256(data: bytes) -> bytes:
    return sponge(data, KECCAK)


def sponge(data: bytes, padding: int) -> bytes:
    """padding: the byte behind the data, KECCAK or SHA3."""
    padded = bytearray(data) + bytes([padding])
    padded += bytes(-len(padded) % _RATE_BYTES)
    padded[-1] |= 0x80
    lanes = [0] * _LANES
    for start in range(0, len(padded), _RATE_BYTES):
        for i in range(_RATE_BYTES // 8):
            lanes[i] ^= int.from_bytes(padded[start + 8 * i : start + 8 * i + 8], "little")
        lanes = _permuted(lanes)
    return b"".join(lane.to_bytes(8, "little") for lane in lanes[:4])


def _permuted(lanes: list[int]) -> list[int]:
    for constant in _CONSTANTS:
        columns = [lanes[x] ^ lanes[x + 5] ^ lanes[x + 10] ^ lanes[x + 15] ^ lanes[x + 20] for x in range(5)]
        parity = [columns[x - 1] ^ _turned(columns[(x + 1) % 5], 1) for x in range(5)]
        moved = [0] * _LANES
        for lane in range(_LANES):
            moved[_TARGETS[lane]] = _turned(lanes[lane] ^ parity[lane % 5], _TURNS[lane])
        lanes = [
            moved[lane] ^ (~moved[lane // 5 * 5 + (lane + 1) % 5] & _MASK & moved[lane // 5 * 5 + (lane + 2) % 5])
            for lane in range(_LANES)
        ]
        lanes[0] ^= constant
    return lanes


def _turned(lane: int, by: int) -> int:
    return ((lane << by) | (lane >> (64 - by))) & _MASK
