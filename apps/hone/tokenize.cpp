// hone tokenize: {"text"} -> adds ids; {"ids"} -> adds text; a row that has both is a fault.
#include "commands.h"
#include "hone/base/error.h"
#include "hone/base/threads.h"
#include "jsonl_filter.h"
#include "text_model.h"

namespace hone::app {
namespace {

void tokenize_row(FilterRow& row, const text::Tokenizer& tokenizer, const config::RunConfig& config) {
  const auto text = row.in.find("text");
  if (text != row.in.end() && row.in.contains("ids")) fail("both \"text\" and \"ids\" are there, and one would be overwritten; leave one out");
  if (text != row.in.end()) {
    if (!text->is_string()) fail("text: found {}, wanted a string", text->type_name());
    std::vector<int32_t> ids = tokenizer.encode(text->get_ref<const std::string&>(), {.special = !config.no_special});
    if (config.add_bos) ids.insert(ids.begin(), tokenizer.bos_id());
    row.out = with_fields(row, {{"ids", json_text(std::span<const int32_t>(ids))}});
    return;
  }
  const auto ids = row.in.find("ids");
  if (ids == row.in.end()) fail("neither \"text\" nor \"ids\" is there");
  const std::vector<int32_t> tokens = read_ids(*ids);
  row.out = with_fields(row, {{"text", json_text(std::string_view(tokenizer.decode_text(tokens)))}});
}

}  // namespace

int run_tokenize(const Arguments& arguments) {
  const config::RunConfig& config = arguments.config;
  set_threads(static_cast<int>(config.threads.value_or(0)));
  const text::Tokenizer tokenizer = make_tokenizer(model::open_tokenizer_source(config.model_name_or_path));
  if (config.add_bos && tokenizer.bos_id() < 0) fail("--add_bos: the model {} has no beginning-of-text token", config.model_name_or_path);
  return run_filter(config, [&](std::span<FilterRow> rows) { each_row(rows, [&](FilterRow& row) { tokenize_row(row, tokenizer, config); }); });
}

}  // namespace hone::app
