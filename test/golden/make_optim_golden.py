"""Makes optim.json: ten steps of each optimizer on fixed data, in double precision.

    python3 test/golden/make_optim_golden.py     (needs torch >= 2.0)

SGD, Adam and AdamW are torch.optim's; Lion and Muon are written out below from their papers. Matrices are [in, out] as
in Plexus; Muon's scale depends on that orientation.
"""
import json
import math
import os

import torch

torch.manual_seed(20)
torch.set_default_dtype(torch.float64)
STEPS = 10


def rounded(t):
    """To float32 and back: what the JSON file holds is then exact for both sides."""
    return t.to(torch.float32).to(torch.float64)


SHAPES = {"block.weight": (6, 4), "wide.weight": (3, 8), "block.bias": (4,)}
PARAMS = {name: rounded(torch.randn(shape)) for name, shape in SHAPES.items()}
GRADS = [{name: rounded(torch.randn(shape) * 10 ** torch.empty(shape).uniform_(-2, 1)) for name, shape in SHAPES.items()} for _ in range(STEPS)]


class Lion(torch.optim.Optimizer):
    """Chen et al. 2023, algorithm 2."""

    def __init__(self, params, lr, betas, weight_decay):
        super().__init__(params, dict(lr=lr, betas=betas, weight_decay=weight_decay))

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            b1, b2 = group["betas"]
            for p in group["params"]:
                m = self.state[p].setdefault("m", torch.zeros_like(p))
                p.mul_(1 - group["lr"] * group["weight_decay"])
                p.sub_(group["lr"] * torch.sign(b1 * m + (1 - b1) * p.grad))
                m.mul_(b2).add_(p.grad, alpha=1 - b2)


def newton_schulz(g, steps=5):
    """Jordan et al. 2024, but not in bfloat16."""
    a, b, c = 3.4445, -4.7750, 2.0315
    x = g / (g.norm() + 1e-7)
    if g.shape[0] > g.shape[1]:
        x = x.T
    for _ in range(steps):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.T if g.shape[0] > g.shape[1] else x


class Muon(torch.optim.Optimizer):
    """Jordan et al. 2024 for [in, out] matrices."""

    def __init__(self, params, lr, momentum, weight_decay, adjust, nesterov):
        super().__init__(params, dict(lr=lr, momentum=momentum, weight_decay=weight_decay, adjust=adjust, nesterov=nesterov))

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            mu, lr = group["momentum"], group["lr"]
            for p in group["params"]:
                m = self.state[p].setdefault("m", torch.zeros_like(p))
                m.lerp_(p.grad, 1 - mu)
                u = newton_schulz(p.grad.lerp(m, mu) if group["nesterov"] else m)
                fan_in, fan_out = p.shape
                scale = max(1, fan_out / fan_in) ** 0.5 if group["adjust"] == "original" else 0.2 * max(fan_in, fan_out) ** 0.5
                p.mul_(1 - lr * group["weight_decay"])
                p.sub_(lr * scale * u)


def run(config, make, factor=lambda step: 1.0):
    params = {name: torch.nn.Parameter(value.clone()) for name, value in PARAMS.items()}
    optimizers = make(params)
    base = [[group["lr"] for group in optimizer.param_groups] for optimizer in optimizers]
    for step in range(STEPS):
        for name, p in params.items():
            p.grad = GRADS[step][name].clone()
        if config.get("clip_norm"):
            torch.nn.utils.clip_grad_norm_(params.values(), config["clip_norm"])
        for optimizer, rates in zip(optimizers, base):
            for group, rate in zip(optimizer.param_groups, rates):
                group["lr"] = rate * factor(step)
            optimizer.step()
    return {"config": config, "params": {name: p.detach().flatten().tolist() for name, p in params.items()}}


def weights(params):
    return [p for name, p in params.items() if name.endswith("weight")]


def biases(params):
    return [p for name, p in params.items() if name.endswith("bias")]


def grouped(params, decay):
    """Biases are not decayed, as in Plexus by default."""
    return [{"params": weights(params), "weight_decay": decay}, {"params": biases(params), "weight_decay": 0.0}]


cosine = lambda step: 0.1 + 0.9 * (1 + math.cos(math.pi * step / STEPS)) / 2

CASES = {
    "sgd": run({"name": "sgd", "lr": 0.05, "momentum": 0}, lambda p: [torch.optim.SGD(p.values(), lr=0.05)]),
    "sgd momentum decay": run(
        {"name": "sgd", "lr": 0.05, "momentum": 0.9, "weight_decay": 0.1},
        lambda p: [torch.optim.SGD(grouped(p, 0.1), lr=0.05, momentum=0.9)],
    ),
    "sgd nesterov": run(
        {"name": "sgd", "lr": 0.05, "momentum": 0.8, "nesterov": True, "weight_decay": 0.1},
        lambda p: [torch.optim.SGD(grouped(p, 0.1), lr=0.05, momentum=0.8, nesterov=True)],
    ),
    "adam": run({"name": "adam", "lr": 0.01}, lambda p: [torch.optim.Adam(p.values(), lr=0.01)]),
    "adam decay": run(
        {"name": "adam", "lr": 0.01, "weight_decay": 0.3, "betas": [0.8, 0.95], "eps": 1e-3},
        lambda p: [torch.optim.Adam(grouped(p, 0.3), lr=0.01, betas=(0.8, 0.95), eps=1e-3)],
    ),
    "adamw cosine": run(
        {"name": "adamw", "lr": 0.02, "weight_decay": 0.2, "schedule": {"name": "cosine", "final": 0.1}},
        lambda p: [torch.optim.AdamW(grouped(p, 0.2), lr=0.02)],
        cosine,
    ),
    "adamw groups": run(
        {"name": "adamw", "lr": 0.02, "weight_decay": 0.2, "groups": [{"match": "*.bias", "lr": 0.1, "weight_decay": 0.4}]},
        lambda p: [
            torch.optim.AdamW([{"params": weights(p)}, {"params": biases(p), "lr": 0.002, "weight_decay": 0.4}], lr=0.02, weight_decay=0.2)
        ],
    ),
    "sgd clipped": run(
        {"name": "sgd", "lr": 0.05, "momentum": 0.9, "clip_norm": 15.0},
        lambda p: [torch.optim.SGD(p.values(), lr=0.05, momentum=0.9)],
    ),
    "adamw clipped": run(
        {"name": "adamw", "lr": 0.02, "weight_decay": 0.2, "clip_norm": 0.5},
        lambda p: [torch.optim.AdamW(grouped(p, 0.2), lr=0.02)],
    ),
    "lion": run(
        {"name": "lion", "lr": 0.003, "weight_decay": 0.5},
        lambda p: [Lion(grouped(p, 0.5), lr=0.003, betas=(0.9, 0.99), weight_decay=0.5)],
    ),
    "muon": run(
        {"name": "muon", "lr": 0.02, "weight_decay": 0.1},
        lambda p: [
            Muon(weights(p), lr=0.02, momentum=0.95, weight_decay=0.1, adjust="match_rms_adamw", nesterov=True),
            torch.optim.AdamW(biases(p), lr=0.02, betas=(0.9, 0.95), weight_decay=0.0),
        ],
    ),
    "muon original": run(
        {"name": "muon", "lr": 0.02, "weight_decay": 0.0, "adjust": "original", "nesterov": False, "adamw_lr": 0.5},
        lambda p: [
            Muon(weights(p), lr=0.02, momentum=0.95, weight_decay=0.0, adjust="original", nesterov=False),
            torch.optim.AdamW(biases(p), lr=0.01, betas=(0.9, 0.95), weight_decay=0.0),
        ],
    ),
}

with open(os.path.join(os.path.dirname(os.path.abspath(__file__)), "optim.json"), "w") as file:
    json.dump(
        {
            "torch": torch.__version__,
            "steps": STEPS,
            "shapes": SHAPES,
            "params": {name: p.flatten().tolist() for name, p in PARAMS.items()},
            "grads": [{name: g.flatten().tolist() for name, g in step.items()} for step in GRADS],
            "cases": CASES,
        },
        file,
    )
    file.write("\n")
