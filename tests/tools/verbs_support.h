// Runs the built program, and makes the small models that the tests of its verbs use.
#pragma once

#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

namespace engine::testing {

namespace fs = std::filesystem;

// A directory that goes away with the program.
class Scratch {
 public:
  Scratch() : path_(fs::temp_directory_path() / ("engine_verbs_test." + std::to_string(getpid()))) {
    fs::remove_all(path_);
    fs::create_directories(path_);
  }
  ~Scratch() { fs::remove_all(path_); }
  std::string operator/(const std::string& name) const { return (path_ / name).string(); }

 private:
  fs::path path_;
};
inline const Scratch& scratch() {
  static const Scratch instance;
  return instance;
}

inline std::string read(const fs::path& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}
inline std::string write(const std::string& name, const std::string& text) {
  const std::string path = scratch() / name;
  std::ofstream(path, std::ios::binary) << text;
  return path;
}

struct Result {
  int code = -1;
  std::string out, err;
};

// `engine <arguments>` through the shell. One thread: the models are tiny.
inline Result run(const std::string& arguments, const std::string& input = "") {
  const std::string in = write("stdin", input), err = scratch() / "stderr";
  const std::string command = "OMP_NUM_THREADS=1 " + std::string(ENGINE_COMMAND) + " " + arguments +
                              " < " + in + " 2> " + err;
  FILE* pipe = popen(command.c_str(), "r");
  Result result;
  char buffer[4096];
  for (size_t n; (n = fread(buffer, 1, sizeof buffer, pipe)) > 0;) result.out.append(buffer, n);
  const int status = pclose(pipe);
  if (WIFEXITED(status)) result.code = WEXITSTATUS(status);
  result.err = read(err);
  return result;
}

inline bool has(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

inline std::string golden(const std::string& name) {
  return std::string(ENGINE_SOURCE_DIR) + "/tests/models/golden/" + name;
}

// A byte-level tokenizer of 300 tokens, trained by the program itself; made once.
inline const std::string& tiny_tokenizer() {
  static const std::string directory = [] {
    std::string text;
    for (int i = 0; i < 40; ++i) text += "the cat sat on the mat and the dog ate the hat\n";
    const std::string out = scratch() / "tokenizer";
    run("tokenize train --files " + write("corpus.txt", text) + " --vocab-size 300 --out " + out);
    return out;
  }();
  return directory;
}

}  // namespace engine::testing
