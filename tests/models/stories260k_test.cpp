// A real trained model: stories260K (llama2.c), against float64 NumPy. Needs the shared data.
#include <gtest/gtest.h>

#include <cmath>
#include <fstream>
#include <nlohmann/json.hpp>

#include "tests/models/golden_model.h"
#include "tests/support/shared_data.h"
#include "weights/export.h"
#include "weights/llama2c.h"

namespace engine {
namespace {

using testing::GoldenModel;

// Name and row in the Hugging Face layout of a llama2.c tensor: one layer index less, and the rows
// of q and k reordered from pairs to halves.
struct Place {
  std::string name;
  std::vector<int64_t> index;
};

Place huggingface_place(const std::string& tensor, std::vector<int64_t> index, int64_t head_dim) {
  if (tensor == "emb") return {"model.embed_tokens.weight", index};
  if (tensor == "rn") return {"model.norm.weight", index};
  static const std::map<std::string, std::string> kNames = {
      {"ra", "input_layernorm"},  {"rf", "post_attention_layernorm"},
      {"wq", "self_attn.q_proj"}, {"wk", "self_attn.k_proj"},
      {"wv", "self_attn.v_proj"}, {"wo", "self_attn.o_proj"},
      {"w1", "mlp.gate_proj"},    {"w2", "mlp.down_proj"},
      {"w3", "mlp.up_proj"}};
  const std::string name =
      "model.layers." + std::to_string(index[0]) + "." + kNames.at(tensor) + ".weight";
  index.erase(index.begin());
  if (tensor == "wq" || tensor == "wk") {
    const int64_t head = index[0] / head_dim, offset = index[0] % head_dim;
    index[0] = head * head_dim + offset % 2 * (head_dim / 2) + offset / 2;
  }
  return {name, index};
}

TEST(Stories260K, LossesAndGradients) {
  ENGINE_REQUIRE_SHARED_DATA(source, "weights/stories260K/stories260K.bin");
  ENGINE_REQUIRE_SHARED_DATA(golden_path, "weights/stories260K/golden.json");
  const nlohmann::json golden = nlohmann::json::parse(std::ifstream(golden_path));
  const auto directory = std::filesystem::path(::testing::TempDir()) / "stories260k";
  {
    const Llama2cFile file = Llama2cFile::open(source);
    export_checkpoint(directory, file.tensors(),
                      {.config_json = file.config_json(), .overwrite = true});
  }
  const Checkpoint checkpoint = Checkpoint::open(directory.string());
  Runtime runtime(kernels::DeviceType::cpu);
  const auto model =
      make_model(nlohmann::ordered_json::parse(checkpoint.config_text()), directory.string());
  model->parameters().allocate(runtime, PrecisionPolicy::fp32(), ParameterSet::Purpose::training);
  model->prepare(runtime, 512);
  load_weights(runtime, *model, checkpoint);

  Batch batch;
  const auto ids = golden["text_ids"].get<std::vector<int32_t>>();
  GoldenModel::add_row(batch, ids, ids, -1);
  const BatchLoss result = run_batch(runtime, *model, batch,
                                     {.grad_scale = 1.0f / static_cast<float>(batch.num_targets)});
  const std::vector<float> losses = runtime.download(result.losses);
  const auto expected = golden["text_per_token_loss"].get<std::vector<double>>();
  ASSERT_EQ(expected.size() + 1, losses.size());
  for (size_t i = 0; i < expected.size(); ++i) EXPECT_NEAR(losses[i], expected[i], 1e-4) << i;
  EXPECT_NEAR(sum_losses(losses) / static_cast<double>(expected.size()),
              golden["text_mean_loss"].get<double>(), 1e-5);

  std::map<std::string, std::pair<std::vector<float>, Shape>> grads;
  for (const auto& p : model->parameters()) {
    for (const ParameterPart& part : p->parts) {
      grads[part.name] = {model->parameters().read_grad(runtime, *p, part), part.shape};
    }
  }
  int compared = 0;
  for (const nlohmann::json& entry : golden["grads_of_mean_loss_fd"]) {
    const Place place = huggingface_place(entry["tensor"], entry["index"], 8);
    const auto& [values, shape] = grads.at(place.name);
    int64_t flat = 0;
    for (size_t d = 0; d < place.index.size(); ++d) flat = flat * shape[d] + place.index[d];
    const double grad = entry["grad"];
    // 1e-3 relative; gradients below 1e-4 are differences of larger terms in fp32, so absolute
    // 1e-7.
    EXPECT_NEAR(values[flat], grad, std::max(1e-3 * std::abs(grad), 1e-7))
        << place.name << " " << flat;
    ++compared;
  }
  EXPECT_EQ(compared, 132);
  std::filesystem::remove_all(directory);
}

}  // namespace
}  // namespace engine
