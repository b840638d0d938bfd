"""The training steps of bench/engine/convnet.ts in PyTorch eager, for comparison.

usage: python3 convnet.py lenet|cnn STEPS
Prints a JSON list: milliseconds of a step, three times, each the mean of STEPS.
"""

import json
import sys
import time

import torch
from torch import nn

torch.set_num_threads(1)
torch.manual_seed(0)
name, steps = sys.argv[1], int(sys.argv[2])
block = lambda *conv, **how: [nn.Conv2d(*conv, **how), nn.ReLU(), nn.MaxPool2d(2)]  # noqa: E731
dense = lambda *sizes: [nn.Linear(*sizes), nn.ReLU()]  # noqa: E731
layers = {
    "lenet": lambda: [*block(1, 6, 5), *block(6, 16, 5), nn.Flatten(), *dense(256, 120), *dense(120, 84), nn.Linear(84, 10)],
    "cnn": lambda: [
        *block(1, 32, 3, padding=1),
        *block(32, 64, 3, padding=1),
        nn.Flatten(),
        *dense(3136, 128),
        nn.Linear(128, 10),
    ],
}
model = nn.Sequential(*layers[name]())
optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, weight_decay=1e-5)
images = torch.rand(64, 1, 28, 28)
labels = torch.arange(64) % 10
loss_of = nn.CrossEntropyLoss()


def run():
    began = time.perf_counter()
    for _ in range(steps):
        optimizer.zero_grad()
        loss = loss_of(model(images), labels)
        loss.backward()
        optimizer.step()
    return (time.perf_counter() - began) / steps * 1000


run()
print(json.dumps([run() for _ in range(3)]))
