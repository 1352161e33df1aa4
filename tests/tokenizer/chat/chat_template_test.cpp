// Templates from a tokenizer's files, conversations, and masks of tokens.
#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <functional>
#include <nlohmann/json.hpp>

#include "engine/core/error.h"
#include "tokenizer/chat/assistant_spans.h"
#include "tokenizer/chat/token_mask.h"

namespace engine {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

const fs::path kGolden = ENGINE_SOURCE_DIR "/tests/tokenizer/chat/golden";

// A copy of the byte-level tokenizer with other files beside it.
class Directory {
 public:
  explicit Directory(const std::string& config = "{}") {
    static int count = 0;
    path_ = fs::temp_directory_path() /
            ("engine_chat_" + std::to_string(::getpid()) + "_" + std::to_string(count++));
    fs::remove_all(path_);
    fs::create_directories(path_);
    fs::copy_file(kGolden / "byte_level/tokenizer.json", path_ / "tokenizer.json");
    write("tokenizer_config.json", config);
  }
  ~Directory() { fs::remove_all(path_); }
  Directory(const Directory&) = delete;
  Directory& operator=(const Directory&) = delete;

  void write(const std::string& name, const std::string& contents) const {
    fs::create_directories((path_ / name).parent_path());
    std::ofstream(path_ / name) << contents;
  }
  const fs::path& path() const { return path_; }

 private:
  fs::path path_;
};

Conversation conversation(const std::string& json) {
  return read_conversation(Json::parse(json));
}

const char* const kHello = R"({"messages": [{"role": "user", "content": "Hello"}]})";

std::string rendered(const Directory& directory, const std::string& json = kHello,
                     const ChatTemplateOptions& options = {}, bool prompt = false) {
  const Tokenizer tokenizer = Tokenizer::open(directory.path());
  return ChatTemplate::open(tokenizer, options)
      .render(conversation(json), {.add_generation_prompt = prompt})
      .text;
}

std::string code_of(const std::function<void()>& action) {
  try {
    action();
  } catch (const Error& error) {
    return error.code();
  }
  return "none";
}

TEST(ChatTemplate, FilesInTheOrderOfTransformers) {
  Directory directory;
  EXPECT_EQ(code_of([&] { rendered(directory); }), "CHAT-TEMPLATE");
  EXPECT_FALSE(ChatTemplate::available(Tokenizer::open(directory.path())));
  directory.write("chat_template.json", R"({"chat_template": "json"})");
  EXPECT_EQ(rendered(directory), "json");
  directory.write("tokenizer_config.json", R"({"chat_template": "config"})");
  EXPECT_EQ(rendered(directory), "config");
  directory.write("tokenizer_config.json",
                  R"({"chat_template": [{"name": "default", "template": "a"},
                                        {"name": "tool_use", "template": "b"}]})");
  EXPECT_EQ(rendered(directory), "a");
  const std::string tools = R"({"messages": [{"role": "user", "content": ""}], "tools": [{}]})";
  EXPECT_EQ(rendered(directory, tools), "b");
  EXPECT_EQ(rendered(directory, kHello, {.name = "tool_use"}), "b");
  EXPECT_EQ(code_of([&] { rendered(directory, kHello, {.name = "rag"}); }), "CHAT-TEMPLATE");
  directory.write("additional_chat_templates/rag.jinja", "rag");
  EXPECT_EQ(rendered(directory, kHello, {.name = "rag"}), "rag");
  EXPECT_EQ(code_of([&] { rendered(directory); }), "CHAT-TEMPLATE");  // jinja files hide the others
  directory.write("chat_template.jinja", "jinja");
  EXPECT_EQ(rendered(directory), "jinja");
  EXPECT_EQ(rendered(directory, tools), "jinja");
  EXPECT_EQ(rendered(directory, kHello, {.text = "mine"}), "mine");
}

TEST(ChatTemplate, SavedTokenizersKeepTheirTemplates) {
  Directory directory, copy;
  directory.write("chat_template.jinja", "jinja");
  directory.write("additional_chat_templates/rag.jinja", "rag");
  const Tokenizer tokenizer = Tokenizer::open(directory.path());
  const uint64_t fingerprint = tokenizer.fingerprint();
  tokenizer.save(copy.path());
  EXPECT_EQ(rendered(copy, kHello, {.name = "rag"}), "rag");
  EXPECT_EQ(Tokenizer::open(copy.path()).fingerprint(), fingerprint);
  copy.write("additional_chat_templates/rag.jinja", "other");
  EXPECT_NE(Tokenizer::open(copy.path()).fingerprint(), fingerprint);
}

TEST(ChatTemplate, SpecialTokensAreVariables) {
  Directory directory(R"({"bos_token": {"content": "<s>", "lstrip": false}, "eos_token": "<|end|>",
                          "unk_token": null, "chat_template":
      "{{ bos_token }}|{{ eos_token }}|{{ unk_token is defined }}|{{ pad_token is defined }}"})");
  EXPECT_EQ(rendered(directory), "<s>|<|end|>|False|False");
  directory.write("special_tokens_map.json", R"({"pad_token": "<pad>", "eos_token": "<other>"})");
  EXPECT_EQ(rendered(directory), "<s>|<|end|>|False|True");
}

TEST(ChatTemplate, VariablesOfTheRow) {
  Directory directory(R"({"chat_template":
      "{{ tools }}{{ documents }}{{ add_generation_prompt }}{{ enable_thinking }}"})");
  EXPECT_EQ(rendered(directory), "NoneNoneFalse");
  EXPECT_EQ(rendered(directory, R"({"messages": [{"role": "user"}], "tools": "[{\"a\": 1}]",
                                    "documents": [{"title": "t"}],
                                    "chat_template_kwargs": {"enable_thinking": false}})",
                     {}, true),
            "[{'a': 1}][{'title': 't'}]TrueFalse");
}

TEST(ChatTemplate, ErrorsSayWhatTheTemplateRaised) {
  Directory directory(R"({"chat_template": "{{ raise_exception('No system role') }}"})");
  try {
    rendered(directory);
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), "CHAT-RENDER");
    EXPECT_EQ(error.exit_code(), ExitCode::data);
    EXPECT_NE(std::string(error.what()).find("TemplateError: No system role"), std::string::npos);
  }
  directory.write("chat_template.jinja", "{% for %}");
  try {
    rendered(directory);
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), "CHAT-SYNTAX");
    EXPECT_EQ(error.exit_code(), ExitCode::checkpoint);
  }
  directory.write("chat_template.jinja", "{{ strftime_now('%d') }}");
  EXPECT_EQ(code_of([&] { rendered(directory); }), "CHAT-RENDER");
  EXPECT_EQ(rendered(directory, kHello, chat_template_options("", "2024-07-26", "--date")), "26");
  for (const char* date : {"2024-02-30", "26 Jul", "2024-7", "2024-07-26x", "2024-13-01"}) {
    EXPECT_EQ(code_of([&] { chat_template_options("", date, "--date"); }), "CFG-RANGE") << date;
  }
  EXPECT_EQ(code_of([] { chat_template_options("no/such.jinja", "", ""); }), "IO-MISSING");
}

TEST(Conversation, MessagesAsTransformersPassesThem) {
  const auto text = [](const std::string& json) {
    Directory directory(R"({"chat_template": "{{ messages|tojson }}"})");
    return rendered(directory, json);
  };
  EXPECT_EQ(
      text(R"({"messages": [{"role": "user", "content": "a", "tool_calls": null, "x": 1.0}]})"),
      R"([{"role": "user", "content": "a", "x": 1.0}])");
  EXPECT_EQ(text(R"({"messages": [{"role": "assistant", "reasoning": "r", "content": "a"}]})"),
            R"([{"thinking": "r", "role": "assistant", "reasoning": "r", "content": "a", )"
            R"("reasoning_content": "r"}])");
  EXPECT_EQ(text(R"({"messages": [{"role": "assistant", "content": "a", "weight": 0}]})"),
            R"([{"role": "assistant", "content": "a"}])");
  EXPECT_EQ(
      text(R"({"messages": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]})"),
      R"([{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}])");
}

TEST(Conversation, MalformedOnesAreNamed) {
  for (const char* json :
       {"{}", R"({"messages": 3})", R"({"messages": []})", R"({"messages": ["hi"]})",
        R"({"messages": [{"content": "a"}]})", R"({"messages": [{"role": 1}]})",
        R"({"messages": [{"role": "user", "train": "no"}]})",
        R"({"messages": [{"role": "user", "weight": 0.5}]})",
        R"({"messages": [{"role": "user"}], "tools": 3})",
        R"({"messages": [{"role": "user"}], "tools": ["a"]})",
        R"({"messages": [{"role": "user"}], "tools": "not json"})",
        R"({"messages": [{"role": "user"}], "chat_template_kwargs": []})"}) {
    EXPECT_EQ(code_of([&] { conversation(json); }), "CHAT-MESSAGES") << json;
  }
  std::string deep = R"({"messages": [{"role": "user", "content": )";
  for (int i = 0; i < 100000; ++i) deep += "[";
  for (int i = 0; i < 100000; ++i) deep += "]";
  EXPECT_EQ(code_of([&] { conversation(deep + "}]}"); }), "CHAT-MESSAGES");
}

TEST(ChatTemplate, ContinuesTheLastMessage) {
  Directory directory(R"({"chat_template":
      "{% for m in messages %}[{{ m.role }}]{{ m.content }}<|end|>{% endfor %}"})");
  const Tokenizer tokenizer = Tokenizer::open(directory.path());
  const auto text = [&](const std::string& source, const std::string& content) {
    Conversation chat = conversation(kHello);
    Json row = {{"messages", {{{"role", "assistant"}, {"content", content}}}}};
    return ChatTemplate::open(tokenizer, {.text = source})
        .render(read_conversation(row), {.continue_final_message = true})
        .text;
  };
  const std::string plain =
      "{% for m in messages %}[{{ m.role }}]{{ m.content }}<|end|>{% endfor %}";
  EXPECT_EQ(text(plain, "The answer is "), "[assistant]The answer is ");
  const std::string trims = "{% for m in messages %}{{ m.content|trim }}<|end|>{% endfor %}";
  EXPECT_EQ(text(trims, "The answer is "), "The answer is");
  EXPECT_EQ(code_of([&] { text("x", "y"); }), "CHAT-MESSAGES");
}

// --- Spans. ---

constexpr const char* kPlain =
    "{% for m in messages %}[{{ m.role }}]{{ m.content }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% endif %}";
const char* const kTwoTurns = R"({"messages": [
    {"role": "user", "content": "a"}, {"role": "assistant", "content": "bc"},
    {"role": "user", "content": "d"}, {"role": "assistant", "content": "efg"}]})";

std::vector<std::string> said(const std::string& source, const std::string& json,
                              const AssistantSpanOptions& options = {}) {
  Directory directory(R"({"eos_token": "<|eos|>"})");
  const Tokenizer tokenizer = Tokenizer::open(directory.path());
  const ChatTemplate chat_template = ChatTemplate::open(tokenizer, {.text = source});
  const RenderedChat chat = render_with_spans(chat_template, conversation(json), options);
  std::vector<std::string> passages;
  for (const jinja::Span& span : chat.assistant) {
    passages.push_back(chat.text.substr(span.begin, span.end - span.begin));
  }
  return passages;
}

using Passages = std::vector<std::string>;

TEST(AssistantSpans, ByPrefixes) {
  EXPECT_EQ(said(kPlain, kTwoTurns), (Passages{"bc<|end|>", "efg<|end|>"}));
  EXPECT_EQ(said(kPlain, kTwoTurns, {.add_generation_prompt = true}),
            (Passages{"bc<|end|>", "efg<|end|>"}));
  EXPECT_EQ(said(kPlain, kTwoTurns, {.turns = AssistantTurns::last}), Passages{"efg<|end|>"});
  EXPECT_EQ(said(kPlain, kHello), Passages{});
  const char* const chosen = R"({"messages": [
      {"role": "user", "content": "a"}, {"role": "assistant", "content": "bc", "train": false},
      {"role": "assistant", "content": "efg", "weight": 1}]})";
  EXPECT_EQ(said(kPlain, chosen), Passages{"efg<|end|>"});
}

TEST(AssistantSpans, AnEndOfTextBehindTheLastMessageOnly) {
  const std::string source =
      std::string(kPlain) + "{% if not add_generation_prompt %}{{ eos_token }}{% endif %}";
  EXPECT_EQ(said(source, kTwoTurns), (Passages{"bc<|end|>", "efg<|end|><|eos|>"}));
}

TEST(AssistantSpans, TemplatesThatRewriteHistoryAreRefused) {
  const char* const rewriting =
      "{% for m in messages %}[{{ m.role }}]{% if loop.last %}think {% endif %}{{ m.content }}{% "
      "endfor %}"
      "{% if add_generation_prompt %}[assistant]{% endif %}";
  try {
    said(rewriting, kTwoTurns);
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), "CHAT-PREFIX");
    EXPECT_NE(error.message().find("messages[1]"), std::string::npos) << error.message();
  }
  const char* const forgetful =
      "{% for m in messages %}[{{ m.role }}]{% if loop.last %}{{ m.content }}{% endif %}{% endfor "
      "%}";
  EXPECT_EQ(code_of([&] { said(forgetful, kTwoTurns); }), "CHAT-PREFIX");
  EXPECT_EQ(
      code_of([&] { said(kPlain, R"({"messages": [{"role": "assistant", "content": "a"}]})"); }),
      "CHAT-PREFIX");
}

TEST(AssistantSpans, ByGenerationBlocks) {
  const char* const marked =
      "{% for m in messages %}{% if m.role == 'assistant' %}{% generation %}{{ m.content }}."
      "{% endgeneration %}{% else %}{{ m.content }}{% endif %}{% endfor %}";
  EXPECT_EQ(said(marked, kTwoTurns), (Passages{"bc.", "efg."}));
  EXPECT_EQ(said(marked, kTwoTurns, {.turns = AssistantTurns::last}), Passages{"efg."});
  const char* const first = "{% generation %}{{ messages[1].content }}{% endgeneration %}";
  EXPECT_EQ(said(first, kTwoTurns), Passages{"bc"});
  EXPECT_EQ(code_of([&] { said(first, kTwoTurns, {.turns = AssistantTurns::last}); }),
            "CHAT-PREFIX");
}

// --- Tokens. ---

TEST(TokenMask, EqualsTransformers) {
  for (const char* name : {"byte_level", "metaspace"}) {
    const Tokenizer tokenizer = Tokenizer::open(kGolden / name);
    std::ifstream rows(kGolden / name / "expected.jsonl");
    int count = 0;
    for (std::string line; std::getline(rows, line); ++count) {
      const Json row = Json::parse(line);
      SCOPED_TRACE(std::string(name) + " " + line);
      const ChatTemplate chat_template =
          ChatTemplate::open(tokenizer, {.name = row["template"].get<std::string>()});
      const RenderedChat chat = render_with_spans(chat_template, read_conversation(row), {});
      EXPECT_EQ(chat.text, row["rendered"].get<std::string>());
      const EncodedChat encoded = encode_chat(tokenizer, chat);
      EXPECT_EQ(encoded.ids, row["ids"].get<std::vector<int32_t>>());
      EXPECT_EQ(encoded.assistant_mask, row["mask"].get<std::vector<uint8_t>>());
    }
    EXPECT_GT(count, 15);
  }
}

TEST(TokenMask, BosOnce) {
  const Tokenizer tokenizer = Tokenizer::open(kGolden / "metaspace");
  ASSERT_EQ(tokenizer.bos_id(), 1);
  for (const char* text : {"<s>the cat", "the cat"}) {
    EncodedChat chat = encode_chat(tokenizer, {text, {{0, 5}}});
    ensure_bos(tokenizer, chat);
    EXPECT_EQ(chat.ids[0], 1);
    EXPECT_NE(chat.ids[1], 1);
    EXPECT_EQ(chat.ids.size(), chat.assistant_mask.size());
  }
  const Tokenizer without = Tokenizer::open(kGolden / "byte_level");
  EncodedChat chat = encode_chat(without, {"the cat", {}});
  const std::vector<int32_t> ids = chat.ids;
  ensure_bos(without, chat);
  EXPECT_EQ(chat.ids, ids);
}

}  // namespace
}  // namespace engine
