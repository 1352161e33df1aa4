// Runs that are killed, stopped, continued, damaged.
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <cstring>
#include <fstream>
#include <random>
#include <thread>

#include "tests/train/support.h"

namespace engine::testing {
namespace {

namespace fs = std::filesystem;
using namespace std::chrono_literals;

// Step of the newest complete checkpoint, 0 without one.
int64_t last_step(const fs::path& output_dir) {
  std::error_code error;
  const std::string name = fs::read_symlink(output_dir / "last", error).string();
  return error ? 0 : std::stoll(name.substr(name.rfind('-') + 1));
}

bool running(pid_t child) {
  siginfo_t info{};
  return waitid(P_PID, static_cast<id_t>(child), &info, WEXITED | WNOHANG | WNOWAIT) == 0 &&
         info.si_pid == 0;
}

// Dropout, packed data, accumulation, several epochs, evaluation, best/: all that has state.
std::vector<std::string> stateful_run(const Workspace& w, int steps) {
  return tiny_gpt2(w) + std::vector<std::string>{"data.validation_fraction=0.1",
                                                 "train.accumulation=2",
                                                 "train.eval_every=7",
                                                 "train.save_every=4",
                                                 "train.log_every=3",
                                                 "train.output_dir=run",
                                                 "train.resume=auto",
                                                 "logging.tensorboard=true",
                                                 "train.max_steps=" + std::to_string(steps)};
}

// Hugging Face's history, without the times it holds.
nlohmann::json history(const fs::path& output_dir) {
  nlohmann::json state = nlohmann::json::parse(file_bytes(output_dir / "trainer_state.json"));
  for (nlohmann::json& row : state["log_history"]) {
    for (auto it = row.begin(); it != row.end();) {
      const bool timed = it.key().ends_with("_runtime") || it.key().ends_with("_per_second");
      it = timed ? row.erase(it) : std::next(it);
    }
  }
  return state;
}

void expect_same_run(const fs::path& a, const fs::path& b) {
  for (const char* file : {"last/model.safetensors", "last/engine_state/optimizer.safetensors",
                           "last/engine_state/state.json", "best/model.safetensors"}) {
    EXPECT_TRUE(file_bytes(a / file) == file_bytes(b / file)) << file;
  }
  EXPECT_EQ(history(a), history(b));
  const std::vector<nlohmann::json> ours = metrics(a), theirs = metrics(b);
  ASSERT_EQ(ours.size(), theirs.size());
  for (size_t i = 0; i < ours.size(); ++i) EXPECT_EQ(ours[i], theirs[i]) << "record " << i;
}

// Kills a run `kills` times and lets it end: it must be the run that nobody killed.
void expect_unharmed_by_kills(const Workspace& w, const std::vector<std::string>& settings,
                              int kills) {
  const fs::path whole = w.path() / "whole", killed = w.path() / "killed";
  fs::create_directories(whole);
  fs::create_directories(killed);
  const auto start = std::chrono::steady_clock::now();
  const Outcome reference = run_engine(whole, settings);
  ASSERT_EQ(reference.exit_code, 0) << reference.console;
  // Half of an equal share, whatever this machine's speed: all waits do not reach the run's end.
  const int64_t longest_wait = std::chrono::duration_cast<std::chrono::microseconds>(
                                   std::chrono::steady_clock::now() - start)
                                   .count() /
                               (2 * kills);

  std::mt19937 random(20260421);
  for (int kill_number = 0; kill_number < kills; ++kill_number) {
    const pid_t child = start_engine(killed, settings);
    // Every other time wait for some progress first, so that the run gets on; else die anywhere,
    // also while starting.
    if (kill_number % 2 == 0) {
      const int64_t goal = last_step(killed / "run") + 4;
      while (last_step(killed / "run") < goal && running(child)) {
        std::this_thread::sleep_for(1ms);
      }
      std::this_thread::sleep_for(std::chrono::microseconds(random() % longest_wait));
    } else {
      std::this_thread::sleep_for(std::chrono::microseconds(random() % (2 * longest_wait)));
    }
    kill(child, SIGKILL);
    const int status = wait_for(child);
    ASSERT_TRUE(WIFSIGNALED(status)) << "the run ended before kill " << kill_number << ": "
                                     << file_bytes(killed / "console.txt");
  }
  EXPECT_GT(last_step(killed / "run"), 0);
  const Outcome outcome = run_engine(killed, settings);
  ASSERT_EQ(outcome.exit_code, 0) << outcome.console;
  expect_same_run(killed / "run", whole / "run");
  // Nothing is left of writes that were cut off.
  for (const auto& entry : fs::directory_iterator(killed / "run")) {
    EXPECT_EQ(entry.path().string().find(".tmp"), std::string::npos) << entry.path();
  }
}

TEST(Interrupt, KilledTwentyTimesAndContinuedEqualsUninterrupted) {
  const Workspace w;
  expect_unharmed_by_kills(w, stateful_run(w, 1600), 20);
}

TEST(Interrupt, KilledOnTheSoftwareGpu) {
  const Workspace w;
  expect_unharmed_by_kills(w, stateful_run(w, 32) + std::vector<std::string>{"train.device=simt"},
                           4);
}

TEST(Interrupt, TerminateFinishesTheStepAndSaves) {
  const Workspace w;
  const fs::path whole = w.path() / "whole", stopped = w.path() / "stopped";
  fs::create_directories(whole);
  fs::create_directories(stopped);
  const std::vector<std::string> settings = stateful_run(w, 60);
  ASSERT_EQ(run_engine(whole, settings).exit_code, 0);
  const pid_t child = start_engine(stopped, settings);
  while (last_step(stopped / "run") < 8 && running(child)) {
    std::this_thread::sleep_for(1ms);
  }
  kill(child, SIGTERM);
  const int status = wait_for(child);
  ASSERT_TRUE(WIFEXITED(status)) << strsignal(WTERMSIG(status));
  const std::string console = file_bytes(stopped / "console.txt");
  ASSERT_EQ(WEXITSTATUS(status), 8) << console;
  EXPECT_NE(console.find("SIGTERM"), std::string::npos) << console;
  const int64_t at = last_step(stopped / "run");
  EXPECT_GE(at, 8);
  EXPECT_LT(at, 60);
  EXPECT_EQ(metrics(stopped / "run").back()["stopped_by"], "interrupted");
  const Outcome outcome = run_engine(stopped, settings + std::vector<std::string>{"--resume"});
  ASSERT_EQ(outcome.exit_code, 0) << outcome.console;
  for (const char* file : {"last/model.safetensors", "last/engine_state/optimizer.safetensors",
                           "best/model.safetensors"}) {
    EXPECT_TRUE(file_bytes(stopped / "run" / file) == file_bytes(whole / "run" / file)) << file;
  }
  // The one record more is that of the checkpoint the signal asked for.
  for (const char* kind : {"train", "eval", "summary"}) {
    EXPECT_EQ(metrics(stopped / "run", kind), metrics(whole / "run", kind));
  }
}

// Before the first step there is nothing to save: nothing is written.
TEST(Interrupt, BeforeTheFirstStepNothingIsWritten) {
  const Workspace w;
  const auto expect_interrupted = [](const Outcome& outcome, const char* signal) {
    EXPECT_EQ(outcome.exit_code, 8) << outcome.error;
    EXPECT_EQ(outcome.code, "RUN-INTERRUPTED") << outcome.error;
    EXPECT_NE(outcome.error.find(signal), std::string::npos) << outcome.error;
  };
  // The banner is the last that a run prints before it opens its files.
  bool printed = false;
  const auto raise_once = [&](int signal) {
    printed = false;
    return [&printed, signal](std::string_view) {
      if (!std::exchange(printed, true)) raise(signal);
    };
  };
  expect_interrupted(run_here(tiny_gpt2(w), {.on_print = raise_once(SIGTERM)}), "SIGTERM");
  EXPECT_TRUE(printed);
  EXPECT_FALSE(fs::exists(w.path() / "run"));
  expect_interrupted(run_here(tiny_gpt2(w), {.dry_run = true, .on_print = raise_once(SIGINT)}),
                     "SIGINT");
  // A run without signals is not ended by an earlier one, and a checkpoint stays as it was.
  ASSERT_EQ(run_here(tiny_gpt2(w)).exit_code, 0);
  const auto before = snapshot(w.path());
  expect_interrupted(run_here(tiny_gpt2(w) + std::vector<std::string>{"train.resume=true"},
                              {.on_print = raise_once(SIGUSR1)}),
                     "SIGUSR1");
  EXPECT_TRUE(snapshot(w.path()) == before);
  // The handlers are gone with the run.
  for (const int signal : {SIGINT, SIGTERM, SIGUSR1}) {
    struct sigaction action {};
    ASSERT_EQ(sigaction(signal, nullptr, &action), 0);
    EXPECT_TRUE(action.sa_handler == SIG_DFL) << strsignal(signal);
  }
}

TEST(Interrupt, WhileDataIsReadNoCacheIsLeft) {
  const Workspace w;
  w.write("train.txt", made_up_text(500'000));
  const fs::path cache = w.path() / "cache";
  const pid_t child = start_engine(
      w.path(), tiny_gpt2(w) + std::vector<std::string>{"data.cache_dir=" + cache.string()});
  std::error_code error;
  while ((!fs::exists(cache, error) || fs::is_empty(cache, error)) && running(child)) {
    std::this_thread::sleep_for(1ms);
  }
  kill(child, SIGTERM);
  const int status = wait_for(child);
  const std::string console = file_bytes(w.path() / "console.txt");
  ASSERT_TRUE(WIFEXITED(status)) << strsignal(WTERMSIG(status));
  EXPECT_EQ(WEXITSTATUS(status), 8) << console;
  EXPECT_NE(console.find("error[RUN-INTERRUPTED]"), std::string::npos) << console;
  EXPECT_TRUE(fs::is_empty(cache));
  EXPECT_FALSE(fs::exists(w.path() / "run"));
}

TEST(Interrupt, KilledBetweenACheckpointAndItsRecord) {
  const Workspace w;
  const std::vector<std::string> settings =
      tiny_gpt2(w) + std::vector<std::string>{"train.save_every=2", "train.resume=auto"};
  const fs::path out = w.path() / "run";
  ASSERT_EQ(run_here(settings).exit_code, 0);
  const std::vector<nlohmann::json> before = metrics(out);
  // As it stands when the process dies right after the last checkpoint appeared.
  std::string text = file_bytes(out / "metrics.jsonl");
  text.resize(text.find("\"checkpoint\"", text.rfind("\"step\":5")));
  text.resize(text.rfind('\n') + 1);
  std::ofstream(out / "metrics.jsonl", std::ios::binary) << text;
  ASSERT_LT(metrics(out).size(), before.size());
  ASSERT_EQ(run_here(settings).exit_code, 0);
  EXPECT_EQ(metrics(out), before);
}

TEST(Resume, RefusesChangedSettingsAndListsThem) {
  const Workspace w;
  const std::vector<std::string> settings = tiny_gpt2(w);
  const fs::path out = w.path() / "run";
  ASSERT_EQ(run_here(settings).exit_code, 0);
  const auto before = snapshot(out);
  const std::vector<std::string> changed =
      settings + std::vector<std::string>{"train.resume=true",    "optimizer.lr=2e-2",
                                          "train.accumulation=3", "model.dropout=0.3",
                                          "optimizer.eps=1e-6",   "train.precision=bf16",
                                          "train.max_steps=8"};
  const Outcome refused = run_here(changed);
  EXPECT_EQ(refused.exit_code, 2);
  EXPECT_EQ(refused.code, "RESUME-CHANGED");
  for (const char* key :
       {"optimizer.lr", "train.accumulation", "model.dropout", "optimizer.eps", "total_steps"}) {
    EXPECT_NE(refused.error.find(key), std::string::npos) << key << " in\n" << refused.error;
  }
  EXPECT_NE(refused.error.find("train.precision: \"fp32\" -> \"bf16\""), std::string::npos)
      << refused.error;
  EXPECT_EQ(refused.error.find("data.max_length"), std::string::npos) << refused.error;
  EXPECT_TRUE(snapshot(out) == before);
  const Outcome accepted = run_here(changed, {.resume_override = true});
  EXPECT_EQ(accepted.exit_code, 0) << accepted.error;
  EXPECT_EQ(last_step(out), 8);
}

TEST(Resume, WithoutACheckpoint) {
  const Workspace w;
  const Outcome none = run_here(tiny_gpt2(w) + std::vector<std::string>{"train.resume=true"});
  EXPECT_EQ(none.exit_code, 4);
  EXPECT_EQ(none.code, "RESUME-NONE");
  EXPECT_FALSE(fs::exists(w.path() / "run"));
}

TEST(Resume, ANewRunDoesNotOverwriteAnOldOne) {
  const Workspace w;
  ASSERT_EQ(run_here(tiny_gpt2(w)).exit_code, 0);
  const auto before = snapshot(w.path() / "run");
  const Outcome again = run_here(tiny_gpt2(w));
  EXPECT_EQ(again.exit_code, 2);
  EXPECT_EQ(again.code, "LOG-EXISTS");
  EXPECT_TRUE(snapshot(w.path() / "run") == before);
}

// GPT-2's first files have other names. A run that began from them keeps them, resumed or not.
TEST(Resume, KeepsTheNamesOfThePretrainedCheckpoint) {
  const Workspace w;
  const std::vector<std::string> settings = tiny_gpt2(w);
  const fs::path model = saved_model(w, settings), out = w.path() / "run";
  const std::string prefix = "transformer.";
  edit_model(model, [&](std::vector<NamedTensor>& tensors) {
    for (NamedTensor& tensor : tensors) {
      ASSERT_TRUE(tensor.name.starts_with(prefix)) << tensor.name;
      tensor.name.erase(0, prefix.size());
    }
  });
  const std::vector<std::string> run =
      from_model(settings, model) +
      std::vector<std::string>{"train.save_every=2", "train.keep_checkpoints=0"};
  ASSERT_EQ(run_here(run).exit_code, 0);
  const std::string whole = file_bytes(out / "checkpoint-6/model.safetensors");
  EXPECT_NE(whole.find("\"h.0.attn.c_attn.weight\""), std::string::npos);
  EXPECT_EQ(whole.find(prefix), std::string::npos);
  fs::remove_all(out / "checkpoint-4");
  fs::remove_all(out / "checkpoint-6");
  const Outcome resumed = run_here(run + std::vector<std::string>{"train.resume=true"});
  ASSERT_EQ(resumed.exit_code, 0) << resumed.error;
  EXPECT_TRUE(file_bytes(out / "checkpoint-6/model.safetensors") == whole);
}

void flip_byte(const fs::path& path) {
  std::string bytes = file_bytes(path);
  bytes[bytes.size() - 5] ^= 0x10;
  std::ofstream(path, std::ios::binary) << bytes;
}

TEST(Resume, PassesOverADamagedCheckpoint) {
  const Workspace w;
  const fs::path out = w.path() / "run";
  const std::vector<std::string> settings =
      tiny_gpt2(w) + std::vector<std::string>{"train.save_every=2", "train.keep_checkpoints=0",
                                              "train.log_every=3"};
  ASSERT_EQ(run_here(settings).exit_code, 0);
  const std::string model = file_bytes(out / "checkpoint-6/model.safetensors");
  const std::vector<nlohmann::json> records = metrics(out);
  flip_byte(out / "checkpoint-6/model.safetensors");
  flip_byte(out / "checkpoint-4/engine_state/optimizer.safetensors");
  const Outcome outcome = run_here(settings + std::vector<std::string>{"train.resume=true"});
  ASSERT_EQ(outcome.exit_code, 0) << outcome.error;
  EXPECT_NE(outcome.console.find("damaged checkpoint passed over"), std::string::npos);
  EXPECT_NE(outcome.console.find("checkpoint-6"), std::string::npos);
  EXPECT_TRUE(file_bytes(out / "checkpoint-6/model.safetensors") == model);
  EXPECT_EQ(metrics(out), records);

  for (const char* name : {"checkpoint-2", "checkpoint-4", "checkpoint-6"}) {
    flip_byte(out / name / "model.safetensors");
  }
  const auto before = snapshot(out);
  const Outcome damaged = run_here(settings + std::vector<std::string>{"train.resume=auto"});
  EXPECT_EQ(damaged.exit_code, 4);
  EXPECT_EQ(damaged.code, "CKPT-DAMAGED");
  EXPECT_TRUE(snapshot(out) == before);
}

// What was passed over is newer by its number. It must not push good checkpoints out.
TEST(Resume, DamagedCheckpointsDoNotCountWhenOldOnesAreRemoved) {
  const Workspace w;
  const fs::path out = w.path() / "run";
  const std::vector<std::string> settings =
      tiny_gpt2(w) + std::vector<std::string>{"train.save_every=2", "train.keep_checkpoints=2"};
  ASSERT_EQ(run_here(settings).exit_code, 0);
  flip_byte(out / "checkpoint-6/model.safetensors");
  const Outcome outcome =
      run_here(settings + std::vector<std::string>{"train.resume=true", "train.max_steps=5",
                                                   "train.keep_checkpoints=1"},
               {.resume_override = true});
  ASSERT_EQ(outcome.exit_code, 0) << outcome.error;
  EXPECT_EQ(last_step(out), 5);
  EXPECT_TRUE(fs::exists(out / "last/model.safetensors"));
  EXPECT_FALSE(fs::exists(out / "checkpoint-4"));
}

}  // namespace
}  // namespace engine::testing
