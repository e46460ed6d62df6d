#include "hone/adapters/lora.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>
#include <numbers>
#include <unordered_map>

#include "hone/adapters/modules.h"
#include "hone/base/error.h"
#include "hone/base/hash.h"
#include "hone/base/rng.h"
#include "hone/kernels/kernels.h"
#include "hone/model/source.h"

namespace hone::adapters {
namespace {

// ---- where things are in the model -------------------------------------------------------------------------------------------------
ops::Parameter& linear_weight(model::Model& model, uint32_t linear) {
  model::Block& block = model.blocks[linear / 4];
  ops::Parameter* const weights[] = {&block.qkv, &block.o, &block.gate_up, &block.down};
  return *weights[linear % 4];
}

struct Placed {
  Module module;
  int64_t r = 0;
  double scaling = 1;
};

const ops::Part& part_of(const ops::Parameter& weight, const Module& module) {
  for (const ops::Part& part : weight.parts)
    if (part.name == module.name + ".weight") return part;
  check(false, "{} holds no {}", weight.name(), module.name);
  return weight.parts.front();
}

// The base's parameter of a tensor that modules_to_save names.
ops::Parameter& saved_base(model::Model& model, const std::string& tensor) {
  if (tensor == "lm_head.weight") return model.head();
  for (ops::Parameter* p : model.parameters())
    if (p->parts.size() == 1 && p->name() == tensor) return *p;
  check(false, "modules_to_save: no tensor {}", tensor);
  return model.norm;
}

// ---- making the structure -----------------------------------------------------------------------------------------------------------
at::TensorOptions options_of(const model::Model& model) { return at::TensorOptions(at::kFloat).device(model.device); }

// Side paths of the modules (in the model's order), all zero.
void add_paths(Adapter& adapter, model::Model& model, const std::vector<Placed>& modules, bool dora) {
  for (size_t begin = 0, end = 0; begin < modules.size(); begin = end) {
    const uint32_t linear = modules[begin].module.linear;
    while (end < modules.size() && modules[end].module.linear == linear) ++end;
    ops::Parameter& weight = linear_weight(model, linear);
    auto path = std::make_unique<ops::SidePath>();
    path->index = linear;
    std::vector<ops::Part> parts;
    int64_t rows = 0;
    for (size_t i = begin; i < end; ++i) {
      const Placed& p = modules[i];
      const ops::Part& part = part_of(weight, p.module);
      parts.push_back({p.module.name + ".lora_A.weight", rows, p.r});
      ops::SideTarget& t = path->targets.emplace_back();
      t.row_begin = part.row_begin;
      t.rows = part.rows;
      t.a_begin = rows;
      t.r = p.r;
      t.scaling = static_cast<float>(p.scaling);
      t.b = ops::make_parameter({{p.module.name + ".lora_B.weight", 0, part.rows}}, p.r, model.backend, options_of(model));
      if (dora) t.magnitude = ops::make_parameter({{p.module.name + ".lora_magnitude_vector", 0, part.rows}}, 0, model.backend, options_of(model));
      rows += p.r;
    }
    path->a = ops::make_parameter(std::move(parts), weight.cols, model.backend, options_of(model));
    adapter.set.paths.emplace(&weight, std::move(path));
  }
}

std::unique_ptr<ops::Parameter> copy_of(const ops::Parameter& base, const std::string& name) {
  auto copy = std::make_unique<ops::Parameter>(base);
  copy->parts = {{name, 0, base.rows}};
  copy->value = base.value.detach().clone();
  copy->grad = at::Tensor();
  copy->lookups.clear();
  copy->trainable = true;
  return copy;
}

void add_saved(Adapter& adapter, model::Model& model, const std::vector<std::string>& tensors) {
  for (const std::string& tensor : tensors) {
    if (tensor == "score.weight" && !model.score.defined()) {  // its values come from files
      adapter.set.score =
          std::make_unique<ops::Parameter>(ops::make_parameter({{tensor, 0, 1}}, model.config.hidden_size, model.backend, options_of(model)));
      continue;
    }
    std::unique_ptr<ops::Parameter> copy = copy_of(saved_base(model, tensor), tensor);
    if (tensor == "score.weight")
      adapter.set.score = std::move(copy);
    else if (tensor == "lm_head.weight")
      adapter.set.head = std::move(copy);
    else if (tensor == "model.embed_tokens.weight")
      adapter.set.embedding = std::move(copy);
    else
      adapter.set.replacements.emplace(&saved_base(model, tensor), std::move(copy));
  }
}

// Freezes the base, lists the adapter's parameters in the model's order, and makes them trainable.
void finish(Adapter& adapter, model::Model& model, bool trainable) {
  for (ops::Parameter* p : model.parameters()) {
    p->trainable = false;
    p->grad = at::Tensor();
    if (p->value.defined()) p->value.requires_grad_(false);
  }
  std::vector<ops::Parameter*>& all = adapter.parameters;
  for (model::Block& block : model.blocks)
    for (ops::Parameter* weight : {&block.qkv, &block.o, &block.gate_up, &block.down})
      if (const auto found = adapter.set.paths.find(weight); found != adapter.set.paths.end()) {
        all.push_back(&found->second->a);
        for (ops::SideTarget& t : found->second->targets) {
          all.push_back(&t.b);
          if (t.magnitude.defined()) all.push_back(&t.magnitude);
        }
      }
  if (adapter.set.embedding) all.push_back(adapter.set.embedding.get());
  for (ops::Parameter* p : model.parameters())
    if (const auto found = adapter.set.replacements.find(p); found != adapter.set.replacements.end()) all.push_back(found->second.get());
  if (adapter.set.head) all.push_back(adapter.set.head.get());
  if (adapter.set.score) all.push_back(adapter.set.score.get());
  for (ops::Parameter* p : all) p->trainable = trainable;
  if (!trainable) return;
  adapter.set.anchor = at::zeros({}, options_of(model));
  adapter.set.anchor.requires_grad_(true);
  for (ops::Parameter* p : all) ops::enable_gradient(*p);
}

// ---- beginnings -----------------------------------------------------------------------------------------------------------------------
uint32_t name_key(const std::string& name) { return static_cast<uint32_t>(std::stoul(hash_hex(name.data(), name.size()).substr(0, 8), nullptr, 16)); }

// A uniform in (-1/sqrt(K), 1/sqrt(K)), which is kaiming_uniform(a = sqrt 5); gaussian: deviation 1/r by Box-Muller.
void init_a(ops::Parameter& a, const ops::Part& part, InitLora how, uint64_t seed) {
  const int64_t K = a.cols;
  const uint32_t key = name_key(part.name);
  std::vector<float> rows(part.rows * K);
  const double bound = 1.0 / std::sqrt(static_cast<double>(K));
  for (int64_t i = 0; i < part.rows * K; ++i) {
    const double u = random_unit(seed, Purpose::init, key, static_cast<uint32_t>(i), 0);
    if (how == InitLora::gaussian) {
      double sine = 0, cosine = 0;
      kernels::exact_sincos(2 * std::numbers::pi * random_unit(seed, Purpose::init, key, static_cast<uint32_t>(i), 1), &sine, &cosine);
      rows[i] = static_cast<float>(std::sqrt(-2 * kernels::exact_log(u)) * cosine / static_cast<double>(part.rows));
    } else {
      rows[i] = static_cast<float>((2 * u - 1) * bound);
    }
  }
  ops::set_part(a, part, rows.data());
}

// W = U S V^T: B = U_r sqrt(S_r / s), A = sqrt(S_r / s) V_r^T, and W - s B A is what the base keeps.
void init_pissa(Adapter& adapter, ops::Parameter& weight, ops::SidePath& path) {
  for (size_t i = 0; i < path.targets.size(); ++i) {
    ops::SideTarget& t = path.targets[i];
    at::Tensor w = at::empty({t.rows, weight.cols}, at::kFloat);
    ops::get_part(weight, {"", t.row_begin, t.rows}, w.mutable_data_ptr<float>());
    const auto [u, s, vh] = at::linalg_svd(w.to(at::kDouble), false);
    const at::Tensor root = (s.slice(0, 0, t.r) / static_cast<double>(t.scaling)).sqrt();
    at::Tensor b = (u.slice(1, 0, t.r) * root).to(at::kFloat).contiguous();
    at::Tensor a = (root.unsqueeze(1) * vh.slice(0, 0, t.r)).to(at::kFloat).contiguous();
    ops::set_part(t.b, t.b.parts[0], b.const_data_ptr<float>());
    ops::set_part(path.a, path.a.parts[i], a.const_data_ptr<float>());
    at::Tensor rest =
        (w.to(at::kDouble) - static_cast<double>(t.scaling) * at::matmul(b.to(at::kDouble), a.to(at::kDouble))).to(at::kFloat).contiguous();
    ops::set_part(weight, {"", t.row_begin, t.rows}, rest.const_data_ptr<float>());
    const std::string module = t.b.name().substr(0, t.b.name().size() - std::string(".lora_B.weight").size());
    adapter.pissa[module] = {{a.const_data_ptr<float>(), a.const_data_ptr<float>() + a.numel()},
                             {b.const_data_ptr<float>(), b.const_data_ptr<float>() + b.numel()}};
  }
}

void init_magnitude(const ops::Parameter& weight, ops::SidePath& path) {
  for (ops::SideTarget& t : path.targets) {
    const at::Tensor norm = ops::side_weight_norm(weight, path, t).cpu().contiguous();
    ops::set_part(t.magnitude, t.magnitude.parts[0], norm.const_data_ptr<float>());
  }
}

// The tensors of modules_to_save that are in the files, in the model's order. Every tensor of the files has to find its place.
std::vector<std::string> saved_in(const PeftAdapter& files, const model::ModelConfig& config) {
  LoraConfig all;
  all.task = files.config.task;
  all.modules_to_save = {"embed_tokens", "input_layernorm", "post_attention_layernorm", "norm"};
  if (all.task == Task::causal_lm) all.modules_to_save.push_back("lm_head");
  std::vector<std::string> found;
  for (const std::string& name : saved_tensors(config, all))
    if (files.tensors.count(name)) found.push_back(name);
  for (const auto& [name, tensor] : files.tensors)
    if (name.find(".lora_") == std::string::npos && std::find(found.begin(), found.end(), name) == found.end())
      fail("{}: the adapter brings {}, which this base does not have or hone cannot train: it would be ignored", files.folder.string(), name);
  return found;
}

// ---- reading ---------------------------------------------------------------------------------------------------------------------------
void read_part(const PeftAdapter& files, ops::Parameter& parameter, const ops::Part& part) {
  const auto found = files.tensors.find(part.name);
  if (found == files.tensors.end()) fail("{}: {} is missing", files.folder.string(), part.name);
  const int64_t width = std::max<int64_t>(parameter.cols, 1);
  if (found->second.elements() != part.rows * width || (parameter.cols > 0 && found->second.rows() != part.rows))
    fail("{}: {} has shape {} but this base needs ({}, {}): the adapter is of another base model", files.folder.string(), part.name,
         model::shape_text(found->second.shape), part.rows, width);
  std::vector<float> values(part.rows * width);
  model::to_float32(found->second, values.data());
  if (!kernels::all_finite(values.data(), static_cast<int64_t>(values.size())))
    fail("{}: {} holds NaN or infinite values", files.folder.string(), part.name);
  ops::set_part(parameter, part, values.data());
}

// UserError unless the model, which is stored otherwise than the adapter's base was, holds the same values.
void require_same_values(const PeftAdapter& files, const model::ModelSource& source, const std::string& hash) {
  if (!files.weights_hash.empty() && files.weights_hash == model::weights_hash(source)) return;
  const std::string& named = files.config.base_model_name_or_path;
  fail(
      "{}: the adapter was trained on another base model than --model {}. It was trained on {} (content hash {}); --model has {}{}. Give the model "
      "that it was trained on, or a form of it that holds the same values (hone convert to a directory or with --gguf_type f32; f16, bf16 and q8_0 "
      "round)",
      files.folder.string(), source.path().string(), named.empty() ? "a model that it does not name" : named, files.base_hash, hash,
      files.weights_hash.empty() ? ", and the adapter has no weights_hash to compare the values by" : ", and the weights differ");
}

}  // namespace

std::unique_ptr<Adapter> create_adapter(model::Model& model, const model::ModelSource& source, const LoraConfig& config, uint64_t seed) {
  auto adapter = std::make_unique<Adapter>();
  adapter->config = config;
  adapter->base_hash = source.content_hash();
  if (config.task == Task::seq_cls) {
    check(model.score.defined(), "a reward adapter starts on a model with a score head (model::add_score_head)");
    auto& names = adapter->config.modules_to_save;
    if (std::find(names.begin(), names.end(), "score") == names.end()) names.push_back("score");
  }
  std::vector<Placed> placed;
  for (const Module& m : targeted_modules(model.config, config)) placed.push_back({m, config.r, scaling_of(config, config.r, config.lora_alpha)});
  const std::vector<std::string> saved = saved_tensors(model.config, config);
  add_paths(*adapter, model, placed, config.use_dora);
  add_saved(*adapter, model, saved);
  for (auto& [key, path] : adapter->set.paths) {
    auto& weight = const_cast<ops::Parameter&>(*key);
    if (config.init_lora_weights == InitLora::pissa) {
      if (weight.is_quantised())
        fail("--init_lora_weights pissa with --load_in_4bit: what PiSSA leaves in the base cannot be given with the adapter; use one of the two");
      init_pissa(*adapter, weight, *path);
    } else {
      for (const ops::Part& part : path->a.parts) init_a(path->a, part, config.init_lora_weights, seed);
    }
    if (config.use_dora) init_magnitude(weight, *path);
  }
  finish(*adapter, model, true);
  return adapter;
}

std::unique_ptr<Adapter> load_adapter(model::Model& model, const PeftAdapter& files, const model::ModelSource& source, bool trainable) {
  const std::string hash = source.content_hash();
  if (!files.base_hash.empty() && files.base_hash != hash) require_same_values(files, source, hash);
  PeftAdapter same = files;
  if (!same.base_hash.empty()) same.base_hash = hash;
  return load_adapter(model, same, hash, trainable);
}

std::unique_ptr<Adapter> load_adapter(model::Model& model, const PeftAdapter& files, const std::string& base_hash, bool trainable) {
  if (!files.base_hash.empty() && files.base_hash != base_hash)
    fail("{}: the adapter was trained on another base model (content hash {}) than this one (content hash {})", files.folder.string(),
         files.base_hash, base_hash);
  auto adapter = std::make_unique<Adapter>();
  adapter->config = files.config;
  adapter->base_hash = base_hash;
  adapter->weights_hash = files.weights_hash;
  adapter->ranks = files.ranks;
  std::vector<Placed> placed;
  size_t known = 0;
  for (const Module& m : linear_modules(model.config)) {
    const auto found = files.ranks.find(m.name);
    if (found == files.ranks.end()) continue;
    ++known;
    placed.push_back({m, found->second.r, scaling_of(files.config, found->second.r, found->second.lora_alpha)});
  }
  if (known != files.ranks.size())
    for (const auto& [name, rank] : files.ranks)
      if (std::none_of(placed.begin(), placed.end(), [&name](const Placed& p) { return p.module.name == name; }))
        fail("{}: the adapter has a module {} and this base does not: it is of another base model", files.folder.string(), name);
  if (trainable && files.config.use_dora && files.config.lora_dropout > 0)
    fail("{}: DoRA with lora_dropout {} cannot be trained here; set lora_dropout to 0 in its adapter_config.json", files.folder.string(),
         files.config.lora_dropout);
  const std::vector<std::string> saved = saved_in(files, model.config);
  if (placed.empty() && saved.empty()) fail("{}: the adapter has no tensors", files.folder.string());
  if (files.config.task == Task::seq_cls && (saved.empty() || saved.back() != "score.weight"))
    fail("{}: task_type SEQ_CLS, but there is no score.weight: the head that gives the rewards was not saved (modules_to_save score)",
         files.folder.string());
  add_paths(*adapter, model, placed, files.config.use_dora);
  add_saved(*adapter, model, saved);
  finish(*adapter, model, trainable);
  for (ops::Parameter* p : adapter->parameters)
    for (const ops::Part& part : p->parts) read_part(files, *p, part);
  return adapter;
}

std::unique_ptr<Adapter> frozen_copy(const Adapter& from) {
  auto copy = std::make_unique<Adapter>();
  copy->config = from.config;
  copy->base_hash = from.base_hash;
  copy->weights_hash = from.weights_hash;
  copy->ranks = from.ranks;
  copy->pissa = from.pissa;
  std::unordered_map<const ops::Parameter*, ops::Parameter*> twins;
  const auto frozen = [](const ops::Parameter& p) {
    ops::Parameter c = p;
    c.value = p.value.detach().clone();
    c.grad = at::Tensor();
    c.lookups.clear();
    c.trainable = false;
    return c;
  };
  for (const auto& [weight, path] : from.set.paths) {
    auto p = std::make_unique<ops::SidePath>();
    p->index = path->index;
    p->a = frozen(path->a);
    twins[&path->a] = &p->a;
    for (const ops::SideTarget& t : path->targets) {
      ops::SideTarget& c = p->targets.emplace_back();
      c.row_begin = t.row_begin, c.rows = t.rows, c.a_begin = t.a_begin, c.r = t.r, c.scaling = t.scaling;
      c.b = frozen(t.b);
      twins[&t.b] = &c.b;
      if (t.magnitude.defined()) c.magnitude = frozen(t.magnitude);
      twins[&t.magnitude] = &c.magnitude;
    }
    copy->set.paths.emplace(weight, std::move(p));
  }
  const auto twin = [&](const std::unique_ptr<ops::Parameter>& p) {
    if (!p) return std::unique_ptr<ops::Parameter>();
    auto c = std::make_unique<ops::Parameter>(frozen(*p));
    twins[p.get()] = c.get();
    return c;
  };
  for (const auto& [base, p] : from.set.replacements) copy->set.replacements.emplace(base, twin(p));
  copy->set.embedding = twin(from.set.embedding);
  copy->set.head = twin(from.set.head);
  copy->set.score = twin(from.set.score);
  for (const ops::Parameter* p : from.parameters) copy->parameters.push_back(twins.at(p));
  return copy;
}

bool is_identity(const Adapter& adapter) {
  if (!adapter.set.replacements.empty() || adapter.set.embedding || adapter.set.head || adapter.set.score || !adapter.pissa.empty()) return false;
  for (const auto& [weight, path] : adapter.set.paths)
    for (const ops::SideTarget& t : path->targets) {
      if (t.b.value.count_nonzero().item<int64_t>() != 0) return false;
      if (t.magnitude.defined() && !at::equal(t.magnitude.value.detach(), ops::side_weight_norm(*weight, *path, t))) return false;
    }
  return true;
}

void updated(const Adapter& adapter) { ops::invalidate(adapter.set); }

AdapterSize adapter_size(const model::ModelConfig& model, const LoraConfig& config) {
  AdapterSize size;
  int64_t in_block = 0;
  std::string block;
  for (const Module& m : targeted_modules(model, config)) {
    const std::string own = m.name.substr(0, m.name.find('.', std::string("model.layers.").size()));
    if (own != block) in_block = 0, block = own;
    in_block += config.r + (config.use_dora ? m.rows : 0);
    size.rank_columns = std::max(size.rank_columns, in_block);
    size.elements += config.r * (m.rows + m.cols) + (config.use_dora ? m.rows : 0);
  }
  for (const std::string& tensor : saved_tensors(model, config))
    size.elements += tensor == "lm_head.weight" || tensor == "model.embed_tokens.weight" ? model.vocab_size * model.hidden_size : model.hidden_size;
  return size;
}

AdapterSize adapter_size(const PeftAdapter& files) {
  AdapterSize size;
  std::map<std::string, int64_t> blocks;
  for (const auto& [name, rank] : files.ranks) {
    int64_t& columns = blocks[name.substr(0, name.find('.', std::string("model.layers.").size()))];
    columns += rank.r;
    const auto b = files.tensors.find(name + ".lora_B.weight");
    if (files.config.use_dora && b != files.tensors.end()) columns += b->second.rows();
    size.rank_columns = std::max(size.rank_columns, columns);
  }
  for (const auto& [name, tensor] : files.tensors) size.elements += tensor.elements();
  return size;
}

}  // namespace hone::adapters
