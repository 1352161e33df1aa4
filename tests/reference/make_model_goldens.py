#!/usr/bin/env python3
"""Golden files for the model families: tiny random models of odd sizes, run in transformers.

Needs torch and transformers (any recent CPU build). Writes, per model, a Hugging Face directory
tests/models/golden/<name>/ with golden.safetensors beside the weights:

  input_ids.<row>, labels.<row>   the rows (labels as HF: unshifted, -100 = ignored)
  logits.<row>, hidden.<i>.<row>  fp32 forward; hidden as HF's hidden_states
  loss, grad.<name>               mean loss over all targets of all rows, and its gradients
  bf16.<quantity>                 error of transformers' own bf16 run against its fp32 run
  steps.ids, steps.loss, step.<name>   20 AdamW steps: batches, loss of each step, parameters after

A multimodal model's tensors are named here as in the text model that the engine makes of it.

Run: python3 tests/reference/make_model_goldens.py [name ...]     all models, or those named
"""

import math
import pathlib
import sys

import torch
from safetensors.torch import save_file
from transformers import (GPT2Config, GPT2LMHeadModel, Gemma3Config, Gemma3ForCausalLM,
                          Gemma3ForConditionalGeneration, Gemma3TextConfig, LlamaConfig,
                          LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM)

OUT = pathlib.Path(__file__).resolve().parent.parent / "models" / "golden"

LLAMA3_ROPE = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0,
               "high_freq_factor": 4.0, "original_max_position_embeddings": 16}


def llama(**kwargs):
    base = dict(vocab_size=97, hidden_size=24, intermediate_size=40, num_hidden_layers=2,
                num_attention_heads=6, num_key_value_heads=2, head_dim=10,
                max_position_embeddings=64, rms_norm_eps=1e-5, bos_token_id=1, eos_token_id=2,
                attn_implementation="eager")
    base.update(kwargs)
    return LlamaConfig(**base)


def qwen2(**kwargs):
    base = dict(vocab_size=97, hidden_size=24, intermediate_size=40, num_hidden_layers=3,
                num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=64,
                rope_parameters={"rope_type": "default", "rope_theta": 1e6}, bos_token_id=1,
                eos_token_id=2, attn_implementation="eager")
    base.update(kwargs)
    return Qwen2Config(**base)


def gemma3(**kwargs):
    base = dict(vocab_size=97, hidden_size=24, intermediate_size=36, num_hidden_layers=4,
                num_attention_heads=4, num_key_value_heads=1, head_dim=8,
                query_pre_attn_scalar=10, sliding_window=7, sliding_window_pattern=3,
                max_position_embeddings=64, attn_implementation="eager")
    base.update(kwargs)
    return Gemma3TextConfig(**base)


# The vision tower is there to be ignored.
TINY_VISION = dict(hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=2,
                   image_size=8, patch_size=4)

MODELS = {
    "gpt2": (GPT2LMHeadModel, GPT2Config(
        vocab_size=101, n_embd=24, n_layer=3, n_head=3, n_positions=40, n_inner=52,
        bos_token_id=0, eos_token_id=0, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0,
        attn_implementation="eager")),
    "llama_tied_llama3rope": (LlamaForCausalLM, llama(
        tie_word_embeddings=True, rope_parameters=dict(LLAMA3_ROPE, rope_theta=500000.0))),
    "llama_untied_bias": (LlamaForCausalLM, llama(
        tie_word_embeddings=False, attention_bias=True, mlp_bias=True, num_attention_heads=3,
        num_key_value_heads=3, head_dim=6, pad_token_id=3,
        rope_parameters={"rope_type": "linear", "factor": 2.0, "rope_theta": 10000.0})),
    # Heads 4 of 2; a window smaller than the rows in the upper two of four layers, heads 8 of 2.
    "qwen2_tied": (Qwen2ForCausalLM, qwen2(tie_word_embeddings=True)),
    "qwen2_untied_window": (Qwen2ForCausalLM, qwen2(
        hidden_size=32, num_hidden_layers=4, num_attention_heads=8, tie_word_embeddings=False,
        pad_token_id=3, use_sliding_window=True, sliding_window=5, max_window_layers=2)),
    # One kv head, layers sliding, sliding, full, sliding with a window smaller than the rows; then
    # heads 4 of 2, a window larger than the rows, scaling on the layer that sees everything.
    "gemma3_text": (Gemma3ForCausalLM, gemma3()),
    "gemma3_multimodal": (Gemma3ForConditionalGeneration, Gemma3Config(
        text_config=gemma3(
            num_hidden_layers=3, num_key_value_heads=2, head_dim=6, query_pre_attn_scalar=6,
            sliding_window=64, sliding_window_pattern=2,
            rope_parameters={
                "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
                "sliding_attention": {"rope_type": "default", "rope_theta": 1e4}}).to_dict(),
        vision_config=dict(TINY_VISION, model_type="siglip_vision_model"),
        mm_tokens_per_image=4, image_token_index=4, boi_token_index=3, eoi_token_index=2,
        attn_implementation="eager")),
}
WITHOUT_STEPS = ("qwen2_untied_window", "gemma3_multimodal")


def randomize(model, generator):
    """Weights large enough that every term of the model matters; norms and biases not at 1 and 0."""
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


def make_rows(vocab, max_length, generator):
    lengths = [1, 2, 13, max_length - 3]
    rows = []
    for n in lengths:
        ids = torch.randint(5, vocab, (n,), generator=generator)
        labels = ids.clone()
        if n > 4:
            labels[: n // 3] = -100  # a masked prompt
            labels[n // 2] = -100
        rows.append((ids, labels))
    return rows


def total_loss(model, rows):
    """Mean over all predicted labels of all rows; each row alone, so that nothing is padded."""
    losses, count, outputs = [], 0, []
    for ids, labels in rows:
        out = model(input_ids=ids[None], output_hidden_states=True)
        outputs.append(out)
        losses.append(torch.nn.functional.cross_entropy(
            out.logits.float()[0, :-1], labels[1:], ignore_index=-100, reduction="sum"))
        count += int((labels[1:] != -100).sum())
    return sum(losses) / count, outputs


def decayed(model):
    """The parameters the HF Trainer decays, by its rule on names and LayerNorm modules."""
    from transformers.trainer_pt_utils import get_parameter_names
    return set(get_parameter_names(
        model, [torch.nn.LayerNorm],
        [r"bias", r"layernorm", r"rmsnorm", r"(?:^|\.)norm(?:$|\.)", r"_norm(?:$|\.)"]))


def adamw_steps(model, vocab, generator, steps=20, accumulation=2):
    """20 steps, warm-up 5 then linear to 0, clip 0.5, two micro-batches of two rows each."""
    ids = torch.randint(5, vocab, (steps, accumulation, 2, 11), generator=generator)
    names = decayed(model)
    groups = [
        {"params": [p for n, p in model.named_parameters() if n in names], "weight_decay": 0.1},
        {"params": [p for n, p in model.named_parameters() if n not in names], "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=0.02, betas=(0.9, 0.95), eps=1e-8)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda s: s / 5 if s < 5 else max(0.0, (steps - s) / (steps - 5)))
    history = []
    for step in range(steps):
        total = 0.0
        count = accumulation * 2 * 10
        for micro in range(accumulation):
            logits = model(input_ids=ids[step, micro]).logits.float()
            loss = torch.nn.functional.cross_entropy(
                logits[:, :-1].reshape(-1, vocab), ids[step, micro][:, 1:].reshape(-1),
                reduction="sum") / count
            loss.backward()
            total += loss.item()
        history.append(total)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 0.5)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
    return ids.reshape(-1, 11), torch.tensor(history)


def relative(a, b):
    return (a - b).norm() / b.norm()


def text_parameters(model):
    """Name in the text model -> parameter."""
    for name, p in model.named_parameters():
        if "vision_tower" not in name and "multi_modal_projector" not in name:
            yield name.replace("model.language_model.", "model."), p


def main():
    for index, (name, (cls, config)) in enumerate(MODELS.items()):
        index += index >= 3  # the seed of number 3 is not used
        if len(sys.argv) > 1 and name not in sys.argv[1:]:
            continue
        generator = torch.Generator().manual_seed(1000 + index)
        torch.manual_seed(index)
        model = cls(config).eval()
        randomize(model, generator)
        model.tie_weights()
        directory = OUT / name
        model.save_pretrained(directory)
        (directory / "generation_config.json").unlink(missing_ok=True)

        vocab = config.get_text_config().vocab_size
        rows = make_rows(vocab, getattr(config, "n_positions", 40), generator)
        golden = {}
        loss, outputs = total_loss(model, rows)
        loss.backward()
        golden["loss"] = loss.detach().reshape(1)
        for i, ((ids, labels), out) in enumerate(zip(rows, outputs)):
            golden[f"input_ids.{i}"] = ids.to(torch.int32)
            golden[f"labels.{i}"] = labels.to(torch.int32)
            golden[f"logits.{i}"] = out.logits[0].detach().clone()
            for layer, hidden in enumerate(out.hidden_states):
                golden[f"hidden.{layer}.{i}"] = hidden[0].detach().clone()
        grads = {n: p.grad.clone() for n, p in text_parameters(model)}
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
        golden["bf16.grad"] = torch.stack([
            relative(p.grad.float(), grads[n]) for n, p in text_parameters(half)
            if grads[n].norm() > 0]).max().reshape(1)

        if name not in WITHOUT_STEPS:
            model.zero_grad()
            ids, history = adamw_steps(model, vocab, generator)
            golden["steps.ids"] = ids.to(torch.int32)
            golden["steps.loss"] = history
            for n, p in model.named_parameters():
                golden[f"step.{n}"] = p.detach().clone()
        save_file({k: v.contiguous() for k, v in golden.items()}, directory / "golden.safetensors")
        print(name, float(golden["loss"]), [float(golden[f"bf16.{k}"]) for k in ("logits", "loss", "grad")])


if __name__ == "__main__":
    main()
