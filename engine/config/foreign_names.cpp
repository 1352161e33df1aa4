// What settings of other training tools are called here, so that a config written from memory
// gets an answer and not only a refusal.
#include <utility>

#include "engine/config/apply.h"

namespace engine {
namespace {

constexpr std::pair<std::string_view, std::string_view> kForeign[] = {
    // Hugging Face Trainer and TRL
    {"model_name_or_path", "model.path"},
    {"per_device_train_batch_size", "train.micro_batch_rows"},
    {"gradient_accumulation_steps", "train.accumulation"},
    {"learning_rate", "optimizer.lr"},
    {"adam_beta1", "optimizer.beta1"},
    {"adam_beta2", "optimizer.beta2"},
    {"adam_epsilon", "optimizer.eps"},
    {"num_train_epochs", "train.epochs"},
    {"lr_scheduler_type", "schedule.type"},
    {"logging_steps", "train.log_every"},
    {"eval_steps", "train.eval_every"},
    {"eval_strategy", "train.eval_every"},
    {"evaluation_strategy", "train.eval_every"},
    {"eval_on_start", "train.eval_at_start"},
    {"save_steps", "train.save_every"},
    {"save_strategy", "train.save_every"},
    {"save_total_limit", "train.keep_checkpoints"},
    {"metric_for_best_model", "train.best_metric"},
    {"greater_is_better", "train.best_direction"},
    {"early_stopping_patience", "train.early_stopping.patience"},
    {"early_stopping_threshold", "train.early_stopping.threshold"},
    {"resume_from_checkpoint", "train.resume"},
    {"gradient_checkpointing", "train.recompute"},
    {"activation_checkpointing", "train.recompute"},
    {"fp16", "train.precision"},
    {"bf16", "train.precision"},
    {"tf32", "train.precision"},
    {"dtype", "train.precision"},
    {"torch_dtype", "train.precision"},
    {"max_seq_length", "data.max_length"},
    {"max_seq_len", "data.max_length"},
    {"cutoff_len", "data.max_length"},
    {"max_source_length", "data.max_length"},
    {"max_input_length", "data.max_length"},
    {"sequence_len", "data.max_length"},
    {"block_size", "data.max_length"},
    {"completion_only_loss", "data.train_on"},
    {"train_on_inputs", "data.train_on"},
    {"data_seed", "data.seed"},
    {"dataset", "data.train"},
    {"dataset_name", "data.train"},
    {"datasets", "data.train"},
    {"train_file", "data.train"},
    {"validation_file", "data.validation"},
    {"val_size", "data.validation_fraction"},
    {"val_set_size", "data.validation_fraction"},
    {"test_size", "data.validation_fraction"},
    {"truncation", "data.overflow"},
    {"neat_packing", "data.packing"},
    {"sample_packing", "data.packing"},
    {"full_determinism", "train.determinism"},
    {"report_to", "logging.tensorboard"},
    // axolotl, torchtune, nanoGPT
    {"base_model", "model.path"},
    {"base_model_config", "model.config"},
    {"micro_batch_size", "train.micro_batch_rows"},
    {"batch_size", "train.micro_batch_rows"},
    {"num_epochs", "train.epochs"},
    {"max_iters", "train.max_steps"},
    {"grad_clip", "train.max_grad_norm"},
    {"clip_grad_norm", "train.max_grad_norm"},
    {"max_norm", "train.max_grad_norm"},
    {"lr_scheduler", "schedule.type"},
    {"warmup", "schedule.warmup_steps"},
    {"warmup_iters", "schedule.warmup_steps"},
    {"min_lr", "schedule.min_lr_ratio"},
    {"out_dir", "train.output_dir"},
    {"seq_len", "data.max_length"},
    {"learning-rate", "optimizer.lr"},
};

}  // namespace

std::string setting_for_foreign_name(std::string_view name) {
  for (const auto& [foreign, ours] : kForeign) {
    if (foreign == name) return std::string(ours);
  }
  return "";
}

}  // namespace engine
