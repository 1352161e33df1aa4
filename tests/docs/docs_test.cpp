// The documents name what is there: error codes, files, links.
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <iterator>
#include <regex>
#include <set>
#include <string>
#include <vector>

namespace engine {
namespace {

namespace fs = std::filesystem;

const fs::path kRoot = ENGINE_SOURCE_DIR;

std::string contents(const fs::path& path) {
  std::ifstream file(path, std::ios::binary);
  EXPECT_TRUE(file) << path;
  return {std::istreambuf_iterator<char>(file), {}};
}

std::vector<fs::path> documents() {
  std::vector<fs::path> paths = {kRoot / "README.md"};
  for (const auto& entry : fs::directory_iterator(kRoot / "docs")) {
    if (entry.path().extension() == ".md") paths.push_back(entry.path());
  }
  return paths;
}

// The first group of every match.
std::set<std::string> matches(const std::string& text, const std::regex& pattern) {
  std::set<std::string> found;
  for (auto it = std::sregex_iterator(text.begin(), text.end(), pattern);
       it != std::sregex_iterator(); ++it) {
    found.insert((*it)[1].str());
  }
  return found;
}

TEST(Docs, EveryErrorCodeIsListedAndNoOther) {
  // A string literal of this form that is not an error code belongs here.
  const std::set<std::string> other = {"UTF-8"};
  const std::regex literal("\"([A-Z][A-Z0-9]*(-[A-Z0-9]+)+|INTERNAL)\"");
  std::set<std::string> thrown;
  for (const char* room : {"engine", "kernels", "models", "tokenizer", "tools", "weights"}) {
    for (const auto& entry : fs::recursive_directory_iterator(kRoot / room)) {
      const std::string extension = entry.path().extension().string();
      if (extension != ".cpp" && extension != ".h") continue;
      thrown.merge(matches(contents(entry.path()), literal));
    }
  }
  for (const std::string& word : other) thrown.erase(word);
  const std::set<std::string> listed =
      matches(contents(kRoot / "docs" / "errors.md"),
              std::regex("\n\\| `([A-Z][A-Z0-9]*(-[A-Z0-9]+)*)`(?= \\|| \\()"));
  EXPECT_GT(thrown.size(), 50u);
  for (const std::string& code : thrown) {
    EXPECT_TRUE(listed.contains(code)) << code << " is not in docs/errors.md";
  }
  for (const std::string& code : listed) {
    EXPECT_TRUE(thrown.contains(code)) << code << " of docs/errors.md is not in the sources";
  }
}

TEST(Docs, LinksLeadSomewhere) {
  int links = 0;
  for (const fs::path& document : documents()) {
    for (const std::string& target :
         matches(contents(document), std::regex("\\]\\(([^)#:]+)(#[^)]*)?\\)"))) {
      EXPECT_TRUE(fs::exists(document.parent_path() / target)) << document << ": " << target;
      ++links;
    }
  }
  EXPECT_GT(links, 5);
}

TEST(Docs, SourceFilesThatAreNamedExist) {
  int files = 0;
  for (const fs::path& document : documents()) {
    for (const std::string& name :
         matches(contents(document),
                 std::regex("((engine|kernels|models|tokenizer|tools|weights|tests|recipes|docs)/"
                            "[a-z0-9_/-]+\\.(h|cpp|py|sh|md|yaml))"))) {
      EXPECT_TRUE(fs::exists(kRoot / name)) << document << " names " << name;
      ++files;
    }
  }
  EXPECT_GT(files, 20);
}

}  // namespace
}  // namespace engine
