#include "engine/train/trainer.h"

#include "engine/train/training_run.h"

namespace engine {

ExitCode train(const TrainRequest& request, Console& console) {
  return TrainingRun(request, console).run();
}

}  // namespace engine
