#!/usr/bin/env python3
"""Makes the golden files in tests/goldens: inputs and results of the model, its pieces, the optimizers and the losses.

    python3 scripts/make_goldens.py [FOLDER]      # needs numpy and torch; about two minutes

Written for this project from the formulas in DESIGN.md and the papers named in the Rust sources, and from nothing else;
it shares no code with the Rust implementation. Everything is computed in float64 from inputs that float32 holds exactly,
and rounded to float32 in the end, so each file is right to the last place or two whatever float32 makes of it.

A quantizer turns a difference in the last place into a whole step when its input lies at a rounding tie. Seeds are
therefore tried until no input of any quantizer, in all steps of a run, is nearer to a tie than MARGIN (relative to the
input's size where that is above 1). The one exception is the BitLinear case `ties`, whose numbers are exact.
"""

import json
import math
import struct
import sys
from pathlib import Path

import numpy as np
import torch

torch.set_default_dtype(torch.float64)
torch.set_num_threads(1)

IGNORE = -100
MARGIN = 3e-6
NAMES = {"float32": "F32", "int64": "I64", "int8": "I8", "bool": "BOOL"}


def f32(x):
    """The nearest float32 numbers, held in float64."""
    return torch.as_tensor(x).to(torch.float32).to(torch.float64)


def save(folder, name, tensors, settings):
    """A safetensors file, largest element type first so that data is aligned, and its JSON."""
    arrays = {}
    for key, x in tensors.items():
        x = x.detach().numpy() if isinstance(x, torch.Tensor) else np.asarray(x)
        arrays[key] = np.ascontiguousarray(x.astype(np.float32) if x.dtype == np.float64 else x)
    header, at = {}, 0
    order = sorted(arrays, key=lambda k: (-arrays[k].itemsize, k))
    for key in order:
        x = arrays[key]
        header[key] = {"dtype": NAMES[x.dtype.name], "shape": list(x.shape), "data_offsets": [at, at + x.nbytes]}
        at += x.nbytes
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with open(folder / f"{name}.safetensors", "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for key in order:
            file.write(arrays[key].tobytes())
    settings = {"origin": "scripts/make_goldens.py", **settings}
    (folder / f"{name}.json").write_text(json.dumps(settings, indent=1) + "\n")
    print(f"{name}: {at + len(text)} bytes", flush=True)


# ------------------------------------------------------------------ quantizers


class NearTie(Exception):
    """A quantizer's input is too near to a rounding tie for float32 to be sure."""


class Codes:
    """Weight and activation codes; with `strict`, inputs near ties are refused."""

    strict = False
    nearest = 1.0

    @classmethod
    def round(cls, x, low, high):
        distance = (torch.remainder(x, 1.0) - 0.5).abs() / x.abs().clamp(min=1.0)
        matters = (x > low - 0.5) & (x < high + 0.5)
        if matters.any():
            nearest = distance[matters].min().item()
            if cls.strict and nearest < MARGIN:
                raise NearTie
            cls.nearest = min(cls.nearest, nearest)
        return torch.round(x).clamp(low, high)  # half to even

    @classmethod
    def weight(cls, w):
        gamma = max(w.abs().mean().item(), 1e-5)
        return cls.round(w / gamma, -1, 1), gamma

    @classmethod
    def rows(cls, x):
        s = 127.0 / x.abs().amax(-1, keepdim=True).clamp(min=1e-5)
        return cls.round(x * s, -128, 127), s


class BitLinear(torch.autograd.Function):
    """y = X~ W~^T; dX = dY W~, dW = dY^T X~ with the scales as constants."""

    @staticmethod
    def forward(ctx, x, w):
        (wq, gamma), (xq, s) = Codes.weight(w), Codes.rows(x)
        values, weights = xq / s, wq * gamma
        ctx.save_for_backward(values, weights)
        return values @ weights.T

    @staticmethod
    def backward(ctx, dy):
        values, weights = ctx.saved_tensors
        rows = dy.reshape(-1, dy.shape[-1])
        return dy @ weights, rows.T @ values.reshape(-1, values.shape[-1])


# ------------------------------------------------------------------ pieces


def rms_norm(x, gain, eps):
    return x / torch.sqrt((x * x).mean(-1, keepdim=True) + eps) * gain


def rope_angles(positions, width, theta):
    rates = torch.tensor([theta ** (-2 * i / width) for i in range(width // 2)])
    return torch.tensor([float(p) for p in positions])[:, None] * rates[None, :]


def rope(x, angles):
    """Rotates the pairs (i, i + d/2) of x [..., T, d]."""
    half = x.shape[-1] // 2
    a, b = x[..., :half], x[..., half:]
    cos, sin = torch.cos(angles), torch.sin(angles)
    return torch.cat([a * cos - b * sin, a * sin + b * cos], -1)


def cap(x, bound):
    return bound * torch.tanh(x / bound) if bound > 0 else x


def attention(q, k, v, bound):
    """q [B, heads, T, d], k and v [B, kv heads, T, d]; head h reads h // (heads / kv heads)."""
    share = q.shape[1] // k.shape[1]
    heads = []
    for h in range(q.shape[1]):
        keys, values = k[:, h // share], v[:, h // share]
        scores = cap(torch.einsum("bid,bjd->bij", q[:, h], keys) / math.sqrt(q.shape[-1]), bound)
        t = scores.shape[-1]
        seen = torch.arange(t)[None, :] <= torch.arange(t)[:, None]
        weights = torch.exp(scores - scores.amax(-1, keepdim=True)) * seen
        heads.append(weights / weights.sum(-1, keepdim=True) @ values)
    return torch.stack(heads, 1)


def swiglu(gate, up):
    return gate / (1 + torch.exp(-gate)) * up


# ------------------------------------------------------------------ model


def names(c):
    """Name, shape and optimizer group of every parameter."""
    h, q, kv = c["hidden"], c["heads"] * c["head_dim"], c["kv_heads"] * c["head_dim"]
    yield "embed_tokens.weight", (c["vocab_size"], h), "adamw_decay"
    for i in range(c["layers"]):
        a, m = f"layers.{i}.self_attn.", f"layers.{i}.mlp."
        yield f"layers.{i}.input_layernorm.weight", (h,), "adamw_nodecay"
        for name, shape in (("q", (q, h)), ("k", (kv, h)), ("v", (kv, h)), ("o", (h, q))):
            yield f"{a}{name}_proj.weight", shape, "muon"
        for name in ("q_norm", "k_norm"):
            yield f"{a}{name}.weight", (c["head_dim"],), "adamw_nodecay"
        if c["sub_norm"]:
            yield f"{a}attn_sub_norm.weight", (q,), "adamw_nodecay"
        yield f"layers.{i}.post_attention_layernorm.weight", (h,), "adamw_nodecay"
        for name, shape in (("gate", (c["mlp"], h)), ("up", (c["mlp"], h)), ("down", (h, c["mlp"]))):
            yield f"{m}{name}_proj.weight", shape, "muon"
        if c["sub_norm"]:
            yield f"{m}ffn_sub_norm.weight", (c["mlp"],), "adamw_nodecay"
    yield "norm.weight", (h,), "adamw_nodecay"


def logits(c, p, ids):
    eps = c["norm_eps"]
    x = p["embed_tokens.weight"][ids]
    batch, t = ids.shape
    angles = rope_angles(range(t), c["head_dim"], c["rope_theta"])
    for i in range(c["layers"]):
        w = lambda name: p[f"layers.{i}.{name}.weight"]
        n = rms_norm(x, w("input_layernorm"), eps)
        heads = lambda name: BitLinear.apply(n, w(f"self_attn.{name}_proj")).reshape(batch, t, -1, c["head_dim"])
        q = rope(rms_norm(heads("q"), w("self_attn.q_norm"), eps).transpose(1, 2), angles)
        k = rope(rms_norm(heads("k"), w("self_attn.k_norm"), eps).transpose(1, 2), angles)
        y = attention(q, k, heads("v").transpose(1, 2), c["attn_softcap"]).transpose(1, 2).reshape(batch, t, -1)
        if c["sub_norm"]:
            y = rms_norm(y, w("self_attn.attn_sub_norm"), eps)
        x = x + BitLinear.apply(y, w("self_attn.o_proj"))
        n = rms_norm(x, w("post_attention_layernorm"), eps)
        y = swiglu(BitLinear.apply(n, w("mlp.gate_proj")), BitLinear.apply(n, w("mlp.up_proj")))
        if c["sub_norm"]:
            y = rms_norm(y, w("mlp.ffn_sub_norm"), eps)
        x = x + BitLinear.apply(y, w("mlp.down_proj"))
    return cap(rms_norm(x, p["norm.weight"], eps) @ p["embed_tokens.weight"].T, c["final_softcap"])


def log_softmax(z):
    z = z - z.amax(-1, keepdim=True)
    return z - torch.log(torch.exp(z).sum(-1, keepdim=True))


def cross_entropy(z, targets, smoothing):
    z, targets = z.reshape(-1, z.shape[-1]), targets.reshape(-1)
    kept = targets != IGNORE
    lq = log_softmax(z[kept])
    picked = lq[torch.arange(len(lq)), targets[kept]]
    return (-(1 - smoothing) * picked - smoothing * lq.mean(-1)).mean()


def value_and_grads(c, p, ids, targets, smoothing):
    p = {name: x.detach().clone().requires_grad_() for name, x in p.items()}
    loss = cross_entropy(logits(c, p, ids), targets, smoothing)
    grads = torch.autograd.grad(loss, list(p.values()))
    return loss.item(), dict(zip(p, grads))


# ------------------------------------------------------------------ optimizers


def orthogonal(u):
    """Five quintic Newton-Schulz steps."""
    if u.shape[0] > u.shape[1]:
        return orthogonal(u.T).T
    x = u / (torch.sqrt((u * u).sum()) + 1e-7)
    for _ in range(5):
        gram = x @ x.T
        x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
    return x


def muon(p, g, buf, lr, momentum, wd):
    buf = momentum * buf + g
    rows, cols = p.shape
    step = lr * math.sqrt(max(1.0, rows / cols)) * orthogonal(g + momentum * buf)
    return p * (1 - lr * wd) - step, buf


def adamw(p, g, m, v, t, lr, betas, eps, wd):
    m, v = betas[0] * m + (1 - betas[0]) * g, betas[1] * v + (1 - betas[1]) * g * g
    unbiased = m / (1 - betas[0] ** t), v / (1 - betas[1] ** t)
    return p * (1 - lr * wd) - lr * unbiased[0] / (torch.sqrt(unbiased[1]) + eps), m, v


class Optimizer:
    def __init__(self, c, settings):
        self.o, self.groups, self.t = settings, {n: g for n, _, g in names(c)}, 0
        self.state = {}

    def step(self, p, grads):
        o, self.t, out = self.o, self.t + 1, {}
        for name, x in p.items():
            if self.groups[name] == "muon":
                buf = self.state.get(name, torch.zeros_like(x))
                out[name], self.state[name] = muon(x, grads[name], buf, o["muon_lr"], o["muon_momentum"], o["muon_wd"])
            else:
                m, v = self.state.get(name, (torch.zeros_like(x), torch.zeros_like(x)))
                wd = o["adamw_wd"] if self.groups[name] == "adamw_decay" else 0.0
                out[name], m, v = adamw(x, grads[name], m, v, self.t, o["adamw_lr"], o["betas"], o["eps"], wd)
                self.state[name] = m, v
        return out


# ------------------------------------------------------------------ files


def model(folder, name, c, batch, seq, smoothing, steps=5, new_tokens=7):
    optimizer = {
        "muon_lr": 0.02, "muon_momentum": 0.95, "muon_wd": 0.1,
        "adamw_lr": 0.003, "betas": [0.9, 0.95], "eps": 1e-8, "adamw_wd": 0.01,
    }
    for seed in range(1, 100_000):
        try:
            tensors, found = model_of_seed(c, batch, seq, smoothing, steps, new_tokens, optimizer, seed)
        except NearTie:
            continue
        groups = {n: g for n, _, g in names(c)}
        fixed = {"config": c, "seed": seed, "label_smoothing": smoothing, "ignore": IGNORE, "optimizer": optimizer}
        return save(folder, name, tensors, {**fixed, "groups": groups, **found})
    raise SystemExit(f"{name}: every seed came near a tie")


def model_of_seed(c, batch, seq, smoothing, steps, new_tokens, optimizer, seed):
    r = torch.Generator().manual_seed(seed)
    normal = lambda *shape: torch.randn(*shape, generator=r)
    p = {}
    for n, shape, group in names(c):
        scale = 1.0 if group == "adamw_decay" else 0.3
        p[n] = f32(1 + 0.2 * normal(*shape) if group == "adamw_nodecay" else scale * normal(*shape))
    integers = lambda *shape: torch.randint(0, c["vocab_size"], shape, generator=r)
    all_ids, all_targets = integers(steps, batch, seq), integers(steps, batch, seq)
    all_targets[torch.rand(all_targets.shape, generator=r) < 0.15] = IGNORE
    prompt = integers(1, 4)

    Codes.strict, Codes.nearest = True, 1.0
    z = logits(c, p, all_ids[0])
    loss, grads = value_and_grads(c, p, all_ids[0], all_targets[0], smoothing)
    after = Optimizer(c, optimizer).step(p, grads)
    read, tokens, gap = prompt, [], math.inf
    for _ in range(new_tokens):
        top = logits(c, p, read)[0, -1].topk(2)
        gap = min(gap, (top.values[0] - top.values[1]).item())
        tokens.append(top.indices[0].item())
        read = torch.cat([read, top.indices[:1][None]], 1)
    if gap < 1e-3:
        raise NearTie
    run, losses, trained = Optimizer(c, optimizer), [], p
    for step in range(steps + 1):
        at = min(step, steps - 1)
        value, g = value_and_grads(c, trained, all_ids[at], all_targets[at], smoothing)
        losses.append(value)
        if step < steps:
            trained = run.step(trained, g)
    Codes.strict = False

    tensors = {
        "ids": all_ids[0], "targets": all_targets[0], "logits": z,
        "traj.ids": all_ids, "traj.targets": all_targets,
        "greedy.prompt": prompt, "greedy.tokens": torch.tensor([tokens]),
    }
    for n in p:
        tensors |= {f"w.{n}": p[n], f"g.{n}": grads[n], f"after1.{n}": after[n]}
    found = {
        "loss": loss, "traj_loss": losses,
        "after5_l2": {n: torch.sqrt((x * x).sum()).item() for n, x in trained.items()},
        "margin": Codes.nearest, "greedy_min_gap": gap,
    }
    return tensors, found


def with_grads(f, inputs, dy):
    inputs = [x.clone().requires_grad_() for x in inputs]
    y = f(*inputs)
    return y.detach(), torch.autograd.grad(y, inputs, dy)


def modules(folder, name, seed, heads, kv_heads, head_dim, t, width, out):
    r = torch.Generator().manual_seed(seed)
    normal = lambda *shape: f32(torch.randn(*shape, generator=r))
    theta, eps, tensors = 10_000.0, 1e-5, {}

    def piece(case, f, inputs, y_shape):
        dy = normal(*y_shape)
        y, grads = with_grads(f, list(inputs.values()), dy)
        tensors.update({f"{case}.{k}": x for k, x in inputs.items()})
        tensors.update({f"{case}.y": y, f"{case}.dy": dy})
        tensors.update({f"{case}.d{k}": g for k, g in zip(inputs, grads)})

    q_shape, kv_shape = (2, heads, t, head_dim), (2, kv_heads, t, head_dim)
    for case, bound, loud in (("attn_cap50", 50.0, 6.0), ("attn_nocap", 0.0, 1.0)):
        q, k, v = f32(loud * normal(*q_shape)), f32(loud * normal(*kv_shape)), normal(*kv_shape)
        piece(case, lambda q, k, v: attention(q, k, v, bound), {"q": q, "k": k, "v": v}, q_shape)
    piece("rms", lambda x, w: rms_norm(x, w, eps), {"x": normal(5, width), "w": normal(width)}, (5, width))
    for case, positions in (("rope0", range(t)), ("rope_high", range(100_000, 100_000 + t))):
        angles = rope_angles(positions, head_dim, theta)
        piece(case, lambda x: rope(x, angles), {"x": normal(*q_shape)}, q_shape)
        both = torch.cat([angles, angles], -1)
        tensors.update({f"{case}.pos": np.array(positions, dtype=np.int64),
                        f"{case}.cos": torch.cos(both), f"{case}.sin": torch.sin(both)})
    piece("swiglu", swiglu, {"gate": f32(3 * normal(4, width)), "up": normal(4, width)}, (4, width))
    piece("softcap30", lambda x: cap(x, 30.0), {"x": f32(40 * normal(4, width))}, (4, width))

    def bit_linear(case, x, w):
        piece(f"bitlinear.{case}", BitLinear.apply, {"x": x, "w": w}, (*x.shape[:-1], w.shape[0]))
        (wq, gamma), (xq, s) = Codes.weight(w), Codes.rows(x)
        as_codes = lambda q: q.to(torch.int8)
        tensors.update({f"bitlinear.{case}.wq": as_codes(wq), f"bitlinear.{case}.xq": as_codes(xq),
                        f"bitlinear.{case}.gamma": torch.tensor([gamma]), f"bitlinear.{case}.s": s.squeeze(-1)})

    weight = lambda: f32(0.05 * normal(out, width))
    Codes.strict = True
    bit_linear("random", normal(2, 7, width), weight())
    rows = normal(5, width)
    rows[1], rows[4] = 0.0, 0.0
    bit_linear("zero_rows", rows, weight())
    bit_linear("zero_weight", normal(3, width), torch.zeros(out, width))
    rows = normal(5, width)
    rows[0, 2], rows[3, 1] = 1e30, -1e4
    bit_linear("outliers", rows, weight())
    bit_linear("tiny", f32(1e-7 * normal(4, width)), f32(1e-8 * normal(out, width)))
    Codes.strict = False
    # Mean magnitude exactly 1 and largest activation exactly 127: both scales are 1, and codes fall on ties.
    steps = torch.tensor([0.5, -1.5, 1.5, -0.5])
    w = steps.repeat(out * width // 4 + 1)[: out * width].reshape(out, width)
    assert (out * width) % 4 == 0 and w.abs().mean() == 1.0
    x = torch.arange(6 * width).reshape(6, width) % 255 - 127 + 0.5
    x[:, 0] = 127.0
    bit_linear("ties", x, w)
    save(folder, name, tensors, {
        "seed": seed, "head_dim": head_dim, "heads": heads, "kv_heads": kv_heads, "rope_theta": theta,
        "norm_eps": eps, "attn_cap50": {"cap": 50.0}, "attn_nocap": {"cap": 0.0},
    })


def optimizers(folder, name, seed, shapes):
    r = torch.Generator().manual_seed(seed)
    normal = lambda *shape: f32(torch.randn(*shape, generator=r))
    tensors, o = {}, {"lr": 0.02, "momentum": 0.95, "wd": 0.1}
    for shape in shapes:
        path = "muon.{}x{}".format(*shape)
        p, buf, g = normal(*shape), normal(*shape), normal(2, *shape)
        tensors |= {f"{path}.p0": p, f"{path}.buf0": buf, f"{path}.g": g, f"{path}.ns_of_g0": orthogonal(g[0])}
        for t in (1, 2):
            p, buf = muon(p, g[t - 1], buf, **o)
            tensors |= {f"{path}.p{t}": p, f"{path}.buf{t}": buf}
    a = {"lr": 0.003, "betas": [0.9, 0.95], "eps": 1e-8, "wd": 0.01}
    p, g = normal(3, 11), normal(4, 3, 11)
    tensors |= {"adamw.p0": p, "adamw.g": g}
    m, v = torch.zeros_like(p), torch.zeros_like(p)
    for t in range(1, 5):
        p, m, v = adamw(p, g[t - 1], m, v, t, **a)
        tensors |= {f"adamw.p{t}": p, f"adamw.m{t}": m, f"adamw.v{t}": v}
    save(folder, name, tensors, {"seed": seed, "muon": o, "adamw": a})


def kl(lp, lq):
    return (torch.exp(lp) * (lp - lq)).sum(-1)


def mixture(la, lb, share):
    return torch.logsumexp(torch.stack([la + math.log(share), lb + math.log(1 - share)]), 0)


def row_losses(y, y_other, targets, idx):
    """Name, settings, and function of the logits, one loss a row, of every case."""
    cases = {}
    pick = lambda lq: lq[torch.arange(len(lq)), targets.clamp(min=0)]
    for e in (0.0, 0.2):
        smooth = lambda z, e=e: -(1 - e) * pick(log_softmax(z)) - e * log_softmax(z).mean(-1)
        cases[f"cross_entropy.ls{e:g}"] = {"label_smoothing": e}, smooth
    for gamma in (1.0, 2.0, 3.5):
        focal = lambda z, g=gamma: -((1 - torch.exp(pick(log_softmax(z)))) ** g) * pick(log_softmax(z))
        cases[f"focal.g{gamma:g}"] = {"gamma": gamma}, focal
    for T in (1.0, 1.5):
        lp = log_softmax(y / T)
        add = lambda name, settings, f, T=T: cases.update({f"{name}.T{T:g}": ({"T": T, **settings}, f)})
        add("forward_kl", {}, lambda z, T=T, lp=lp: T * T * kl(lp, log_softmax(z / T)))
        add("reverse_kl", {}, lambda z, T=T, lp=lp: T * T * kl(log_softmax(z / T), lp))
        for beta in (0.2, 0.7):
            def jsd(z, T=T, lp=lp, beta=beta):
                lq = log_softmax(z / T)
                middle = mixture(lp, lq, beta)
                return T * T * (beta * kl(lp, middle) + (1 - beta) * kl(lq, middle))
            add(f"jsd_b{beta:g}", {"beta": beta}, jsd)

        def skew_forward(z, T=T, lp=lp):
            return T * T * kl(lp, mixture(lp, log_softmax(z / T), 0.15))

        def skew_reverse(z, T=T, lp=lp):
            lq = log_softmax(z / T)
            return T * T * kl(lq, mixture(lq, lp, 0.15))

        add("skew_forward_kl", {"alpha": 0.15}, skew_forward)
        add("skew_reverse_kl", {"alpha": 0.15}, skew_reverse)

        def tvd(z, T=T, lp=lp):
            difference = torch.exp(lp) - torch.exp(log_softmax(z / T))
            assert difference.abs().min() > 1e-6, "a kink is too near"
            return T * T * difference.abs().sum(-1) / 2

        add("tvd", {}, tvd)

        def uld(z, T=T):
            q = torch.exp(log_softmax(z / T)).sort(-1, descending=True).values
            p = torch.exp(log_softmax(y_other / T)).sort(-1, descending=True).values
            n = max(p.shape[-1], q.shape[-1])
            pad = lambda x: torch.cat([x, torch.zeros(len(x), n - x.shape[-1])], -1)
            return (pad(p) - pad(q)).abs().sum(-1)

        add("uld", {"teacher": "y_other_vocab"}, uld)

        def top_k(z, T=T, lp=lp):
            stored = f32(lp.gather(-1, idx))  # what the file holds
            lq = log_softmax(z / T)
            p, q = torch.exp(stored), torch.exp(lq.gather(-1, idx))
            rest_p, rest_q = 1 - p.sum(-1), 1 - q.sum(-1)
            known = (p * (stored - torch.log(q))).sum(-1)
            return T * T * (known + rest_p * (torch.log(rest_p) - torch.log(rest_q)))

        add("topk_forward_kl", {"k": idx.shape[-1]}, top_k)
    return cases


def relations(a, n):
    batch, heads, t, d = a.shape
    a = a.transpose(1, 2).reshape(batch, t, n, heads * d // n).transpose(1, 2)
    return a @ a.transpose(-1, -2) / math.sqrt(a.shape[-1])


def relation_kl(student, teacher, n, causal, weights):
    total = 0.0
    for weight, s, u in zip(weights, student, teacher):
        rs, ru = relations(s, n), relations(u, n)
        rows = []
        for i in range(rs.shape[-1]):
            seen = i + 1 if causal else rs.shape[-1]
            rows.append(kl(log_softmax(ru[..., i, :seen]), log_softmax(rs[..., i, :seen])))
        total = total + weight * torch.stack(rows).mean()
    return total


def losses(folder, name, seed, rows, vocab, other, k):
    r = torch.Generator().manual_seed(seed)
    normal = lambda *shape: f32(torch.randn(*shape, generator=r))
    z, y, y_other = f32(2 * normal(rows, vocab)), f32(2 * normal(rows, vocab)), f32(2 * normal(rows, other))
    targets = torch.randint(0, vocab, (rows,), generator=r)
    targets[2], targets[rows - 1] = IGNORE, IGNORE
    mask = targets != IGNORE
    idx = y.topk(k, -1).indices
    tensors = {"z": z, "y": y, "y_other_vocab": y_other, "targets": targets, "mask": mask}
    settings = {}
    for case, (options, f) in row_losses(y, y_other, targets, idx).items():
        at = z.clone().requires_grad_()
        loss = f(at)[mask].mean()
        (tensors[f"dz.{case}"],) = torch.autograd.grad(loss, at)
        settings[case] = {"value": loss.item(), **options}
        if case.startswith("topk"):
            suffix = case.split(".", 1)[1]
            tensors[f"topk_idx.{suffix}"] = idx
            tensors[f"topk_logp.{suffix}"] = log_softmax(y / options["T"]).gather(-1, idx)
    student = [normal(2, h, 5, 6) for h in (6, 3, 3)]
    teacher = [normal(2, h, 5, 10) for h in (3, 3, 6)]
    tensors |= {f"relation.s_{p}": x for p, x in zip("qkv", student)}
    tensors |= {f"relation.t_{p}": x for p, x in zip("qkv", teacher)}
    for case, causal in (("full", False), ("causal", True)):
        at = [x.clone().requires_grad_() for x in student]
        weights = [0.5, 1.0, 2.0]
        loss = relation_kl(at, teacher, 3, causal, weights)
        for p, g in zip("qkv", torch.autograd.grad(loss, at)):
            tensors[f"relation_kl.{case}.ds_{p}"] = g
        options = {"n_rel": 3, "causal": causal, "weights": weights}
        settings[f"relation_kl.{case}"] = {"value": loss.item(), **options}
    save(folder, name, tensors, {"seed": seed, "cases": settings})


def main():
    here = Path(__file__).resolve().parent.parent / "tests" / "goldens"
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else here
    folder.mkdir(parents=True, exist_ok=True)
    optimizers(folder, "optim", 3, [(7, 7), (5, 13), (24, 9), (1, 6), (8, 1)])
    losses(folder, "losses", 4, rows=11, vocab=31, other=23, k=4)
    modules(folder, "modules", 5, heads=6, kv_heads=3, head_dim=12, t=13, width=44, out=27)
    common = {"max_seq": 16, "init_std": 0.02}
    model(folder, "model_sub_norm", {
        "vocab_size": 37, "hidden": 20, "layers": 3, "heads": 3, "kv_heads": 1, "head_dim": 12, "mlp": 28,
        "rope_theta": 1e6, "norm_eps": 1e-6, "attn_softcap": 50.0, "final_softcap": 30.0, "sub_norm": True, **common,
    }, batch=2, seq=9, smoothing=0.1)
    model(folder, "model_no_caps", {
        "vocab_size": 41, "hidden": 22, "layers": 2, "heads": 4, "kv_heads": 2, "head_dim": 6, "mlp": 18,
        "rope_theta": 1e4, "norm_eps": 1e-5, "attn_softcap": 0.0, "final_softcap": 0.0, "sub_norm": False, **common,
    }, batch=3, seq=7, smoothing=0.0)


if __name__ == "__main__":
    main()
