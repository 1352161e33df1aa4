// Runs a tokenizer over many strings, for comparison with another implementation and for timing.
//
//   tokenizer_probe encode TOKENIZER [--no-special] [--no-parse]   < records > lines of ids
//   tokenizer_probe decode TOKENIZER [--skip-special]              < lines of ids > records
//   tokenizer_probe train FILE VOCAB_SIZE PATTERN MIN_FREQUENCY > tokenizer.json  (a text per line)
//   tokenizer_probe train-unigram FILE VOCAB_SIZE > tokenizer.json
//   tokenizer_probe llama2c FILE > tokenizer.json
//   tokenizer_probe bench TOKENIZER FILE [MEGABYTES]               CPU time of opening and encoding
//
// A record is a 32-bit little-endian length and that many bytes.
#include <cstdint>
#include <cstdio>
#include <ctime>
#include <fstream>
#include <iostream>
#include <iterator>
#include <sstream>
#include <string>

#include "engine/core/error.h"
#include "tokenizer/bpe_trainer.h"
#include "tokenizer/llama2c.h"
#include "tokenizer/tokenizer.h"
#include "tokenizer/unigram_trainer.h"

namespace {

using engine::Tokenizer;

bool read_record(std::string* text) {
  uint32_t length = 0;
  if (!std::cin.read(reinterpret_cast<char*>(&length), 4)) return false;
  text->resize(length);
  return static_cast<bool>(std::cin.read(text->data(), length));
}

int encode(const Tokenizer& tokenizer, engine::EncodeOptions options) {
  std::string text;
  while (read_record(&text)) {
    std::string line;
    for (const int32_t id : tokenizer.encode(text, options)) line += std::to_string(id) + " ";
    std::cout << line << '\n';
  }
  return 0;
}

int decode(const Tokenizer& tokenizer, bool skip_special) {
  std::string line;
  while (std::getline(std::cin, line)) {
    std::istringstream in(line);
    const std::vector<int32_t> ids{std::istream_iterator<int32_t>(in), {}};
    const std::string text = tokenizer.decode(ids, skip_special);
    const uint32_t length = static_cast<uint32_t>(text.size());
    std::cout.write(reinterpret_cast<const char*>(&length), 4) << text;
  }
  return 0;
}

// CPU time, so that a busy machine does not spoil the figures.
double seconds_since(std::clock_t start) {
  return static_cast<double>(std::clock() - start) / CLOCKS_PER_SEC;
}

int bench(const std::string& path, const std::string& text_path, size_t megabytes) {
  auto start = std::clock();
  const Tokenizer tokenizer = Tokenizer::open(path);
  std::printf("open    %8.1f ms, %d ids\n", 1e3 * seconds_since(start), tokenizer.vocab_size());
  std::ifstream in(text_path, std::ios::binary);
  const std::string once((std::istreambuf_iterator<char>(in)), std::istreambuf_iterator<char>());
  std::string text;
  while (text.size() < megabytes << 20) text += once;
  for (int round = 0; round < 3; ++round) {
    start = std::clock();
    const auto ids = tokenizer.encode(text);
    const double encoding = seconds_since(start);
    start = std::clock();
    const std::string decoded = tokenizer.decode(ids);
    const double decoding = seconds_since(start);
    std::printf("encode  %8.1f MB/s, decode %.1f MB/s, %zu tokens, round trip %s\n",
                text.size() / encoding / 1e6, text.size() / decoding / 1e6, ids.size(),
                decoded.ends_with(text) ? "equal" : "differs");
  }
  return 0;
}

template <typename Trainer>
int train(const std::string& path, Trainer trainer) {
  std::ifstream in(path, std::ios::binary);
  std::string line;
  const auto start = std::clock();
  while (std::getline(in, line)) trainer.add(in.eof() ? line : line + "\n");
  const double counting = seconds_since(start);
  std::cout << trainer.train();
  std::fprintf(stderr, "counting %.2f s, all %.2f s\n", counting, seconds_since(start));
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  const std::vector<std::string> args(argv + 1, argv + argc);
  const auto has = [&](const char* flag) {
    for (const std::string& arg : args) {
      if (arg == flag) return true;
    }
    return false;
  };
  if (args.size() < 2) {
    std::fprintf(
        stderr,
        "usage: tokenizer_probe encode|decode|train|train-unigram|llama2c|bench FILE ...\n");
    return 2;
  }
  try {
    std::ios::sync_with_stdio(false);
    if (args[0] == "train") {
      return train(args[1], engine::BpeTrainer({.vocab_size = std::stoul(args.at(2)),
                                                .min_frequency = std::stoul(args.at(4)),
                                                .split_pattern = args.at(3)}));
    }
    if (args[0] == "train-unigram") {
      return train(args[1], engine::UnigramTrainer({.vocab_size = std::stoul(args.at(2))}));
    }
    if (args[0] == "llama2c") {
      std::cout << engine::llama2c_tokenizer_json(std::filesystem::path(args[1]));
      return 0;
    }
    if (args[0] == "bench") {
      return bench(args[1], args.at(2), args.size() > 3 ? std::stoul(args[3]) : 32);
    }
    const Tokenizer tokenizer = Tokenizer::open(args[1]);
    if (args[0] == "decode") return decode(tokenizer, has("--skip-special"));
    return encode(tokenizer, {.add_special_tokens = !has("--no-special"),
                              .parse_special_tokens = !has("--no-parse")});
  } catch (const engine::Error& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return static_cast<int>(error.exit_code());
  }
}
