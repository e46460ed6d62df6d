// Adapters out of memory: the directory that PEFT loads, and merged tensors.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <map>

#include "hone/adapters/lora.h"
#include "hone/base/error.h"

namespace hone::adapters {
namespace {

constexpr const char* kA = ".lora_A.weight";
constexpr const char* kB = ".lora_B.weight";

std::string module_of(const ops::SideTarget& target) { return target.b.name().substr(0, target.b.name().size() - std::strlen(kB)); }

std::vector<float> part_values(const ops::Parameter& p, const ops::Part& part) {
  std::vector<float> values(part.rows * std::max<int64_t>(p.cols, 1));
  ops::get_part(p, part, values.data());
  return values;
}

model::TensorProducer rows_of(const ops::Parameter& p, const ops::Part& part) {
  std::vector<int64_t> shape{part.rows};
  if (p.is_matrix()) shape.push_back(p.cols);
  return {part.name, shape, [&p, part](int64_t begin, int64_t end, float* out) {
            ops::get_part(p, {part.name, part.row_begin + begin, end - begin}, out);
          }};
}

model::TensorProducer stored(const std::string& name, int64_t rows, int64_t cols, std::vector<float> values) {
  return {name, {rows, cols}, [cols, values = std::move(values)](int64_t begin, int64_t end, float* out) {
            std::copy(values.begin() + begin * cols, values.begin() + end * cols, out);
          }};
}

// s (B A - B0 A0) as one adapter of rank 2 r on the untouched weight: A' = [A; A0], B' = [B, -B0].
void add_pissa(const Adapter& adapter, const ops::SidePath& path, size_t i, std::vector<model::TensorProducer>& out) {
  const ops::SideTarget& t = path.targets[i];
  const std::string module = module_of(t);
  const Adapter::Start& start = adapter.pissa.at(module);
  std::vector<float> a = part_values(path.a, path.a.parts[i]);
  a.insert(a.end(), start.a.begin(), start.a.end());
  const std::vector<float> b = part_values(t.b, t.b.parts[0]);
  std::vector<float> wide(t.rows * 2 * t.r);
  for (int64_t n = 0; n < t.rows; ++n)
    for (int64_t j = 0; j < t.r; ++j) {
      wide[n * 2 * t.r + j] = b[n * t.r + j];
      wide[n * 2 * t.r + t.r + j] = -start.b[n * t.r + j];
    }
  out.push_back(stored(module + kA, 2 * t.r, path.a.cols, std::move(a)));
  out.push_back(stored(module + kB, t.rows, 2 * t.r, std::move(wide)));
}

const ops::Part* find_part(const ops::Parameter& p, const std::string& name) {
  for (const ops::Part& part : p.parts)
    if (part.name == name) return &part;
  return nullptr;
}

}  // namespace

void save_adapter(const Adapter& adapter, const std::filesystem::path& folder, const std::map<std::string, std::string>& texts) {
  std::vector<model::TensorProducer> tensors;
  std::map<uint32_t, const ops::SidePath*> in_order;
  for (const auto& [weight, path] : adapter.set.paths) in_order[path->index] = path.get();
  for (const auto& [index, path] : in_order)
    for (size_t i = 0; i < path->targets.size(); ++i) {
      const ops::SideTarget& t = path->targets[i];
      if (!adapter.pissa.empty()) {
        add_pissa(adapter, *path, i, tensors);
      } else {
        tensors.push_back(rows_of(path->a, path->a.parts[i]));
        tensors.push_back(rows_of(t.b, t.b.parts[0]));
      }
      if (t.magnitude.defined()) tensors.push_back(rows_of(t.magnitude, t.magnitude.parts[0]));
    }
  if (adapter.set.embedding) tensors.push_back(rows_of(*adapter.set.embedding, adapter.set.embedding->parts[0]));
  std::map<std::string, const ops::Parameter*> norms;  // by name: the set's own order is that of addresses
  for (const auto& [base, p] : adapter.set.replacements) norms[p->name()] = p.get();
  for (const auto& [name, p] : norms) tensors.push_back(rows_of(*p, p->parts[0]));
  if (adapter.set.head) tensors.push_back(rows_of(*adapter.set.head, adapter.set.head->parts[0]));
  if (adapter.set.score) tensors.push_back(rows_of(*adapter.set.score, adapter.set.score->parts[0]));
  LoraConfig config = adapter.config;
  if (!adapter.pissa.empty()) {
    // The scaling must stay what it was while the rank doubles.
    config.lora_alpha *= config.use_rslora ? std::sqrt(2.0) : 2.0;
    config.r *= 2;
    config.init_lora_weights = InitLora::standard;
  }
  write_peft(folder, config, {adapter.base_hash, adapter.weights_hash}, tensors, adapter.ranks, texts);
}

int64_t saved_bytes(const Adapter& adapter) {
  int64_t bytes = 1 << 16;
  for (const ops::Parameter* p : adapter.parameters) bytes += 4 * p->numel() * (adapter.pissa.empty() ? 1 : 2);
  return bytes;
}

void merged_tensor(model::Model& model, const Adapter& adapter, const std::string& name, int64_t begin, int64_t end, float* out) {
  const auto rows_from = [&](const ops::Parameter& p, const ops::Part& part) { ops::get_part(p, {name, part.row_begin + begin, end - begin}, out); };
  const ops::AdapterSet& set = adapter.set;
  if (name == "model.embed_tokens.weight" && set.embedding) return rows_from(*set.embedding, set.embedding->parts[0]);
  if (name == "score.weight" && set.score) return rows_from(*set.score, set.score->parts[0]);
  if (name == "lm_head.weight") {
    const ops::Parameter& head = model.head(&set);
    return rows_from(head, head.parts[0]);
  }
  for (ops::Parameter* p : model.parameters()) {
    const ops::Part* part = find_part(*p, name);
    if (!part) continue;
    if (const auto found = set.replacements.find(p); found != set.replacements.end()) return rows_from(*found->second, found->second->parts[0]);
    if (const ops::SidePath* path = set.path(*p))
      for (const ops::SideTarget& t : path->targets)
        if (t.row_begin == part->row_begin) return ops::merged_rows(*p, *path, t, begin, end - begin, out);
    return rows_from(*p, *part);
  }
  check(false, "merged_tensor: no tensor {}", name);
}

bool unties_head(const model::Model& model, const Adapter& adapter) {
  return !model.config.reward_model && model.config.tie_word_embeddings && (adapter.set.embedding != nullptr || adapter.set.head != nullptr);
}

}  // namespace hone::adapters
