#!/usr/bin/env python3
"""Five steps of torch.optim.AdamW in fp64: the table kTorchTrace of tests/kernels/optimizer_test.cpp.

Run with a Python that has torch; the printed rows replace the table.
"""

import torch

GRADIENTS = [
    [0.5, -1.0, 0.001],
    [0.25, 2.0, -0.002],
    [-0.125, 0.0, 0.0],
    [1.0, -3.0, 0.0005],
    [0.0625, 0.5, 100.0],
]

parameter = torch.nn.Parameter(torch.tensor([1.0, -0.5, 0.25], dtype=torch.float64))
optimizer = torch.optim.AdamW(
    [parameter], lr=0.01, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.1, foreach=False
)
for gradient in GRADIENTS:
    parameter.grad = torch.tensor(gradient, dtype=torch.float64)
    optimizer.step()
    row = ", ".join(f"{value:.17g}" for value in parameter.tolist())
    print(f"    {{{row}}},")
