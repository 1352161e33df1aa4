#include "engine/train/report/console.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <limits>
#include <sstream>
#include <vector>

#include "engine/train/report/banner.h"
#include "engine/train/report/format.h"
#include "engine/train/report/lines.h"

namespace engine {
namespace {

constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();
constexpr uint64_t kGiB = uint64_t{1} << 30;

const TextStyle kPlain = {.unicode = true, .color = false, .width = 0};
const TextStyle kAscii = {.unicode = false, .color = false, .width = 0};

bool is_ascii(const std::string& text) {
  for (const char c : text) {
    if (static_cast<unsigned char>(c) >= 0x80) return false;
  }
  return true;
}

TrainRecord example_record() {
  TrainRecord record;
  record.step = 60;
  record.epoch = 0.594;
  record.loss = 1.8421;
  record.loss_ema = 1.874;
  record.loss_z = -0.4;
  record.grad_norm = 1.12;
  record.grad_norm_z = 0.3;
  record.lr = 1.9e-5;
  record.step_seconds = 0.3811;
  record.data_seconds = 0.0011;
  record.tokens_per_second = 89006;
  record.mfu = 0.314;
  record.peak_memory_bytes = 20293877760;
  return record;
}

LineContext example_context() {
  LineContext context;
  context.total_steps = 303;
  context.total_epochs = 3;
  context.device_memory_bytes = static_cast<uint64_t>(139.8 * static_cast<double>(kGiB));
  return context;
}

TEST(MetricLine, Text) {
  MetricExtras extras;
  extras.seconds_left = 93;
  EXPECT_EQ(
      metric_line(example_record(), example_context(), extras, kPlain),
      "step   60/303  19% ep 0.59 | loss 1.8421 (ema 1.874, z -0.4) | gnorm 1.12 | lr 1.9e-05 "
      "| 89.0k tok/s  381 ms | mfu 31.4% | mem 18.9G 14% | data 0.3% | eta 1m33s");
}

TEST(MetricLine, ColumnsDoNotMove) {
  const LineContext context = example_context();
  const std::string reference = metric_line(example_record(), context, {}, kPlain);
  std::vector<size_t> bars;
  for (size_t at = reference.find('|'); at != std::string::npos; at = reference.find('|', at + 1)) {
    bars.push_back(at);
  }
  ASSERT_EQ(bars.size(), 7u);
  std::vector<TrainRecord> others(6, example_record());
  others[0].step = 1;
  others[0].loss = 11.9312345;
  others[0].loss_ema.reset();
  others[0].loss_z.reset();
  others[1].step = 303;
  others[1].loss = kNaN;
  others[1].grad_norm = 123456;
  others[2].loss_z = 123.4;
  others[2].grad_norm_z = 77;
  others[2].tokens_per_second = 1234567;
  others[3].step_seconds = 12.5;
  others[3].data_seconds = 12.4;
  others[3].mfu = 0.05;
  others[4].lr = 0;
  others[4].loss = 0.0001;
  others[4].peak_memory_bytes = 5 * kGiB;
  others[5].loss = 1e9;
  others[5].loss_ema = 1e8;
  others[5].grad_norm = std::numeric_limits<double>::infinity();
  MetricExtras extras;
  for (const TrainRecord& record : others) {
    const std::string line = metric_line(record, context, extras, kPlain);
    for (const size_t at : bars) EXPECT_EQ(line.at(at), '|') << line;
    extras.interpolated = true;  // the mark has its own column
  }
}

TEST(MetricLine, Marks) {
  TrainRecord record = example_record();
  MetricExtras extras;
  extras.clipped_share = 0.9;
  EXPECT_NE(metric_line(record, example_context(), extras, kPlain).find("| gnorm"),
            std::string::npos);
  extras.clipped_share = 0.91;
  EXPECT_NE(metric_line(record, example_context(), extras, kPlain).find("|!gnorm"),
            std::string::npos);
  record.grad_norm_z = 5.1;
  EXPECT_NE(metric_line(record, example_context(), {}, kPlain).find("|!gnorm"), std::string::npos);
  extras.interpolated = true;
  EXPECT_NE(metric_line(record, example_context(), extras, kPlain).find("|~loss"),
            std::string::npos);
  // Colour adds to the text and takes nothing away.
  TextStyle colored = kPlain;
  colored.color = true;
  const std::string line = metric_line(record, example_context(), extras, colored);
  EXPECT_NE(line.find("!gnorm"), std::string::npos);
  EXPECT_NE(line.find("\x1b[33m"), std::string::npos);
  EXPECT_EQ(metric_line(record, example_context(), extras, kPlain).find('\x1b'), std::string::npos);
}

TEST(MetricLine, LeavesOutWhatTheDeviceDoesNotHave) {
  TrainRecord record = example_record();
  record.mfu.reset();
  record.peak_memory_bytes.reset();
  const std::string line = metric_line(record, example_context(), {}, kPlain);
  EXPECT_EQ(line.find("mfu"), std::string::npos);
  EXPECT_EQ(line.find("mem"), std::string::npos);
  EXPECT_EQ(line.find("eta"), std::string::npos);
}

TEST(EvalLine, Text) {
  EvalRecord record;
  record.step = 60;
  record.loss = 1.9033;
  record.accuracy = 0.588;
  record.groups = {{"news", 1.71, 400}, {"dialog", 2.19, 180}};
  record.is_best = true;
  record.previous_best = 1.9871;
  record.previous_best_step = 40;
  record.seconds = 2.1;
  const std::string line = eval_line(record, example_context(), kPlain);
  EXPECT_EQ(
      line,
      "eval   60                  | loss 1.9033 ppl 6.71 acc 0.588 | news 1.71 (n=400) dialog "
      "2.19 (n=180) | best ↓ (was 1.9871 @40) → ckpt best | 2.1s");
  // Its losses stand below those of the steps.
  EXPECT_EQ(line.find('|'), metric_line(example_record(), example_context(), {}, kPlain).find('|'));
  EXPECT_TRUE(is_ascii(eval_line(record, example_context(), kAscii)));
  record.best_value = 0.588;  // chosen by accuracy: up is better
  record.previous_best = 0.5;
  EXPECT_NE(eval_line(record, example_context(), kPlain).find("best ↑ (was 0.5000 @40)"),
            std::string::npos);
}

TEST(SampleLine, Text) {
  SampleRecord record;
  record.step = 60;
  record.name = "dialog#3";
  record.prompt = "A long conversation that ends:\n";
  record.text = "The two agree to meet at noon.";
  record.reference = "They will meet at 12.";
  record.tokens = 32;
  record.stop = "eos";
  EXPECT_EQ(
      sample_line(record, kPlain),
      "sample 60 [dialog#3] \"…onversation that ends:\\n\" → \"The two agree to meet at noon.\"  "
      "(ref \"They will meet at 12.\")  32 tok  stop=eos");
  EXPECT_TRUE(is_ascii(sample_line(record, kAscii)));
  TextStyle narrow = kPlain;
  narrow.width = 120;
  record.text = std::string(500, 'x') + "\x1b[2J";
  const std::string line = sample_line(record, narrow);
  EXPECT_EQ(display_width(line), 120);
  EXPECT_EQ(line.find('\x1b'), std::string::npos);
}

Banner example_banner() {
  Banner banner;
  banner.version = "0.3.1";
  banner.run_name = "qwen05b-summ-0421";
  banner.seed = 42;
  banner.determinism = "fast";
  banner.config_sha = "9f31c2";
  banner.model = {"Qwen2.5-0.5B-Instruct", 494032768, 357826560, "bf16 + fp32 master",
                  "AdamW fp32 m/v",        0.01,      493961216, 71552};
  banner.data.train_rows = 11942;
  banner.data.train_tokens = 3410000;
  banner.data.trained_tokens = 2020000;
  banner.data.dropped = {{"over 2048 (policy drop)", 41}, {"no target", 17}, {"empty", 0}};
  banner.data.batch_fill = 0.987;
  banner.plan = {8480, 4, 1, "H200", 101, 3, 303, 116};
  const auto gibibytes = [](double value) {
    return static_cast<uint64_t>(value * static_cast<double>(kGiB));
  };
  banner.memory.categories = {{"weights", gibibytes(0.9)},     {"master", gibibytes(1.8)},
                              {"adam", gibibytes(3.7)},        {"grads", gibibytes(1.8)},
                              {"activations", gibibytes(9.6)}, {"logits-chunk", gibibytes(0.6)},
                              {"ws", gibibytes(0.3)}};
  banner.memory.available_bytes = gibibytes(139.8);
  banner.stop =
      BannerStop{1.0, "<|im_end|>", 151645, {151645, 151643}, "none (tokenizer adds none)"};
  return banner;
}

TEST(Banner, Text) {
  EXPECT_EQ(
      banner_text(example_banner(), kPlain),
      "engine 0.3.1 train  run=qwen05b-summ-0421  seed=42  determinism=fast   config sha 9f31c2\n"
      "model   Qwen2.5-0.5B-Instruct  494.0M params (357.8M matmul) bf16 + fp32 master, AdamW fp32 "
      "m/v, wd 0.01 on 494.0M / 0 on 71.6k (norm,bias)\n"
      "data    train 11 942 rows 3.41M tok (2.02M trained) | 58 rows dropped: 41 over 2048 (policy "
      "drop), 17 no target | token-budget batches 98.7 % full, 0 padding computed\n"
      "plan    8 480 tok/µbatch × 4 accum × 1 GPU = 33.9k tok/step → 101 steps/epoch × 3 = 303 "
      "steps "
      "  est 1m56s (1×H200)\n"
      "memory  weights 0.9 | master 1.8 | adam 3.7 | grads 1.8 | activations 9.6 | logits-chunk "
      "0.6 "
      "| ws 0.3 = 18.7 of 139.8 GiB (13 %)\n"
      "stop    100 % rows end in trained <|im_end|> (151645) ✓ in generation eos [151645,151643]   "
      "bos: none (tokenizer adds none)");
}

TEST(Banner, AsciiAndSmallRuns) {
  Banner banner = example_banner();
  EXPECT_TRUE(is_ascii(banner_text(banner, kAscii)));
  banner.plan.device = "CPU 16 threads";
  banner.memory.categories = {{"weights", 3 << 20}, {"adam", 6 << 20}};
  banner.memory.available_bytes = 0;
  banner.stop->generation_eos = {2};
  banner.data.dropped.clear();
  banner.resumed_step = 60;
  const std::string text = banner_text(banner, kPlain);
  EXPECT_NE(text.find("weights 3.0 | adam 6.0 = 9.0 MiB"), std::string::npos) << text;
  EXPECT_NE(text.find("1 CPU = "), std::string::npos);
  EXPECT_NE(text.find("✗ not in generation eos [2]"), std::string::npos);
  EXPECT_EQ(text.find("dropped"), std::string::npos);
  EXPECT_NE(text.find("resumed at step 60"), std::string::npos);
}

RunSummary example_summary() {
  RunSummary summary;
  summary.record.step = 303;
  summary.record.epoch = 3;
  summary.record.tokens_total = 10200000;
  summary.record.tokens_trained_total = 6100000;
  summary.record.seconds = 128;
  summary.record.train_seconds = 114;
  summary.record.eval_seconds = 9;
  summary.record.checkpoint_seconds = 4;
  summary.record.data_seconds = 0.3;
  summary.record.best_step = 240;
  summary.record.stopped_by = "end";
  summary.first_train_loss = 2.611;
  summary.last_train_loss = 1.402;
  summary.first_eval_loss = 2.54;
  summary.last_eval_loss = 1.7712;
  summary.best_eval_loss = 1.7604;
  summary.median_tokens_per_second = 89600;
  summary.slow_tokens_per_second = 87200;
  summary.mfu = 0.316;
  summary.peak_flops = 989e12;
  summary.peak_memory_bytes = 20293877760;
  summary.predicted_memory_bytes = 20079115000;
  summary.clipped_share = 0.12;
  summary.max_grad_norm_z = 3.1;
  summary.max_grad_norm_z_step = 17;
  summary.output_dir = "runs/q";
  summary.saved = {"last/", "metrics.jsonl"};
  summary.next = {"engine generate runs/q/best -p \"...\""};
  summary.repro = "engine train runs/q/config.resolved.yaml";
  summary.provenance = {"git 1a2b3c4", "H200"};
  return summary;
}

TEST(Summary, Text) {
  EXPECT_EQ(
      summary_text(example_summary(), kPlain),
      "done   303 steps, 3.00 epochs, 10.2M tok (6.1M trained) in 2m08s  (train 1m54s, eval 9s, "
      "ckpt 4s, data wait 0.3s)\n"
      "loss   train 2.611 → 1.402 (last 20 avg)   eval 2.540 → 1.7712 (best 1.7604 @ step 240)  "
      " gap +0.37 at end — overfit after step 240\n"
      "speed  89.6k tok/s median (p5 87.2k)  mfu 31.6 % (titan, peak 989 TF bf16)  peak mem 18.9 "
      "GiB (predicted 18.7)\n"
      "health clipped 12 % of steps, 0 non-finite, 0 skipped, max gnorm z 3.1 @ step 17\n"
      "saved  runs/q/best  (step 240, HF format, loads in transformers)  last/  metrics.jsonl\n"
      "next   engine generate runs/q/best -p \"...\"\n"
      "repro  engine train runs/q/config.resolved.yaml   (git 1a2b3c4, H200)");
  EXPECT_TRUE(is_ascii(summary_text(example_summary(), kAscii)));
}

TEST(Summary, ShortRunWithoutEvaluation) {
  RunSummary summary;
  summary.record.step = 3;
  summary.record.train_loss = 2.5;
  summary.record.stopped_by = "interrupted";
  summary.output_dir = "out";
  const std::string text = summary_text(summary, kPlain);
  EXPECT_NE(text.find("train 2.5000 (mean)"), std::string::npos) << text;
  EXPECT_NE(text.find("stopped by interrupted"), std::string::npos);
  EXPECT_NE(text.find("saved  out/"), std::string::npos);
  EXPECT_EQ(text.find("speed"), std::string::npos);
}

// What is left on a terminal's screen after the given output, without colours.
std::vector<std::string> screen_of(const std::string& output) {
  std::vector<std::string> lines(1);
  for (size_t i = 0; i < output.size(); ++i) {
    if (output.compare(i, 4, "\r\x1b[K") == 0) {
      lines.back().clear();
      i += 3;
    } else if (output[i] == '\n') {
      lines.emplace_back();
    } else {
      lines.back() += output[i];
    }
  }
  return lines;
}

struct FakeTerminal {
  std::string output;
  int writes = 0;
  double now = 0;
  int columns = 60;

  ConsoleOptions options(bool live) {
    ConsoleOptions result;
    result.style = kAscii;
    result.live = live;
    result.sink = [this](std::string_view text) {
      output += text;
      ++writes;
    };
    result.monotonic_seconds = [this] { return now; };
    result.width = [this] { return columns; };
    return result;
  }
};

TEST(Console, BarStaysBelowTheLines) {
  FakeTerminal terminal;
  {
    Console console(terminal.options(true));
    Progress progress;
    progress.step = 30;
    progress.total_steps = 300;
    progress.text = "loss 1.8";
    console.progress(progress);
    EXPECT_EQ(
        screen_of(terminal.output),
        (std::vector<std::string>{"train  10% [##......................] 30/300 | loss 1.8"}));
    console.print("step 30");
    EXPECT_EQ(screen_of(terminal.output).size(), 2u);
    EXPECT_EQ(screen_of(terminal.output)[0], "step 30");
    EXPECT_EQ(screen_of(terminal.output)[1].substr(0, 10), "train  10%");
  }
  EXPECT_EQ(screen_of(terminal.output), (std::vector<std::string>{"step 30", ""}));
}

TEST(Console, TenRedrawsASecond) {
  FakeTerminal terminal;
  Console console(terminal.options(true));
  Progress progress;
  progress.total_steps = 100000;
  for (progress.step = 0; progress.step < 1000; ++progress.step) {
    terminal.now = static_cast<double>(progress.step) * 0.001;  // 1000 steps in a second
    console.progress(progress);
  }
  EXPECT_GE(terminal.writes, 9);
  EXPECT_LE(terminal.writes, 10);
}

TEST(Console, PipesGetWholeLinesOnly) {
  FakeTerminal terminal;
  {
    Console console(terminal.options(false));
    Progress progress;
    progress.total_steps = 10;
    console.progress(progress);
    console.print("a");
    console.print("b\nc");
    console.progress(progress);
  }
  EXPECT_EQ(terminal.output, "a\nb\nc\n");
}

TEST(Console, BarFitsEveryWidth) {
  Progress progress;
  progress.step = 123456;
  progress.total_steps = 1000000;
  progress.seconds_left = 5000;
  progress.text = "loss 1.8421 | 89.0k tok/s";
  for (int width = 1; width < 200; ++width) {
    EXPECT_LT(display_width(progress_bar(progress, width, kPlain)), width);
    EXPECT_LT(display_width(progress_bar(progress, width, kAscii)), width);
  }
  EXPECT_TRUE(is_ascii(progress_bar(progress, 120, kAscii)));
  progress.total_steps = 0;  // not known: no division by zero
  EXPECT_NE(progress_bar(progress, 80, kAscii).find("  0%"), std::string::npos);
}

TEST(TextStyle, HonoursTheEnvironment) {
  ::setenv("LC_ALL", "C", 1);
  EXPECT_FALSE(TextStyle::detect(-1).unicode);
  ::setenv("LC_ALL", "en_US.UTF-8", 1);
  EXPECT_TRUE(TextStyle::detect(-1).unicode);
  ::unsetenv("LC_ALL");
  EXPECT_FALSE(TextStyle::detect(-1).color);  // no terminal
  EXPECT_TRUE(TextStyle::detect(-1, ColorMode::always).color);
  EXPECT_FALSE(TextStyle::detect(-1, ColorMode::never).color);
}

}  // namespace
}  // namespace engine
