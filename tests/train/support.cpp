#include "tests/train/support.h"

#include <fcntl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmath>
#include <cstring>
#include <fstream>
#include <sstream>

#include "engine/config/load.h"
#include "engine/train/report/metrics.h"
#include "engine/train/trainer.h"
#include "tokenizer/bpe_trainer.h"
#include "weights/safetensors.h"

namespace engine::testing {

namespace fs = std::filesystem;

Workspace::Workspace() {
  std::string name = (fs::temp_directory_path() / "engine-train-XXXXXX").string();
  if (!mkdtemp(name.data())) throw std::runtime_error("mkdtemp");
  path_ = name;
  const std::string text = made_up_text(120);
  write("train.txt", text);
  bool given = false;
  static const std::string tokenizer = train_byte_level_bpe(
      [&]() -> std::optional<std::string_view> {
        if (std::exchange(given, true)) return std::nullopt;
        return text;
      },
      {.vocab_size = 257});
  write("tokenizer.json", tokenizer);
}

Workspace::~Workspace() {
  std::error_code ignored;
  fs::remove_all(path_, ignored);
}

fs::path Workspace::write(const std::string& name, std::string_view content) const {
  const fs::path file = path_ / name;
  fs::create_directories(file.parent_path());
  std::ofstream(file, std::ios::binary) << content;
  return file;
}

std::string made_up_text(int documents, uint32_t seed) {
  static const char* const subjects[] = {"the cat", "a dog", "my friend", "the sun"};
  static const char* const verbs[] = {"sees", "likes", "finds", "meets"};
  static const char* const objects[] = {"a tree", "the sea", "some bread", "you"};
  uint32_t state = seed * 2654435761u + 12345u;
  const auto pick = [&state](const auto& words) {
    state = state * 1664525u + 1013904223u;
    return words[(state >> 24) % 4];
  };
  std::string text;
  for (int i = 0; i < documents; ++i) {
    text += std::string(pick(subjects)) + " " + pick(verbs) + " " + pick(objects) + ".\n\n";
  }
  return text;
}

namespace {

std::vector<std::string> tiny_run(const Workspace& workspace, const std::string& model) {
  const std::string directory = workspace.path().string();
  return {"model.config=" + model,
          "model.tokenizer=" + directory + "/tokenizer.json",
          "data.train=" + directory + "/train.txt",
          "data.max_length=32",
          "train.output_dir=" + directory + "/run",
          "train.max_steps=6",
          "train.micro_batch_tokens=128",
          "train.device=cpu",
          "train.threads=1",
          "train.log_every=1",
          "optimizer.lr=1e-2",
          "logging.tensorboard=false"};
}

}  // namespace

std::vector<std::string> tiny_gpt2(const Workspace& workspace) {
  return tiny_run(workspace,
                  "{model_type: gpt2, n_embd: 16, n_layer: 2, n_head: 2, n_positions: 64, "
                  "resid_pdrop: 0.1, embd_pdrop: 0.1, attn_pdrop: 0.1}");
}

std::vector<std::string> tiny_llama(const Workspace& workspace) {
  return tiny_run(workspace,
                  "{model_type: llama, hidden_size: 16, intermediate_size: 24, "
                  "num_hidden_layers: 2, num_attention_heads: 2, num_key_value_heads: 1, "
                  "max_position_embeddings: 64, tie_word_embeddings: false}");
}

std::vector<std::string> tiny_t5(const Workspace& workspace) {
  // Every word of three letters out of four, backwards.
  std::string rows;
  for (int i = 0; i < 64; ++i) {
    const char word[] = {"abcd"[i % 4], "abcd"[i / 4 % 4], "abcd"[i / 16]};
    rows += std::string("{\"prompt\": \"") + std::string(word, 3) + "\", \"completion\": \"" +
            std::string{word[2], word[1], word[0]} + "\"}\n";
  }
  workspace.write("pairs.jsonl", rows);
  return tiny_run(workspace,
                  "{model_type: t5, d_model: 24, d_kv: 8, d_ff: 48, num_layers: 2, num_heads: 2, "
                  "relative_attention_num_buckets: 8, relative_attention_max_distance: 16, "
                  "feed_forward_proj: gated-gelu, dropout_rate: 0.1}") +
         std::vector<std::string>{"data.train=" + (workspace.path() / "pairs.jsonl").string(),
                                  "data.max_length=8"};
}

std::vector<std::string> operator+(std::vector<std::string> a, const std::vector<std::string>& b) {
  a.insert(a.end(), b.begin(), b.end());
  return a;
}

Outcome run_here(const std::vector<std::string>& options, const RunFlags& flags) {
  Outcome outcome;
  Console console({.style = {},
                   .live = false,
                   .sink =
                       [&](std::string_view text) {
                         if (flags.on_print) flags.on_print(text);
                         outcome.console += text;
                       },
                   .monotonic_seconds = nullptr,
                   .width = nullptr});
  try {
    const LoadedTrainConfig loaded = load_train_config({.path = "", .options = options});
    outcome.exit_code = static_cast<int>(train({.config = loaded,
                                                .dry_run = flags.dry_run,
                                                .resume_override = flags.resume_override,
                                                .version = "test",
                                                .repro = "test"},
                                               console));
  } catch (const Error& error) {
    outcome.exit_code = static_cast<int>(error.exit_code());
    outcome.code = error.code();
    outcome.error = error.what();
  }
  return outcome;
}

pid_t start_engine(const fs::path& directory, const std::vector<std::string>& options,
                   const std::function<void()>& prepare) {
  std::vector<std::string> words = {ENGINE_COMMAND, "train"};
  words.insert(words.end(), options.begin(), options.end());
  std::vector<char*> arguments;
  for (std::string& word : words) arguments.push_back(word.data());
  arguments.push_back(nullptr);
  const std::string console = (directory / "console.txt").string();
  const pid_t child = fork();
  if (child != 0) return child;
  const int descriptor = open(console.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0644);
  if (descriptor < 0 || chdir(directory.c_str()) != 0) _exit(126);
  dup2(descriptor, 1);
  dup2(descriptor, 2);
  if (prepare) prepare();
  execv(arguments[0], arguments.data());
  _exit(127);
}

int wait_for(pid_t child) {
  int status = 0;
  if (waitpid(child, &status, 0) != child) throw std::runtime_error("waitpid");
  return status;
}

Outcome run_engine(const fs::path& directory, const std::vector<std::string>& options,
                   const std::function<void()>& prepare) {
  const int status = wait_for(start_engine(directory, options, prepare));
  Outcome outcome;
  outcome.exit_code = WIFEXITED(status) ? WEXITSTATUS(status) : -1;
  outcome.console = outcome.error = file_bytes(directory / "console.txt");
  const size_t begin = outcome.error.find("error[");
  if (begin != std::string::npos) {
    outcome.code = outcome.error.substr(begin + 6, outcome.error.find(']', begin) - begin - 6);
  }
  return outcome;
}

std::string file_bytes(const fs::path& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) throw std::runtime_error("no file " + path.string());
  std::ostringstream bytes;
  bytes << file.rdbuf();
  return bytes.str();
}

std::vector<nlohmann::json> metrics(const fs::path& output_dir) {
  std::istringstream lines(file_bytes(output_dir / "metrics.jsonl"));
  std::vector<nlohmann::json> records;
  for (std::string line; std::getline(lines, line);) {
    nlohmann::json record = nlohmann::json::parse(line);
    for (const std::string_view key : kTimingKeys) record.erase(std::string(key));
    if (record.contains("path")) {
      record["path"] = fs::path(record["path"].get<std::string>()).filename().string();
    }
    records.push_back(std::move(record));
  }
  return records;
}

std::vector<nlohmann::json> metrics(const fs::path& output_dir, const std::string& kind) {
  std::vector<nlohmann::json> records = metrics(output_dir);
  std::erase_if(records, [&](const nlohmann::json& record) { return record["kind"] != kind; });
  return records;
}

std::vector<std::pair<std::string, std::string>> snapshot(const fs::path& directory) {
  std::vector<std::pair<std::string, std::string>> files;
  for (const auto& entry : fs::recursive_directory_iterator(directory)) {
    if (entry.is_regular_file()) files.emplace_back(entry.path(), file_bytes(entry.path()));
  }
  std::sort(files.begin(), files.end());
  return files;
}

std::vector<NamedTensor> read_tensors(const fs::path& path) {
  const SafetensorsFile file = SafetensorsFile::open(path);
  std::vector<NamedTensor> tensors;
  for (const TensorEntry& entry : file.tensors()) {
    NamedTensor tensor{entry.name, entry.shape, std::vector<float>(entry.num_elements())};
    to_float32(entry.dtype, entry.data, tensor.values.size(), tensor.values.data());
    tensors.push_back(std::move(tensor));
  }
  return tensors;
}

void write_tensors(const fs::path& path, const std::vector<NamedTensor>& tensors) {
  nlohmann::ordered_json header;
  size_t offset = 0;
  for (const NamedTensor& tensor : tensors) {
    const size_t end = offset + tensor.values.size() * sizeof(float);
    header[tensor.name] = {
        {"dtype", "F32"}, {"shape", tensor.shape}, {"data_offsets", {offset, end}}};
    offset = end;
  }
  std::string text = header.dump();
  text.append((8 - text.size() % 8) % 8, ' ');
  const uint64_t length = text.size();
  std::ofstream file(path, std::ios::binary);
  file.write(reinterpret_cast<const char*>(&length), sizeof length);
  file << text;
  for (const NamedTensor& tensor : tensors) {
    file.write(reinterpret_cast<const char*>(tensor.values.data()),
               static_cast<std::streamsize>(tensor.values.size() * sizeof(float)));
  }
}

fs::path saved_model(const Workspace& workspace, const std::vector<std::string>& settings) {
  const fs::path first = workspace.path() / "first", model = workspace.path() / "model";
  const Outcome outcome =
      run_here(settings +
               std::vector<std::string>{"train.output_dir=" + first.string(), "train.max_steps=1"});
  EXPECT_EQ(outcome.exit_code, 0) << outcome.error;
  fs::create_directories(model);
  for (const char* file : {"config.json", "tokenizer.json"}) {
    fs::copy_file(first / "last" / file, model / file);
  }
  write_tensors(model / "model.safetensors", read_tensors(first / "last/model.safetensors"));
  return model;
}

std::vector<std::string> from_model(const std::vector<std::string>& settings,
                                    const fs::path& model) {
  std::vector<std::string> out;
  for (const std::string& option : settings) {
    if (!option.starts_with("model.")) out.push_back(option);
  }
  out.push_back("model.path=" + model.string());
  return out;
}

void edit_model(const fs::path& model, const std::function<void(std::vector<NamedTensor>&)>& edit) {
  std::vector<NamedTensor> tensors = read_tensors(model / "model.safetensors");
  edit(tensors);
  write_tensors(model / "model.safetensors", tensors);
}

double max_difference(const std::vector<NamedTensor>& a, const std::vector<NamedTensor>& b) {
  if (a.size() != b.size()) return INFINITY;
  double worst = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    if (a[i].name != b[i].name || a[i].values.size() != b[i].values.size()) return INFINITY;
    for (size_t j = 0; j < a[i].values.size(); ++j) {
      worst = std::max(worst, std::abs(double{a[i].values[j]} - b[i].values[j]));
    }
  }
  return worst;
}

}  // namespace engine::testing
