// Runs the fuzz entry over mutations of rows that look like data, from a fixed seed.
#include <gtest/gtest.h>

#include <random>
#include <string>
#include <vector>

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size);

namespace {

TEST(Fuzz, MutatedRowsNeverBreakTheReaders) {
  const std::vector<std::string> seeds = {
      "{\"text\": \"h\\u00e9llo\", \"a\": 1, \"b\": \"x\", \"label\": \"news\"}\n{\"text\": "
      "\"\"}\n",
      "[{\"prompt\": \"p\", \"completion\": \"c\"},\n{\"prompt\": \"q\", \"completion\": \"d\"}]",
      "{\"input_ids\": [1, 2, 3], \"labels\": [-100, 2, 3]}\n{\"input_ids\": [], \"labels\": []}",
      "\xef\xbb\xbfone\r\ntwo\n\nthr\xc3\xa9"
      "e\n",
      "[[{}, []], {\"a\": {\"a\": [1, [2]]}}]"};
  const std::vector<std::string> pieces = {"{",
                                           "}",
                                           "[",
                                           "]",
                                           "\"",
                                           "\\",
                                           ",",
                                           ":",
                                           "\n",
                                           "\r\n",
                                           " ",
                                           "\\ud800",
                                           "\\u0000",
                                           "\xff",
                                           "\xc3",
                                           "1e999",
                                           "-",
                                           "null",
                                           "\"text\": ",
                                           "\"input_ids\": [",
                                           "99999999999999999999",
                                           std::string(1, '\0'),
                                           std::string(5000, '['),
                                           std::string(5000, 'x')};
  std::mt19937 random(20240601);
  for (int trial = 0; trial < 6000; ++trial) {
    std::string input = seeds[random() % seeds.size()];
    for (uint32_t edits = random() % 5; edits > 0; --edits) {
      const size_t at = random() % (input.size() + 1);
      switch (random() % 4) {
        case 0:
          input.insert(at, pieces[random() % pieces.size()]);
          break;
        case 1:
          input.erase(at, random() % 10);
          break;
        case 2:
          if (at < input.size()) input[at] = static_cast<char>(random());
          break;
        default:
          input.insert(at, seeds[random() % seeds.size()]);
      }
    }
    input.insert(input.begin(), static_cast<char>(random()));
    ASSERT_EQ(LLVMFuzzerTestOneInput(reinterpret_cast<const uint8_t*>(input.data()), input.size()),
              0);
  }
}

}  // namespace
