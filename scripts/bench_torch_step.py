#!/usr/bin/env python3
"""Times a training step in PyTorch eager, at the shape of `distillix bench train`.

A decoder with BitLinear blocks (8-bit activations, ternary weights, straight-through gradients) on random tokens, AdamW.
Prints one JSON line; see benches/README.md.
"""

import argparse
import json
import resource
import statistics
import time

import torch
import torch.nn.functional as F
from torch import nn

VOCAB, HIDDEN, LAYERS, MLP = 4096, 256, 4, 704
HEADS, KV_HEADS, HEAD_DIM = 4, 2, 64
ROWS, TOKENS = 8, 256
EPS, THETA = 1e-5, 10_000.0
WARMUP = 2


def straight_through(value, quantized):
    """`quantized` going forward, the gradient of `value` going backward."""
    return value + (quantized - value).detach()


class BitLinear(nn.Linear):
    """Absmean ternary weights, absmax 8-bit activations (BitNet b1.58)."""

    def __init__(self, inputs, outputs):
        super().__init__(inputs, outputs, bias=False)

    def forward(self, x):
        gamma = self.weight.abs().mean().clamp(min=1e-5)
        weight = (self.weight / gamma).round().clamp(-1, 1) * gamma
        scale = 127 / x.abs().amax(dim=-1, keepdim=True).clamp(min=1e-5)
        codes = (x * scale).round().clamp(-128, 127)
        return F.linear(straight_through(x, codes / scale), straight_through(self.weight, weight))


def rotate(x, cos, sin):
    """Rotary embedding, halves rotated against each other."""
    first, second = x.chunk(2, dim=-1)
    return x * cos + torch.cat((-second, first), dim=-1) * sin


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.q = BitLinear(HIDDEN, HEADS * HEAD_DIM)
        self.k = BitLinear(HIDDEN, KV_HEADS * HEAD_DIM)
        self.v = BitLinear(HIDDEN, KV_HEADS * HEAD_DIM)
        self.o = BitLinear(HEADS * HEAD_DIM, HIDDEN)

    def forward(self, x, cos, sin, mask):
        def heads(y, n):
            return y.unflatten(-1, (n, HEAD_DIM)).transpose(1, 2)

        q = rotate(heads(self.q(x), HEADS), cos, sin)
        k = rotate(heads(self.k(x), KV_HEADS), cos, sin)
        v = heads(self.v(x), KV_HEADS)
        k, v = (y.repeat_interleave(HEADS // KV_HEADS, dim=1) for y in (k, v))
        scores = q @ k.transpose(-2, -1) * HEAD_DIM**-0.5 + mask
        return self.o((scores.softmax(dim=-1) @ v).transpose(1, 2).flatten(2))


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.attention_norm = nn.RMSNorm(HIDDEN, eps=EPS)
        self.attention = Attention()
        self.mlp_norm = nn.RMSNorm(HIDDEN, eps=EPS)
        self.gate = BitLinear(HIDDEN, MLP)
        self.up = BitLinear(HIDDEN, MLP)
        self.down = BitLinear(MLP, HIDDEN)

    def forward(self, x, *context):
        x = x + self.attention(self.attention_norm(x), *context)
        y = self.mlp_norm(x)
        return x + self.down(F.silu(self.gate(y)) * self.up(y))


class Decoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(VOCAB, HIDDEN)
        self.blocks = nn.ModuleList(Block() for _ in range(LAYERS))
        self.norm = nn.RMSNorm(HIDDEN, eps=EPS)
        self.head = nn.Linear(HIDDEN, VOCAB, bias=False)
        for parameter in self.parameters():
            if parameter.dim() == 2:
                nn.init.normal_(parameter, std=0.02)
        frequencies = THETA ** -(torch.arange(0, HEAD_DIM, 2) / HEAD_DIM)
        angles = torch.outer(torch.arange(TOKENS), frequencies).repeat(1, 2)
        self.register_buffer("cos", angles.cos())
        self.register_buffer("sin", angles.sin())
        self.register_buffer("mask", torch.full((TOKENS, TOKENS), float("-inf")).triu(1))

    def forward(self, ids):
        x = self.embedding(ids)
        for block in self.blocks:
            x = block(x, self.cos, self.sin, self.mask)
        return self.head(self.norm(x))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--steps", type=int, default=10, help="timed steps, after two that are not")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)

    model = Decoder()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.01)
    tokens = torch.randint(VOCAB, (ROWS, TOKENS + 1))
    ids, targets = tokens[:, :-1], tokens[:, 1:].flatten()

    seconds, losses = [], []
    for _ in range(WARMUP + args.steps):
        start = time.perf_counter()
        loss = F.cross_entropy(model(ids).flatten(0, 1), targets)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
        seconds.append(time.perf_counter() - start)
    median = statistics.median(seconds[WARMUP:])
    report = {
        "torch": torch.__version__,
        "threads": args.threads,
        "parameters": sum(p.numel() for p in model.parameters()),
        "tokens_per_second": ROWS * TOKENS / median,
        "step_seconds": median,
        "losses": [losses[0], losses[-1]],
        "peak_rss_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }
    print(json.dumps(report))


if __name__ == "__main__":
    main()
