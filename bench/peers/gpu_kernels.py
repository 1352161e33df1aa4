#!/usr/bin/env python3
"""PyTorch's time for each row of `engine bench kernels --json`, in one table.

  engine bench kernels --device cuda --model llama-60m --precision bf16 --json > ours.json
  python bench/peers/gpu_kernels.py ours.json

The rivals: torch.matmul (cuBLASLt), scaled_dot_product_attention (the fastest of cuDNN and
FlashAttention, named), layer_norm and rms_norm eager and compiled, fused AdamW, a device-to-device
copy. Medians of batches that take at least a millisecond, on values like the engine's own. A row
without a rival of the same meaning gets none; without PyTorch no row has one. Ratio: rival's time /
ours, so more is better.
"""

import argparse
import json
import statistics
import time


def numbers(shape):
    """The integers of "2048 x 2304 x 768" or "4 x 512, 12 heads of 64"."""
    words = shape.replace(",", " ").split()
    return [int(word) for word in words if word.isdigit()]


class Bench:
    def __init__(self, torch, device, dtype):
        self.torch, self.device, self.dtype = torch, device, dtype

    def values(self, *shape, dtype=None, grad=False):
        x = self.torch.rand(*shape, device=self.device) * 2 - 1
        return x.to(dtype or self.dtype).requires_grad_(grad)

    def wait(self):
        if self.device == "cuda":
            self.torch.cuda.synchronize()

    def seconds(self, run):
        def sample(launches):
            self.wait()
            start = time.perf_counter()
            for _ in range(launches):
                run()
            self.wait()
            return (time.perf_counter() - start) / launches

        for _ in range(3):
            once = sample(1)
        launches = max(1, min(1000, int(1e-3 / once) + 1))
        spent, results = 0.0, []
        while len(results) < 5 or (spent < 0.3 and len(results) < 1000):
            results.append(sample(launches))
            spent += results[-1] * launches
        return statistics.median(results)

    # --- one function per operation: (rival's name, something to run), or None --------------------

    def matmul(self, variant, shape):
        tokens, out, inner = numbers(shape)
        if variant.endswith(" Y"):
            x, w = self.values(tokens, inner), self.values(out, inner)
            return "torch.matmul", lambda: x @ w.t()
        if variant.endswith(" dX"):
            dy, w = self.values(tokens, out), self.values(out, inner)
            return "torch.matmul", lambda: dy @ w
        # fp32 accumulation into an existing gradient: PyTorch adds a bf16 product to it
        dy, x = self.values(tokens, out), self.values(tokens, inner)
        dw = self.values(out, inner, dtype=self.torch.float32)
        if self.dtype == self.torch.float32:
            return "torch.addmm_", lambda: dw.addmm_(dy.t(), x)
        return "matmul, add", lambda: dw.add_(dy.t() @ x)

    def attention(self, variant, shape):
        sequences, length, heads, dim, kv_heads = (numbers(shape) + [0])[:5]
        kv_heads = kv_heads or heads
        sdpa = self.torch.nn.functional.scaled_dot_product_attention
        from torch.nn.attention import SDPBackend, sdpa_kernel

        q = self.values(sequences, heads, length, dim, grad=variant == "backward")
        k, v = (self.values(sequences, kv_heads, length, dim, grad=variant == "backward")
                for _ in range(2))
        dout = self.values(sequences, heads, length, dim)
        best = None
        backends = {"cuDNN": SDPBackend.CUDNN_ATTENTION, "flash": SDPBackend.FLASH_ATTENTION,
                    "math": SDPBackend.MATH}
        for name, backend in backends.items():
            if name == "math" and best:
                continue

            def forward(backend=backend):
                with sdpa_kernel(backend):
                    return sdpa(q, k, v, is_causal=True, enable_gqa=heads != kv_heads)

            try:
                if variant == "forward":
                    with self.torch.no_grad():
                        taken = self.seconds(forward)
                else:
                    out = forward()
                    taken = self.seconds(lambda: self.torch.autograd.grad(
                        out, (q, k, v), dout, retain_graph=True))
            except RuntimeError:
                continue
            if best is None or taken < best[1]:
                best = (f"SDPA {name}", taken)
        return best

    def norm(self, variant, shape):
        tokens, hidden = numbers(shape)
        functional = self.torch.nn.functional
        backward = variant == "backward"
        x, delta = (self.values(tokens, hidden, grad=backward) for _ in range(2))
        weight, bias = (self.values(hidden, grad=backward) for _ in range(2))
        layer_norm = self.layer_norm

        def both(x, delta, weight, bias):
            residual = x + delta
            if layer_norm:
                return residual, functional.layer_norm(residual, (hidden,), weight, bias)
            return residual, functional.rms_norm(residual, (hidden,), weight)

        compiled = self.torch.compile(both)
        if not backward:
            with self.torch.no_grad():
                return "compiled", self.seconds(lambda: compiled(x, delta, weight, bias))
        outputs = compiled(x, delta, weight, bias)
        gradients = [self.values(tokens, hidden) for _ in range(2)]
        inputs = (x, delta, weight) + ((bias,) if layer_norm else ())
        return "compiled", self.seconds(lambda: self.torch.autograd.grad(
            outputs, inputs, gradients, retain_graph=True))

    def activation(self, variant, shape):
        tokens, width = numbers(shape)
        functional = self.torch.nn.functional
        gated = variant.startswith("SwiGLU")
        x = self.values(tokens, 2 * width if gated else width, grad="backward" in variant)

        def act(x):
            if gated:
                return functional.silu(x[:, :width]) * x[:, width:]
            return functional.gelu(x, approximate="tanh")

        compiled = self.torch.compile(act)
        if "forward" in variant:
            with self.torch.no_grad():
                return "compiled", self.seconds(lambda: compiled(x))
        out, dy = compiled(x), self.values(tokens, width)
        return "compiled", self.seconds(
            lambda: self.torch.autograd.grad(out, x, dy, retain_graph=True))

    def cross_entropy(self, variant, shape):
        tokens, vocab, hidden = numbers(shape)
        x, w = self.values(tokens, hidden, grad=True), self.values(vocab, hidden, grad=True)
        targets = self.torch.randint(0, vocab, (tokens,), device=self.device)
        functional = self.torch.nn.functional

        def loss(x, w):
            return functional.cross_entropy((x @ w.t()).float(), targets)

        compiled = self.torch.compile(loss)

        def step():
            compiled(x, w).backward()
            x.grad = w.grad = None

        return "compiled", step

    def adamw(self, variant, shape):
        count = numbers(shape)[0]
        if variant == "global norm":
            g = self.values(count, dtype=self.torch.float32)
            return "vector_norm", lambda: self.torch.linalg.vector_norm(g)
        p = self.torch.nn.Parameter(self.values(count, dtype=self.torch.float32))
        p.grad = self.values(count, dtype=self.torch.float32)
        optimizer = self.torch.optim.AdamW([p], lr=1e-4, weight_decay=0.01, fused=True)
        if self.dtype == self.torch.float32:
            return "fused", optimizer.step
        copy = p.detach().to(self.torch.bfloat16)

        def step():
            optimizer.step()
            copy.copy_(p.detach())

        return "fused, cast", step

    def rival(self, row):
        run = getattr(self, row["op"], None)
        if run is None:
            return None
        result = run(row["variant"], row["shape"])
        if result is None:
            return None
        name, body = result
        return name, body if isinstance(body, float) else self.seconds(body)


def print_peaks(bench, ours):
    """What PyTorch reaches in a copy and in a large product, beside the engine."""
    torch, device = bench.torch, bench.device
    if device != "cuda":
        return
    source = torch.empty(1 << 28, dtype=torch.float32, device=device)
    target = torch.empty_like(source)
    copy = bench.seconds(lambda: target.copy_(source))
    print(f"copy   {2 * source.numel() * 4 / copy / 1e12:.2f} TB/s by PyTorch, "
          f"{ours['memory_copy_bytes_per_second'] / 1e12:.2f} by the engine's copy")
    a, b = (torch.randn(8192, 8192, device=device, dtype=bench.dtype) for _ in range(2))
    product = bench.seconds(lambda: a @ b)
    print(f"matmul {2 * 8192**3 / product / 1e12:.0f} TFLOP/s at 8192^3 by cuBLAS, "
          f"{ours['matmul_peak_flops'] / 1e12:.0f} by the engine")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("ours", help="output of `engine bench kernels --json`")
    parser.add_argument("--save", help="write the rows to this JSON file")
    args = parser.parse_args()
    with open(args.ours) as file:
        ours = json.load(file)

    try:
        import torch
    except ImportError:
        torch = None
    device = ours.get("device", "cpu")
    if torch is None:
        bench = None
        print(f"{ours['model']}, {ours['precision']}, {device}, no PyTorch: no rivals")
        print(f"copy   {ours['memory_copy_bytes_per_second'] / 1e12:.2f} TB/s, "
              f"matmul {ours['matmul_peak_flops'] / 1e12:.0f} TFLOP/s, by the engine")
    else:
        bench = Bench(torch, device,
                      torch.bfloat16 if ours["precision"] == "bf16" else torch.float32)
        bench.layer_norm = "gpt2" in ours["model"]
        name = torch.cuda.get_device_name() if device == "cuda" else "CPU"
        print(f"{ours['model']}, {ours['precision']}, {name}, torch {torch.__version__}")
        print_peaks(bench, ours)
    line = "{:<14}{:<20}{:<28}{:>11}{:>11}  {:<16}{:>7}"
    print(line.format("operation", "", "shape", "ours ms", "rival ms", "rival", "ratio"))
    for row in ours["kernels"]:
        try:
            found = bench.rival(row) if bench else None
        except Exception as error:  # a rival that cannot run here must not hide our figures
            found = None
            print(f"  ({row['op']} {row['variant']}: {type(error).__name__}: {str(error)[:100]})")
        seconds = row["seconds_median"]
        if found:
            row["rival"], row["rival_seconds"] = found
        print(line.format(
            row["op"], row["variant"], row["shape"], f"{1e3 * seconds:.4f}",
            f"{1e3 * found[1]:.4f}" if found else "", found[0] if found else "",
            f"{found[1] / seconds:.2f}" if found else ""), flush=True)
    if args.save:
        with open(args.save, "w") as file:
            json.dump(ours, file)


if __name__ == "__main__":
    main()
