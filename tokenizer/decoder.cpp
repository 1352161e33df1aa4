#include "tokenizer/decoder.h"

#include "tokenizer/byte_level.h"
#include "tokenizer/clean_up.h"
#include "tokenizer/unicode.h"

namespace engine::tokenizer {
namespace {

// A step whose streams are of type Stream, made from Options.
template <typename Stream, typename Options>
class Step final : public DecoderStep {
 public:
  explicit Step(Options options) : options_(std::move(options)) {}
  std::unique_ptr<DecoderStream> make_stream(DecoderStream* next) const override {
    return std::make_unique<Stream>(options_, next);
  }

 private:
  Options options_;
};

struct NoOptions {};

class ByteLevelStream final : public DecoderStream {
 public:
  ByteLevelStream(const NoOptions&, DecoderStream* next) : next_(next) {}
  void push(Fragment fragment) override {
    bytes_.clear();
    if (!append_unspelled_bytes(fragment.text, &bytes_)) bytes_.assign(fragment.text);
    text_.clear();
    utf8_.push(bytes_, &text_);
    send();
  }
  void finish() override {
    text_.clear();
    utf8_.finish(&text_);
    send();
    next_->finish();
  }

 private:
  void send() {
    if (text_.empty()) return;
    next_->push({text_, first_});
    first_ = false;
  }
  DecoderStream* next_;
  LossyUtf8 utf8_;
  std::string bytes_, text_;
  bool first_ = true;
};

class ByteFallbackStream final : public DecoderStream {
 public:
  ByteFallbackStream(const NoOptions&, DecoderStream* next) : next_(next) {}
  void push(Fragment fragment) override {
    if (const int byte = byte_of_token(fragment.text); byte >= 0) {
      run_.push_back(static_cast<char>(byte));
      return;
    }
    flush();
    next_->push(fragment);
  }
  void finish() override {
    flush();
    next_->finish();
  }

 private:
  // Only the whole run tells whether it is text.
  void flush() {
    if (run_.empty()) return;
    if (find_invalid_utf8(run_) == std::string_view::npos) {
      next_->push({run_, true});
    } else {
      for (size_t i = 0; i < run_.size(); ++i) next_->push({"\xEF\xBF\xBD", true});
    }
    run_.clear();
  }
  DecoderStream* next_;
  std::string run_;
};

class FuseStream final : public DecoderStream {
 public:
  FuseStream(const NoOptions&, DecoderStream* next) : next_(next) {}
  void push(Fragment fragment) override {
    next_->push({fragment.text, first_});
    first_ = false;
  }
  void finish() override { next_->finish(); }

 private:
  DecoderStream* next_;
  bool first_ = true;
};

struct ReplaceOptions {
  std::string text, content;
};

class ReplaceStream final : public DecoderStream {
 public:
  ReplaceStream(const ReplaceOptions& options, DecoderStream* next)
      : options_(options), next_(next) {}
  void push(Fragment fragment) override {
    if (fragment.begins_token) flush();
    begins_token_ = begins_token_ || fragment.begins_token;
    waiting_ += fragment.text;
    std::string out;
    size_t copied = 0;
    for (size_t at; (at = waiting_.find(options_.text, copied)) != std::string::npos;
         copied = at + options_.text.size()) {
      out.append(waiting_, copied, at - copied);
      out += options_.content;
    }
    // Keep what may be the beginning of a match that the token's next fragment completes.
    size_t keep = std::min(options_.text.size() - 1, waiting_.size() - copied);
    while (keep > 0 && waiting_.compare(waiting_.size() - keep, keep, options_.text, 0, keep) != 0)
      --keep;
    out.append(waiting_, copied, waiting_.size() - keep - copied);
    waiting_.erase(0, waiting_.size() - keep);
    send(out);
  }
  void finish() override {
    flush();
    next_->finish();
  }

 private:
  void flush() {
    send(waiting_);
    waiting_.clear();
    if (begins_token_) next_->push({"", true});  // nothing is left of it, but it is a token
    begins_token_ = false;
  }
  void send(std::string_view text) {
    if (text.empty()) return;
    next_->push({text, begins_token_});
    begins_token_ = false;
  }
  const ReplaceOptions& options_;
  DecoderStream* next_;
  std::string waiting_;
  bool begins_token_ = false;
};

class StripStream final : public DecoderStream {
 public:
  StripStream(const StripOptions& options, DecoderStream* next) : options_(options), next_(next) {}
  void push(Fragment fragment) override {
    if (fragment.begins_token) {
      end_token();
      to_strip_ = options_.start;
      begins_token_ = true;
    }
    std::string_view text = fragment.text;
    const std::string& c = options_.character;
    while (to_strip_ > 0 && text.substr(0, c.size()) == c) {
      text.remove_prefix(c.size());
      --to_strip_;
    }
    if (text.empty()) return;
    to_strip_ = 0;
    // Of the trailing run the last `stop` may yet turn out to end the token.
    waiting_ += text;
    size_t run = 0;
    while (run < options_.stop && ends_with(waiting_.size() - run * c.size())) ++run;
    const size_t ready = waiting_.size() - run * c.size();
    send(std::string_view(waiting_).substr(0, ready));
    waiting_.erase(0, ready);
  }
  void finish() override {
    end_token();
    next_->finish();
  }

 private:
  bool ends_with(size_t end) const {
    const std::string& c = options_.character;
    return end >= c.size() && waiting_.compare(end - c.size(), c.size(), c) == 0;
  }
  void end_token() {
    waiting_.clear();
    if (begins_token_) next_->push({"", true});  // nothing is left of it, but it is a token
    begins_token_ = false;
  }
  void send(std::string_view text) {
    if (text.empty()) return;
    next_->push({text, begins_token_});
    begins_token_ = false;
  }
  const StripOptions& options_;
  DecoderStream* next_;
  size_t to_strip_ = 0;
  std::string waiting_;
  bool begins_token_ = false;
};

// The base of steps that need tokens whole: collects fragments and hands over every token when the
// next one begins.
class WholeTokenStream : public DecoderStream {
 public:
  explicit WholeTokenStream(DecoderStream* next) : next_(next) {}
  void push(Fragment fragment) final {
    if (fragment.begins_token) flush(/*is_last=*/false);
    token_ += fragment.text;
    has_token_ = true;
  }
  void finish() final {
    flush(/*is_last=*/true);
    next_->finish();
  }

 protected:
  // What `token` becomes.
  virtual std::string rewrite(const std::string& token, bool is_first, bool is_last) = 0;

 private:
  void flush(bool is_last) {
    if (!has_token_) return;
    next_->push({rewrite(token_, is_first_, is_last), true});
    is_first_ = has_token_ = false;
    token_.clear();
  }
  DecoderStream* next_;
  std::string token_;
  bool has_token_ = false;
  bool is_first_ = true;
};

std::string replace_all(const std::string& text, std::string_view from, std::string_view to) {
  if (from.empty()) return text;
  std::string out;
  size_t copied = 0;
  for (size_t at; (at = text.find(from, copied)) != std::string::npos; copied = at + from.size()) {
    out.append(text, copied, at - copied);
    out += to;
  }
  out.append(text, copied);
  return out;
}

struct RegexReplaceOptions {
  Regex pattern;
  std::string content;
};

class RegexReplaceStream final : public WholeTokenStream {
 public:
  RegexReplaceStream(const RegexReplaceOptions& options, DecoderStream* next)
      : WholeTokenStream(next), options_(options) {}

 protected:
  std::string rewrite(const std::string& token, bool, bool) override {
    std::string out;
    MatchIterator matches(options_.pattern, token, scratch_);
    size_t copied = 0;
    for (Match match; matches.next(&match); copied = match.end) {
      out.append(token, copied, match.begin - copied);
      out += options_.content;
    }
    out.append(token, copied);
    return out;
  }

 private:
  const RegexReplaceOptions& options_;
  RegexScratch scratch_;
};

struct WordPieceOptions {
  std::string prefix;
  bool cleanup;
};

class WordPieceStream final : public WholeTokenStream {
 public:
  WordPieceStream(const WordPieceOptions& options, DecoderStream* next)
      : WholeTokenStream(next), options_(options) {}

 protected:
  std::string rewrite(const std::string& token, bool is_first, bool) override {
    std::string text = token;
    if (!is_first) {
      text =
          token.starts_with(options_.prefix) ? token.substr(options_.prefix.size()) : " " + token;
    }
    return options_.cleanup ? clean_up_word_piece(std::move(text)) : text;
  }

 private:
  const WordPieceOptions& options_;
};

class WordEndStream final : public WholeTokenStream {
 public:
  WordEndStream(const std::string& suffix, DecoderStream* next)
      : WholeTokenStream(next), suffix_(suffix) {}

 protected:
  std::string rewrite(const std::string& token, bool, bool is_last) override {
    return replace_all(token, suffix_, is_last ? "" : " ");
  }

 private:
  const std::string& suffix_;
};

struct MetaspaceDecoderOptions {
  std::string replacement;
  bool drop_first;
};

class MetaspaceStream final : public DecoderStream {
 public:
  MetaspaceStream(const MetaspaceDecoderOptions& options, DecoderStream* next)
      : options_(options), next_(next) {}
  void push(Fragment fragment) override {
    if (fragment.begins_token) ++num_tokens_;
    const std::string& mark = options_.replacement;
    const bool drop = options_.drop_first && num_tokens_ == 1;
    std::string out;
    for (size_t at = 0; at < fragment.text.size();) {
      if (fragment.text.substr(at, mark.size()) == mark) {
        if (!drop) out += ' ';
        at += mark.size();
      } else {
        out += fragment.text[at++];
      }
    }
    next_->push({out, fragment.begins_token});
  }
  void finish() override { next_->finish(); }

 private:
  const MetaspaceDecoderOptions& options_;
  DecoderStream* next_;
  size_t num_tokens_ = 0;
};

class JoinStream final : public DecoderStream {
 public:
  JoinStream(const NoOptions&, DecoderStream* next) : next_(next) {}
  void push(Fragment fragment) override {
    if (fragment.begins_token && !first_) next_->push({" ", true});
    first_ = false;
    next_->push(fragment);
  }
  void finish() override { next_->finish(); }

 private:
  DecoderStream* next_;
  bool first_ = true;
};

}  // namespace

std::shared_ptr<const DecoderStep> make_byte_level_decoder() {
  return std::make_shared<Step<ByteLevelStream, NoOptions>>(NoOptions{});
}
std::shared_ptr<const DecoderStep> make_byte_fallback_decoder() {
  return std::make_shared<Step<ByteFallbackStream, NoOptions>>(NoOptions{});
}
std::shared_ptr<const DecoderStep> make_fuse_decoder() {
  return std::make_shared<Step<FuseStream, NoOptions>>(NoOptions{});
}
std::shared_ptr<const DecoderStep> make_replace_decoder(std::string text, std::string content) {
  return std::make_shared<Step<ReplaceStream, ReplaceOptions>>(
      ReplaceOptions{std::move(text), std::move(content)});
}
std::shared_ptr<const DecoderStep> make_strip_decoder(StripOptions options) {
  return std::make_shared<Step<StripStream, StripOptions>>(std::move(options));
}
std::shared_ptr<const DecoderStep> make_metaspace_decoder(std::string replacement,
                                                          bool drop_first) {
  return std::make_shared<Step<MetaspaceStream, MetaspaceDecoderOptions>>(
      MetaspaceDecoderOptions{std::move(replacement), drop_first});
}
std::shared_ptr<const DecoderStep> make_join_decoder() {
  return std::make_shared<Step<JoinStream, NoOptions>>(NoOptions{});
}

std::shared_ptr<const DecoderStep> make_regex_replace_decoder(Regex pattern, std::string content) {
  return std::make_shared<Step<RegexReplaceStream, RegexReplaceOptions>>(
      RegexReplaceOptions{std::move(pattern), std::move(content)});
}
std::shared_ptr<const DecoderStep> make_word_piece_decoder(std::string prefix, bool cleanup) {
  return std::make_shared<Step<WordPieceStream, WordPieceOptions>>(
      WordPieceOptions{std::move(prefix), cleanup});
}
std::shared_ptr<const DecoderStep> make_word_end_decoder(std::string suffix) {
  return std::make_shared<Step<WordEndStream, std::string>>(std::move(suffix));
}

}  // namespace engine::tokenizer
