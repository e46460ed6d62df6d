#include <ATen/ATen.h>

#include <algorithm>
#include <cstdlib>

#include "hone/base/hash.h"
#include "hone/base/threads.h"
#include "hone/rollout/sampler.h"

namespace hone::rollout {
namespace {

constexpr int64_t kChunk = int64_t{4} << 20;  // bytes hashed by one thread at a time

void add_bytes(Hasher& hasher, const at::Tensor& tensor) {
  if (!tensor.defined()) return;
  const at::Tensor t = tensor.detach().to(at::kCPU).contiguous();
  const auto* bytes = static_cast<const char*>(t.const_data_ptr());
  const auto size = static_cast<int64_t>(t.nbytes()), chunks = (size + kChunk - 1) / kChunk;
  std::vector<std::string> hashes(chunks);
  parallel_for(chunks, 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) hashes[i] = hash_hex(bytes + i * kChunk, static_cast<size_t>(std::min(kChunk, size - i * kChunk)));
  });
  for (const std::string& hash : hashes) hasher.add(hash);
}

void add_parameter(Hasher& hasher, const ops::Parameter& p) {
  for (const at::Tensor* t : {&p.value, &p.codes, &p.scales}) add_bytes(hasher, *t);
}

}  // namespace

uint64_t weight_version(model::Model& model, const ops::AdapterSet* adapters) {
  Hasher hasher;
  for (ops::Parameter* p : model.parameters()) {
    add_parameter(hasher, ops::resolve(adapters, *p));
    if (!adapters) continue;
    if (const ops::SidePath* side = adapters->path(*p)) {
      add_parameter(hasher, side->a);
      for (const ops::SideTarget& t : side->targets) {
        add_parameter(hasher, t.b);
        add_parameter(hasher, t.magnitude);
      }
    }
  }
  if (adapters)
    for (const auto& p : {adapters->embedding.get(), adapters->head.get()})
      if (p) add_parameter(hasher, *p);
  return std::strtoull(hasher.hex().substr(0, 16).c_str(), nullptr, 16);
}

}  // namespace hone::rollout
