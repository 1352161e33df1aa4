#include "engine/train/trainer.h"

#include "engine/train/signals.h"
#include "engine/train/training_run.h"

namespace engine {

ExitCode train(const TrainRequest& request, Console& console) {
  const InterruptGuard interrupts;  // reading the data can take minutes: from its beginning
  return TrainingRun(request, console).run();
}

}  // namespace engine
