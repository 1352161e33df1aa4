#!/usr/bin/env python3
"""Golden files for encoder-decoder families. What is in the files: golden_runs.py, with these
differences:

  input_ids.<row>, labels.<row>    source and target have lengths of their own; labels as HF: the
                                   decoder's targets, -100 = ignored
  encoder.hidden.<i>.<row>, decoder.hidden.<i>.<row>
  generate.<row>                   greedy continuation by transformers
  steps.ids, steps.labels          sources and targets of the optimizer steps

Run: python3 tests/reference/make_seq2seq_goldens.py [name ...]     all models, or those named
"""

import json
import math

import torch
from safetensors.torch import save_file
from transformers import (MT5Config, MT5ForConditionalGeneration, T5Config,
                          T5ForConditionalGeneration)

from golden_runs import ACCUMULATION, MICRO_BATCH, STEPS, Golden, main

SOURCE, TARGET = 11, 7  # tokens of a row of the optimizer steps


def t5(cls=T5Config, **kwargs):
    base = dict(vocab_size=97, d_model=20, d_kv=6, d_ff=36, num_layers=2, num_heads=4,
                dropout_rate=0.0, decoder_start_token_id=0, pad_token_id=0, eos_token_id=1,
                attn_implementation="eager")
    base.update(kwargs)
    return cls(**base)


class EncoderDecoder(Golden):
    """`lengths`: tokens of source and target of each row."""

    def __init__(self, *args, lengths, **kwargs):
        super().__init__(*args, **kwargs)
        self.lengths = lengths
        # mT5's head is its own, whatever its config says.
        self.tied = self.config.model_type == "t5" and self.config.scale_decoder_outputs

    def make(self):
        model = super().make()
        if not self.tied:
            model.lm_head.weight = torch.nn.Parameter(torch.empty_like(model.shared.weight))
        return model

    def randomize(self, model, generator):
        """As for the decoders; scores are not scaled, so q is smaller."""
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

    def save(self, model, directory):
        shared = {"encoder.embed_tokens.weight", "decoder.embed_tokens.weight"}
        if self.tied:
            shared.add("lm_head.weight")
        tensors = {n: t.contiguous() for n, t in model.state_dict().items() if n not in shared}
        save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})
        config = json.loads(model.config.to_json_string(use_diff=False))
        keep = ["vocab_size", "d_model", "d_kv", "d_ff", "num_layers", "num_decoder_layers",
                "num_heads", "relative_attention_num_buckets", "relative_attention_max_distance",
                "dropout_rate", "layer_norm_epsilon", "initializer_factor", "feed_forward_proj",
                "is_encoder_decoder", "pad_token_id", "eos_token_id", "decoder_start_token_id"]
        config = {"architectures": [self.cls.__name__], "model_type": self.config.model_type,
                  **{k: config[k] for k in keep}}
        # As released checkpoints have it; transformers 5 reads it as scale_decoder_outputs.
        config["tie_word_embeddings"] = self.tied
        (directory / "config.json").write_text(json.dumps(config, indent=2) + "\n")

    def make_rows(self, generator):
        rows = []
        for source, target in self.lengths:
            ids = torch.randint(2, self.config.vocab_size, (source,), generator=generator)
            labels = torch.randint(2, self.config.vocab_size, (target,), generator=generator)
            ids[-1] = 1
            labels[-1] = 1
            if target > 4:
                labels[target // 2] = -100
                labels[1] = -100
            rows.append((ids, labels))
        return rows

    def run_row(self, model, ids, labels):
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

    def run(self, model, rows):
        losses, count, outputs = [], 0, []
        for ids, labels in rows:
            logits, hidden = self.run_row(model, ids, labels)
            outputs.append((logits, hidden))
            losses.append(torch.nn.functional.cross_entropy(
                logits.float(), labels, ignore_index=-100, reduction="sum"))
            count += int((labels != -100).sum())
        return sum(losses) / count, outputs

    def extra(self, model, row):
        # Without a cache: transformers 5.23 makes one of num_layers layers for the decoder.
        new = model.generate(row[0][None], max_new_tokens=12, do_sample=False, num_beams=1,
                             use_cache=False)
        return {"generate": new[0, 1:].to(torch.int32)}

    def step_batches(self, generator):
        shape = (STEPS, ACCUMULATION, MICRO_BATCH)
        vocab = self.config.vocab_size
        ids = torch.randint(2, vocab, (*shape, SOURCE), generator=generator)
        labels = torch.randint(2, vocab, (*shape, TARGET), generator=generator)

        def losses(model, step):
            for micro in range(ACCUMULATION):
                logits = model(input_ids=ids[step, micro],
                               labels=labels[step, micro]).logits.float()
                yield torch.nn.functional.cross_entropy(
                    logits.reshape(-1, vocab), labels[step, micro].reshape(-1),
                    reduction="sum") / (ACCUMULATION * MICRO_BATCH * TARGET)
        return {"ids": ids.reshape(-1, SOURCE).to(torch.int32),
                "labels": labels.reshape(-1, TARGET).to(torch.int32)}, losses


MODELS = [
    # v1.0. Rows longer than the largest distance on both sides; every edge of the buckets (2, 7;
    # 4, 6, 9, 14) is crossed.
    EncoderDecoder("t5_relu_tied", 2000, T5ForConditionalGeneration, t5(
        feed_forward_proj="relu", relative_attention_num_buckets=8,
        relative_attention_max_distance=20), lengths=[(1, 1), (5, 2), (27, 13), (9, 30)]),
    # v1.1. The buckets of the real models, past 128 on both sides; other depths of the stacks.
    EncoderDecoder("t5_gated_untied", 2001, T5ForConditionalGeneration, t5(
        feed_forward_proj="gated-gelu", tie_word_embeddings=False, num_decoder_layers=3, d_kv=10,
        num_heads=3), lengths=[(2, 1), (1, 5), (14, 9), (135, 131)]),
    EncoderDecoder("mt5_gated", 2012, MT5ForConditionalGeneration, t5(
        MT5Config, d_kv=5, num_heads=3, tie_word_embeddings=False),
        lengths=[(1, 1), (5, 2), (27, 13), (9, 30)], with_steps=False),
]

if __name__ == "__main__":
    main(MODELS)
