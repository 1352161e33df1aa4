// Whole runs of Qwen2 and Gemma 3: from scratch, and from a multimodal checkpoint, of which the
// text model is trained and saved.
#include <cmath>
#include <fstream>

#include "tests/train/support.h"
#include "weights/checkpoint.h"

namespace engine::testing {
namespace {

namespace fs = std::filesystem;
using Options = std::vector<std::string>;
using Json = nlohmann::ordered_json;

Options with_model(const Workspace& workspace, const std::string& config) {
  Options options = tiny_llama(workspace);
  options[0] = "model.config=" + config;
  return options;
}

Options tiny_gemma3(const Workspace& workspace) {
  return with_model(workspace,
                    "{model_type: gemma3_text, hidden_size: 16, intermediate_size: 24, "
                    "num_hidden_layers: 3, num_attention_heads: 2, num_key_value_heads: 1, "
                    "head_dim: 8, sliding_window: 9, sliding_window_pattern: 3, "
                    "max_position_embeddings: 64}");
}

Options tiny_qwen2(const Workspace& workspace) {
  return with_model(workspace,
                    "{model_type: qwen2, hidden_size: 16, intermediate_size: 24, "
                    "num_hidden_layers: 2, num_attention_heads: 2, num_key_value_heads: 1, "
                    "max_position_embeddings: 64, use_sliding_window: true, sliding_window: 9, "
                    "max_window_layers: 1}");
}

double first_loss(const fs::path& run) {
  return metrics(run, "train").at(0).at("loss").get<double>();
}

TEST(Families, LearnFromScratch) {
  for (const auto& make : {tiny_gemma3, tiny_qwen2}) {
    const Workspace w;
    const Outcome outcome = run_here(make(w) + Options{"train.max_steps=20"});
    ASSERT_EQ(outcome.exit_code, 0) << outcome.error;
    const auto records = metrics(w.path() / "run", "train");
    // The logarithm of 257 ids at first; made-up words need less.
    EXPECT_NEAR(records.front().at("loss").get<double>(), std::log(257), 0.1);
    EXPECT_LT(records.back().at("loss").get<double>(), 4.5);
  }
}

TEST(Families, OfAMultimodalCheckpointTheTextModelIsTrainedAndSaved) {
  const Workspace w;
  const Options settings = tiny_gemma3(w);
  const fs::path model = saved_model(w, settings);
  const Options text_run = from_model(settings, model);
  ASSERT_EQ(run_here(text_run).exit_code, 0);

  // The same model inside a multimodal one.
  Json text;
  std::ifstream(model / "config.json") >> text;
  std::ofstream(model / "config.json")
      << Json{{"model_type", "gemma3"},
              {"architectures", {"Gemma3ForConditionalGeneration"}},
              {"text_config", text},
              {"vision_config", {{"model_type", "siglip_vision_model"}}}}
             .dump();
  edit_model(model, [](std::vector<NamedTensor>& tensors) {
    for (NamedTensor& tensor : tensors) tensor.name = "language_model." + tensor.name;
    tensors.push_back({"vision_tower.vision_model.post_layernorm.weight", {2}, {1.0f, 2.0f}});
    tensors.push_back({"multi_modal_projector.mm_input_projection_weight", {2}, {1.0f, 2.0f}});
  });
  const fs::path out = w.path() / "tower";
  const Outcome outcome =
      run_here(from_model(settings, model) + Options{"train.output_dir=" + out.string()});
  ASSERT_EQ(outcome.exit_code, 0) << outcome.error;
  EXPECT_EQ(first_loss(out), first_loss(w.path() / "run"));

  const Checkpoint saved = Checkpoint::open((out / "last").string());
  EXPECT_EQ(saved.config().at("model_type"), "gemma3_text");
  EXPECT_EQ(saved.config().at("architectures").at(0), "Gemma3ForCausalLM");
  EXPECT_FALSE(saved.config().contains("text_config"));
  EXPECT_FALSE(saved.config().contains("vision_config"));
  EXPECT_EQ(max_difference(read_tensors(out / "last/model.safetensors"),
                           read_tensors(w.path() / "run/last/model.safetensors")),
            0.0);
}

}  // namespace
}  // namespace engine::testing
