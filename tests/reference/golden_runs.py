"""What the makers of golden files share: one run of a tiny random model in transformers, forward,
backward, in bf16 and through twenty optimizer steps, and the file that it goes to.

Per model a Hugging Face directory tests/models/golden/<name>/ with golden.safetensors beside the
weights:

  input_ids.<row>, labels.<row>   the rows (labels as HF: unshifted, -100 = ignored)
  logits.<row>, hidden.<i>.<row>  fp32 forward; hidden as HF's hidden_states
  loss, grad.<name>               mean loss over all targets of all rows, and its gradients
  bf16.<quantity>                 error of transformers' own bf16 run against its fp32 run
  steps.ids, steps.loss, step.<name>   20 AdamW steps: batches, loss of each step, parameters after

What differs between families is a subclass of Golden.
"""

import math
import pathlib
import sys

import torch
from safetensors.torch import save_file

OUT = pathlib.Path(__file__).resolve().parent.parent / "models" / "golden"
STEPS, ACCUMULATION, MICRO_BATCH = 20, 2, 2  # micro-batches in a step, rows in a micro-batch


class Golden:
    """A model to run. `with_steps` false leaves the optimizer steps out, for a smaller file."""

    def __init__(self, name, seed, cls, config, with_steps=True):
        self.name, self.seed, self.cls, self.config = name, seed, cls, config
        self.with_steps = with_steps

    # What a kind of model defines.

    def make_rows(self, generator):
        """Rows (inputs, label), of several lengths."""
        raise NotImplementedError

    def run(self, model, rows):
        """(loss, [(logits, {name of a hidden state: value}) of each row]); each row runs alone, so
        that nothing is padded."""
        raise NotImplementedError

    def step_batches(self, generator):
        """(tensors to keep, losses): losses(model, step) gives the losses whose sum is the step's."""
        raise NotImplementedError

    # What a kind of model may change.

    def make(self):
        return self.cls(self.config).eval()

    def randomize(self, model, generator):
        """Weights large enough that every term of the model matters; norms and biases not at 1 and
        0."""
        with torch.no_grad():
            for name, p in model.named_parameters():
                noise = torch.randn(p.shape, generator=generator)
                if p.dim() == 1:
                    # Gemma's gains are offsets from 1.
                    one = name.endswith("weight") and "gemma" not in model.config.model_type
                    p.copy_((1.0 if one else 0.0) + 0.2 * noise)
                elif "wte" in name or "wpe" in name or "embed" in name:
                    p.copy_(0.5 * noise)
                else:
                    p.copy_(noise / math.sqrt(p.shape[-1] if "attn.c" not in name else p.shape[0]))
        model.tie_weights()

    def save(self, model, directory):
        model.save_pretrained(directory)
        (directory / "generation_config.json").unlink(missing_ok=True)

    def parameters(self, model):
        """(name in the model that the engine makes, parameter)."""
        yield from model.named_parameters()

    def label_tensor(self, label):
        return label.to(torch.int32)

    def extra(self, model, row):
        """More tensors of a row."""
        return {}


def relative(a, b):
    return (a - b).norm() / b.norm()


def is_rounding_noise(name):
    """A bias of the keys adds the same to every score of a query, which softmax cancels: its
    gradient is 0 but for rounding."""
    return name.endswith("self.key.bias")


def decayed(model):
    """The parameters the HF Trainer decays, by its rule on names and LayerNorm modules."""
    from transformers.trainer_pt_utils import get_parameter_names
    return set(get_parameter_names(
        model, [torch.nn.LayerNorm],
        [r"bias", r"layernorm", r"rmsnorm", r"(?:^|\.)norm(?:$|\.)", r"_norm(?:$|\.)"]))


def adamw_steps(model, losses):
    """20 steps, warm-up 5 then linear to 0, clip 0.5; the loss of each."""
    names = decayed(model)
    groups = [
        {"params": [p for n, p in model.named_parameters() if n in names], "weight_decay": 0.1},
        {"params": [p for n, p in model.named_parameters() if n not in names], "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=0.02, betas=(0.9, 0.95), eps=1e-8)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda s: s / 5 if s < 5 else max(0.0, (STEPS - s) / (STEPS - 5)))
    history = []
    for step in range(STEPS):
        total = 0.0
        for loss in losses(model, step):
            loss.backward()
            total += loss.item()
        history.append(total)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 0.5)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
    return torch.tensor(history)


def bf16_errors(golden, model, rows, loss, outputs, grads):
    """transformers in bf16 against itself in fp32: what an honest bf16 run costs."""
    half = golden.make()
    half.load_state_dict(model.state_dict())
    half = half.to(torch.bfloat16)
    half_loss, half_outputs = golden.run(half, rows)
    half_loss.backward()
    logits = max((h.float() - o).abs().max().item()
                 for (h, _), (o, _) in zip(half_outputs, outputs))
    grad = max(relative(p.grad.float(), grads[n]).item() for n, p in golden.parameters(half)
               if grads[n].norm() > 0 and not is_rounding_noise(n))
    return {"bf16.logits": torch.tensor([logits]),
            "bf16.loss": (half_loss.float() - loss).abs().reshape(1).detach(),
            "bf16.grad": torch.tensor([grad])}


def write(golden):
    generator = torch.Generator().manual_seed(golden.seed)
    torch.manual_seed(golden.seed)
    model = golden.make()
    golden.randomize(model, generator)
    directory = OUT / golden.name
    directory.mkdir(parents=True, exist_ok=True)
    golden.save(model, directory)

    rows = golden.make_rows(generator)
    loss, outputs = golden.run(model, rows)
    loss.backward()
    tensors = {"loss": loss.detach().reshape(1)}
    for i, ((ids, label), (logits, hidden)) in enumerate(zip(rows, outputs)):
        tensors[f"input_ids.{i}"] = ids.to(torch.int32)
        tensors[f"labels.{i}"] = golden.label_tensor(label)
        tensors[f"logits.{i}"] = logits.detach().clone()
        for key, value in hidden.items():
            tensors[f"{key}.{i}"] = value.detach().clone()
        for key, value in golden.extra(model, (ids, label)).items():
            tensors[f"{key}.{i}"] = value
    grads = {n: p.grad.clone() for n, p in golden.parameters(model)}
    tensors.update({f"grad.{n}": g for n, g in grads.items()})
    tensors.update(bf16_errors(golden, model, rows, loss, outputs, grads))

    if golden.with_steps:
        model.zero_grad()
        batches, losses = golden.step_batches(generator)
        history = adamw_steps(model, losses)
        tensors.update({f"steps.{n}": t for n, t in batches.items()})
        tensors["steps.loss"] = history
        tensors.update({f"step.{n}": p.detach().clone() for n, p in model.named_parameters()})
    save_file({k: v.contiguous() for k, v in tensors.items()}, directory / "golden.safetensors")
    print(golden.name, float(tensors["loss"]),
          [float(tensors[f"bf16.{k}"]) for k in ("logits", "loss", "grad")])


def main(goldens):
    """Those named on the command line, or all."""
    known = {golden.name: golden for golden in goldens}
    for name in sys.argv[1:] or known:
        if name not in known:
            sys.exit(f"no golden model {name} here; known: {', '.join(known)}")
        write(known[name])
