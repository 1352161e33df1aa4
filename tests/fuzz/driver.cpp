// Runs a fuzz entry without libFuzzer, for compilers that lack it: a small coverage-guided mutator.
//
//   fuzz_x SECONDS SEED CRASH_DIR FILE_OR_DIRECTORY...
//
// The libraries under test are compiled with -fsanitize-coverage=trace-pc, so each basic block
// reports its address here; an input that reaches a block no other one did joins the corpus. An
// input that crashes, aborts or takes ten seconds is written to CRASH_DIR. One SEED gives one
// sequence of inputs as long as no time limit intervenes.
#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <random>
#include <string>
#include <string_view>
#include <vector>

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size);
extern "C" void __sanitizer_set_death_callback(void (*callback)()) __attribute__((weak));

namespace {

constexpr size_t kMaxBytes = 8192;
constexpr unsigned kSecondsPerInput = 10;

// Blocks seen, by a hash of their address; collisions only make the search a little blinder.
constexpr size_t kBlocks = 1 << 18;
bool seen_blocks[kBlocks];
size_t num_seen_blocks = 0;

std::string current_input;
std::string crash_path;
bool crash_written = false;

void write_crash() {
  if (crash_written) return;
  crash_written = true;
  if (std::FILE* file = std::fopen(crash_path.c_str(), "wb")) {
    std::fwrite(current_input.data(), 1, current_input.size(), file);
    std::fclose(file);
  }
  std::fprintf(stderr, "input of %zu bytes is in %s\n", current_input.size(), crash_path.c_str());
}

// The process is lost anyway: calling functions that are not async-signal-safe can only lose the
// input.
void on_signal(int number) {
  if (number == SIGALRM) std::fprintf(stderr, "an input takes more than %u s\n", kSecondsPerInput);
  write_crash();
  signal(number, SIG_DFL);
  raise(number);
}

class Mutator {
 public:
  explicit Mutator(uint64_t seed) : random_(seed) {}

  size_t below(size_t n) { return n == 0 ? 0 : static_cast<size_t>(random_() % n); }

  std::string mutate(const std::vector<std::string>& corpus) {
    // New inputs are tried more often: they are where the search is.
    const size_t newest = corpus.size() - std::min<size_t>(corpus.size(), 16);
    std::string text =
        corpus[below(2) ? newest + below(corpus.size() - newest) : below(corpus.size())];
    for (size_t edits = 1 + below(5); edits > 0; --edits) edit(text, corpus);
    if (text.size() > kMaxBytes) text.resize(kMaxBytes);
    return text;
  }

 private:
  void edit(std::string& text, const std::vector<std::string>& corpus) {
    static constexpr std::string_view kTokens[] = {"{",
                                                   "}",
                                                   "[",
                                                   "]",
                                                   "\"",
                                                   "\\",
                                                   ":",
                                                   ",",
                                                   "\n",
                                                   " ",
                                                   "-",
                                                   "0",
                                                   "1",
                                                   "null",
                                                   "true",
                                                   "1e999",
                                                   "18446744073709551615",
                                                   "-1",
                                                   "\\u0000",
                                                   "\\ud800",
                                                   "\xff",
                                                   "\xc3\xa9",
                                                   "\xf0\x9f\x98\x80"};
    const size_t at = below(text.size() + 1);
    const size_t length = std::min(below(1 + below(32)), text.size() - at);
    switch (below(8)) {
      case 0:
        if (at < text.size()) text[at] = static_cast<char>(text[at] ^ (1 << below(8)));
        break;
      case 1:
        if (at < text.size()) text[at] = static_cast<char>(random_());
        break;
      case 2:
        text.insert(at, 1 + below(8), static_cast<char>(random_()));
        break;
      case 3:
        text.erase(at, length);
        break;
      case 4:
        text.insert(at, kTokens[below(std::size(kTokens))]);
        break;
      case 5:  // repeat a part of itself elsewhere
        text.insert(below(text.size() + 1), text.substr(at, length));
        break;
      case 6: {  // a part of another input
        const std::string& other = corpus[below(corpus.size())];
        const size_t from = below(other.size() + 1);
        text.insert(at, other.substr(from, below(1 + below(64))));
        break;
      }
      case 7: {  // overwrite with a number: lengths and offsets of binary formats
        static constexpr uint64_t kNumbers[] = {0,      1,       0x7f,       0xff,       0x7fff,
                                                0xffff, 1 << 20, 0x7fffffff, 0xffffffff, ~0ull};
        const uint64_t number = kNumbers[below(std::size(kNumbers))] - below(2);
        const size_t bytes = size_t{1} << below(4);
        for (size_t i = 0; i < bytes && at + i < text.size(); ++i) {
          text[at + i] = static_cast<char>(number >> (8 * i));
        }
        break;
      }
    }
  }

  std::mt19937_64 random_;
};

void run(const std::string& input) {
  current_input = input;
  alarm(kSecondsPerInput);
  // Copied to a block of exactly this size, so that reading one byte beyond it is seen.
  const std::vector<uint8_t> bytes(input.begin(), input.end());
  LLVMFuzzerTestOneInput(bytes.data(), bytes.size());
  alarm(0);
}

std::string contents(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

}  // namespace

// Must not be traced itself.
extern "C" __attribute__((no_sanitize_coverage)) void __sanitizer_cov_trace_pc() {
  const auto address = reinterpret_cast<uintptr_t>(__builtin_return_address(0));
  bool& seen = seen_blocks[(address ^ (address >> 18)) % kBlocks];
  num_seen_blocks += !seen;
  seen = true;
}

int main(int argc, char** argv) {
  if (argc < 5) {
    std::fprintf(stderr, "usage: %s SECONDS SEED CRASH_DIR FILE_OR_DIRECTORY...\n", argv[0]);
    return 2;
  }
  const double seconds = std::atof(argv[1]);
  const uint64_t seed = std::strtoull(argv[2], nullptr, 10);
  const std::string name = std::filesystem::path(argv[0]).filename().string();
  crash_path = std::string(argv[3]) + "/" + name + "-" + std::to_string(seed) + ".crash";
  for (const int number : {SIGABRT, SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGALRM}) {
    signal(number, on_signal);
  }
  if (__sanitizer_set_death_callback != nullptr) __sanitizer_set_death_callback(write_crash);

  std::vector<std::string> corpus;
  for (int i = 4; i < argc; ++i) {
    if (!std::filesystem::is_directory(argv[i])) {
      corpus.push_back(contents(argv[i]));
      continue;
    }
    std::vector<std::filesystem::path> files;
    for (const auto& entry : std::filesystem::directory_iterator(argv[i])) {
      files.push_back(entry.path());
    }
    std::sort(files.begin(), files.end());
    for (const auto& file : files) corpus.push_back(contents(file));
  }
  if (corpus.empty()) corpus.emplace_back();
  for (const std::string& input : corpus) run(input);
  std::printf("%s: %zu seeds reach %zu blocks\n", name.c_str(), corpus.size(), num_seen_blocks);

  Mutator mutator(seed);
  uint64_t runs = 0;
  const auto start = std::chrono::steady_clock::now();
  const auto elapsed = [&start] {
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  };
  while (elapsed() < seconds) {
    std::string input = mutator.mutate(corpus);
    const size_t before = num_seen_blocks;
    run(input);
    ++runs;
    if (num_seen_blocks > before) corpus.push_back(std::move(input));
  }
  std::printf("%s: %llu inputs in %.0f s, corpus %zu, %zu blocks, no crash\n", name.c_str(),
              static_cast<unsigned long long>(runs), elapsed(), corpus.size(), num_seen_blocks);
  return 0;
}
