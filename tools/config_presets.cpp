#include "tools/config_presets.h"

namespace engine {
namespace {

constexpr std::string_view kGpt2Small =
    R"(# GPT-2 small (124M parameters) from random weights on plain text.
model:
  config:
    model_type: gpt2
    architectures: [GPT2LMHeadModel]
    vocab_size: 50257
    n_positions: 1024
    n_embd: 768
    n_layer: 12
    n_head: 12
    activation_function: gelu_new
    layer_norm_epsilon: 1e-5
    initializer_range: 0.02
    tie_word_embeddings: true
    bos_token_id: 50256
    eos_token_id: 50256
    embd_pdrop: 0.0
    attn_pdrop: 0.0
    resid_pdrop: 0.0
  tokenizer: models/gpt2            # a directory with tokenizer.json

data:
  train: data/train.txt
  validation_fraction: 0.01
  split: blank_lines                # a document ends at an empty line
  packing: stream                   # documents are joined and cut to max_length
  max_length: 1024

train:
  output_dir: runs/gpt2-small
  max_steps: 20000
  micro_batch_tokens: 8192
  accumulation: 60                  # 491 520 tokens per step
  precision: bf16
  eval_every: 500
  save_every: 1000

optimizer:
  lr: 6e-4
  beta2: 0.95
  weight_decay: 0.1

schedule:
  type: cosine
  warmup_steps: 700
  warmup_start: one_over_w
  min_lr_ratio: 0.1
)";

constexpr std::string_view kFineTune =
    R"(# All weights of a Llama (or other causal) model on prompt/completion rows:
#   {"prompt": "...", "completion": "..."}
model:
  path: models/llama                # a Hugging Face model directory

data:
  train: data/train.jsonl
  validation: data/validation.jsonl
  train_on: completion              # prompts have no loss
  max_length: 2048
  overflow: drop                    # rows that are longer; they are counted and reported

train:
  output_dir: runs/llama-finetune
  epochs: 3
  micro_batch_tokens: 16384         # rows share it without padding and without seeing each other
  accumulation: 2
  precision: bf16
  evals_per_epoch: 4
  save_every: 200
  early_stopping:
    patience: 4
  sample:
    every: 100
    prompts: ["Summarise in one sentence: "]

optimizer:
  lr: 2e-5

schedule:
  type: cosine
  warmup_ratio: 0.03
)";

constexpr std::string_view kClassifier = R"(# A classifier on rows with a text and a label:
#   {"text": "...", "label": "positive"}
model:
  path: models/base                 # a Hugging Face model directory; gets a new head
  task: sequence_classification
  label_names: [negative, positive]

data:
  train: data/train.jsonl
  validation: data/validation.jsonl
  label_field: label
  max_length: 512
  overflow: truncate_right

train:
  output_dir: runs/classifier
  epochs: 3
  evals_per_epoch: 2
  best_metric: accuracy
  early_stopping:
    patience: 3

optimizer:
  lr: 2e-5
  weight_decay: 0.01

schedule:
  warmup_ratio: 0.06
)";

}  // namespace

std::span<const ConfigPreset> config_presets() {
  static constexpr ConfigPreset kPresets[] = {
      {"gpt2-small", "GPT-2 small from random weights on plain text", kGpt2Small},
      {"llama-finetune", "fine-tune a causal model on prompts and completions", kFineTune},
      {"classifier", "fine-tune a model to classify texts", kClassifier},
  };
  return kPresets;
}

}  // namespace engine
