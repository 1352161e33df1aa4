#!/usr/bin/env python3
"""Golden files for encoder-decoder families: as make_model_goldens.py, which says what the tensors
are, with these differences:

  input_ids.<row>, labels.<row>    source and target have lengths of their own; labels as HF: the
                                   decoder's targets, -100 = ignored
  encoder.hidden.<i>.<row>, decoder.hidden.<i>.<row>
  generate.<row>                   greedy continuation by transformers
  steps.ids, steps.labels          sources and targets of the optimizer steps

Run: python3 tests/reference/make_seq2seq_goldens.py
"""

import json
import math

import torch
from safetensors.torch import save_file
from transformers import T5Config, T5ForConditionalGeneration

from make_model_goldens import OUT, decayed, relative

STEPS, ACCUMULATION, SOURCE, TARGET = 20, 2, 11, 7


def t5(**kwargs):
    base = dict(vocab_size=97, d_model=20, d_kv=6, d_ff=36, num_layers=2, num_heads=4,
                dropout_rate=0.0, decoder_start_token_id=0, pad_token_id=0, eos_token_id=1,
                attn_implementation="eager")
    base.update(kwargs)
    return T5Config(**base)


# Name: config, lengths of source and target of each row.
MODELS = {
    # v1.0. Rows longer than the largest distance on both sides; every edge of the buckets (2, 7;
    # 4, 6, 9, 14) is crossed.
    "t5_relu_tied": (t5(feed_forward_proj="relu", relative_attention_num_buckets=8,
                        relative_attention_max_distance=20),
                     [(1, 1), (5, 2), (27, 13), (9, 30)]),
    # v1.1. The buckets of the real models, past 128 on both sides; other depths of the stacks.
    "t5_gated_untied": (t5(feed_forward_proj="gated-gelu", tie_word_embeddings=False,
                           num_decoder_layers=3, d_kv=10, num_heads=3),
                        [(2, 1), (1, 5), (14, 9), (135, 131)]),
}


def randomize(model, generator):
    """Weights large enough that every term matters; scores are not scaled, so q is smaller."""
    with torch.no_grad():
        for name, p in model.named_parameters():
            noise = torch.randn(p.shape, generator=generator)
            if p.dim() == 1:
                p.copy_(1.0 + 0.2 * noise)
            elif "relative_attention_bias" in name:
                p.copy_(0.7 * noise)
            elif name in ("shared.weight", "lm_head.weight"):
                p.copy_(0.8 * noise)
            else:
                scale = 1.0 / math.sqrt(p.shape[-1])
                p.copy_(noise * (scale / math.sqrt(model.config.d_kv)
                                 if ".q." in name else scale))


def untie(model):
    model.lm_head.weight = torch.nn.Parameter(torch.empty_like(model.shared.weight))


def make_model(config):
    model = T5ForConditionalGeneration(config).eval()
    if not config.scale_decoder_outputs:
        untie(model)
    return model


def save(model, directory):
    directory.mkdir(parents=True, exist_ok=True)
    shared = {"encoder.embed_tokens.weight", "decoder.embed_tokens.weight"}
    if model.config.scale_decoder_outputs:
        shared.add("lm_head.weight")
    tensors = {n: t.contiguous() for n, t in model.state_dict().items() if n not in shared}
    save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})
    config = json.loads(model.config.to_json_string(use_diff=False))
    keep = ["vocab_size", "d_model", "d_kv", "d_ff", "num_layers", "num_decoder_layers",
            "num_heads", "relative_attention_num_buckets", "relative_attention_max_distance",
            "dropout_rate", "layer_norm_epsilon", "initializer_factor", "feed_forward_proj",
            "is_encoder_decoder", "pad_token_id", "eos_token_id", "decoder_start_token_id"]
    config = {"architectures": ["T5ForConditionalGeneration"], "model_type": "t5",
              **{k: config[k] for k in keep}}
    # As released checkpoints have it; transformers 5 reads it as scale_decoder_outputs.
    config["tie_word_embeddings"] = model.config.scale_decoder_outputs
    (directory / "config.json").write_text(json.dumps(config, indent=2) + "\n")


def run_row(model, ids, labels):
    """Logits of one row, and the hidden states of both stacks in HF's numbering."""
    hidden = {}
    hooks = []
    for name, stack in (("encoder", model.encoder), ("decoder", model.decoder)):
        def keep(key):
            def hook(module, inputs, output):
                hidden[key] = (output[0] if isinstance(output, tuple) else output)[0]
            return hook
        hooks.append(stack.embed_tokens.register_forward_hook(keep(f"{name}.hidden.0")))
        for i, block in enumerate(stack.block[:-1]):
            hooks.append(block.register_forward_hook(keep(f"{name}.hidden.{i + 1}")))
        hooks.append(stack.final_layer_norm.register_forward_hook(
            keep(f"{name}.hidden.{len(stack.block)}")))
    out = model(input_ids=ids[None], labels=labels[None])
    for hook in hooks:
        hook.remove()
    return out.logits[0], hidden


def total_loss(model, rows):
    losses, count, outputs = [], 0, []
    for ids, labels in rows:
        logits, hidden = run_row(model, ids, labels)
        outputs.append((logits, hidden))
        losses.append(torch.nn.functional.cross_entropy(
            logits.float(), labels, ignore_index=-100, reduction="sum"))
        count += int((labels != -100).sum())
    return sum(losses) / count, outputs


def make_rows(vocab, lengths, generator):
    rows = []
    for source, target in lengths:
        ids = torch.randint(2, vocab, (source,), generator=generator)
        labels = torch.randint(2, vocab, (target,), generator=generator)
        ids[-1] = 1
        labels[-1] = 1
        if target > 4:
            labels[target // 2] = -100
            labels[1] = -100
        rows.append((ids, labels))
    return rows


def adamw_steps(model, vocab, generator):
    shape = (STEPS, ACCUMULATION, 2)
    ids = torch.randint(2, vocab, (*shape, SOURCE), generator=generator)
    labels = torch.randint(2, vocab, (*shape, TARGET), generator=generator)
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
        for micro in range(ACCUMULATION):
            logits = model(input_ids=ids[step, micro], labels=labels[step, micro]).logits.float()
            loss = torch.nn.functional.cross_entropy(
                logits.reshape(-1, vocab), labels[step, micro].reshape(-1),
                reduction="sum") / (ACCUMULATION * 2 * TARGET)
            loss.backward()
            total += loss.item()
        history.append(total)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 0.5)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
    return ids.reshape(-1, SOURCE), labels.reshape(-1, TARGET), torch.tensor(history)


def main():
    for index, (name, (config, lengths)) in enumerate(MODELS.items()):
        generator = torch.Generator().manual_seed(2000 + index)
        model = make_model(config)
        randomize(model, generator)
        directory = OUT / name
        save(model, directory)

        rows = make_rows(config.vocab_size, lengths, generator)
        golden = {}
        loss, outputs = total_loss(model, rows)
        loss.backward()
        golden["loss"] = loss.detach().reshape(1)
        for i, ((ids, labels), (logits, hidden)) in enumerate(zip(rows, outputs)):
            golden[f"input_ids.{i}"] = ids.to(torch.int32)
            golden[f"labels.{i}"] = labels.to(torch.int32)
            golden[f"logits.{i}"] = logits.detach().clone()
            for key, value in hidden.items():
                golden[f"{key}.{i}"] = value.detach().clone()
            # Without a cache: transformers 5.23 makes one of num_layers layers for the decoder.
            new = model.generate(ids[None], max_new_tokens=12, do_sample=False, num_beams=1,
                                 use_cache=False)
            golden[f"generate.{i}"] = new[0, 1:].to(torch.int32)
        grads = {n: p.grad.clone() for n, p in model.named_parameters()}
        for n, g in grads.items():
            golden[f"grad.{n}"] = g

        half = make_model(config)
        half.load_state_dict(model.state_dict())
        half = half.to(torch.bfloat16)
        half_loss, half_outputs = total_loss(half, rows)
        half_loss.backward()
        golden["bf16.logits"] = torch.stack([
            (h[0].float() - o[0]).abs().max()
            for h, o in zip(half_outputs, outputs)]).max().reshape(1).detach()
        golden["bf16.loss"] = (half_loss.float() - loss).abs().reshape(1).detach()
        golden["bf16.grad"] = torch.stack([
            relative(p.grad.float(), grads[n]) for n, p in half.named_parameters()
            if grads[n].norm() > 0]).max().reshape(1)

        model.zero_grad()
        ids, labels, history = adamw_steps(model, config.vocab_size, generator)
        golden["steps.ids"] = ids.to(torch.int32)
        golden["steps.labels"] = labels.to(torch.int32)
        golden["steps.loss"] = history
        for n, p in model.named_parameters():
            golden[f"step.{n}"] = p.detach().clone()
        save_file({k: v.contiguous() for k, v in golden.items()}, directory / "golden.safetensors")
        print(name, float(golden["loss"]),
              [float(golden[f"bf16.{k}"]) for k in ("logits", "loss", "grad")])


if __name__ == "__main__":
    main()
