#pragma once
// How the rows of the field table are written (table.cpp, table_preference.cpp).
#include <algorithm>
#include <string>
#include <utility>
#include <vector>

#include "hone/config/fields.h"

namespace hone::config {

/// A Field with setters that chain, so that a row of the table reads as a sentence.
struct Row : Field {
  Row(std::string row_name, Member row_member, std::string row_value, std::string row_help) {
    name = std::move(row_name);
    member = std::move(row_member);
    value = std::move(row_value);
    help = std::move(row_help);
  }
  Row& also(std::vector<std::string> names) { return aliases = std::move(names), *this; }
  Row& in(unsigned command_bits) { return commands = command_bits, *this; }
  Row& shown() { return common = true, *this; }
  Row& range(double low, double high) { return minimum = low, maximum = high, *this; }
  Row& above(double low) { return minimum = low, minimum_open = true, *this; }
  Row& below(double high) { return maximum = high, maximum_open = true, *this; }
  Row& empty_as(std::string word) { return unset = std::move(word), *this; }
  Row& starts_as(std::string text) { return default_value = std::move(text), *this; }
  Row& told_as(std::string text) { return default_text = std::move(text), *this; }
  Row& one_of(std::vector<std::string> names) { return choices = std::move(names), *this; }
  Row& or_as(std::vector<std::pair<std::string, std::string>> names) { return choice_aliases = std::move(names), *this; }
  Row& but(std::vector<std::pair<std::string, std::string>> names) { return choice_advice = std::move(names), *this; }
  Row& with(Needs what) { return needs = what, *this; }
  Row& split_at_commas() { return splits_at_commas = true, *this; }
  Row& for_losses(std::vector<std::string> names) { return losses = std::move(names), *this; }
  Row& stands_for_others() { return shorthand = true, *this; }
  Row& later(std::vector<std::string> names) { return later_choices = std::move(names), *this; }
};

/// A row whose member has the type of its values.
template <class T, class Base>
Row row(std::string name, T Base::*member, std::string value, std::string help) {
  return Row(std::move(name), Member(std::in_place_type<T RunConfig::*>, member), std::move(value), std::move(help));
}

/// A choice among all values of an enum, named in their order by one_of.
template <class Enum, class Base>
Row choice(std::string name, Enum Base::*member, std::string help) {
  EnumMember access{[member](const RunConfig& c) { return static_cast<int>(c.*member); },
                    [member](RunConfig& c, int index) { c.*member = static_cast<Enum>(index); }};
  return Row(std::move(name), Member(std::in_place_type<EnumMember>, std::move(access)), "", std::move(help));
}

/// A choice among some values of an enum, named in this order by one_of.
template <class Enum, class Base>
Row some_of(std::string name, Enum Base::*member, std::vector<Enum> values, std::string help) {
  EnumMember access{
      [member, values](const RunConfig& c) { return static_cast<int>(std::find(values.begin(), values.end(), c.*member) - values.begin()); },
      [member, values](RunConfig& c, int index) { c.*member = values.at(static_cast<size_t>(index)); }};
  return Row(std::move(name), Member(std::in_place_type<EnumMember>, std::move(access)), "", std::move(help));
}

using Rows = std::vector<Row>;

/// The options of learning from pairs, and from completions labelled good or bad.
Rows preference_rows();
/// The options of learning from sampled completions, and of what judges them.
Rows group_rows();
Rows reward_rows();
/// The options of proximal policy optimisation.
Rows ppo_rows();

}  // namespace hone::config
