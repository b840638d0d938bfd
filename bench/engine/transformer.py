"""The training step of bench/engine/transformer.ts in PyTorch eager, for comparison.

usage: python3 transformer.py LAYERS WIDTH HEADS VOCABULARY BATCH TIME REPEATS [plain|sdpa]
Prints one JSON object: torch version, attention form, first loss, milliseconds of each repeat.
"""
import json
import math
import sys
import time

import torch
import torch.nn.functional as F

torch.set_num_threads(1)
layers, width, heads, vocabulary, batch, steps, repeats = map(int, sys.argv[1:8])
form = sys.argv[8] if len(sys.argv) > 8 else "plain"


class Block(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.norm1 = torch.nn.LayerNorm(width)
        self.qkv = torch.nn.Linear(width, 3 * width)
        self.proj = torch.nn.Linear(width, width)
        self.norm2 = torch.nn.LayerNorm(width)
        self.up = torch.nn.Linear(width, 4 * width)
        self.down = torch.nn.Linear(4 * width, width)

    def forward(self, x, mask):
        q, k, v = self.qkv(self.norm1(x)).view(batch, steps, 3, heads, width // heads).permute(2, 0, 3, 1, 4)
        if form == "sdpa":
            mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        else:
            scores = q @ k.transpose(-2, -1) * (1 / math.sqrt(width // heads))
            mixed = torch.softmax(scores + mask, -1) @ v
        x = x + self.proj(mixed.transpose(1, 2).reshape(batch * steps, width))
        return x + self.down(F.gelu(self.up(self.norm2(x))))


class Model(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.tokens = torch.nn.Embedding(vocabulary, width)
        self.positions = torch.nn.Parameter(torch.randn(steps, width) * 0.02)
        self.blocks = torch.nn.ModuleList(Block() for _ in range(layers))
        self.norm = torch.nn.LayerNorm(width)
        self.head = torch.nn.Linear(width, vocabulary, bias=False)
        self.register_buffer("mask", torch.triu(torch.full((steps, steps), -1e9), 1))

    def forward(self, tokens, targets):
        x = (self.tokens(tokens).view(batch, steps, width) + self.positions).view(batch * steps, width)
        for block in self.blocks:
            x = block(x, self.mask)
        return F.cross_entropy(self.head(self.norm(x)), targets)


torch.manual_seed(0)
model = Model()
for parameter in model.parameters():
    if parameter.dim() > 1:
        torch.nn.init.normal_(parameter, std=0.02)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
tokens = torch.randint(vocabulary, (batch * steps,))
targets = torch.randint(vocabulary, (batch * steps,))
times = []
first = None
for repeat in range(repeats + 3):
    begin = time.perf_counter()
    optimizer.zero_grad()
    loss = model(tokens, targets)
    loss.backward()
    optimizer.step()
    if first is None:
        first = loss.item()
    if repeat >= 3:
        times.append((time.perf_counter() - begin) * 1000)
print(json.dumps({"torch": torch.__version__, "attention": form, "loss": first, "ms": times}))
