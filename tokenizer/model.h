// The stage that turns one piece of text into token ids.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "tokenizer/vocabulary.h"

namespace engine::tokenizer {

// Working memory of one thread (caches, queues), made by the model that uses it.
class ModelScratch {
 public:
  virtual ~ModelScratch() = default;
};

class Model {
 public:
  virtual ~Model() = default;
  // Made of merges of pairs, of whatever kind.
  virtual bool is_bpe() const { return false; }
  // What people call it: "byte-level BPE".
  virtual std::string name() const = 0;
  // Token texts as they stand in the file.
  virtual const Vocabulary& vocabulary() const = 0;
  virtual std::unique_ptr<ModelScratch> make_scratch() const = 0;
  // Appends the ids of `piece`, which is not empty.
  virtual void encode(std::string_view piece, ModelScratch& scratch,
                      std::vector<int32_t>* ids) const = 0;
};

}  // namespace engine::tokenizer
