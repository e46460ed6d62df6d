#pragma once
// The golden models as loaded models, their documents as rows of the SFT method.
#include <ATen/ATen.h>

#include <cmath>
#include <memory>
#include <string>
#include <vector>

#include "golden/oracle.h"
#include "hone/adapters/lora.h"
#include "hone/methods/sft.h"
#include "hone/model/decoder.h"
#include "hone/model/source.h"

namespace hone::test {

inline const std::vector<std::string>& golden_models() {
  static const std::vector<std::string> names{"bf16_aligned", "chat", "f16_v4", "head_dim", "mqa_bias", "shards_v4", "tied_gqa2", "untied_mha_v4"};
  return names;
}

inline std::unique_ptr<model::Model> load_golden(const std::string& folder, ops::Backend backend) {
  return model::load_model(*model::open_model(golden::golden_path(folder).string()), backend, at::kCPU, 64);
}

/// Rows that own their tokens, and the SFT method over them.
struct RowSet {
  std::vector<std::vector<int32_t>> ids;
  std::vector<std::vector<float>> weights;

  void add(std::vector<int32_t> row_ids, std::vector<float> row_weights) {
    ids.push_back(std::move(row_ids));
    weights.push_back(std::move(row_weights));
  }
  methods::Sft method() const {
    std::vector<data::TokenRow> rows;
    for (size_t i = 0; i < ids.size(); ++i) rows.push_back({ids[i], weights[i], {}, 0, static_cast<int64_t>(i)});
    return methods::Sft(rows);
  }
};

inline RowSet documents_of(const std::map<std::string, golden::OracleTensor>& oracle) {
  RowSet rows;
  for (int k = 0; k < 3; ++k) {
    const auto& ids = oracle.at("ids." + std::to_string(k)).values;
    const auto& weights = oracle.at("weights." + std::to_string(k)).values;
    rows.add({ids.begin(), ids.end()}, {weights.begin(), weights.end()});
  }
  return rows;
}

/// ||a - b|| / ||b||; infinity when anything is not finite or the sizes differ, so that a comparison with a bound fails.
template <class A, class B>
double relative_error(const A& a, const B& b) {
  if (a.size() != b.size()) return INFINITY;
  double difference = 0, norm = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    difference += (a[i] - b[i]) * (a[i] - b[i]);
    norm += static_cast<double>(b[i]) * b[i];
  }
  const double error = std::sqrt(difference) / std::sqrt(norm);
  return std::isfinite(error) ? error : (difference == 0 && norm == 0 ? 0.0 : INFINITY);
}

inline std::vector<float> gradient_of(const ops::Parameter& p, const ops::Part& part) {
  std::vector<float> g(part.rows * std::max<int64_t>(1, p.cols));
  ops::get_part_gradient(p, part, g.data());
  return g;
}

/// The values of every parameter, part by part in file order.
inline std::vector<float> all_values(const std::vector<ops::Parameter*>& parameters) {
  std::vector<float> all;
  for (const ops::Parameter* p : parameters)
    for (const ops::Part& part : p->parts) {
      std::vector<float> v(part.rows * std::max<int64_t>(1, p->cols));
      ops::get_part(*p, part, v.data());
      all.insert(all.end(), v.begin(), v.end());
    }
  return all;
}

inline std::vector<float> all_values(model::Model& model) { return all_values(model.parameters()); }
inline std::vector<float> all_values(const adapters::Adapter& adapter) { return all_values(adapter.parameters); }

inline std::vector<float> all_gradients(model::Model& model) {
  std::vector<float> all;
  for (const ops::Parameter* p : model.parameters())
    for (const ops::Part& part : p->parts) {
      const std::vector<float> g = gradient_of(*p, part);
      all.insert(all.end(), g.begin(), g.end());
    }
  return all;
}

}  // namespace hone::test
