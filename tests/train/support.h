// What the tests of training runs share: a directory with a byte tokenizer and made-up text, runs
// in this process, runs as a child process, and what they leave behind.
#pragma once

#include <gtest/gtest.h>
#include <sys/types.h>

#include <filesystem>
#include <functional>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "engine/core/error.h"

namespace engine::testing {

// A directory that goes away, with tokenizer.json (ids: <|endoftext|>, then the 256 bytes) and
// train.txt (documents of made-up words, separated by blank lines).
class Workspace {
 public:
  Workspace();
  ~Workspace();
  Workspace(const Workspace&) = delete;
  Workspace& operator=(const Workspace&) = delete;

  const std::filesystem::path& path() const { return path_; }
  std::filesystem::path write(const std::string& name, std::string_view content) const;

 private:
  std::filesystem::path path_;
};

// Sentences of a few words in an order that a small model can learn. The same for the same seed.
std::string made_up_text(int documents, uint32_t seed = 1);

// Settings of a tiny run as "a.b=value", to which a test adds its own (the last one wins).
std::vector<std::string> tiny_gpt2(const Workspace& workspace);
std::vector<std::string> tiny_llama(const Workspace& workspace);
std::vector<std::string> tiny_t5(const Workspace& workspace);
std::vector<std::string> operator+(std::vector<std::string> a, const std::vector<std::string>& b);

struct Outcome {
  int exit_code = -1;   // of an error, or of train()
  std::string code;     // of the error
  std::string error;    // its whole text
  std::string console;  // what was printed
};

struct RunFlags {
  bool dry_run = false;
  bool resume_override = false;
  std::function<void(std::string_view)> on_print;  // sees the text before it is kept
};
// train() in this process.
Outcome run_here(const std::vector<std::string>& options, const RunFlags& flags = {});

// `engine train` in a child whose working directory is `directory`; standard output and error go to
// console.txt there. `prepare` runs in the child before the program starts.
pid_t start_engine(const std::filesystem::path& directory, const std::vector<std::string>& options,
                   const std::function<void()>& prepare = nullptr);
// Waits; the status of waitpid().
int wait_for(pid_t child);
// start_engine() to its end; `error` is the console then. -1 when a signal ended it.
Outcome run_engine(const std::filesystem::path& directory, const std::vector<std::string>& options,
                   const std::function<void()>& prepare = nullptr);

std::string file_bytes(const std::filesystem::path& path);

// The records of metrics.jsonl without what depends on when and where a run ran (kTimingKeys, and
// the directory of paths).
std::vector<nlohmann::json> metrics(const std::filesystem::path& output_dir);
std::vector<nlohmann::json> metrics(const std::filesystem::path& output_dir,
                                    const std::string& kind);

// Every file under a directory with its content, to see that nothing changed.
std::vector<std::pair<std::string, std::string>> snapshot(const std::filesystem::path& directory);

// Tensors of a safetensors file, all as fp32.
struct NamedTensor {
  std::string name;
  std::vector<int64_t> shape;
  std::vector<float> values;
};
std::vector<NamedTensor> read_tensors(const std::filesystem::path& path);
void write_tensors(const std::filesystem::path& path, const std::vector<NamedTensor>& tensors);
// A model trained for one step by the run of `settings`, as plain files without checksums; the
// settings that train it further instead of a new one; and a change to its tensors.
std::filesystem::path saved_model(const Workspace& workspace,
                                  const std::vector<std::string>& settings);
std::vector<std::string> from_model(const std::vector<std::string>& settings,
                                    const std::filesystem::path& model);
void edit_model(const std::filesystem::path& model,
                const std::function<void(std::vector<NamedTensor>&)>& edit);

// Largest difference of any element; the tensors must be the same ones.
double max_difference(const std::vector<NamedTensor>& a, const std::vector<NamedTensor>& b);

}  // namespace engine::testing
