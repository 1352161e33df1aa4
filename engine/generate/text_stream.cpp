#include "engine/generate/text_stream.h"

#include <algorithm>

namespace engine {

TextStream::TextStream(const Tokenizer& tokenizer, std::span<const int32_t> prompt,
                       std::vector<std::string> stop, bool skip_special_tokens)
    : decoder_(tokenizer, skip_special_tokens), stop_(std::move(stop)) {
  std::erase(stop_, "");
  for (const int32_t id : prompt) decoder_.push(id);
}

std::string TextStream::push(int32_t id) {
  if (stopped_) return "";
  held_ += decoder_.push(id);
  return release(false);
}

std::string TextStream::finish() {
  if (stopped_) return "";
  held_ += decoder_.finish();
  return release(true);
}

// Takes from held_ what no stop string can reach any more.
std::string TextStream::release(bool all) {
  size_t end = held_.size();
  for (const std::string& stop : stop_) {
    const size_t found = held_.find(stop);
    if (found == std::string::npos) continue;
    end = std::min(end, found);
    stopped_ = true;
  }
  if (!stopped_ && !all) {
    size_t keep = 0;  // longest end of held_ that begins a stop string
    for (const std::string& stop : stop_) {
      for (size_t n = std::min(stop.size() - 1, held_.size()); n > keep; --n) {
        if (held_.ends_with(std::string_view(stop).substr(0, n))) keep = n;
      }
    }
    end -= keep;
  }
  std::string out = held_.substr(0, end);
  held_.erase(0, end);
  text_ += out;
  return out;
}

}  // namespace engine
