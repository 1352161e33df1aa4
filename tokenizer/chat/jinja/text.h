// Methods of Python's str on valid UTF-8. Places and widths count code points.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace engine::jinja {

// White space as str.isspace() and \s of re see it: 29 characters.
bool is_space(char32_t c);
// Letter, digit or underscore: \w of re.
bool is_word(char32_t c);
bool is_ascii(std::string_view text);

int64_t count_characters(std::string_view text);
// Byte offset of character `index`, or text.size() when there are fewer.
size_t character_offset(std::string_view text, int64_t index);
std::vector<std::string_view> split_characters(std::string_view text);

// text.find(part, from) and text.rfind(part), but in linear time whatever the texts.
size_t find_text(std::string_view text, std::string_view part, size_t from = 0);
size_t find_last_text(std::string_view text, std::string_view part);

// `characters`: what to strip; nothing = white space.
std::string_view strip_left(std::string_view text, std::optional<std::string_view> characters = {});
std::string_view strip_right(std::string_view text,
                             std::optional<std::string_view> characters = {});
std::string_view strip(std::string_view text, std::optional<std::string_view> characters = {});

// str.split and str.rsplit: nothing = runs of white space; `limit` < 0 = none.
std::vector<std::string_view> split(std::string_view text,
                                    std::optional<std::string_view> separator, int64_t limit);
std::vector<std::string_view> split_from_right(std::string_view text,
                                               std::optional<std::string_view> separator,
                                               int64_t limit);
std::vector<std::string_view> split_lines(std::string_view text, bool keep_ends);
// `count` < 0: all.
std::string replace_all(std::string_view text, std::string_view from, std::string_view to,
                        int64_t count);

// Full case mappings ("ß" -> "SS"), with the final sigma.
std::string to_upper(std::string_view text);
std::string to_lower(std::string_view text);
std::string capitalize(std::string_view text);
std::string title_case(std::string_view text);
std::string swap_case(std::string_view text);

enum class CharacterClass {
  alphabetic,
  decimal,
  digit,
  numeric,
  alphanumeric,
  space,
  lower,
  upper,
  title,
  ascii,
  identifier
};
// str.isalpha() and its kind.
bool is_all(std::string_view text, CharacterClass what);

enum class Side { left, right, both };
// str.ljust (text on the left), rjust and center. `fill` is one character.
std::string pad_to(std::string_view text, int64_t width, std::string_view fill, Side text_side);
std::string zero_fill(std::string_view text, int64_t width);
std::string escape_html(std::string_view text);

}  // namespace engine::jinja
