#!/usr/bin/env python3
"""One training step in PyTorch + transformers, timed: the peer of `engine bench train`.

The same model (config.json, random weights), batch, precision and threads; forward with loss,
backward, clip_grad_norm_, AdamW. Prints one JSON object.

  engine bench train --model gpt2-124m --json > ours.json
  python bench/peers/train_step.py --from ours.json
  python bench/peers/train_step.py --config config.json --batch 4 --length 512 --precision bf16

Precisions:
  fp32       everything in fp32
  bf16       fp32 weights under torch.autocast(bf16), which is what the transformers Trainer does
             with bf16=True; the nearest to the engine's bf16 (fp32 masters, bf16 arithmetic)
  bf16-pure  weights, gradients and AdamW's moments in bf16: less memory, updates get lost
"""

import argparse
import contextlib
import json
import os
import resource
import statistics
import time


def peak_resident_bytes():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--from", dest="ours", help="output of `engine bench train --json`")
    source.add_argument("--config", help="config.json of the model")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--length", type=int, default=512)
    parser.add_argument("--precision", choices=["fp32", "bf16", "bf16-pure"])
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--warmup", type=int, default=1)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--attention", default="sdpa",
                        choices=["sdpa", "eager", "flash_attention_2"])
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--compile", action="store_true", help="torch.compile the model")
    args = parser.parse_args()
    if args.ours:
        with open(args.ours) as file:
            ours = json.load(file)
        args.config = ours["config"]
        args.batch, args.length = ours["batch"], ours["length"]
        args.precision = args.precision or ours["precision"]
        args.threads = args.threads or ours["threads"]
    else:
        with open(args.config) as file:
            args.config = json.load(file)
    args.precision = args.precision or "fp32"
    return args


def main():
    args = arguments()
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    import torch
    import transformers

    if args.threads:
        torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    imported = peak_resident_bytes()

    config = transformers.AutoConfig.for_model(**args.config)
    config.use_cache = False
    pure = args.precision == "bf16-pure"
    model = transformers.AutoModelForCausalLM.from_config(
        config,
        attn_implementation=args.attention,
        dtype=torch.bfloat16 if pure else torch.float32,
    )
    model.to(args.device).train()
    step_model = torch.compile(model) if args.compile else model

    def wait():
        if args.device == "cuda":
            torch.cuda.synchronize()

    try:
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, weight_decay=0.01, fused=True)
        fused = True
    except RuntimeError:
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, weight_decay=0.01)
        fused = False

    def autocast():
        if args.precision == "bf16":
            return torch.autocast(args.device, dtype=torch.bfloat16)
        return contextlib.nullcontext()

    generator = torch.Generator().manual_seed(0)
    steps, losses = [], []
    for i in range(args.warmup + args.steps):
        cpu = time.process_time()
        start = time.perf_counter()
        ids = torch.randint(0, config.vocab_size, (args.batch, args.length), generator=generator)
        ids = ids.to(args.device)
        data = time.perf_counter()
        with autocast():
            loss = step_model(input_ids=ids, labels=ids).loss
        forward = time.perf_counter()
        loss.backward()
        backward = time.perf_counter()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        norm = time.perf_counter()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        wait()  # on a GPU the parts above are the times of their launches; the total is real
        end = time.perf_counter()
        losses.append(loss.item())
        if i >= args.warmup:
            steps.append(
                {
                    "total": end - start,
                    "data": data - start,
                    "forward": forward - data,
                    "backward": backward - forward,
                    "norm": norm - backward,
                    "adamw": end - norm,
                    "cpu": time.process_time() - cpu,
                }
            )

    tokens = args.batch * args.length
    totals = [step["total"] for step in steps]
    print(
        json.dumps(
            {
                "program": f"torch {torch.__version__}, transformers {transformers.__version__}",
                "precision": args.precision,
                "batch": args.batch,
                "length": args.length,
                "threads": torch.get_num_threads(),
                "num_params": sum(p.numel() for p in model.parameters()),
                "attention": args.attention,
                "device": torch.cuda.get_device_name() if args.device == "cuda" else "cpu",
                "compiled": args.compile,
                "device_peak_bytes": (
                    torch.cuda.max_memory_allocated() if args.device == "cuda" else 0
                ),
                "adamw_fused": fused,
                "step_seconds_median": statistics.median(totals),
                "step_seconds_min": min(totals),
                "tokens_per_second_median": tokens / statistics.median(totals),
                "tokens_per_second_max": tokens / min(totals),
                "steps": steps,
                "resident_imported_bytes": imported,
                "resident_peak_bytes": peak_resident_bytes(),
                "first_loss": losses[0],
                "last_loss": losses[-1],
                "load_average": os.getloadavg()[0],
            }
        )
    )


if __name__ == "__main__":
    main()
