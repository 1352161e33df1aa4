#!/usr/bin/env python3
"""`engine bench train` against PyTorch + transformers, alternately, on the same threads.

  python bench/peers/compare.py --engine build/tools/engine
  python bench/peers/compare.py --engine build/tools/engine --case gpt2-124m:bf16 --rounds 3

Each round runs ours, then the peer, each in a process of its own, so that whatever else the machine
does meets both alike. Medians are over all steps of all rounds; "best" is the fastest step. Needs
torch and transformers in the Python that runs this (or --python).
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
        self.steps, self.results = [], []

    def add(self, result):
        self.results.append(result)
        self.steps += [step["total"] for step in result["steps"]]

    def tokens_per_second(self, summary):
        tokens = self.results[0]["batch"] * self.results[0]["length"]
        return tokens / summary(self.steps)

    def peak(self):
        return max(r["resident_peak_bytes"] for r in self.results)

    def peak_without_program(self):
        """What the step took: without libraries that were loaded before the model."""
        before = "resident_before_bytes" if "resident_before_bytes" in self.results[0] else None
        key = before or "resident_imported_bytes"
        return max(r["resident_peak_bytes"] - r[key] for r in self.results)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--engine", required=True, help="the engine program")
    parser.add_argument("--python", default=sys.executable, help="Python that has torch")
    parser.add_argument("--case", action="append", help="model:precision; repeat for several")
    parser.add_argument("--pure", action="store_true", help="for bf16, also the peer's bf16-pure")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--save", help="write every result to this JSON file")
    args = parser.parse_args()

    saved = []
    columns = "| {:<22} | {:>10} | {:>10} | {:>10} | {:>10} | {:>13} | {:>8} | {:>8} | {:>6} | {:>11} | {:>11} |"
    print(columns.format("case (peer's precision)", "ours tok/s", "ours best", "peer tok/s",
                         "peer best", "ratio, best", "ours GiB", "peer GiB", "ratio",
                         "less loading", "load"))
    print(columns.format(*["---"] * 11))
    for case in args.case or CASES:
        model, precision = case.split(":")
        peers = [precision] + (["bf16-pure"] if args.pure and precision == "bf16" else [])
        ours, theirs = Side(), {peer: Side() for peer in peers}
        loads = []
        with tempfile.TemporaryDirectory() as folder:
            for _ in range(args.rounds):
                result = run([args.engine, "bench", "train", "--model", model, "--precision",
                              precision, "--steps", str(args.steps), "--json"], args.threads)
                ours.add(result)
                loads.append(result["load_average"])
                path = os.path.join(folder, "ours.json")
                with open(path, "w") as file:
                    json.dump(result, file)
                for peer in peers:
                    result = run([args.python, os.path.join(HERE, "train_step.py"), "--from", path,
                                  "--precision", peer, "--steps", str(args.steps)], args.threads)
                    theirs[peer].add(result)
                    loads.append(result["load_average"])
        for peer in peers:
            other = theirs[peer]
            values = []
            for side in (ours, other):
                values += [side.tokens_per_second(statistics.median), side.tokens_per_second(min)]
            gib = [side.peak() / 2**30 for side in (ours, other)]
            net = [side.peak_without_program() for side in (ours, other)]
            print(columns.format(
                case if peer == precision else f"{case} ({peer})",
                *[f"{value:.0f}" for value in values],
                f"{values[0] / values[2]:.2f}, {values[1] / values[3]:.2f}",
                f"{gib[0]:.2f}", f"{gib[1]:.2f}", f"{gib[0] / gib[1]:.2f}",
                f"{net[0] / net[1]:.2f}", f"{min(loads):.1f}-{max(loads):.1f}"), flush=True)
            saved.append({"case": case, "peer": peer, "ours": ours.results,
                          "theirs": other.results})
    if args.save:
        with open(args.save, "w") as file:
            json.dump(saved, file, indent=1)


if __name__ == "__main__":
    main()
