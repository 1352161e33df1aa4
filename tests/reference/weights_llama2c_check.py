#!/usr/bin/env python3
"""Checks an exported stories260K directory against transformers and known losses.

usage: weights_llama2c_check.py EXPORTED_DIRECTORY GOLDEN_JSON

EXPORTED_DIRECTORY is what the C++ side wrote from stories260K.bin: run the test program
weights_llama2c_test with WEIGHTS_TEST_EXPORT=EXPORTED_DIRECTORY. GOLDEN_JSON holds text_ids and the
per-token losses, computed in float64 by an independent NumPy implementation of llama2.c. Needs torch
and transformers; the project itself needs neither.
"""

import json
import sys

import torch
from transformers import LlamaForCausalLM

# fp32 against float64 over 5 layers; a wrong permutation or name gives differences above 1.
TOLERANCE = 1e-4


def main():
    directory, golden_path = sys.argv[1:]
    with open(golden_path) as file:
        golden = json.load(file)
    model, info = LlamaForCausalLM.from_pretrained(directory, output_loading_info=True)
    for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        assert not info[kind], (kind, info[kind])
    ids = torch.tensor([golden["text_ids"]])
    with torch.no_grad():
        logits = model.float().eval()(ids).logits[0]
    losses = torch.nn.functional.cross_entropy(logits[:-1].double(), ids[0, 1:], reduction="none")
    expected = torch.tensor(golden["text_per_token_loss"], dtype=torch.float64)
    assert losses.shape == expected.shape, (losses.shape, expected.shape)
    difference = (losses - expected).abs().max().item()
    last = torch.tensor(golden["text_logits_last"])
    print(f"{len(expected)} losses: largest difference {difference:.2e}")
    print(f"last logits: largest difference {(logits[-1] - last).abs().max().item():.2e}")
    assert difference < TOLERANCE


if __name__ == "__main__":
    main()
