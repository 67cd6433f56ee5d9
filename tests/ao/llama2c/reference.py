"""llama2.c in numpy: random models, their files as its exporter writes them, its arithmetic. Uses no code of ours."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
WEIGHTS = ("wq", "wk", "wv", "wo", "w1", "w2", "w3")


@dataclass
class Model:
    dim: int = 64
    hidden: int = 96
    layers: int = 3
    heads: int = 4
    kv: int = 2
    vocab: int = 300
    seq: int = 48
    shared: bool = False
    w: dict[str, Array] = field(default_factory=dict)  # each with its layers as the first axis, where it has any

    def fill(self, seed: int) -> Model:
        draw = np.random.default_rng(seed)
        kv = self.kv * self.dim // self.heads

        def matrix(*sizes: int) -> Array:
            return (draw.standard_normal(sizes) / np.sqrt(sizes[-1])).astype(np.float32)

        n = self.layers
        self.w = {
            "emb": matrix(self.vocab, self.dim) * np.float32(4),
            "wq": matrix(n, self.dim, self.dim),
            "wk": matrix(n, kv, self.dim),
            "wv": matrix(n, kv, self.dim),
            "wo": matrix(n, self.dim, self.dim),
            "w1": matrix(n, self.hidden, self.dim),
            "w2": matrix(n, self.dim, self.hidden),
            "w3": matrix(n, self.hidden, self.dim),
            "att": (1 + 0.2 * draw.standard_normal((n, self.dim))).astype(np.float32),
            "ffn": (1 + 0.2 * draw.standard_normal((n, self.dim))).astype(np.float32),
            "norm": (1 + 0.2 * draw.standard_normal(self.dim)).astype(np.float32),
        }
        self.w["out"] = self.w["emb"] if self.shared else matrix(self.vocab, self.dim)
        return self


def write_model(path: Path, m: Model, version: int, group: int = 64) -> None:
    w = m.w
    numbers = (m.dim, m.hidden, m.layers, m.heads, m.kv)

    def f4(*arrays: Array) -> bytes:
        return b"".join(np.ascontiguousarray(a, "<f4").tobytes() for a in arrays)

    if version == 0:
        head = m.dim // m.heads
        angles = np.outer(np.arange(m.seq), 1 / 10000 ** (np.arange(0, head, 2) / head))
        body = f4(
            w["emb"], w["att"], w["wq"], w["wk"], w["wv"], w["wo"], w["ffn"], w["w1"], w["w2"], w["w3"], w["norm"]
        )
        body += f4(np.cos(angles), np.sin(angles)) + (b"" if m.shared else f4(w["out"]))
        path.write_bytes(struct.pack("<7i", *numbers, m.vocab if m.shared else -m.vocab, m.seq) + body)
        return
    header = struct.pack("<Ii7iB", 0x616B3432, version, *numbers, m.vocab, m.seq, m.shared)
    matrices = [w["emb"], *(w[name][i] for name in WEIGHTS for i in range(m.layers))]
    matrices += [] if m.shared else [w["out"]]
    body = f4(w["att"], w["ffn"], w["norm"])
    if version == 1:
        path.write_bytes(header.ljust(256, b"\0") + body + f4(*matrices))
        return
    for matrix in matrices:
        q, s = quantized(matrix, group)
        body += q.tobytes() + s.tobytes()
    path.write_bytes((header + struct.pack("<i", group)).ljust(256, b"\0") + body)


def quantized(matrix: Array, group: int) -> tuple[Array, Array]:
    g = np.asarray(matrix, np.float32).reshape(-1, group)
    s = np.abs(g).max(axis=1) / np.float32(127)
    return np.round(g / s[:, None]).astype(np.int8), s


def rounded(m: Model, group: int) -> Model:
    """The model that a file of version 2 holds."""

    def back(a: Array) -> Array:
        q, s = quantized(a, group)
        return (q * s[:, None]).astype(np.float32).reshape(a.shape)

    return Model(
        m.dim, m.hidden, m.layers, m.heads, m.kv, m.vocab, m.seq, m.shared,
        {name: back(a) if name in ("emb", "out", *WEIGHTS) else a for name, a in m.w.items()},
    )  # fmt: skip


def vocabulary(n: int) -> list[tuple[bytes, float]]:
    special = [b"<unk>", b"\n<s>\n", b"\n</s>\n"]
    words = [b"<0x%02X>" % i for i in range(256)] + [b" ", "é".encode(), b" t", b"he", b" the"]
    words += [b" w%d" % i for i in range(n - len(special) - len(words))]
    return [(text, 0.0) for text in special] + [(text, -float(i)) for i, text in enumerate(words)]


def write_tokenizer(path: Path, tokens: list[tuple[bytes, float]]) -> None:
    longest = max(len(text) for text, _ in tokens)
    entries = (struct.pack("<fI", score, len(text)) + text for text, score in tokens)
    path.write_bytes(struct.pack("<I", longest) + b"".join(entries))


def logits(m: Model, tokens: list[int]) -> Array:
    """After the last token, in double precision: what run.c computes step by step."""
    w, head, share = m.w, m.dim // m.heads, m.heads // m.kv
    keys: list[list[Array]] = [[] for _ in range(m.layers)]
    values: list[list[Array]] = [[] for _ in range(m.layers)]

    def norm(x: Array, weight: Array) -> Array:
        return weight * (x / np.sqrt((x * x).mean() + 1e-5))

    def turned(v: Array, position: int) -> Array:
        out = v.copy()
        for i in range(0, v.size, 2):
            angle = position / 10000 ** ((i % head) / head)
            out[i] = v[i] * np.cos(angle) - v[i + 1] * np.sin(angle)
            out[i + 1] = v[i] * np.sin(angle) + v[i + 1] * np.cos(angle)
        return out

    x = np.zeros(m.dim)
    for position, token in enumerate(tokens):
        x = w["emb"][token].astype(np.float64)
        for i in range(m.layers):
            h = norm(x, w["att"][i])
            q = turned(w["wq"][i] @ h, position).reshape(m.heads, head)
            keys[i].append(turned(w["wk"][i] @ h, position).reshape(m.kv, head))
            values[i].append((w["wv"][i] @ h).reshape(m.kv, head))
            mixed = []
            for j in range(m.heads):
                scores = np.array([k[j // share] @ q[j] for k in keys[i]]) / np.sqrt(head)
                weight = np.exp(scores - scores.max())
                weight /= weight.sum()
                mixed.append(sum(p * v[j // share] for p, v in zip(weight, values[i], strict=True)))
            x = x + w["wo"][i] @ np.concatenate(mixed)
            h = norm(x, w["ffn"][i])
            gate = w["w1"][i] @ h
            x = x + w["w2"][i] @ (gate / (1 + np.exp(-gate)) * (w["w3"][i] @ h))
    return np.asarray(w["out"] @ norm(x, w["norm"]))
