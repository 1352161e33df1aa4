#!/usr/bin/env python3
"""Golden files for sequence classification: tiny random models of odd sizes, run in transformers.

What is in the files: golden_runs.py, except:

  labels.<row>          fp32: the class; or, of regression and several labels at once, a number per
                        output. The loss is transformers' own, by config.problem_type
  logits.<row>          one number per label
  steps.labels          label of each row of steps.ids

Run: python3 tests/reference/make_classifier_goldens.py [name ...]     all models, or those named
"""

import torch
from transformers import (LlamaForSequenceClassification, Qwen2ForSequenceClassification,
                          RobertaConfig, RobertaForSequenceClassification, XLMRobertaConfig,
                          XLMRobertaForSequenceClassification)

from golden_runs import ACCUMULATION, MICRO_BATCH, STEPS, Golden, main
from make_model_goldens import LENGTH, LLAMA3_ROPE, llama, qwen2


def roberta(cls=RobertaConfig, **kwargs):
    base = dict(vocab_size=97, hidden_size=24, intermediate_size=44, num_hidden_layers=2,
                num_attention_heads=3, max_position_embeddings=42, type_vocab_size=1,
                layer_norm_eps=1e-5, pad_token_id=1, bos_token_id=0, eos_token_id=2,
                hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
                attn_implementation="eager")
    base.update(kwargs)
    return cls(**base)


class Classifier(Golden):
    def make_label(self, generator):
        labels = self.config.num_labels
        if self.config.problem_type == "multi_label_classification":
            return torch.randint(0, 2, (1, labels), generator=generator).float()
        if labels == 1:
            return torch.randn((1,), generator=generator)
        if self.config.problem_type == "regression":
            return torch.randn((1, labels), generator=generator)
        return torch.randint(0, labels, (1,), generator=generator)

    def make_rows(self, generator):
        """Rows of several lengths; padding ids inside two of them, at the end of one."""
        pad, rows = self.config.pad_token_id, []
        for n in [1, 2, 13, 37]:
            ids = torch.randint(6, self.config.vocab_size, (n,), generator=generator)
            if pad is not None and n > 2:
                ids[n // 3] = ids[n // 2] = pad
            if pad is not None and n == 13:
                ids[-2:] = pad
            rows.append((ids, self.make_label(generator)))
        return rows

    def row_loss(self, model, ids, label):
        """Nothing masked: padding ids are tokens like others but for their positions."""
        out = model(input_ids=ids[None], attention_mask=torch.ones_like(ids)[None],
                    labels=label.to(model.dtype) if label.is_floating_point() else label,
                    output_hidden_states=True)
        return out.loss, (out.logits[0],
                          {f"hidden.{i}": h[0] for i, h in enumerate(out.hidden_states)})

    def run(self, model, rows):
        losses, outputs = zip(*[self.row_loss(model, ids, label) for ids, label in rows])
        return sum(losses) / len(rows), outputs

    def label_tensor(self, label):
        return label.float().reshape(-1)

    def step_batches(self, generator):
        rows = ACCUMULATION * MICRO_BATCH
        ids = torch.randint(6, self.config.vocab_size, (STEPS * rows, LENGTH), generator=generator)
        labels = [self.make_label(generator) for _ in ids]

        def losses(model, step):
            for i in range(step * rows, (step + 1) * rows):
                yield self.row_loss(model, ids[i], labels[i])[0] / rows
        return {"ids": ids.to(torch.int32),
                "labels": torch.stack([self.label_tensor(label) for label in labels])}, losses


MODELS = [
    Classifier("llama_classifier", 2000, LlamaForSequenceClassification, llama(
        num_labels=3, pad_token_id=4, num_attention_heads=4, num_key_value_heads=1, head_dim=6,
        tie_word_embeddings=False)),
    # A reward model: one number, and no padding id.
    Classifier("llama_reward_classifier", 2001, LlamaForSequenceClassification, llama(
        num_labels=1, rope_parameters=dict(LLAMA3_ROPE, rope_theta=500000.0))),
    Classifier("qwen2_reward_classifier", 2002, Qwen2ForSequenceClassification, qwen2(
        num_labels=1, num_hidden_layers=2, pad_token_id=4)),
    Classifier("roberta_classifier", 2003, RobertaForSequenceClassification,
               roberta(num_labels=3)),
    Classifier("roberta_multilabel_classifier", 2004, RobertaForSequenceClassification, roberta(
        num_labels=4, problem_type="multi_label_classification", type_vocab_size=2,
        pad_token_id=5, max_position_embeddings=46, num_attention_heads=2, hidden_act="gelu_new",
        layer_norm_eps=1e-12)),
    # Two numbers for each row.
    Classifier("xlm_roberta_regression_classifier", 2005, XLMRobertaForSequenceClassification,
               roberta(XLMRobertaConfig, num_labels=2, problem_type="regression",
                       num_attention_heads=4, intermediate_size=32), with_steps=False),
]

if __name__ == "__main__":
    main(MODELS)
