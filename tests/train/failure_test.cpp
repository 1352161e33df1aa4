// What goes wrong ends with one clear error, its exit code, and everything that was saved intact.
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmath>
#include <fstream>
#include <limits>

#include "kernels/api/operations.h"
#include "tests/train/support.h"

namespace engine::testing {
namespace {

namespace fs = std::filesystem;
using Options = std::vector<std::string>;

int count(const std::string& text, const std::string& part) {
  int n = 0;
  for (size_t at = text.find(part); at != std::string::npos; at = text.find(part, at + 1)) ++n;
  return n;
}

NamedTensor& find(std::vector<NamedTensor>& tensors, const std::string& name) {
  for (NamedTensor& tensor : tensors) {
    if (tensor.name == name) return tensor;
  }
  throw std::runtime_error("no tensor " + name);
}

void expect_failure(const Outcome& outcome, int exit_code, const std::string& code,
                    const std::string& mention) {
  EXPECT_EQ(outcome.exit_code, exit_code) << code << "\n" << outcome.error;
  EXPECT_EQ(outcome.code, code) << outcome.error;
  EXPECT_EQ(count(outcome.error, "error["), 1) << outcome.error;
  EXPECT_NE(outcome.error.find(mention), std::string::npos) << "no \"" << mention << "\" in\n"
                                                            << outcome.error;
}

TEST(Failure, ModelFiles) {
  const Workspace w;
  const Options settings = tiny_llama(w);
  const fs::path model = saved_model(w, settings);
  const std::string whole = file_bytes(model / "model.safetensors");
  const Options run = from_model(settings, model);
  const auto restore = [&] {
    std::ofstream(model / "model.safetensors", std::ios::binary) << whole;
  };

  edit_model(model, [](auto& tensors) {
    std::erase_if(tensors,
                  [](const auto& t) { return t.name == "model.layers.1.mlp.up_proj.weight"; });
  });
  expect_failure(run_here(run), 4, "CKPT-MISSING", "model.layers.1.mlp.up_proj.weight");
  restore();
  edit_model(model, [](auto& tensors) {
    find(tensors, "model.layers.0.mlp.down_proj.weight").shape = {24, 16};
  });
  expect_failure(run_here(run), 4, "CKPT-SHAPE", "model.layers.0.mlp.down_proj.weight");
  restore();
  fs::resize_file(model / "model.safetensors", whole.size() - 100);
  expect_failure(run_here(run), 4, "ST-TRUNCATED", "model.safetensors");
  restore();
  edit_model(model, [](auto& tensors) {
    find(tensors, "model.layers.1.self_attn.k_proj.weight").values[3] = std::nanf("");
  });
  expect_failure(run_here(run), 6, "NUM-NAN", "model.layers.1.self_attn.k_proj.weight");
  EXPECT_FALSE(fs::exists(w.path() / "run"));
  restore();
  EXPECT_EQ(run_here(run).exit_code, 0);
}

TEST(Failure, Data) {
  const Workspace w;
  const auto with_data = [&](const std::string& name, const std::string& content,
                             const Options& more = {}) {
    return run_here(tiny_gpt2(w) + Options{"data.train=" + w.write(name, content).string()} + more);
  };
  expect_failure(with_data("empty.txt", ""), 3, "DATA-EMPTY", "empty.txt");
  expect_failure(with_data("empty.jsonl", ""), 3, "DATA-EMPTY", "empty.jsonl");
  expect_failure(
      with_data("field.jsonl", "{\"text\": \"a\"}\n{\"text\": \"b\"}\n{\"txt\": \"no\"}\n"), 3,
      "DATA-FIELD", "field.jsonl:3");
  expect_failure(with_data("utf8.txt", "good words\n\nbad \xff\xfe words\n"), 3, "DATA-UTF8",
                 "utf8.txt");
  expect_failure(with_data("json.jsonl", "{\"text\": \"a\"}\n{\"text\": \n"), 3, "DATA-JSON",
                 "json.jsonl:2");
  expect_failure(with_data("target.jsonl",
                           "{\"input_ids\": [5, 6], \"labels\": [5, 6]}\n"
                           "{\"input_ids\": [5, 6], \"labels\": [-100, -100]}\n"),
                 3, "DATA-NO-TARGET", "target.jsonl:2");
  expect_failure(with_data("long.txt", std::string(200, 'x')), 3, "DATA-OVERFLOW", "long.txt");
  expect_failure(with_data("id.jsonl", "{\"input_ids\": [1, 2, 9999]}\n"), 3, "DATA-ID",
                 "id.jsonl:1: input_ids[2] is 9999");
  expect_failure(with_data("length.jsonl", "{\"input_ids\": [1, 2], \"labels\": [1]}\n"), 3,
                 "DATA-LENGTH", "length.jsonl:1");
  expect_failure(run_here(tiny_gpt2(w) + Options{"data.train=/nowhere/at/all.txt"}), 3, "DATA-OPEN",
                 "/nowhere/at/all.txt");
  EXPECT_FALSE(fs::exists(w.path() / "run"));
}

TEST(Failure, Settings) {
  const Workspace w;
  const Options run = tiny_gpt2(w);
  expect_failure(run_here(run + Options{"optimizer.weight_decy=0.1"}), 2, "CFG-UNKNOWN",
                 "weight_decay");
  expect_failure(run_here(run + Options{"train.max_steps=0"}), 2, "CFG-RANGE", "train.max_steps");
  expect_failure(run_here(run + Options{"data.max_length=65", "train.micro_batch_tokens=130"}), 2,
                 "CFG-CONFLICT", "data.max_length=64");
  expect_failure(run_here(run + Options{"model.config.vocab_size=100"}), 4, "TOK-VOCAB", "100");
  expect_failure(run_here(run + Options{"train.device=gpu"}), 2, "CFG-RANGE", "cuda:N");
  if (!kernels::has_device(kernels::DeviceType::cuda)) {
    expect_failure(run_here(run + Options{"train.device=cuda"}), 2, "DEV-NO-CUDA", "cpu");
  }
  expect_failure(run_here(run + Options{"model.config.model_type=mamba"}), 4, "MODEL-UNKNOWN",
                 "mamba");
  EXPECT_FALSE(fs::exists(w.path() / "run"));
}

TEST(Failure, DivergenceKeepsWhatWasSaved) {
  const Workspace w;
  const fs::path out = w.path() / "run";
  const Options settings =
      tiny_gpt2(w) + Options{"data.validation_fraction=0.1", "train.eval_every=3"};
  ASSERT_EQ(run_here(settings).exit_code, 0);
  ASSERT_TRUE(fs::exists(out / "best/model.safetensors"));
  const auto best = snapshot(out / "best"), last = snapshot(out / "checkpoint-6");
  const Outcome outcome =
      run_here(settings + Options{"train.resume=true", "optimizer.lr=1e30", "train.max_steps=20",
                                  "schedule.type=constant", "train.save_every=100"},
               {.resume_override = true});
  expect_failure(outcome, 6, "NUM-NAN", "at step 8");
  EXPECT_NE(outcome.error.find("layer"), std::string::npos) << outcome.error;
  EXPECT_NE(outcome.error.find("train.txt"), std::string::npos) << outcome.error;
  EXPECT_NE(outcome.error.find("checkpoint of step 6"), std::string::npos) << outcome.error;
  EXPECT_TRUE(snapshot(out / "best") == best);
  EXPECT_TRUE(snapshot(out / "checkpoint-6") == last);
  // And it is still good to go on from.
  EXPECT_EQ(run_here(settings + Options{"train.resume=true", "train.max_steps=8"},
                     {.resume_override = true})
                .exit_code,
            0);
}

// An embedding of infinity spoils exactly the batches that its token is in.
TEST(Failure, SkipStepGoesOn) {
  const Workspace w;
  const Options settings = tiny_llama(w);
  const fs::path model = saved_model(w, settings);
  std::string text = made_up_text(16, 3);
  w.write("z.txt", text + "Z a.\n\n");
  constexpr int kTokenOfZ = 1 + ('Z' - '!');  // printable ASCII comes first in the byte alphabet
  edit_model(model, [](auto& tensors) {
    NamedTensor& table = find(tensors, "model.embed_tokens.weight");
    for (int i = 0; i < 16; ++i) {
      table.values[kTokenOfZ * 16 + i] = std::numeric_limits<float>::infinity();
    }
  });
  const Options run =
      from_model(settings, model) + Options{"data.train=" + (w.path() / "z.txt").string(),
                                            "train.max_steps=null",
                                            "train.epochs=2",
                                            "data.packing=rows",
                                            "train.micro_batch_tokens=null",
                                            "train.micro_batch_rows=2",
                                            "train.save_every=1",
                                            "train.keep_checkpoints=0"};
  const Outcome outcome = run_here(run + Options{"train.on_nonfinite=skip_step"});
  ASSERT_EQ(outcome.exit_code, 0) << outcome.error;
  EXPECT_EQ(count(outcome.console, "skipped: loss"), 2) << outcome.console;
  const fs::path out = w.path() / "run";
  const nlohmann::json summary = metrics(out, "summary").at(0);
  EXPECT_EQ(summary["skipped"], 2);
  EXPECT_EQ(summary["nonfinite"], 2);
  EXPECT_EQ(summary["step"], 18);
  // Skipped steps are part of the state that a run continues from.
  const std::string whole = file_bytes(out / "last/model.safetensors");
  for (int step = 11; step <= 18; ++step) {
    fs::remove_all(out / ("checkpoint-" + std::to_string(step)));
  }
  const auto before = metrics(out);
  const Outcome resumed =
      run_here(run + Options{"train.on_nonfinite=skip_step", "train.resume=true"});
  ASSERT_EQ(resumed.exit_code, 0) << resumed.error;
  EXPECT_TRUE(file_bytes(out / "last/model.safetensors") == whole);
  EXPECT_EQ(metrics(out), before);
}

TEST(Failure, FullDiskKeepsWhatWasSaved) {
  const Workspace w;
  const fs::path out = w.path() / "run";
  const Options settings = tiny_gpt2(w) + Options{"data.validation_fraction=0.1"};
  ASSERT_EQ(run_engine(w.path(), settings).exit_code, 0);
  const auto best = snapshot(out / "best"), last = snapshot(out / "checkpoint-6");
  // No file may grow beyond 32 KiB: the log fits, the weights (44 KiB) do not. The signal of the
  // limit is left at its default, which would end the process.
  const Outcome outcome = run_engine(
      w.path(), settings + Options{"--resume", "--resume-override", "train.max_steps=8"}, [] {
        const rlimit limit{32 << 10, 32 << 10};
        setrlimit(RLIMIT_FSIZE, &limit);
      });
  expect_failure(outcome, 74, "IO-FULL", "safetensors");
  EXPECT_TRUE(snapshot(out / "best") == best);
  EXPECT_TRUE(snapshot(out / "checkpoint-6") == last);
  EXPECT_FALSE(fs::exists(out / "checkpoint-8"));
  for (const auto& entry : fs::directory_iterator(out)) {
    EXPECT_EQ(entry.path().string().find(".tmp"), std::string::npos) << entry.path();
  }
  const Outcome again = run_engine(
      w.path(), settings + Options{"--resume", "--resume-override", "train.max_steps=8"});
  EXPECT_EQ(again.exit_code, 0) << again.console;
}

TEST(Failure, OutputDirectoryThatCannotBeWritten) {
  const Workspace w;
  // A path below a file.
  w.write("file", "not a directory");
  const Outcome below =
      run_here(tiny_gpt2(w) + Options{"train.output_dir=" + (w.path() / "file/run").string()});
  EXPECT_EQ(below.exit_code, 74) << below.error;
  EXPECT_EQ(count(below.error, "error["), 1) << below.error;

  // A directory without permission to write. Root needs none, so the child is somebody else.
  fs::create_directories(w.path() / "locked");
  fs::create_directories(w.path() / "cwd");
  fs::permissions(w.path() / "locked", fs::perms(0555));
  fs::permissions(w.path() / "cwd", fs::perms(0777));
  fs::permissions(w.path(), fs::perms(0755));
  const Outcome locked = run_engine(
      w.path() / "cwd",
      tiny_gpt2(w) + Options{"train.output_dir=" + (w.path() / "locked/run").string()}, [] {
        if (geteuid() == 0 && (setgid(65534) != 0 || setuid(65534) != 0)) _exit(125);
      });
  if (locked.exit_code == 125 || locked.exit_code == 127) {
    GTEST_SKIP() << "nobody may not run the program here";
  }
  expect_failure(locked, 74, "IO-READONLY", "locked");
  EXPECT_TRUE(fs::is_empty(w.path() / "locked"));
}

}  // namespace
}  // namespace engine::testing
