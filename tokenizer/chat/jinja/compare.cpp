// Equality, order and hashes of values.
#include <algorithm>
#include <bit>
#include <cmath>
#include <functional>

#include "tokenizer/chat/jinja/value.h"

namespace engine::jinja {
namespace {

bool equal_sequences(const std::vector<Value>& a, const std::vector<Value>& b, Budget& budget) {
  return a.size() == b.size() &&
         std::equal(a.begin(), a.end(), b.begin(),
                    [&](const Value& x, const Value& y) { return equal(x, y, budget); });
}

bool equal_dicts(const DictObject& a, const DictObject& b, Budget& budget) {
  if (a.size() != b.size()) return false;
  return std::all_of(a.entries().begin(), a.entries().end(), [&](const DictObject::Entry& entry) {
    const Value* other = b.find(entry.first, budget);
    return other && equal(entry.second, *other, budget);
  });
}

// Integers and reals compare exactly, not after rounding.
int order_numbers(const Value& a, const Value& b) {
  if (a.is_integral() && b.is_integral()) {
    return (a.as_integer() > b.as_integer()) - (a.as_integer() < b.as_integer());
  }
  if (a.is(Type::real) && b.is(Type::real)) {
    return (a.as_real() > b.as_real()) - (a.as_real() < b.as_real());
  }
  if (a.is(Type::real)) return -order_numbers(b, a);
  const double real = b.as_real();
  if (real >= 9223372036854775808.0) return -1;
  if (real < -9223372036854775808.0) return 1;
  const double whole = std::trunc(real);
  const auto integer = static_cast<int64_t>(whole);
  if (a.as_integer() != integer) return a.as_integer() < integer ? -1 : 1;
  return (whole > real) - (whole < real);
}

bool has_nan(const Value& a, const Value& b) {
  return (a.is(Type::real) && std::isnan(a.as_real())) ||
         (b.is(Type::real) && std::isnan(b.as_real()));
}

uint64_t mix(uint64_t hash) {
  hash ^= hash >> 31;
  hash *= 0x9E3779B97F4A7C15u;
  return hash ^ (hash >> 29);
}

}  // namespace

void pay_to_read(const Value& value, Budget& budget) {
  if (value.is_string()) budget.step(value.text().size() / 8);
}

void pay_to_read(const CallArguments& arguments, Budget& budget) {
  for (const Value& value : arguments.positional) pay_to_read(value, budget);
  for (const auto& [name, value] : arguments.keywords) pay_to_read(value, budget);
}

void pay_to_compare(const Value& value, Budget& budget) {
  if (value.is_string()) budget.step(value.text().size() / 64);
}

bool equal(const Value& a, const Value& b, Budget& budget) {
  budget.step();
  if (a.is_number() && b.is_number()) return !has_nan(a, b) && order_numbers(a, b) == 0;
  if (a.type() != b.type()) return false;
  switch (a.type()) {
    case Type::undefined:
    case Type::none:
      return true;
    case Type::string:
      if (a.text().size() != b.text().size()) return false;
      pay_to_compare(a, budget);
      return a.text() == b.text();
    case Type::list:
    case Type::tuple:
      return a.shared() == b.shared() || equal_sequences(a.items(), b.items(), budget);
    case Type::dict:
      return a.shared() == b.shared() || equal_dicts(a.dict(), b.dict(), budget);
    case Type::range: {
      const auto &x = a.get<RangeObject>(), &y = b.get<RangeObject>();
      if (x.count != y.count) return false;
      return x.count == 0 || (x.start == y.start && (x.count == 1 || x.step == y.step));
    }
    default:
      return a.shared() == b.shared();
  }
}

int order(const Value& a, const Value& b, const char* op, Budget& budget) {
  budget.step();
  if (a.is_undefined()) fail_undefined(a);
  if (b.is_undefined()) fail_undefined(b);
  if (a.is_number() && b.is_number()) return order_numbers(a, b);
  if (a.is_string() && b.is_string()) {
    pay_to_compare(a.text().size() < b.text().size() ? a : b, budget);
    // Bytes of UTF-8 are in the order of code points.
    const int result = a.text().compare(b.text());
    return (result > 0) - (result < 0);
  }
  if (a.type() == b.type() && a.is_sequence()) {
    const auto &x = a.items(), &y = b.items();
    for (size_t i = 0; i < std::min(x.size(), y.size()); ++i) {
      if (!equal(x[i], y[i], budget)) return order(x[i], y[i], op, budget);
    }
    return (x.size() > y.size()) - (x.size() < y.size());
  }
  type_error("'" + std::string(op) + "' not supported between instances of '" + type_name(a) +
             "' and '" + type_name(b) + "'");
}

uint64_t hash_value(const Value& value, Budget& budget) {
  budget.step();
  switch (value.type()) {
    case Type::none:
      return 1;
    case Type::boolean:
    case Type::integer:
      return mix(static_cast<uint64_t>(value.as_integer()));
    case Type::real: {
      const double real = value.as_real();
      if (real == std::trunc(real) && std::abs(real) < 9e18) {
        return mix(static_cast<uint64_t>(static_cast<int64_t>(real)));
      }
      return mix(std::bit_cast<uint64_t>(real));
    }
    case Type::string:
      pay_to_compare(value, budget);
      return std::hash<std::string_view>()(value.text());
    case Type::tuple: {
      std::atomic<uint64_t>& known = value.get<SequenceObject>().hash;
      uint64_t hash = known.load(std::memory_order_relaxed);
      if (hash != 0) return hash;
      hash = 7;
      for (const Value& item : value.items()) hash = mix(hash * 31 + hash_value(item, budget));
      known.store(hash, std::memory_order_relaxed);
      return hash;
    }
    case Type::list:
    case Type::dict:
    case Type::view:
      type_error("unhashable type: '" + type_name(value) + "'");
    case Type::undefined:
      return 3;
    default:
      return mix(reinterpret_cast<uintptr_t>(value.shared().get()));
  }
}

}  // namespace engine::jinja
