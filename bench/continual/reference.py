"""Class-incremental Split-Fashion-MNIST in PyTorch, the peer of reference.ts: MLP 784-100-100-10, SGD with learning rate 0.1, one
epoch, 10 new images a step. Reads one JSON job from standard input, prints accuracy in percent and seconds as JSON. One thread."""

import json
import os
import sys
import time

import numpy as np
import torch
import torch.nn.functional as F

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
from idx_files import images  # noqa: E402


class Reservoir:
    def __init__(self, capacity, rng):
        self.capacity, self.rng, self.seen = capacity, rng, 0
        self.x, self.y = torch.zeros(capacity, 784), torch.zeros(capacity, dtype=torch.int64)
        self.z = torch.zeros(capacity, 10)

    def __len__(self):
        return min(self.seen, self.capacity)

    def offer(self, x, y, z=None):
        for i in range(len(y)):
            slot = self.seen if self.seen < self.capacity else int(self.rng.integers(self.seen + 1))
            self.seen += 1
            if slot < self.capacity:
                self.x[slot], self.y[slot] = x[i], y[i]
                if z is not None:
                    self.z[slot] = z[i]

    def draw(self, count):
        return torch.from_numpy(self.rng.choice(len(self), min(count, len(self)), replace=False))


def main():
    job = json.load(sys.stdin)
    began = time.perf_counter()
    torch.set_num_threads(1)
    torch.manual_seed(job["seed"])
    rng = np.random.default_rng(job["seed"])
    train_x, train_y = images(job["folder"], "train")
    test_x, test_y = images(job["folder"], "t10k")
    model = torch.nn.Sequential(
        torch.nn.Linear(784, 100), torch.nn.ReLU(), torch.nn.Linear(100, 100), torch.nn.ReLU(), torch.nn.Linear(100, 10)
    )
    params = list(model.parameters())
    optimizer = torch.optim.SGD(params, lr=0.1)
    method = job["method"]
    memory = Reservoir(job.get("buffer", 1), rng)
    tasks = [torch.arange(10)] if method == "joint" else [torch.tensor([2 * t, 2 * t + 1]) for t in range(5)]
    for task, classes in enumerate(tasks):
        own = torch.isin(train_y, classes).nonzero()[:, 0]
        own = own[torch.from_numpy(rng.permutation(len(own)))]
        waiting = []
        for batch in own.split(10):
            x, y = train_x[batch], train_y[batch]
            if method == "a-gem" and task > 0:
                at = memory.draw(256)
                kept = torch.autograd.grad(F.cross_entropy(model(memory.x[at]), memory.y[at]), params)
            if method == "er" and task > 0:
                at = memory.draw(10)
                loss = F.cross_entropy(model(torch.cat([x, memory.x[at]])), torch.cat([y, memory.y[at]]))
            else:
                logits = model(x)
                loss = F.cross_entropy(logits, y)
            if method == "der++" and len(memory) > 0:
                at = memory.draw(10)
                loss = loss + 0.2 * F.mse_loss(model(memory.x[at]), memory.z[at])
                at = memory.draw(10)
                loss = loss + 1.0 * F.cross_entropy(model(memory.x[at]), memory.y[at])
            optimizer.zero_grad()
            loss.backward()
            if method == "a-gem" and task > 0:
                inner = sum((p.grad * g).sum() for p, g in zip(params, kept))
                if inner < 0:
                    share = inner / sum((g * g).sum() for g in kept)
                    for p, g in zip(params, kept):
                        p.grad.sub_(share * g)
            optimizer.step()
            if method == "er":
                memory.offer(x, y)
            elif method == "der++":
                memory.offer(x, y, logits.detach())
            elif method == "a-gem":
                waiting.append((x, y))
        for x, y in waiting:
            memory.offer(x, y)
    with torch.no_grad():
        right = (model(test_x).argmax(1) == test_y).float().mean().item()
    print(json.dumps({"accuracy": 100 * right, "seconds": time.perf_counter() - began}))


main()
