#include "hone/train/optimizer_state.h"

#include <ATen/ATen.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>

#include "hone/base/error.h"
#include "hone/base/files.h"

namespace hone::train {
namespace {

int open_unlinked(const std::filesystem::path& folder) {
  std::string name = (folder / ".optimizer-XXXXXX").string();
  const int fd = ::mkostemp(name.data(), O_CLOEXEC);
  if (fd < 0)
    fail("{}: the optimizer's states do not fit into memory, and no file for them can be created here: {}", folder.string(), std::strerror(errno));
  ::unlink(name.c_str());
  return fd;
}

int reserve(int fd, int64_t bytes) {
  int error;
  do error = ::posix_fallocate(fd, 0, bytes);
  while (error == EINTR);
  return error;
}

}  // namespace

SpillFile::SpillFile(const std::filesystem::path& folder, int64_t bytes) : size_(bytes) {
  if (bytes == 0) return;
  const uint64_t room = free_bytes(folder);
  const auto no_room = [&](const char* why) {
    fail_resource(
        "{}: the optimizer's states do not fit into memory and need {:.2f} GB in a file here, {:.2f} GB are free{}; free some space, put "
        "the run's folder elsewhere, or take --optim adamw_8bit or --use_peft",
        folder.string(), static_cast<double>(bytes) / 1e9, static_cast<double>(room) / 1e9, why);
  };
  if (room < static_cast<uint64_t>(bytes)) no_room("");
  const int fd = open_unlinked(folder);
  const int error = reserve(fd, bytes);
  void* mapped = error == 0 ? ::mmap(nullptr, static_cast<size_t>(bytes), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0) : MAP_FAILED;
  const int map_error = errno;
  ::close(fd);  // the mapping keeps the file
  if (error != 0) no_room(fmt::format(" (reserving it failed: {})", std::strerror(error)).c_str());
  if (mapped == MAP_FAILED) fail_resource("{}: the optimizer's states cannot be mapped: {}", folder.string(), std::strerror(map_error));
  data_ = static_cast<std::byte*>(mapped);
}

SpillFile::~SpillFile() {
  if (data_) ::munmap(data_, static_cast<size_t>(size_));
}

std::byte* SpillFile::take(int64_t bytes) {
  check(used_ + padded(bytes) <= size_, "SpillFile: {} + {} bytes of {}", used_, bytes, size_);
  std::byte* at = data_ + used_;
  used_ += padded(bytes);
  return at;
}

at::Tensor zero_state(at::IntArrayRef shape, const at::TensorOptions& options, const std::shared_ptr<SpillFile>& file) {
  if (!file) return at::zeros(shape, options);
  const int64_t bytes = c10::multiply_integers(shape) * static_cast<int64_t>(options.dtype().itemsize());
  return at::from_blob(
      file->take(bytes), shape, [file](void*) {}, options.device(at::kCPU));
}

void release_pages(const at::Tensor& tensor, int64_t begin, int64_t end) {
  static const uintptr_t page = static_cast<uintptr_t>(::sysconf(_SC_PAGESIZE));
  const auto base = reinterpret_cast<uintptr_t>(tensor.data_ptr()), item = static_cast<uintptr_t>(tensor.itemsize());
  const uintptr_t from = (base + static_cast<uintptr_t>(begin) * item) / page * page, to = base + static_cast<uintptr_t>(end) * item;
  // A shared mapping keeps its data in the file; a failure costs memory only.
  if (to > from) ::madvise(reinterpret_cast<void*>(from), to - from, MADV_DONTNEED);
}

}  // namespace hone::train
