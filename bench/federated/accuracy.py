"""Federated averaging in PyTorch, the peer of accuracy.ts and mcmahan.ts: the same clients, cohorts and settings, its own initial
weights and orders. Reads one JSON job from standard input, prints the accuracy in percent; with a target, that after each round
until it is reached."""

import json
import os
import sys

import torch

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
from idx_files import images  # noqa: E402


def main():
    job = json.load(sys.stdin)
    torch.set_num_threads(1)
    torch.manual_seed(job["seed"])
    inputs, labels = images(job["folder"], "train")
    test_inputs, test_labels = images(job["folder"], "t10k")
    inputs, test_inputs = inputs - job["centre"], test_inputs - job["centre"]
    widths = [784, *job.get("hidden", [200])]
    layers = [part for pair in zip(widths, widths[1:]) for part in (torch.nn.Linear(*pair), torch.nn.ReLU())]
    model = torch.nn.Sequential(*layers, torch.nn.Linear(widths[-1], 10))
    params = list(model.parameters())
    loss_of = torch.nn.CrossEntropyLoss()
    for cohort in job["cohorts"]:
        start = [param.detach().clone() for param in params]
        total = [torch.zeros_like(param) for param in params]
        count = sum(len(job["clients"][client]) for client in cohort)
        for client in cohort:
            own = torch.tensor(job["clients"][client])
            for param, value in zip(params, start):
                param.data.copy_(value)
            own = own[torch.randperm(len(own))]
            for batch in own.split(job["batch"]):
                loss = loss_of(model(inputs[batch]), labels[batch])
                grads = torch.autograd.grad(loss, params)
                with torch.no_grad():
                    for param, grad in zip(params, grads):
                        param.sub_(grad, alpha=job["lr"])
            for sum_, param in zip(total, params):
                sum_.add_(param.data, alpha=len(own) / count)
        for param, value in zip(params, total):
            param.data.copy_(value)
        if job.get("target") is not None:
            reached = accuracy(model, test_inputs, test_labels)
            print(reached, flush=True)
            if reached >= job["target"]:
                return
    if job.get("target") is None:
        print(accuracy(model, test_inputs, test_labels))


def accuracy(model, inputs, labels):
    with torch.no_grad():
        return 100 * (model(inputs).argmax(1) == labels).float().mean().item()


main()
