#include "models/load_model.h"

#include <nlohmann/json.hpp>

#include "engine/core/device.h"
#include "engine/core/error.h"
#include "engine/core/file_io.h"
#include "models/registry.h"

namespace engine {
namespace {

void require_memory(const Runtime& runtime, const Model& model, const LoadOptions& options) {
  Runtime meta({.device = kernels::DeviceType::meta, .planned = options.device.device});
  make_model_like(model)->parameters().allocate(meta, options.precision, options.purpose);
  const uint64_t needed = meta.memory().persistent_bytes();
  const uint64_t available = available_memory(runtime.stream());
  if (needed <= available) return;
  throw Error(ExitCode::out_of_memory, "MEM-PLAN",
              "the model's parameters need " + format_bytes(needed))
      .expected("at most " + format_bytes(available) + ", " + memory_source(options.device))
      .with("note", "nothing was allocated")
      .fix(options.precision.compute == DType::f32
               ? "--precision bf16, a smaller model, or more memory"
               : "a smaller model, or more memory");
}

}  // namespace

LoadedModel load_model(const std::string& directory_or_id, const LoadOptions& options) {
  LoadedModel loaded{Checkpoint::open(directory_or_id),
                     std::make_unique<Runtime>(options.device),
                     options.precision,
                     nullptr,
                     {}};
  const std::string where = (loaded.checkpoint.directory() / "config.json").string();
  loaded.model = make_model(nlohmann::ordered_json::parse(loaded.checkpoint.config_text()), where);
  require_memory(*loaded.runtime, *loaded.model, options);
  loaded.model->parameters().allocate(*loaded.runtime, options.precision, options.purpose);
  loaded.report = load_weights(*loaded.runtime, *loaded.model, loaded.checkpoint);
  if (!loaded.report.initialized.empty()) {
    throw Error(ExitCode::checkpoint, "CKPT-MISSING",
                "the checkpoint has no classification head: " + loaded.report.initialized.front())
        .where(loaded.checkpoint.directory().string())
        .why("it was not trained as a classifier")
        .fix("train one: engine train ... model.task=sequence_classification");
  }
  return loaded;
}

}  // namespace engine
