"""Writes tests/optim/golden/schedules.json: learning-rate multipliers of Hugging Face transformers.

Needs torch and transformers; run by hand, the tests only read the file:
    python tests/reference/optim_schedules.py > tests/optim/golden/schedules.json
"""
import json

import torch
from transformers import optimization as hf

W, T = 10, 100
STEPS = sorted(set(range(0, 14)) | set(range(14, T + 1, 5)) | {79, 80, 81, 89, 90, 91, 99, T})


def multipliers(make):
    parameter = torch.nn.Parameter(torch.zeros(1))
    scheduler = make(torch.optim.SGD([parameter], lr=1.0))
    function = scheduler.lr_lambdas[0]
    return [[step, function(step)] for step in STEPS]


def wsd(shape, ratio, decay):
    return lambda o: hf.get_wsd_schedule(
        o, num_warmup_steps=W, num_decay_steps=decay, num_training_steps=T,
        decay_type=shape, min_lr_ratio=ratio)


cases = {
    "constant": dict(type="constant", make=hf.get_constant_schedule, warmup_steps=0),
    "constant_with_warmup": dict(
        type="constant", make=lambda o: hf.get_constant_schedule_with_warmup(o, W)),
    "linear": dict(
        type="linear", make=lambda o: hf.get_linear_schedule_with_warmup(o, W, T)),
    "linear_without_warmup": dict(
        type="linear", make=lambda o: hf.get_linear_schedule_with_warmup(o, 0, T), warmup_steps=0),
    "cosine": dict(
        type="cosine", make=lambda o: hf.get_cosine_schedule_with_warmup(o, W, T)),
    "cosine_with_min_lr": dict(
        type="cosine", min_lr_ratio=0.1,
        make=lambda o: hf.get_cosine_with_min_lr_schedule_with_warmup(o, W, T, min_lr_rate=0.1)),
    "wsd_linear": dict(type="wsd", decay_shape="linear", decay_steps=20,
                       make=wsd("linear", 0.0, 20)),
    "wsd_cosine_floor": dict(type="wsd", decay_shape="cosine", decay_steps=20, min_lr_ratio=0.1,
                             make=wsd("cosine", 0.1, 20)),
    "wsd_sqrt": dict(type="wsd", decay_shape="sqrt", decay_steps=30, make=wsd("1-sqrt", 0.0, 30)),
}
out = []
for name, case in cases.items():
    make = case.pop("make")
    out.append(dict(name=name, warmup_steps=case.pop("warmup_steps", W), total_steps=T, **case,
                    multipliers=multipliers(make)))
print("[\n" + ",\n".join(json.dumps(row) for row in out) + "\n]")
