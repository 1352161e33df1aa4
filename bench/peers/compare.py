#!/usr/bin/env python3
"""`engine bench train` against PyTorch + transformers, alternately, on the same threads.

  python bench/peers/compare.py --engine build/tools/engine
  python bench/peers/compare.py --engine build/tools/engine --case gpt2-124m:bf16 --rounds 3

Each round runs ours, then the peer, each in a process of its own, so that whatever else the machine
does meets both alike. Medians are over all steps of all rounds; "best" is the fastest step; "cpu"
compares the processor time of a step, which other programs disturb least. Ratios of speed are ours
to the peer's, so more is better; ratios of memory likewise, so less is better: of the peak resident
set, and of its growth after the libraries were loaded. Needs torch and transformers in the Python
that runs this (or --python).
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile

CASES = ["gpt2-124m:fp32", "gpt2-124m:bf16", "llama-60m:fp32", "llama-60m:bf16"]
HERE = os.path.dirname(os.path.abspath(__file__))


def run(command, threads):
    environment = dict(os.environ)
    if threads:
        environment["OMP_NUM_THREADS"] = environment["MKL_NUM_THREADS"] = str(threads)
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True)
    if done.returncode != 0:
        sys.exit(f"exit {done.returncode}: {' '.join(command)}")
    return json.loads(done.stdout.strip().splitlines()[-1])


class Side:
    """All rounds of one program."""

    def __init__(self):
        self.steps, self.cpu, self.results = [], [], []

    def add(self, result):
        self.results.append(result)
        self.steps += [step["total"] for step in result["steps"]]
        self.cpu += [step["cpu"] for step in result["steps"]]

    def tokens_per_second(self, summary):
        tokens = self.results[0]["batch"] * self.results[0]["length"]
        return tokens / summary(self.steps)

    def peak(self):
        return max(r["resident_peak_bytes"] for r in self.results)

    def growth(self):
        """What the model and its steps took, without what was there before."""
        before = {"resident_before_bytes", "resident_imported_bytes"} & self.results[0].keys()
        key = before.pop()
        return max(r["resident_peak_bytes"] - r[key] for r in self.results)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--engine", required=True, help="the engine program")
    parser.add_argument("--python", default=sys.executable, help="Python that has torch")
    parser.add_argument("--case", action="append", help="model:precision; repeat for several")
    parser.add_argument("--pure", action="store_true", help="for bf16, also the peer's bf16-pure")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=3)
    # PyTorch's allocator takes several steps until it no longer asks the system for memory.
    parser.add_argument("--warmup", type=int, default=5)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--save", help="write every result to this JSON file")
    args = parser.parse_args()

    saved = []
    heads = ["case (peer)", "tok/s", "peer", "ratio", "best", "peer", "ratio", "cpu ratio", "GiB",
             "peer", "ratio", "growth", "load"]
    line = "| {:<26} | " + " | ".join(["{:>9}"] * 12) + " |"
    print(line.format(*heads))
    print(line.format("---", *["---:"] * 12))
    for case in args.case or CASES:
        model, precision = case.split(":")
        peers = [precision] + (["bf16-pure"] if args.pure and precision == "bf16" else [])
        ours, theirs = Side(), {peer: Side() for peer in peers}
        loads = []
        with tempfile.TemporaryDirectory() as folder:
            for _ in range(args.rounds):
                result = run([args.engine, "bench", "train", "--model", model, "--precision",
                              precision, "--steps", str(args.steps), "--warmup",
                              str(args.warmup), "--json"], args.threads)
                ours.add(result)
                loads.append(result["load_average"])
                path = os.path.join(folder, "ours.json")
                with open(path, "w") as file:
                    json.dump(result, file)
                for peer in peers:
                    result = run([args.python, os.path.join(HERE, "train_step.py"), "--from", path,
                                  "--precision", peer, "--steps", str(args.steps), "--warmup",
                                  str(args.warmup)], args.threads)
                    theirs[peer].add(result)
                    loads.append(result["load_average"])
        for peer in peers:
            other = theirs[peer]
            median = [side.tokens_per_second(statistics.median) for side in (ours, other)]
            best = [side.tokens_per_second(min) for side in (ours, other)]
            cpu = [statistics.median(side.cpu) for side in (ours, other)]
            gib = [side.peak() / 2**30 for side in (ours, other)]
            growth = [side.growth() for side in (ours, other)]
            print(line.format(
                f"{case} ({peer})",
                f"{median[0]:.0f}", f"{median[1]:.0f}", f"{median[0] / median[1]:.2f}",
                f"{best[0]:.0f}", f"{best[1]:.0f}", f"{best[0] / best[1]:.2f}",
                f"{cpu[1] / cpu[0]:.2f}",
                f"{gib[0]:.2f}", f"{gib[1]:.2f}", f"{gib[0] / gib[1]:.2f}",
                f"{growth[0] / growth[1]:.2f}", f"{min(loads):.1f}-{max(loads):.1f}"), flush=True)
            saved.append({"case": case, "peer": peer, "ours": ours.results,
                          "theirs": other.results})
    if args.save:
        with open(args.save, "w") as file:
            json.dump(saved, file, indent=1)


if __name__ == "__main__":
    main()
