// hone inspect: rows as the tokens that training would see, with weights and roles; statistics of the data set.
#include "commands.h"
#include "hone/base/error.h"
#include "hone/base/threads.h"
#include "hone/text/render.h"
#include "inspect_report.h"
#include "jsonl_filter.h"
#include "jsonl_io.h"
#include "text_model.h"

namespace hone::app {
namespace {

/// A row that says whether it ends with a generation prompt is to be rendered: it needs nothing to train on.
bool is_render_only(const nlohmann::json& row) { return row.contains("add_generation_prompt"); }

data::RowRules rules_of(const config::RunConfig& config, bool render_only) {
  data::RowRules rules;
  rules.accepted = {data::RowKind::preference,        data::RowKind::unpaired, data::RowKind::messages,
                    data::RowKind::prompt_completion, data::RowKind::text,     data::RowKind::prompt_only};
  rules.for_training = !render_only;
  rules.needs_assistant = config.assistant_only_loss && !render_only;
  rules.keep_columns = false;
  return rules;
}

text::RenderOptions render_options(const config::RunConfig& config) {
  text::RenderOptions options;
  options.assistant_only_loss = config.assistant_only_loss;
  options.completion_only_loss = config.completion_only_loss;
  return options;
}

/// A row as read and tokenised; one that cannot be read or rendered has its error set and what could be made in the result.
InspectedRow inspected_row(FilterRow& row, const TextModel& model, const config::RunConfig& config) {
  InspectedRow out;
  out.place = row.place;
  const bool render_only = is_render_only(row.in);
  auto parsed = data::parse_row(std::move(row.in), row.place, rules_of(config, render_only));
  if (const auto* error = std::get_if<data::RowError>(&parsed)) {
    out.error = data::describe(*error);
    return out;
  }
  const data::Row& good = std::get<data::Row>(parsed);
  out.kind = good.kind;
  out.label = good.label;
  out.margin = good.margin;
  out.differs_early = data::differs_before_last_turn(good);
  const auto blame = [&](const std::optional<text::RowProblem>& problem) {
    if (problem) out.error = fmt::format("{}:{}: {}", row.place.file, row.place.line, problem->message);
  };
  if (good.kind == data::RowKind::preference) {
    text::PairResult pair = text::try_tokenize_pair(good, model.tokenizer, model.chat);
    blame(pair.problem);
    out.tokens = std::move(pair.chosen);
    out.rejected = std::move(pair.rejected);
    return out;
  }
  text::RowResult result = text::try_tokenize_row(good, model.tokenizer, model.chat,
                                                  good.kind == data::RowKind::unpaired ? text::RenderOptions() : render_options(config));
  if (render_only && result.problem && result.problem->kind == text::RowProblem::Kind::no_trained_token) result.problem.reset();
  blame(result.problem);
  out.tokens = std::move(result.row);
  return out;
}

/// The fields of one sequence, without braces.
std::string sequence_fields(const text::TokenizedRow& row, const text::Tokenizer& tokenizer) {
  std::string roles = "[";
  for (const uint8_t role : row.roles) {
    if (roles.size() > 1) roles += ",";
    roles += json_text(text::role_names()[role]);
  }
  return fmt::format("\"text\":{},\"ids\":{},\"weights\":{},\"roles\":{}]", json_text(std::string_view(tokenizer.decode_text(row.ids))),
                     json_text(std::span<const int32_t>(row.ids)), json_text(std::span<const float>(row.weights)), roles);
}

std::string jsonl_line(const InspectedRow& row, const text::Tokenizer& tokenizer) {
  const std::string tokens = sequence_fields(row.tokens, tokenizer);
  if (row.kind == data::RowKind::preference)
    return fmt::format("{{\"chosen\":{{{}}},\"rejected\":{{{}}},\"shared_prefix\":{},\"margin\":{}}}", tokens,
                       sequence_fields(row.rejected, tokenizer), shared_prefix(row), json_text(row.margin));
  if (row.kind == data::RowKind::unpaired) return fmt::format("{{{},\"label\":{}}}", tokens, row.label);
  return "{" + tokens + "}";
}

int inspect_jsonl(const config::RunConfig& config, const TextModel& model) {
  return run_filter(config, [&](std::span<FilterRow> rows) {
    each_row(rows, [&](FilterRow& row) {
      InspectedRow inspected = inspected_row(row, model, config);
      row.error = std::move(inspected.error);
      if (row.error.empty()) row.out = jsonl_line(inspected, model.tokenizer);
    });
  });
}

int inspect_text(const config::RunConfig& config, const TextModel& model) {
  LineSource source(config.file);
  LineSink sink(config.output, config.file);
  InspectReport report(config);
  std::vector<data::RawLine> lines;
  try {
    while (source.next(lines)) {
      std::vector<FilterRow> rows = read_rows(lines, source.name());
      std::vector<InspectedRow> inspected(rows.size());
      parallel_for(static_cast<int64_t>(rows.size()), 1, [&](int64_t begin, int64_t end) {
        for (int64_t i = begin; i < end; ++i) {
          FilterRow& row = rows[static_cast<size_t>(i)];
          InspectedRow& out = inspected[static_cast<size_t>(i)];
          out.place = row.place;
          out.error = row.error;
          if (!row.error.empty()) continue;
          const std::string hash = hash_hex(row.in.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace));
          out = inspected_row(row, model, config);
          out.hash = hash;
        }
      });
      for (const InspectedRow& row : inspected) sink.write(report.add(row, model.tokenizer));
    }
    sink.write(report.statistics());
    sink.close();
  } catch (const BrokenPipe&) {
    return static_cast<int>(Exit::ok);
  }
  if (report.bad_rows() > 0) fail("{} of {} rows are bad; the first:\n{}", report.bad_rows(), report.rows(), report.first_error());
  return static_cast<int>(Exit::ok);
}

}  // namespace

int run_inspect(const Arguments& arguments) {
  const config::RunConfig& config = arguments.config;
  set_threads(static_cast<int>(config.threads.value_or(0)));
  const TextModel model = open_text_model(config);
  return config.format == config::Format::jsonl ? inspect_jsonl(config, model) : inspect_text(config, model);
}

}  // namespace hone::app
