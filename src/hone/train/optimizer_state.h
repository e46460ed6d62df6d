#pragma once
// The memory of an optimizer's moments: tensors of zeros, in memory or in a mapped file where they do not fit.
#include <ATen/core/Tensor.h>

#include <filesystem>
#include <memory>

namespace hone::train {

/// An unlinked file of a fixed size, mapped shared: the operating system writes it out and reads it back as memory allows, and it is gone
/// with the process. All zeros at first.
class SpillFile {
 public:
  /// UserError (exit 4) naming need and free where the disk has no room, (exit 2) where the folder cannot be written.
  SpillFile(const std::filesystem::path& folder, int64_t bytes);
  SpillFile(const SpillFile&) = delete;
  SpillFile& operator=(const SpillFile&) = delete;
  ~SpillFile();
  /// The next `bytes` bytes, 64-byte aligned.
  std::byte* take(int64_t bytes);
  /// Bytes that take() uses for a tensor of `bytes`.
  static int64_t padded(int64_t bytes) { return (bytes + 63) / 64 * 64; }

 private:
  std::byte* data_ = nullptr;
  int64_t size_ = 0, used_ = 0;
};

/// Zeros on the CPU or on the device of `options`, in `file` if there is one (which the tensor then keeps alive).
at::Tensor zero_state(at::IntArrayRef shape, const at::TensorOptions& options, const std::shared_ptr<SpillFile>& file);

/// Elements [begin, end) of a tensor of a SpillFile no longer count as this process's memory; their values stay.
void release_pages(const at::Tensor& tensor, int64_t begin, int64_t end);

}  // namespace hone::train
