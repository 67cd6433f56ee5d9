"""The network of the tiny chat model: a Llama-architecture decoder in plain PyTorch.

The shapes are chosen for llama.cpp: every row length is a multiple of 32, so that all matrices fit
q8_0 blocks, and the size of a head is a multiple of 32, so that a q8_0 KV cache works as well.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional


@dataclass(frozen=True)
class Shape:
    """The sizes of the network, as they are also written into the GGUF metadata."""

    vocab: int = 2048
    width: int = 256
    layers: int = 5
    heads: int = 8
    kv_heads: int = 4
    feed_forward: int = 640
    context: int = 1024
    rope_base: float = 10000.0
    norm_eps: float = 1e-5

    @property
    def head_size(self) -> int:
        return self.width // self.heads

    def __post_init__(self) -> None:
        if self.width % self.heads or self.heads % self.kv_heads:
            raise ValueError("width must divide by heads, and heads by kv_heads")
        for size in (self.width, self.feed_forward, self.head_size):
            if size % 32:
                raise ValueError(f"{size} is not a multiple of 32, the block length of q8_0")


def rope_table(shape: Shape) -> tuple[Tensor, Tensor]:
    """Cosines and sines, one row for each position, one column for each pair of a head."""
    exponent = torch.arange(0, shape.head_size, 2, dtype=torch.float64) / shape.head_size
    frequency = shape.rope_base**-exponent
    angle = torch.outer(torch.arange(shape.context, dtype=torch.float64), frequency)
    return angle.cos().float(), angle.sin().float()


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn neighbouring pairs (0,1), (2,3)...: the layout that llama.cpp expects for `llama`.

    Training in that layout means that the export needs no permutation of the Q and K rows.
    """
    even, odd = x[..., 0::2], x[..., 1::2]
    return torch.stack((even * cos - odd * sin, even * sin + odd * cos), dim=-1).flatten(-2)


class RmsNorm(nn.Module):
    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        return functional.rms_norm(x, (x.shape[-1],), self.weight, self.eps)


class Layer(nn.Module):
    """One block: attention with grouped KV heads, then a SwiGLU feed-forward net."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        kv_width = shape.kv_heads * shape.head_size
        self.attn_norm = RmsNorm(shape.width, shape.norm_eps)
        self.attn_q = nn.Linear(shape.width, shape.width, bias=False)
        self.attn_k = nn.Linear(shape.width, kv_width, bias=False)
        self.attn_v = nn.Linear(shape.width, kv_width, bias=False)
        self.attn_output = nn.Linear(shape.width, shape.width, bias=False)
        self.ffn_norm = RmsNorm(shape.width, shape.norm_eps)
        self.ffn_gate = nn.Linear(shape.width, shape.feed_forward, bias=False)
        self.ffn_up = nn.Linear(shape.width, shape.feed_forward, bias=False)
        self.ffn_down = nn.Linear(shape.feed_forward, shape.width, bias=False)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        batch, length, width = x.shape
        shape = self.shape
        h = self.attn_norm(x)
        q = self.attn_q(h).view(batch, length, shape.heads, shape.head_size).transpose(1, 2)
        k = self.attn_k(h).view(batch, length, shape.kv_heads, shape.head_size).transpose(1, 2)
        v = self.attn_v(h).view(batch, length, shape.kv_heads, shape.head_size).transpose(1, 2)
        group = shape.heads // shape.kv_heads
        k = rotate(k, cos, sin).repeat_interleave(group, dim=1)
        a = functional.scaled_dot_product_attention(
            rotate(q, cos, sin), k, v.repeat_interleave(group, dim=1), is_causal=True
        )
        x = x + self.attn_output(a.transpose(1, 2).reshape(batch, length, width))
        h = self.ffn_norm(x)
        gated = functional.silu(self.ffn_gate(h)) * self.ffn_up(h)
        return x + torch.as_tensor(self.ffn_down(gated))


class TinyLlama(nn.Module):
    """The whole decoder. The output matrix is the embedding matrix (tied), which saves 0.5 MB."""

    cos: Tensor
    sin: Tensor

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        self.token_embd = nn.Embedding(shape.vocab, shape.width)
        self.blk = nn.ModuleList(Layer(shape) for _ in range(shape.layers))
        self.output_norm = RmsNorm(shape.width, shape.norm_eps)
        cos, sin = rope_table(shape)
        self.register_buffer("cos", cos, persistent=False)
        self.register_buffer("sin", sin, persistent=False)
        self.apply(self._initialise)
        # The residual stream is a sum of 2 * layers terms: smaller last matrices keep its variance.
        with torch.no_grad():
            for name, weight in self.named_parameters():
                if name.endswith(("attn_output.weight", "ffn_down.weight")):
                    weight.mul_((2 * shape.layers) ** -0.5)

    @staticmethod
    def _initialise(module: nn.Module) -> None:
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=module.in_features**-0.5)
        elif isinstance(module, nn.Embedding):
            nn.init.normal_(module.weight, std=0.05)

    def forward(self, tokens: Tensor) -> Tensor:
        """Logits for each position of a batch of token rows that all start at position 0."""
        length = tokens.shape[1]
        cos, sin = self.cos[:length], self.sin[:length]
        x = self.token_embd(tokens)
        for layer in self.blk:
            x = layer(x, cos, sin)
        return functional.linear(self.output_norm(x), self.token_embd.weight)

    def parameter_count(self) -> int:
        return sum(weight.numel() for weight in self.parameters())
