#!/usr/bin/env python3
"""Does what the engine saves load in transformers, with the same logits?

Every golden model (tests/models/golden) is trained for two steps by `engine train`, saved, and loaded
by the class its config.json names: no tensor may be missing, none left over. Then `engine dump` of
the saved directory is compared with transformers' logits, in fp32. The second column is the same of a
save in bf16, which both sides read.

Needs torch and transformers, and the built program.

Run: python3 tests/reference/export_check.py build/tools/engine [name ...]
"""

import json
import pathlib
import shutil
import subprocess
import sys
import tempfile

import torch
import transformers
from safetensors.torch import load_file

GOLDEN = pathlib.Path(__file__).resolve().parent.parent / "models" / "golden"
TOLERANCE = 1e-4  # fp32 sums in another order, as in the golden tests


def rows_of(golden, classifier):
    tensors = load_file(golden / "golden.safetensors")
    rows = []
    while f"input_ids.{len(rows)}" in tensors:
        n = len(rows)
        labels = tensors[f"labels.{n}"].tolist()
        if classifier:
            whole = all(x == int(x) for x in labels) and len(labels) == 1
            labels = int(labels[0]) if whole else labels if len(labels) > 1 else labels[0]
        rows.append({"input_ids": tensors[f"input_ids.{n}"].tolist(), "labels": labels})
    return rows


def write_rows(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


# Training wants a tokenizer, though the rows are ids already: twenty-six letters.
TOKENIZER = {"version": "1.0", "added_tokens": [], "model": {
    "type": "BPE", "merges": [], "vocab": {chr(97 + i): i for i in range(26)}}}


def run(*command):
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"{' '.join(map(str, command))}\n{done.stderr}{done.stdout}")


def logits_of(model, row, config):
    ids = torch.tensor([row["input_ids"]])
    if config.get("is_encoder_decoder"):
        return model(input_ids=ids, labels=torch.tensor([row["labels"]])).logits[0]
    # Nothing is masked: a padding id is a token like others but for its position.
    return model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits[0]


def difference(engine, directory, rows, scratch):
    """The largest difference of any logit; exits if the load is not complete."""
    config = json.loads((directory / "config.json").read_text())
    cls = getattr(transformers, config["architectures"][0])
    model, info = cls.from_pretrained(directory, dtype=torch.float32, output_loading_info=True)
    for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        if info[kind]:
            sys.exit(f"{directory}: {kind}: {info[kind]}")
    dump = scratch / "dump.safetensors"
    run(engine, "dump", directory, "--no-grad", "--no-hidden", "--out", dump, "--input",
        write_rows(scratch / "rows.jsonl", rows))
    ours = load_file(dump)
    with torch.no_grad():
        return max((ours[f"logits.{i}"] - logits_of(model.eval(), row, config)).abs().max().item()
                   for i, row in enumerate(rows))


def check(engine, golden):
    classifier = "classifier" in golden.name
    rows = rows_of(golden, classifier)
    with tempfile.TemporaryDirectory() as name:
        scratch = pathlib.Path(name)
        model = shutil.copytree(golden, scratch / "model")
        (model / "tokenizer.json").write_text(json.dumps(TOKENIZER))
        data = write_rows(scratch / "train.jsonl",
                          [row for row in rows if classifier or len(row["input_ids"]) > 1])
        longest = max(max(len(row["input_ids"]), 0 if classifier else len(row["labels"]))
                      for row in rows)
        found = []
        for dtype in ("float32", "bfloat16"):
            out = scratch / dtype
            run(engine, "train", f"model.path={model}", f"data.train={data}",
                "train.max_steps=2", "train.micro_batch_tokens=512", f"data.max_length={longest}", "train.precision=fp32",
                "optimizer.lr=1e-3", f"train.output_dir={out}", f"model.save_dtype={dtype}",
                *(["model.task=sequence_classification"] if classifier else []))
            found.append(difference(engine, out / "last", rows, scratch))
        config = json.loads((scratch / "float32" / "last" / "config.json").read_text())
    print(f"{golden.name:36} {config['architectures'][0]:36} {found[0]:.1e} {found[1]:.1e}")
    return max(found) <= TOLERANCE


def main():
    engine, names = pathlib.Path(sys.argv[1]).resolve(), sys.argv[2:]
    goldens = [path for path in sorted(GOLDEN.iterdir()) if not names or path.name in names]
    print(f"transformers {transformers.__version__}, torch {torch.__version__}: largest difference "
          "of a logit, saved in fp32 and in bf16")
    results = [check(engine, golden) for golden in goldens]
    if not all(results):
        sys.exit(f"{results.count(False)} of {len(results)} above {TOLERANCE}")


if __name__ == "__main__":
    main()
