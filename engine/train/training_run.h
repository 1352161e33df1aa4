// One run of the trainer: its state, and its three parts, a file each.
//
//   preflight.cpp         everything that can be found out before the first step
//   training_loop.cpp     the steps
//   training_outputs.cpp  what comes out: logs, evaluations, samples, checkpoints, the summary
//
// Private to engine/train; others call train() of trainer.h.
#pragma once

#include <chrono>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "engine/data/batch_iterator.h"
#include "engine/optim/schedule.h"
#include "engine/step/step_graphs.h"
#include "engine/train/report/metrics.h"
#include "engine/train/report/tfevents.h"
#include "engine/train/report/trainer_state.h"
#include "engine/train/run_setup.h"
#include "engine/train/train_progress.h"
#include "engine/train/trainer.h"

namespace engine {

using TrainingClock = std::chrono::steady_clock;
inline double seconds_since(TrainingClock::time_point start) {
  return std::chrono::duration<double>(TrainingClock::now() - start).count();
}

class TrainingRun {
 public:
  TrainingRun(const TrainRequest& request, Console& console)
      : request_(request),
        config_(request.config.config),
        console_(console),
        setup_(prepare_run(config_)),
        runtime_(setup_.device),
        step_losses_(runtime_.stream()),
        progress_(config_),
        output_dir_(config_.train.output_dir) {}

  ExitCode run();

 private:
  // Pre-flight.
  void plan_steps();
  void plan_memory();
  void make_model();
  void find_resume_point();
  void try_longest_batch();
  void print_banner();

  // Loop.
  void open_outputs();
  void loop();
  void run_step();
  double flops_of(const std::vector<Batch>& batches) const;
  double step_denominator(const std::vector<Batch>& batches) const;
  ForwardOptions forward_options(int micro_batch, double denominator,
                                 const std::vector<Batch>& batches) const;
  void warn_of_eager_graphs();
  void handle_nonfinite(const std::vector<Batch>& batches, double denominator, double loss,
                        double norm);
  void log_step();
  void evaluate_now();
  void sample_now();
  void save_now();
  bool evaluation_due() const;
  void finish(const std::string& stopped_by);

  double epoch() const;
  nlohmann::json shaping_settings() const;
  LineContext line_context() const;

  const TrainRequest& request_;
  const TrainConfig& config_;
  Console& console_;
  RunSetup setup_;
  Runtime runtime_;
  PinnedBuffer step_losses_;  // of all tokens of a step, as they arrive from the device
  std::unique_ptr<Model> model_;
  std::unique_ptr<AdamW> optimizer_;
  std::unique_ptr<StepGraphs> graphs_;
  std::unique_ptr<Schedule> schedule_;
  std::vector<std::string> new_tensors_;  // a classifier's head that the checkpoint lacks
  MemoryPlan plan_;
  TrainProgress progress_;
  std::filesystem::path output_dir_;
  std::optional<FoundCheckpoint> resumed_;

  int64_t batches_per_epoch_ = 0, steps_per_epoch_ = 0, total_steps_ = 0;
  double preflight_seconds_ = 0;
  uint64_t memory_limit_ = 0;
  std::optional<double> peak_flops_;  // bf16, of the device, where it is known

  std::unique_ptr<MetricsLog> metrics_;
  std::unique_ptr<TensorBoardWriter> tensorboard_;
  TrainerState trainer_state_;
  std::unique_ptr<BatchIterator> batches_;
  EpochPlan epoch_plan_;  // of the epoch the next step belongs to

  // Of this process, not of the run: none of it is restored.
  TrainRecord last_record_;
  TimeLeft time_left_;
  PercentileSample speeds_;
  TrainingClock::time_point start_ = TrainingClock::now();
  double train_flops_ = 0;
  double train_seconds_ = 0, eval_seconds_ = 0, checkpoint_seconds_ = 0, data_seconds_ = 0;
  int64_t saved_step_ = -1, evaluated_step_ = -1;
  bool warned_of_graphs_ = false;
};

}  // namespace engine
