#include "tokenizer/bpe.h"

#include <gtest/gtest.h>

#include <random>

#include "engine/core/error.h"
#include "tests/tokenizer/tokenizer_test_util.h"
#include "tokenizer/byte_level.h"

namespace engine::tokenizer {
namespace {

using engine::testing::byte_vocab;
using engine::testing::Ids;

// A byte-level model over the bytes and `merges`, each merge making a new id from 256 on.
struct Toy {
  Vocabulary vocabulary;
  MergeTable merges;
  std::vector<std::pair<int32_t, int32_t>> by_rank;
};

Toy make_toy(const std::vector<std::pair<std::string, std::string>>& merges) {
  Toy toy;
  const std::vector<std::string> bytes = byte_vocab();
  for (size_t id = 0; id < bytes.size(); ++id) {
    toy.vocabulary.add(bytes[id], static_cast<int32_t>(id));
  }
  for (const auto& [left, right] : merges) {
    const std::string merged = spell_bytes(left + right);
    if (toy.vocabulary.find(merged) < 0) toy.vocabulary.add(merged, toy.vocabulary.id_limit());
    const int32_t l = toy.vocabulary.find(spell_bytes(left));
    const int32_t r = toy.vocabulary.find(spell_bytes(right));
    toy.merges.insert(l, r,
                      {static_cast<uint32_t>(toy.by_rank.size()), toy.vocabulary.find(merged)});
    toy.by_rank.emplace_back(l, r);
  }
  return toy;
}

// The definition: apply the earliest merge at its leftmost place until none is left.
Ids encode_by_definition(const Toy& toy, std::string_view text) {
  Ids ids;
  for (const char byte : text) ids.push_back(static_cast<unsigned char>(byte));
  while (true) {
    size_t best = 0;
    uint32_t best_rank = Merge::kNone;
    for (size_t i = 0; i + 1 < ids.size(); ++i) {
      const uint32_t rank = toy.merges.find(ids[i], ids[i + 1]).rank;
      if (rank < best_rank) {
        best_rank = rank;
        best = i;
      }
    }
    if (best_rank == Merge::kNone) return ids;
    ids[best] = toy.merges.find(ids[best], ids[best + 1]).id;
    ids.erase(ids.begin() + static_cast<std::ptrdiff_t>(best) + 1);
  }
}

Ids encode(const Bpe& bpe, std::string_view text) {
  const auto scratch = bpe.make_scratch();
  Ids ids;
  bpe.encode(text, *scratch, &ids);
  return ids;
}

TEST(Bpe, ShortAndLongPiecesFollowTheDefinition) {
  const std::vector<std::pair<std::string, std::string>> merges = {
      {"b", "c"}, {"a", "b"},  {"a", "a"},   {"ab", "c"},    {"a", "bc"}, {"aa", "aa"},
      {"c", "c"}, {"bc", "a"}, {"cc", "ab"}, {"abc", "abc"}, {"aa", "a"}, {"aaaa", "aaaa"}};
  const Toy toy = make_toy(merges);
  const Bpe bpe(toy.vocabulary, toy.merges, {.byte_level = true});
  std::mt19937 random(1);
  for (int round = 0; round < 400; ++round) {
    // Lengths on both sides of the switch to the queue.
    std::string text(1 + random() % 160, ' ');
    for (char& c : text) c = static_cast<char>('a' + random() % 3);
    EXPECT_EQ(encode(bpe, text), encode_by_definition(toy, text)) << text;
  }
}

TEST(Bpe, CacheDoesNotChangeResults) {
  const Toy toy = make_toy({{"a", "b"}, {"ab", "a"}, {"b", "b"}});
  const Bpe bpe(toy.vocabulary, toy.merges, {.byte_level = true});
  const auto scratch = bpe.make_scratch();
  std::mt19937 random(2);
  for (int round = 0; round < 20000; ++round) {
    std::string text(1 + random() % 40, ' ');
    for (char& c : text) c = static_cast<char>('a' + random() % 2);
    Ids ids = {-7};
    bpe.encode(text, *scratch, &ids);
    Ids expected = encode_by_definition(toy, text);
    expected.insert(expected.begin(), -7);
    ASSERT_EQ(ids, expected) << text;
  }
}

TEST(Bpe, OneLongWordIsNotQuadratic) {
  // 1 MB without a cut: no time if merging is n log n, an hour if it were quadratic.
  const Toy toy = make_toy({{"a", "a"}, {"aa", "aa"}, {"aaaa", "aaaa"}});
  const Bpe bpe(toy.vocabulary, toy.merges, {.byte_level = true});
  const Ids ids = encode(bpe, std::string((1 << 20) + 3, 'a'));
  EXPECT_EQ(ids.size(), (1u << 20) / 8 + 2);
}

TEST(Bpe, IgnoreMergesTakesWholePieces) {
  Toy toy = make_toy({{"a", "b"}});
  toy.vocabulary.add("xyz", 300);
  EXPECT_EQ(encode(Bpe(toy.vocabulary, toy.merges, {.byte_level = true}), "xyz").size(), 3u);
  const Bpe whole(toy.vocabulary, toy.merges, {.byte_level = true, .ignore_merges = true});
  EXPECT_EQ(encode(whole, "xyz"), Ids{300});
  EXPECT_EQ(encode(whole, "ab"), Ids{256});
  EXPECT_EQ(encode(whole, "xyzx").size(), 4u);
}

Vocabulary make_characters(const std::vector<std::string>& tokens) {
  Vocabulary vocabulary;
  for (const std::string& token : tokens) vocabulary.add(token, vocabulary.id_limit());
  return vocabulary;
}

TEST(Bpe, UnknownCharacters) {
  const Vocabulary characters = make_characters({"<unk>", "a", "b", "<0xC3>", "<0xA9>"});
  const auto ids = [&](BpeOptions options, std::string_view text) {
    return encode(Bpe(characters, {}, options), text);
  };
  EXPECT_EQ(ids({}, "axyb"), (Ids{1, 2}));  // no unknown token: they vanish
  EXPECT_EQ(ids({.unk_token = "<unk>"}, "axyb"), (Ids{1, 0, 0, 2}));
  EXPECT_EQ(ids({.unk_token = "<unk>", .fuse_unk = true}, "axyb\u00e9"), (Ids{1, 0, 2, 0}));
  EXPECT_EQ(ids({.byte_fallback = true, .unk_token = "<unk>"}, "a\u00e9\u00e8"), (Ids{1, 3, 4, 0}));
  try {
    ids({.unk_token = "<missing>"}, "x");
    ADD_FAILURE() << "no error";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), "TOK-UNKNOWN");
  }
}

TEST(Bpe, MergesFromRanks) {
  Vocabulary by_bytes = make_characters({"a", "b", "ab", "ba", "aba"});
  std::vector<RankedToken> tokens;
  for (int32_t id = 0; id < 5; ++id) {
    tokens.push_back({by_bytes.token(id), id, static_cast<uint32_t>(id)});
  }
  const MergeTable merges = merges_from_ranks(tokens, by_bytes);
  EXPECT_EQ(merges.find(0, 1).id, 2);
  EXPECT_EQ(merges.find(2, 0).rank, 4u);  // ab + a
  EXPECT_EQ(merges.find(0, 3).id, 4);     // a + ba
  EXPECT_EQ(merges.find(2, 2).rank, Merge::kNone);
}

}  // namespace
}  // namespace engine::tokenizer
