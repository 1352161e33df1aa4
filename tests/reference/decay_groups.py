"""Writes tests/optim/golden/decay_groups.json: which parameters Hugging Face's Trainer decays.

The models are built from small random configs; only their parameter names, module types and
Trainer's decision are kept. Needs torch and transformers; run by hand:
    python tests/reference/decay_groups.py > tests/optim/golden/decay_groups.json
"""
import json

import torch
import transformers as t
from transformers.trainer_pt_utils import get_parameter_names

PATTERNS = [r"bias", r"layernorm", r"rmsnorm", r"(?:^|\.)norm(?:$|\.)", r"_norm(?:$|\.)"]

small = dict(vocab_size=32, hidden_size=16, intermediate_size=32, num_hidden_layers=1,
             num_attention_heads=2, num_key_value_heads=1, head_dim=8)
models = {
    "llama": lambda: t.LlamaForCausalLM(t.LlamaConfig(**small, tie_word_embeddings=False)),
    "qwen2": lambda: t.Qwen2ForCausalLM(t.Qwen2Config(**small)),
    "qwen3": lambda: t.Qwen3ForCausalLM(t.Qwen3Config(**small)),
    "gemma3": lambda: t.Gemma3ForCausalLM(t.Gemma3TextConfig(**small)),
    "gpt2": lambda: t.GPT2LMHeadModel(
        t.GPT2Config(vocab_size=32, n_positions=8, n_embd=16, n_layer=1, n_head=2)),
    "t5": lambda: t.T5ForConditionalGeneration(
        t.T5Config(vocab_size=32, d_model=16, d_kv=8, d_ff=32, num_layers=1, num_heads=2,
                   feed_forward_proj="gated-gelu", tie_word_embeddings=False)),
    "roberta": lambda: t.RobertaForSequenceClassification(
        t.RobertaConfig(vocab_size=32, hidden_size=16, intermediate_size=32, num_hidden_layers=1,
                        num_attention_heads=2, max_position_embeddings=8)),
}
out = {}
for family, make in models.items():
    model = make()
    decayed = set(get_parameter_names(model, [torch.nn.LayerNorm], PATTERNS))
    owners = dict(model.named_modules())
    out[family] = [
        [name, isinstance(owners[name.rpartition(".")[0]], torch.nn.LayerNorm), name in decayed]
        for name, _ in model.named_parameters()]
rows = [json.dumps(k) + ": [\n" + ",\n".join("  " + json.dumps(r) for r in v) + "]"
        for k, v in out.items()]
print("{\n" + ",\n".join(rows) + "\n}")
