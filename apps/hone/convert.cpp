// hone convert: a model as a GGUF file or as a Hugging Face directory, compared with its source before it gets its name.
#include <cmath>
#include <limits>
#include <map>
#include <nlohmann/json.hpp>

#include "commands.h"
#include "console.h"
#include "hone/base/error.h"
#include "hone/base/files.h"
#include "hone/model/export.h"
#include "hone/model/gguf_export.h"
#include "loaded_model.h"
#include "model_comparison.h"

namespace hone::app {
namespace {

namespace fs = std::filesystem;
using model::DType;

struct Conversion {
  std::unique_ptr<model::ModelSource> source;
  std::optional<TextModel> text;  // the source's tokenizer and template
  bool gguf = false;
  DType dtype = DType::f32;
  text::GgufVocabulary vocabulary;  // for GGUF, where there is a tokenizer
  std::string name;
};

// How many matrices have which form: with q8_0 those whose rows are no whole blocks stay in float16.
using Forms = std::map<DType, int64_t>;

Forms forms_of(const Conversion& job) {
  Forms forms;
  for (const model::TensorSpec& tensor : job.source->tensors())
    if (tensor.shape.size() > 1) ++forms[job.gguf ? model::gguf_dtype(tensor, job.dtype) : job.dtype];
  return forms;
}

std::string forms_text(const Forms& forms) {
  if (forms.size() == 1) return fmt::format("matrices in {}", model::dtype_name(forms.begin()->first));
  std::string text = "matrices";
  for (auto form = forms.rbegin(); form != forms.rend(); ++form)
    text += fmt::format("{} {} in {}", form == forms.rbegin() ? "" : " and", form->second, model::dtype_name(form->first));
  return text;
}

struct Bound {
  double max = 0;
  double mean = std::numeric_limits<double>::infinity();
};

// How far a form may be from a float32 source where --max_dlogp does not say: about four times what is measured (docs/convert.md). The mean
// is bounded too, because one token's difference is a wide measure of what is wrong rather than rounded.
Bound bound_of(const Conversion& job, const Forms& forms, const Arguments& arguments) {
  Bound bound{arguments.config.max_dlogp};
  if (arguments.given.count("max_dlogp") || !job.gguf) return bound;  // a directory holds exactly what its source holds
  static const std::pair<DType, Bound> kBounds[] = {{DType::f16, {0.06, 0.01}}, {DType::bf16, {0.6, 0.08}}, {DType::q8_0, {3, 0.2}}};
  for (const auto& [dtype, allowed] : kBounds)  // the roughest form that is there decides
    if (forms.count(dtype)) bound = allowed;
  return bound;
}

bool is_exact_in(const model::ModelSource& source, DType dtype) {
  constexpr int64_t kElements = 1 << 20;
  std::vector<float> values, back;
  std::vector<std::byte> bytes;
  for (const model::TensorSpec& tensor : source.tensors()) {
    const int64_t rows = tensor.shape[0], width = tensor.elements() / rows, step = std::max<int64_t>(1, kElements / width);
    for (int64_t begin = 0; begin < rows; begin += step) {
      const int64_t count = (std::min(begin + step, rows) - begin) * width;
      values.resize(static_cast<size_t>(count));
      back.resize(values.size());
      bytes.resize(values.size() * 2);
      source.load_rows(tensor.name, begin, begin + count / width, values.data());
      if (!model::from_float32(dtype, values.data(), count, bytes.data())) return false;
      model::to_float32(dtype, bytes.data(), count, back.data());
      if (values != back) return false;
    }
  }
  return true;
}

// The 16-bit type that the source says it has, if every value is one of it; else float32. A directory never loses anything.
DType directory_dtype(const model::ModelSource& source) {
  const std::string& stated = source.config().dtype;
  const DType narrow = stated == "bfloat16" ? DType::bf16 : stated == "float16" ? DType::f16 : DType::f32;
  return narrow != DType::f32 && is_exact_in(source, narrow) ? narrow : DType::f32;
}

DType gguf_type_of(config::GgufForm form, const model::ModelSource& source) {
  switch (form) {
    case config::GgufForm::f32:
      return DType::f32;
    case config::GgufForm::f16:
      return DType::f16;
    case config::GgufForm::bf16:
      return DType::bf16;
    case config::GgufForm::q8_0:
      return DType::q8_0;
    case config::GgufForm::automatic:
      break;
  }
  return source.config().dtype == "bfloat16" ? DType::bf16 : DType::f16;
}

Conversion open_conversion(const Arguments& arguments) {
  const config::RunConfig& config = arguments.config;
  Conversion job;
  job.gguf = fs::path(config.output).extension() == ".gguf";
  if (!job.gguf && arguments.given.count("gguf_type"))
    fail("--gguf_type is for a GGUF file; --output {} does not end in .gguf and so is a directory", config.output);
  job.source = model::open_model(config.model_name_or_path);
  if (job.source->tokenizer() != nullptr) job.text = make_text_model(*job.source->tokenizer(), config);
  fs::path path = fs::path(config.model_name_or_path).lexically_normal();
  if (!path.has_filename()) path = path.parent_path();
  job.name = path.extension() == ".gguf" ? path.stem().string() : path.filename().string();
  job.dtype = job.gguf ? gguf_type_of(config.gguf_type, *job.source) : directory_dtype(*job.source);
  if (job.gguf && job.text)
    job.vocabulary =
        job.text->tokenizer.to_gguf(job.source->tokenizer()->chat_template, job.source->config().vocab_size, job.source->path().string());
  return job;
}

void write_output(const fs::path& path, const Conversion& job) {
  const model::ModelSource& source = *job.source;
  const auto produce = [&source](const std::string& name, int64_t begin, int64_t end, float* out) { source.load_rows(name, begin, end, out); };
  if (job.gguf) return model::save_gguf(path, {source.config(), job.name, produce, job.text ? &job.vocabulary : nullptr, job.dtype});
  model::SavedModel saved;
  saved.config = source.config();
  saved.produce = produce;
  saved.dtype = job.dtype;
  saved.generation_config_json = source.generation_config_json();
  if (job.text) set_tokenizer(saved, job.text->tokenizer, source.tokenizer()->chat_template);
  model::save_model(path, saved);
}

int64_t output_bytes(const Conversion& job) {
  const model::ModelConfig& config = job.source->config();
  return job.gguf ? model::gguf_bytes(config, job.dtype) : model::saved_bytes(config, job.dtype);
}

// Every token's bytes, the roles, and the ids of the prompts' texts.
void check_tokenizer(const text::Tokenizer& before, const text::Tokenizer& after, std::span<const std::vector<int32_t>> prompts) {
  const char* const defect = "the new model's tokenizer is not the source's";
  for (int32_t id = 0; id < before.vocab_size(); ++id)
    check(!before.has(id) || before.token_bytes(id) == after.token_bytes(id), "{}: token {}", defect, id);
  const text::SpecialIds &a = before.special_ids(), &b = after.special_ids();
  for (const auto& [had, has] : {std::pair(a.bos, b.bos), {a.eos, b.eos}, {a.unk, b.unk}, {a.pad, b.pad}})
    check(had < 0 || had == has, "{}: a role's token {} became {}", defect, had, has);  // a role that it lacked may come from config.json
  for (const std::vector<int32_t>& ids : prompts) {
    try {
      const std::string text = before.decode_text(ids);
      check(before.encode(text) == after.encode(text), "{}: other ids for \"{}\"", defect, text);
    } catch (const UserError&) {
      continue;  // random ids, or a cut character's stand-in: nothing that the vocabulary can write
    }
  }
}

PromptScores scores_of(const model::ModelSource& source, const train::Machine& machine, std::span<const std::vector<int32_t>> prompts) {
  const std::unique_ptr<model::Model> model = model::load_model(source, machine.backend, machine.device, 1024);
  return score_prompts(*model, nullptr, prompts);
}

std::string report(const config::RunConfig& config, const Conversion& job, const Forms& forms, const ModelDifference& difference,
                   const Bound& bound) {
  if (config.format == config::Format::json) {
    nlohmann::ordered_json matrices = nlohmann::ordered_json::object(), mean;
    for (const auto& [dtype, count] : forms) matrices[std::string(model::dtype_name(dtype))] = count;
    if (std::isfinite(bound.mean)) mean = bound.mean;
    const nlohmann::ordered_json json = {{"output", config.output},
                                         {"form", job.gguf ? "gguf" : "directory"},
                                         {"type", model::dtype_name(job.dtype)},
                                         {"matrices", matrices},
                                         {"weight_bytes", output_bytes(job)},
                                         {"mean_dlogp", difference.mean},
                                         {"max_dlogp", difference.max},
                                         {"allowed_dlogp", bound.max},
                                         {"allowed_mean_dlogp", mean},
                                         {"top1_agreement", difference.top1},
                                         {"tokens", difference.count}};
    return json.dump() + "\n";
  }
  return fmt::format("{}: {} tensors, {}, {:.1f} MB\ncompared with {}: {}; allowed {}{}\n", config.output, job.source->tensors().size(),
                     forms_text(forms), static_cast<double>(output_bytes(job)) / 1e6, job.source->path().string(), describe(difference), bound.max,
                     std::isfinite(bound.mean) ? fmt::format(", mean {}", bound.mean) : "");
}

}  // namespace

int run_convert(const Arguments& arguments) {
  const config::RunConfig& config = arguments.config;
  if (!config.adapter.empty()) return run_convert_adapter(arguments);
  const train::Machine machine = train::apply_machine_options(config);
  UncheckedOutput output(config.output);
  const Conversion job = open_conversion(arguments);
  if (const auto free = free_bytes(output.scratch()); static_cast<uint64_t>(output_bytes(job)) > free)
    fail_resource("{}: the new model needs {}, {} are free", config.output, size_text(output_bytes(job)), size_text(static_cast<int64_t>(free)));
  const auto prompts = comparison_prompts(job.text ? &*job.text : nullptr, job.source->config(), config.data);
  const PromptScores before = scores_of(*job.source, machine, prompts);
  write_output(output.scratch(), job);
  const std::unique_ptr<model::ModelSource> written = model::open_model(output.scratch().string());
  check((written->tokenizer() != nullptr) == job.text.has_value(), "the new model has {} tokenizer", job.text ? "no" : "a");
  if (job.text) check_tokenizer(job.text->tokenizer, make_tokenizer(*written->tokenizer()), prompts);
  const ModelDifference found = difference(before, scores_of(*written, machine, prompts));
  const Forms forms = forms_of(job);
  const Bound bound = bound_of(job, forms, arguments);
  const std::string what = fmt::format("the model with {}", forms_text(forms));
  const std::string advice = job.gguf && job.dtype != DType::f32
                                 ? "Take a wider --gguf_type (f16, f32), or a greater --max_dlogp if that much is acceptable."
                                 : "This form should be exact: please report it.";
  require_close(found, bound.max, what, advice);
  if (!(found.mean <= bound.mean))
    throw UserError(Exit::guard, fmt::format("{} differs from its source by more than {} in the mean: {}; nothing was left. {}", what, bound.mean,
                                             describe(found), advice));
  output.accept();
  print_result(report(config, job, forms, found, bound));
  return static_cast<int>(Exit::ok);
}

}  // namespace hone::app
