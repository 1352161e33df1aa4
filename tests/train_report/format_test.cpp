#include "engine/train/report/format.h"

#include <gtest/gtest.h>

#include <limits>

namespace engine {
namespace {

TEST(Format, Counts) {
  EXPECT_EQ(human_count(494032768), "494.0M");
  EXPECT_EQ(human_count(357826560), "357.8M");
  EXPECT_EQ(human_count(71600), "71.6k");
  EXPECT_EQ(human_count(3410000, 2), "3.41M");
  EXPECT_EQ(human_count(8030261248), "8.0B");
  EXPECT_EQ(human_count(57), "57");
  EXPECT_EQ(human_count(999), "999");
  EXPECT_EQ(human_count(1000), "1.0k");
  EXPECT_EQ(human_count(999949), "999.9k");
  EXPECT_EQ(human_count(999960), "1.0M");  // not 1000.0k
  EXPECT_EQ(human_count(0), "0");
}

TEST(Format, Rates) {
  EXPECT_EQ(human_rate(89006), "89.0k");
  EXPECT_EQ(human_rate(1234567), "1.23M");
  EXPECT_EQ(human_rate(989123), "989k");
  EXPECT_EQ(human_rate(999600), "1.00M");
  EXPECT_EQ(human_rate(12.345), "12.3");
  EXPECT_EQ(human_rate(0), "0.00");
  for (double rate = 0.01; rate < 1e13; rate *= 1.0371) {
    EXPECT_LE(human_rate(rate).size(), 5u) << rate;
  }
}

TEST(Format, Grouped) {
  EXPECT_EQ(grouped(11942), "11 942");
  EXPECT_EQ(grouped(303), "303");
  EXPECT_EQ(grouped(1234567890), "1 234 567 890");
  EXPECT_EQ(grouped(-999), "-999");
  EXPECT_EQ(grouped(-1000), "-1 000");
}

TEST(Format, Durations) {
  EXPECT_EQ(duration(0.3), "0.3s");
  EXPECT_EQ(duration(2.1), "2.1s");
  EXPECT_EQ(duration(9), "9s");
  EXPECT_EQ(duration(9.96), "10s");
  EXPECT_EQ(duration(42.4), "42s");
  EXPECT_EQ(duration(59.6), "1m00s");
  EXPECT_EQ(duration(116), "1m56s");
  EXPECT_EQ(duration(128), "2m08s");
  EXPECT_EQ(duration(3599.7), "1h00m");
  EXPECT_EQ(duration(3720), "1h02m");
  EXPECT_EQ(duration(183600), "2d03h");
  EXPECT_EQ(duration(std::numeric_limits<double>::quiet_NaN()), "?");
}

TEST(Format, Memory) {
  EXPECT_EQ(gib(20293877760), "18.9");
  EXPECT_EQ(gib(0), "0.0");
}

TEST(Format, LearningRates) {
  EXPECT_EQ(learning_rate(1.9e-5), "1.9e-05");
  EXPECT_EQ(learning_rate(0), "0.0e+00");
}

TEST(Format, FixedWidth) {
  EXPECT_EQ(fixed_width(1.8421, 6), "1.8421");
  EXPECT_EQ(fixed_width(10.8241, 6), "10.824");
  EXPECT_EQ(fixed_width(1.12, 4), "1.12");
  EXPECT_EQ(fixed_width(11.2, 4), "11.2");
  EXPECT_EQ(fixed_width(1123, 4), "1123");
  EXPECT_EQ(fixed_width(112345, 4), "1e+5");
  EXPECT_EQ(fixed_width(9.9e12, 4), "1e13");
  EXPECT_EQ(fixed_width(std::numeric_limits<double>::quiet_NaN(), 6), "   nan");
  EXPECT_EQ(fixed_width(-std::numeric_limits<double>::infinity(), 4), "-inf");
  for (double value = 1e-6; value < 1e30; value *= 1.37) {
    EXPECT_EQ(fixed_width(value, 6).size(), 6u) << value;
    EXPECT_EQ(fixed_width(-value, 6).size(), 6u) << value;
    EXPECT_EQ(fixed_width(value, 4).size(), 4u) << value;
  }
}

TEST(Format, Text) {
  EXPECT_EQ(display_width("a→b"), 3);
  EXPECT_EQ(cut_to_width("a→bc", 2), "a→");
  EXPECT_EQ(cut_to_width("abc", 5), "abc");
  EXPECT_EQ(escape_line("a\nb\t\x1b[31m→"), "a\\nb\\t\\x1b[31m→");
}

}  // namespace
}  // namespace engine
