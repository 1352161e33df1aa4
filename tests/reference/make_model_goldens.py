#!/usr/bin/env python3
"""Golden files for the decoder families: tiny random models of odd sizes, run in transformers. What
is in the files: golden_runs.py. A multimodal model's tensors are named there as in the text model
that the engine makes of it.

Needs torch and transformers (any recent CPU build).

Run: python3 tests/reference/make_model_goldens.py [name ...]     all models, or those named
"""

import torch
from transformers import (GPT2Config, GPT2LMHeadModel, Gemma3Config, Gemma3ForCausalLM,
                          Gemma3ForConditionalGeneration, Gemma3TextConfig, LlamaConfig,
                          LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM)

from golden_runs import ACCUMULATION, MICRO_BATCH, STEPS, Golden, main

LENGTH = 11  # tokens of a row of the optimizer steps

LLAMA3_ROPE = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0,
               "high_freq_factor": 4.0, "original_max_position_embeddings": 16}


def gpt2(**kwargs):
    base = dict(vocab_size=101, n_embd=24, n_layer=3, n_head=3, n_positions=40, n_inner=52,
                bos_token_id=0, eos_token_id=0, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0,
                attn_implementation="eager")
    base.update(kwargs)
    return GPT2Config(**base)


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


class Decoder(Golden):
    def vocab(self):
        return self.config.get_text_config().vocab_size

    def make_rows(self, generator):
        rows = []
        for n in [1, 2, 13, getattr(self.config, "n_positions", 40) - 3]:
            ids = torch.randint(5, self.vocab(), (n,), generator=generator)
            labels = ids.clone()
            if n > 4:
                labels[: n // 3] = -100  # a masked prompt
                labels[n // 2] = -100
            rows.append((ids, labels))
        return rows

    def run(self, model, rows):
        losses, count, outputs = [], 0, []
        for ids, labels in rows:
            out = model(input_ids=ids[None], output_hidden_states=True)
            outputs.append((out.logits[0],
                            {f"hidden.{i}": h[0] for i, h in enumerate(out.hidden_states)}))
            losses.append(torch.nn.functional.cross_entropy(
                out.logits.float()[0, :-1], labels[1:], ignore_index=-100, reduction="sum"))
            count += int((labels[1:] != -100).sum())
        return sum(losses) / count, outputs

    def parameters(self, model):
        for name, p in model.named_parameters():
            if "vision_tower" not in name and "multi_modal_projector" not in name:
                yield name.replace("model.language_model.", "model."), p

    def step_batches(self, generator):
        vocab = self.vocab()
        ids = torch.randint(5, vocab, (STEPS, ACCUMULATION, MICRO_BATCH, LENGTH),
                            generator=generator)

        def losses(model, step):
            for rows in ids[step]:
                logits = model(input_ids=rows).logits.float()
                yield torch.nn.functional.cross_entropy(
                    logits[:, :-1].reshape(-1, vocab), rows[:, 1:].reshape(-1),
                    reduction="sum") / (ACCUMULATION * MICRO_BATCH * (LENGTH - 1))
        return {"ids": ids.reshape(-1, LENGTH).to(torch.int32)}, losses


MODELS = [
    Decoder("gpt2", 1000, GPT2LMHeadModel, gpt2()),
    # A head of its own, n_inner left to its default, scores divided by the layer too.
    Decoder("gpt2_untied_scaled", 1010, GPT2LMHeadModel, gpt2(
        vocab_size=97, n_embd=20, n_layer=2, n_head=5, n_inner=None, tie_word_embeddings=False,
        scale_attn_by_inverse_layer_idx=True, activation_function="gelu",
        layer_norm_epsilon=1e-6), with_steps=False),
    Decoder("llama_tied_llama3rope", 1001, LlamaForCausalLM, llama(
        tie_word_embeddings=True, rope_parameters=dict(LLAMA3_ROPE, rope_theta=500000.0))),
    Decoder("llama_untied_bias", 1002, LlamaForCausalLM, llama(
        tie_word_embeddings=False, attention_bias=True, mlp_bias=True, num_attention_heads=3,
        num_key_value_heads=3, head_dim=6, pad_token_id=3,
        rope_parameters={"rope_type": "linear", "factor": 2.0, "rope_theta": 10000.0})),
    # Heads 4 of 2; a window smaller than the rows in the upper two of four layers, heads 8 of 2.
    Decoder("qwen2_tied", 1004, Qwen2ForCausalLM, qwen2(tie_word_embeddings=True)),
    Decoder("qwen2_untied_window", 1005, Qwen2ForCausalLM, qwen2(
        hidden_size=32, num_hidden_layers=4, num_attention_heads=8, tie_word_embeddings=False,
        pad_token_id=3, use_sliding_window=True, sliding_window=5, max_window_layers=2),
        with_steps=False),
    # One kv head, layers sliding, sliding, full, sliding with a window smaller than the rows; then
    # heads 4 of 2, a window larger than the rows, scaling on the layer that sees everything; then a
    # kv head for each head, biases, a window as long as one of the rows.
    Decoder("gemma3_text", 1006, Gemma3ForCausalLM, gemma3()),
    Decoder("gemma3_multimodal", 1007, Gemma3ForConditionalGeneration, Gemma3Config(
        text_config=gemma3(
            num_hidden_layers=3, num_key_value_heads=2, head_dim=6, query_pre_attn_scalar=6,
            sliding_window=64, sliding_window_pattern=2,
            rope_parameters={
                "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
                "sliding_attention": {"rope_type": "default", "rope_theta": 1e4}}).to_dict(),
        vision_config=dict(TINY_VISION, model_type="siglip_vision_model"),
        mm_tokens_per_image=4, image_token_index=4, boi_token_index=3, eoi_token_index=2,
        attn_implementation="eager"), with_steps=False),
    Decoder("gemma3_untied_bias", 1011, Gemma3ForCausalLM, gemma3(
        num_hidden_layers=3, num_attention_heads=2, num_key_value_heads=2, sliding_window=13,
        sliding_window_pattern=2, attention_bias=True, tie_word_embeddings=False),
        with_steps=False),
]

if __name__ == "__main__":
    main(MODELS)
