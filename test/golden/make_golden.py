"""Writes the figures that test/golden/modules.test.ts and transformer-losses.test.ts compare with, computed by PyTorch.

    python3 test/golden/make_golden.py

Every case holds inputs, parameters, outputs, the cotangents of the outputs, and the gradients of parameters and inputs,
in Plexus' layouts (linear weights [in, out], images and sequences with channels last).
"""

import json
import math
import os

import numpy as np
import torch
import torch.nn.functional as F

HERE = os.path.dirname(os.path.abspath(__file__))
torch.manual_seed(20240607)
torch.set_num_threads(1)


def plain(t):
    data = t.detach().contiguous().reshape(-1)
    if data.dtype == torch.float32:
        values = [float(np.format_float_scientific(v, unique=True)) for v in data.numpy()]
    else:
        values = [int(v) for v in data]
    return {"shape": list(t.shape), "data": values}


def randn(*shape, scale=1.0):
    return (torch.randn(*shape) * scale).requires_grad_()


def case(name, options, params, inputs, outputs, layout=None, state=None, contributions=None):
    """Differentiates sum(outputs * cotangents). `layout` maps a PyTorch tensor to Plexus' layout by parameter name."""
    layout = layout or {}
    turn = lambda key, t: layout.get(key, lambda x: x)(t)
    cotangents = [torch.randn_like(turn("output", o)) for o in outputs]
    total = sum((turn("output", o) * c).sum() for o, c in zip(outputs, cotangents))
    floats = [x for x in inputs if x.dtype == torch.float32]
    wrt = list(params.values()) + floats
    grads = torch.autograd.grad(total, wrt)
    param_grads = dict(zip(params, grads))
    input_grads = iter(grads[len(params):])
    out = {
        "name": name,
        "options": options,
        "params": {k: plain(turn(k, p)) for k, p in params.items()},
        "inputs": [plain(turn("input", x)) for x in inputs],
        "outputs": [plain(turn("output", o)) for o in outputs],
        "cotangents": [plain(c) for c in cotangents],
        "paramGradients": {k: plain(turn(k, g)) for k, g in param_grads.items()},
        "inputGradients": [plain(turn("input", next(input_grads))) if x.dtype == torch.float32 else None for x in inputs],
    }
    if state is not None:
        out["state"] = {k: plain(v) for k, v in state.items()}
    if contributions is not None:
        out["newState"] = {k: plain(v) for k, v in contributions.items()}
    return out


def write(file, cases):
    path = os.path.join(HERE, file)
    with open(path, "w") as f:
        json.dump(cases, f, separators=(",", ":"))
        f.write("\n")
    print(f"{file}: {len(cases)} cases, {os.path.getsize(path)} bytes")


def linear_cases():
    x, w, b = randn(2, 3, 5), randn(5, 4), randn(4)
    yield case("linear", {"in": 5, "out": 4}, {"weight": w, "bias": b}, [x], [F.linear(x, w.T, b)])
    ids = torch.randint(0, 7, (2, 4))
    table = randn(7, 3)
    yield case("embedding", {"size": 7, "dim": 3}, {"weight": table}, [ids], [F.embedding(ids, table)])
    x, up, down, ub, db = randn(4, 6), randn(6, 10), randn(10, 6), randn(10), randn(6)
    for activation, fn in [("gelu", F.gelu), ("gelu-tanh", lambda t: F.gelu(t, approximate="tanh")), ("relu", F.relu), ("silu", F.silu)]:
        params = {"up.weight": up, "up.bias": ub, "down.weight": down, "down.bias": db}
        yield case("mlp", {"dim": 6, "hidden": 10, "activation": activation}, params, [x], [fn(x @ up + ub) @ down + db])
    gate = randn(6, 10)
    params = {"gate.weight": gate, "up.weight": up, "down.weight": down}
    yield case("swiglu", {"dim": 6, "hidden": 10}, params, [x], [(F.silu(x @ gate) * (x @ up)) @ down])


def norm_cases():
    x, g, b = randn(3, 4, 8), randn(8), randn(8)
    yield case("layerNorm", {"dim": 8, "eps": 1e-5}, {"gain": g, "bias": b}, [x], [F.layer_norm(x, (8,), g, b, 1e-5)])
    yield case("rmsNorm", {"dim": 8, "eps": 1e-6}, {"gain": g}, [x], [F.rms_norm(x, (8,), g, 1e-6)])


def rotary(x, base=10000.0):
    time, width = x.shape[-2:]
    frequency = base ** (-torch.arange(0, width, 2, dtype=torch.float64) / width)
    angle = torch.arange(time, dtype=torch.float64)[:, None] * frequency
    cos, sin = angle.cos().float(), angle.sin().float()
    a, b = x[..., : width // 2], x[..., width // 2:]
    return torch.cat([a * cos - b * sin, b * cos + a * sin], -1)


def attention(x, p, heads, kv_heads, causal, rotate):
    batch, time, dim = x.shape
    width = dim // heads
    split = lambda t, n: t.reshape(batch, time, n, width).transpose(1, 2)
    q, k, v = split(x @ p["q.weight"], heads), split(x @ p["k.weight"], kv_heads), split(x @ p["v.weight"], kv_heads)
    if rotate:
        q, k = rotary(q), rotary(k)
    k, v = (t.repeat_interleave(heads // kv_heads, 1) for t in (k, v))
    y = F.scaled_dot_product_attention(q, k, v, is_causal=causal)
    return y.transpose(1, 2).reshape(batch, time, dim) @ p["o.weight"]


def attention_cases():
    for heads, kv, causal, rotate in [(2, 2, False, False), (2, 2, True, False), (4, 2, True, False), (4, 1, True, True), (2, 2, True, True)]:
        dim, width = 16, 16 // heads
        p = {"q.weight": randn(dim, dim, scale=0.4), "k.weight": randn(dim, kv * width, scale=0.4),
             "v.weight": randn(dim, kv * width, scale=0.4), "o.weight": randn(dim, dim, scale=0.4)}
        x = randn(2, 5, dim)
        options = {"dim": dim, "heads": heads, "kvHeads": kv, "causal": causal, "rotary": rotate}
        yield case("attention", options, p, [x], [attention(x, p, heads, kv, causal, rotate)])


IMAGE = lambda t: t.permute(0, 2, 3, 1)
HWIO = lambda t: t.permute(2, 3, 1, 0)


def same(x, kernel, stride, dilation):
    """TensorFlow's `same` padding, which is uneven where PyTorch's is not defined (strides)."""
    pads = []
    for size in reversed(x.shape[2:]):
        total = max(0, (math.ceil(size / stride) - 1) * stride + (kernel - 1) * dilation + 1 - size)
        pads += [total // 2, total - total // 2]
    return F.pad(x, pads)


def conv_cases():
    for kernel, stride, dilation, padding in [(3, 1, 1, "same"), (3, 2, 1, "same"), (3, 1, 2, "same"), (2, 1, 1, "valid"), (5, 2, 1, "valid")]:
        x, w, b = randn(2, 3, 7, 6), randn(4, 3, kernel, kernel), randn(4)
        padded = same(x, kernel, stride, dilation) if padding == "same" else x
        y = F.conv2d(padded, w, b, stride, 0, dilation)
        options = {"in": 3, "out": 4, "kernel": kernel, "stride": stride, "dilation": dilation, "padding": padding}
        yield case("conv2d", options, {"weight": w, "bias": b}, [x], [y], {"weight": HWIO, "input": IMAGE, "output": IMAGE})
    for kernel, stride in [(3, 1), (4, 2)]:
        x, w, b = randn(2, 3, 9), randn(5, 3, kernel), randn(5)
        y = F.conv1d(same(x, kernel, stride, 1), w, b, stride)
        swap = lambda t: t.permute(0, 2, 1)
        options = {"in": 3, "out": 5, "kernel": kernel, "stride": stride}
        yield case("conv1d", options, {"weight": w, "bias": b}, [x], [y], {"weight": lambda t: t.permute(2, 1, 0), "input": swap, "output": swap})
    x, w, b = randn(2, 3, 6, 6), randn(6, 1, 3, 3), randn(6)
    y = F.conv2d(same(x, 3, 1, 1), w, b, groups=3)
    depthwise = lambda t: t.reshape(3, 2, 3, 3).permute(2, 3, 0, 1)
    yield case("depthwiseConv2d", {"in": 3, "multiplier": 2, "kernel": 3}, {"weight": w, "bias": b}, [x], [y], {"weight": depthwise, "input": IMAGE, "output": IMAGE})
    d, p, b = randn(3, 1, 3, 3), randn(5, 3, 1, 1), randn(5)
    y = F.conv2d(F.conv2d(same(x, 3, 1, 1), d, groups=3), p, b)
    layout = {"depthwise.weight": lambda t: t.permute(2, 3, 0, 1), "pointwise.weight": HWIO, "input": IMAGE, "output": IMAGE}
    yield case("separableConv2d", {"in": 3, "out": 5, "kernel": 3}, {"depthwise.weight": d, "pointwise.weight": p, "pointwise.bias": b}, [x], [y], layout)
    x = randn(2, 3, 6, 6)
    for name, y in [("maxPool2d", F.max_pool2d(x, 2)), ("avgPool2d", F.avg_pool2d(x, 2))]:
        yield case(name, {}, {}, [x], [y], {"input": IMAGE, "output": IMAGE})
    yield case("globalAvgPool", {}, {}, [x], [x.mean((2, 3))], {"input": IMAGE})


def batch_norm_cases():
    for training in [True, False]:
        x, g, b = randn(3, 4, 5, 2), randn(4), randn(4)
        mean, variance = torch.randn(4), torch.rand(4) + 0.5
        before = {"mean": mean.clone(), "variance": variance.clone()}
        y = F.batch_norm(x, mean, variance, g, b, training, 0.1, 1e-5)
        after = {"mean": mean, "variance": variance} if training else None
        yield case("batchNorm", {"channels": 4, "training": training}, {"gain": g, "bias": b}, [x], [y], {"input": IMAGE, "output": IMAGE}, before, after)


def recurrent_cases():
    for name, gates, cell in [("lstm", 4, torch.nn.LSTM), ("gru", 3, torch.nn.GRU)]:
        m = cell(3, 5, batch_first=True)
        x = randn(2, 6, 3)
        y, _ = m(x)
        turn = lambda t: t.T
        if name == "lstm":
            with torch.no_grad():
                m.bias_ih_l0 += m.bias_hh_l0
                m.bias_hh_l0.zero_()
            y, _ = m(x)
            params = {"weight": m.weight_ih_l0, "recurrent": m.weight_hh_l0, "bias": m.bias_ih_l0}
        else:
            params = {"weight": m.weight_ih_l0, "recurrent": m.weight_hh_l0, "bias": m.bias_ih_l0, "recurrentBias": m.bias_hh_l0}
        yield case(name, {"in": 3, "hidden": 5}, params, [x], [y], {"weight": turn, "recurrent": turn})


def loss_cases():
    logits, labels = randn(5, 7, scale=2.0), torch.randint(0, 7, (5,))
    yield case("crossEntropy", {}, {}, [logits, labels], [F.cross_entropy(logits, labels)])
    logits, labels = randn(2, 3, 7, scale=2.0), torch.randint(0, 7, (2, 3))
    yield case("crossEntropy", {}, {}, [logits, labels], [F.cross_entropy(logits.reshape(6, 7), labels.reshape(6))])
    x, t = randn(4, 3), torch.randn(4, 3).requires_grad_()
    yield case("meanSquaredError", {}, {}, [x, t], [F.mse_loss(x, t)])


def router_cases():
    tokens, experts = 10, 4
    for kind, top, normalise, scale in [("softmax", 1, False, 1.0), ("softmax", 2, True, 1.0), ("sigmoid", 3, True, 2.5), ("softmax", 2, False, 1.0)]:
        logits = randn(tokens, experts, scale=1.5)
        scores = logits.softmax(-1) if kind == "softmax" else logits.sigmoid()
        gates, index = scores.topk(top, -1)
        if normalise:
            gates = gates / gates.sum(-1, keepdim=True)
        gates = gates * scale
        share = F.one_hot(index, experts).float().sum((0, 1)) / (tokens * top)
        probabilities = scores if kind == "softmax" else scores / scores.sum(-1, keepdim=True)
        balance = experts * (share * probabilities.mean(0)).sum()
        z = logits.logsumexp(-1).square().mean()
        options = {"topK": top, "scores": kind, "normalise": normalise, "routeScale": scale, "chosen": index.reshape(-1).tolist()}
        yield case("router", options, {}, [logits], [gates, balance, z])


# The transformer of transformer-losses.test.ts: weights and data from an integer hash, so that nothing large is stored.
DIM, HEADS, LAYERS, TIME, VOCAB, HIDDEN, BATCH, STEPS = 32, 4, 4, 16, 32, 128, 4, 50


def mix(x):
    """The finaliser of MurmurHash3, on uint32."""
    x = np.asarray(x, dtype=np.uint64) & 0xFFFFFFFF
    x ^= x >> 16
    x = (x * 0x85EBCA6B) & 0xFFFFFFFF
    x ^= x >> 13
    x = (x * 0xC2B2AE35) & 0xFFFFFFFF
    return x ^ (x >> 16)


def hashed(index, shape, bound):
    """Parameter number `index` in path order: uniform in ±bound."""
    i = np.arange(int(np.prod(shape)), dtype=np.uint64)
    u = mix(i + np.uint64(1_000_003 * (index + 1))).astype(np.float64) / 2**32
    return torch.tensor(((2 * u - 1) * bound).astype(np.float32).reshape(shape), requires_grad=True)


def tokens_of(step):
    rows = []
    for b in range(BATCH):
        x = int(mix(step * 7919 + b + 1)) % VOCAB
        row = [x]
        for t in range(TIME):
            x = (5 * x + 3 + (int(mix(step * 104729 + b * 1009 + t + 12345)) & 1)) % VOCAB
            row.append(x)
        rows.append(row)
    rows = torch.tensor(rows)
    return rows[:, :-1], rows[:, 1:]


def transformer_losses():
    shapes = {"embed.tokens.weight": (VOCAB, DIM), "head.norm.gain": (DIM,), "head.norm.bias": (DIM,), "head.proj.weight": (DIM, VOCAB)}
    for i in range(LAYERS):
        for name in "qkvo":
            shapes[f"blocks.{i}.attn.{name}.weight"] = (DIM, DIM)
        for norm in ("norm1", "norm2"):
            shapes[f"blocks.{i}.{norm}.gain"] = shapes[f"blocks.{i}.{norm}.bias"] = (DIM,)
        shapes[f"blocks.{i}.mlp.up.weight"], shapes[f"blocks.{i}.mlp.down.weight"] = (DIM, HIDDEN), (HIDDEN, DIM)
    p = {}
    for index, path in enumerate(sorted(shapes)):
        p[path] = hashed(index, shapes[path], 0.2 if path.endswith("weight") else 0.05)
        if path.endswith("gain"):
            p[path] = (p[path].detach() + 1).requires_grad_()
    decayed = [t for path, t in p.items() if path.endswith("weight") and not path.startswith("embed")]
    others = [t for path, t in p.items() if not path.endswith("weight") or path.startswith("embed")]
    optimizer = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}], lr=3e-3, betas=(0.9, 0.95), eps=1e-8)
    norm = lambda x, path: F.layer_norm(x, (DIM,), p[f"{path}.gain"], p[f"{path}.bias"], 1e-5)
    losses = []
    for step in range(STEPS):
        x, y = tokens_of(step)
        h = F.embedding(x, p["embed.tokens.weight"])
        for i in range(LAYERS):
            own = {f"{n}.weight": p[f"blocks.{i}.attn.{n}.weight"] for n in "qkvo"}
            h = h + attention(norm(h, f"blocks.{i}.norm1"), own, HEADS, HEADS, True, True)
            h = h + F.gelu(norm(h, f"blocks.{i}.norm2") @ p[f"blocks.{i}.mlp.up.weight"]) @ p[f"blocks.{i}.mlp.down.weight"]
        logits = norm(h, "head.norm") @ p["head.proj.weight"]
        loss = F.cross_entropy(logits.reshape(-1, VOCAB), y.reshape(-1))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    path = os.path.join(HERE, "transformer-losses.json")
    with open(path, "w") as f:
        json.dump({"torch": torch.__version__, "lr": 3e-3, "betas": [0.9, 0.95], "eps": 1e-8, "weightDecay": 0.1, "losses": losses}, f, indent=1)
        f.write("\n")
    print(f"transformer-losses.json: {losses[0]:.6f} -> {losses[-1]:.6f}")


if __name__ == "__main__":
    write("linear.json", list(linear_cases()))
    write("norm.json", list(norm_cases()))
    write("attention.json", list(attention_cases()))
    write("conv.json", list(conv_cases()))
    write("batch-norm.json", list(batch_norm_cases()))
    write("recurrent.json", list(recurrent_cases()))
    write("loss.json", list(loss_cases()))
    write("router.json", list(router_cases()))
    transformer_losses()
