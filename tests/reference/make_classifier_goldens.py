#!/usr/bin/env python3
"""Golden files for sequence classification: tiny random models of odd sizes, run in transformers.

As make_model_goldens.py, whose helpers it uses, except:

  labels.<row>          fp32: the class; or, of regression and several labels at once, a number per
                        output. The loss is transformers' own, by config.problem_type
  logits.<row>          one number per label
  steps.labels          label of each row of steps.ids

Run: python3 tests/reference/make_classifier_goldens.py
"""

import torch
from make_model_goldens import LLAMA3_ROPE, OUT, decayed, llama, qwen2, randomize, relative
from safetensors.torch import save_file
from transformers import (LlamaForSequenceClassification, Qwen2ForSequenceClassification,
                          RobertaConfig, RobertaForSequenceClassification)


def roberta(**kwargs):
    base = dict(vocab_size=97, hidden_size=24, intermediate_size=44, num_hidden_layers=2,
                num_attention_heads=3, max_position_embeddings=42, type_vocab_size=1,
                layer_norm_eps=1e-5, pad_token_id=1, bos_token_id=0, eos_token_id=2,
                hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
                attn_implementation="eager")
    base.update(kwargs)
    return RobertaConfig(**base)


MODELS = {
    "llama_classifier": (LlamaForSequenceClassification, llama(
        num_labels=3, pad_token_id=4, num_attention_heads=4, num_key_value_heads=1, head_dim=6,
        tie_word_embeddings=False)),
    # A reward model: one number, and no padding id.
    "llama_reward_classifier": (LlamaForSequenceClassification, llama(
        num_labels=1, rope_parameters=dict(LLAMA3_ROPE, rope_theta=500000.0))),
    "qwen2_reward_classifier": (Qwen2ForSequenceClassification, qwen2(
        num_labels=1, num_hidden_layers=2, pad_token_id=4)),
    "roberta_classifier": (RobertaForSequenceClassification, roberta(num_labels=3)),
    "roberta_multilabel_classifier": (RobertaForSequenceClassification, roberta(
        num_labels=4, problem_type="multi_label_classification", type_vocab_size=2,
        pad_token_id=5, max_position_embeddings=46, num_attention_heads=2, hidden_act="gelu_new",
        layer_norm_eps=1e-12)),
}


def make_label(config, generator):
    if config.problem_type == "multi_label_classification":
        return torch.randint(0, 2, (1, config.num_labels), generator=generator).float()
    if config.num_labels == 1:
        return torch.randn((1,), generator=generator)
    return torch.randint(0, config.num_labels, (1,), generator=generator)


def make_rows(config, generator):
    """Rows of several lengths; padding ids inside two of them, at the end of one."""
    rows = []
    for n in [1, 2, 13, 37]:
        ids = torch.randint(6, config.vocab_size, (n,), generator=generator)
        if config.pad_token_id is not None and n > 2:
            ids[n // 3] = ids[n // 2] = config.pad_token_id
        if config.pad_token_id is not None and n == 13:
            ids[-2:] = config.pad_token_id
        rows.append((ids, make_label(config, generator)))
    return rows


def row_loss(model, ids, label):
    """A row alone, nothing masked: padding ids are tokens like others but for their positions."""
    out = model(input_ids=ids[None], attention_mask=torch.ones_like(ids)[None],
                labels=label.to(model.dtype) if label.is_floating_point() else label,
                output_hidden_states=True)
    return out.loss, out


def total_loss(model, rows):
    losses, outputs = zip(*[row_loss(model, ids, label) for ids, label in rows])
    return sum(losses) / len(rows), outputs


def adamw_steps(model, generator, steps=20, accumulation=2):
    """20 steps, warm-up 5 then linear to 0, clip 0.5, two micro-batches of two rows each."""
    config = model.config
    ids = torch.randint(6, config.vocab_size, (steps * accumulation * 2, 11), generator=generator)
    labels = [make_label(config, generator) for _ in ids]
    names = decayed(model)
    groups = [
        {"params": [p for n, p in model.named_parameters() if n in names], "weight_decay": 0.1},
        {"params": [p for n, p in model.named_parameters() if n not in names], "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=0.02, betas=(0.9, 0.95), eps=1e-8)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda s: s / 5 if s < 5 else max(0.0, (steps - s) / (steps - 5)))
    history, rows = [], 2 * accumulation
    for step in range(steps):
        total = 0.0
        for i in range(step * rows, (step + 1) * rows):
            loss = row_loss(model, ids[i], labels[i])[0] / rows
            loss.backward()
            total += loss.item()
        history.append(total)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 0.5)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
    return ids, torch.stack([label.float().reshape(-1) for label in labels]), torch.tensor(history)


def main():
    for index, (name, (cls, config)) in enumerate(MODELS.items()):
        generator = torch.Generator().manual_seed(2000 + index)
        torch.manual_seed(index)
        model = cls(config).eval()
        randomize(model, generator)
        directory = OUT / name
        model.save_pretrained(directory)
        (directory / "generation_config.json").unlink(missing_ok=True)

        rows = make_rows(config, generator)
        golden = {}
        loss, outputs = total_loss(model, rows)
        loss.backward()
        golden["loss"] = loss.detach().reshape(1)
        for i, ((ids, label), out) in enumerate(zip(rows, outputs)):
            golden[f"input_ids.{i}"] = ids.to(torch.int32)
            golden[f"labels.{i}"] = label.float().reshape(-1)
            golden[f"logits.{i}"] = out.logits[0].detach().clone()
            for layer, hidden in enumerate(out.hidden_states):
                golden[f"hidden.{layer}.{i}"] = hidden[0].detach().clone()
        grads = {n: p.grad.clone() for n, p in model.named_parameters()}
        for n, g in grads.items():
            golden[f"grad.{n}"] = g

        # transformers in bf16 against itself in fp32: what an honest bf16 run costs.
        half = cls(config).eval()
        half.load_state_dict(model.state_dict())
        half = half.to(torch.bfloat16)
        half_loss, half_outputs = total_loss(half, rows)
        half_loss.backward()
        golden["bf16.logits"] = torch.stack([
            (h.logits.float() - o.logits).abs().max() for h, o in zip(half_outputs, outputs)]).max().reshape(1).detach()
        golden["bf16.loss"] = (half_loss.float() - loss).abs().reshape(1).detach()
        # A bias of the keys adds the same to every score of a query, which softmax cancels: its
        # gradient is 0 but for rounding.
        golden["bf16.grad"] = torch.stack([
            relative(p.grad.float(), grads[n]) for n, p in half.named_parameters()
            if grads[n].norm() > 0 and not n.endswith("self.key.bias")]).max().reshape(1)

        model.zero_grad()
        ids, labels, history = adamw_steps(model, generator)
        golden["steps.ids"] = ids.to(torch.int32)
        golden["steps.labels"] = labels
        golden["steps.loss"] = history
        for n, p in model.named_parameters():
            golden[f"step.{n}"] = p.detach().clone()
        save_file({k: v.contiguous() for k, v in golden.items()}, directory / "golden.safetensors")
        print(name, float(golden["loss"]), [float(golden[f"bf16.{k}"]) for k in ("logits", "loss", "grad")])


if __name__ == "__main__":
    main()
