"""Trains the tiny chat model from scratch: `python models/train.py` writes the GGUF and a report.

The text is the same on every machine. The weights are the same only with the same torch version,
the same kind of processor and the same number of threads, because sums are rounded differently.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import platform
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from random import Random

if not __package__:  # Started as a file: make the package importable from anywhere.
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import gguf  # noqa: F401  (fails before the training, not after it, when the extra is not installed)
import tokenizers
import torch
from torch import Tensor
from torch.nn import functional

from models.corpus import conversations
from models.export import export
from models.network import Shape, TinyLlama
from models.tokenizer import Encoded, encode_conversations, train_tokenizer, vocabulary

HERE = Path(__file__).resolve().parent
PADDING = 0  # <|endoftext|>


@dataclass(frozen=True)
class Plan:
    """Everything that decides what a training run does."""

    seed: int = 20
    tokens: int = 5_600_000
    batch_tokens: int = 4096
    longest: int = 1024
    vocabulary_chats: int = 8000
    held_out_chats: int = 400
    muon_rate: float = 4e-3
    adam_rate: float = 4e-3
    weight_decay: float = 0.02
    warm_up: float = 0.03
    threads: int = 2


@dataclass(frozen=True)
class Batch:
    """Rows of tokens with the targets to learn; a target of -100 does not count."""

    tokens: Tensor
    targets: Tensor


def make_batch(rows: list[Encoded]) -> Batch:
    length = max(len(row.tokens) for row in rows) - 1
    length += -length % 16  # Few different lengths let the kernels of torch be reused.
    tokens = torch.full((len(rows), length), PADDING, dtype=torch.long)
    targets = torch.full((len(rows), length), -100, dtype=torch.long)
    for number, row in enumerate(rows):
        size = len(row.tokens) - 1
        tokens[number, :size] = torch.tensor(row.tokens[:-1])
        pairs = zip(row.tokens[1:], row.learn[1:], strict=True)
        wanted = [token if learn else -100 for token, learn in pairs]
        targets[number, :size] = torch.tensor(wanted)
    return Batch(tokens, targets)


def batches(rows: list[Encoded], budget: int, rng: Random) -> list[Batch]:
    """Rows of similar length together, so that little is padding; then the batches in any order."""
    groups: list[list[Encoded]] = []
    group: list[Encoded] = []
    # The random part of the key keeps rows of one length from always meeting the same rows.
    for row in sorted(rows, key=lambda row: len(row.tokens) + 24 * rng.random()):
        widest = max(len(row.tokens), *(len(other.tokens) for other in group)) if group else 0
        if group and widest * (len(group) + 1) > budget:
            groups.append(group)
            group = []
        group.append(row)
    groups.append(group)
    rng.shuffle(groups)
    return [make_batch(group) for group in groups if group]


def loss_of(network: TinyLlama, batch: Batch) -> Tensor:
    """Mean cross-entropy of the answer tokens.

    bfloat16 products are about 1.5 times as fast here; weights, norms and the loss stay float32.
    """
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits: Tensor = network(batch.tokens)
    wanted = batch.targets != -100
    return functional.cross_entropy(logits[wanted].float(), batch.targets[wanted])


def held_out_loss(network: TinyLlama, rows: list[Encoded], budget: int) -> float:
    total, count = 0.0, 0
    with torch.no_grad():
        for batch in batches(rows, budget, Random(0)):
            size = int((batch.targets != -100).sum())
            total += float(loss_of(network, batch)) * size
            count += size
    return total / count


def optimisers(network: TinyLlama, plan: Plan) -> list[torch.optim.Optimizer]:
    """Muon for the matrices of the layers (it needs about half the steps), Adam for the rest."""
    matrices = [weight for weight in network.blk.parameters() if weight.ndim == 2]
    matrix_ids = {id(weight) for weight in matrices}
    others = [weight for weight in network.parameters() if id(weight) not in matrix_ids]
    return [
        torch.optim.Muon(matrices, lr=plan.muon_rate, weight_decay=plan.weight_decay, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(others, lr=plan.adam_rate, betas=(0.9, 0.98), weight_decay=0.0),
    ]


def rate_factor(done: float, warm_up: float) -> float:
    """A short rise, then a straight line down to almost nothing."""
    return min(1.0, done / warm_up) if done < warm_up else max(0.01, (1.0 - done) / (1.0 - warm_up))


def chunks(plan: Plan, tokenizer: tokenizers.Tokenizer) -> Iterator[list[Encoded]]:
    """Fresh conversations, some thousands at a time: no conversation is seen twice."""
    source = conversations(plan.seed, drills=True)
    while True:
        yield encode_conversations(tokenizer, list(islice(source, 4000)), plan.longest)


def train(
    plan: Plan, shape: Shape, tokenizer: tokenizers.Tokenizer, snapshot: Callable[[TinyLlama], None]
) -> tuple[TinyLlama, dict[str, float]]:
    """A trained network and its figures; `snapshot` sees the unfinished network now and then."""
    torch.manual_seed(plan.seed)
    rng = Random(plan.seed)
    network = TinyLlama(shape)
    network.train()
    tools = optimisers(network, plan)
    rates = [group["lr"] for tool in tools for group in tool.param_groups]
    began, seen, chats, steps, smooth = time.monotonic(), 0, 0, 0, 0.0
    for rows in chunks(plan, tokenizer):
        chats += len(rows)
        for batch in batches(rows, plan.batch_tokens, rng):
            factor = rate_factor(seen / plan.tokens, plan.warm_up)
            for group, rate in zip((g for tool in tools for g in tool.param_groups), rates, strict=True):
                group["lr"] = rate * factor
            loss = loss_of(network, batch)
            torch.autograd.backward(loss)
            torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            for tool in tools:
                tool.step()
                tool.zero_grad(set_to_none=True)
            seen += batch.tokens.numel()
            steps += 1
            value = float(loss.detach())
            smooth = value if steps == 1 else 0.97 * smooth + 0.03 * value
            if steps % 50 == 0:
                minutes = (time.monotonic() - began) / 60
                print(
                    f"step {steps:5d}  {seen / 1e6:5.2f} M tokens  loss {smooth:.4f}  {minutes:.1f} min",
                    flush=True,
                )
            if steps % 200 == 0:
                snapshot(network)
            if seen >= plan.tokens:
                network.eval()
                return network, {
                    "steps": steps,
                    "tokens": seen,
                    "conversations": chats,
                    "loss": round(smooth, 4),
                    "training_minutes": round((time.monotonic() - began) / 60, 1),
                }
    raise AssertionError("the conversations never end")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tokens", type=int, default=Plan.tokens, help="how many tokens to train on")
    parser.add_argument("--out", type=Path, default=HERE / "llama-canister-tiny.gguf")
    parser.add_argument("--report", type=Path, default=HERE / "training.json")
    arguments = parser.parse_args()
    plan, shape = Plan(tokens=arguments.tokens), Shape()
    torch.set_num_threads(plan.threads)
    began = time.monotonic()
    texts = (m.content for chat in islice(conversations(plan.seed + 1), plan.vocabulary_chats) for m in chat)
    tokenizer = train_tokenizer(texts, shape.vocab)
    unseen = encode_conversations(
        tokenizer, list(islice(conversations(plan.seed + 2), plan.held_out_chats)), plan.longest
    )
    unfinished = arguments.out.with_suffix(".part")
    network, result = train(plan, shape, tokenizer, lambda network: export(network, vocabulary(tokenizer), unfinished))
    export(network, vocabulary(tokenizer), arguments.out)
    unfinished.unlink(missing_ok=True)
    report = {
        **result,
        "held_out_loss": round(held_out_loss(network, unseen, plan.batch_tokens), 4),
        "parameters": network.parameter_count(),
        "minutes": round((time.monotonic() - began) / 60, 1),
        "file_bytes": arguments.out.stat().st_size,
        "sha256": hashlib.sha256(arguments.out.read_bytes()).hexdigest(),
        "plan": asdict(plan),
        "shape": asdict(shape),
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "tokenizers": tokenizers.__version__,
        },
    }
    arguments.report.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
