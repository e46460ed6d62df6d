#include "hone/base/files.h"

#include <fcntl.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstring>
#include <utility>

#include "hone/base/error.h"

namespace hone {
namespace {

namespace fs = std::filesystem;

constexpr size_t writer_buffer = size_t{1} << 20;

/// A write that failed for want of room is exit 4; every other failure (no permission, no such folder) is the user's to mend.
[[noreturn]] void fail_write(const fs::path& path, const char* action, int error) {
  if (error == ENOSPC || error == EDQUOT || error == EFBIG)
    fail_resource("{}: {} failed: {}; free some space, or choose another folder", path.string(), action, std::strerror(error));
  if (error == EIO) fail_resource("{}: {} failed: {}", path.string(), action, std::strerror(error));
  fail("{}: {} failed: {}", path.string(), action, std::strerror(error));
}

class Descriptor {
 public:
  explicit Descriptor(int fd) : fd_(fd) {}
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;
  ~Descriptor() {
    if (fd_ >= 0) ::close(fd_);
  }
  int get() const { return fd_; }
  int release() { return std::exchange(fd_, -1); }

 private:
  int fd_;
};

int open_retrying(const fs::path& path, int flags, mode_t mode = 0666) {
  int fd;
  do fd = ::open(path.c_str(), flags | O_CLOEXEC, mode);
  while (fd < 0 && errno == EINTR);
  return fd;
}

/// Opens for reading; says in one message what is there instead of a readable file.
int open_for_reading(const fs::path& path, struct stat& info) {
  Descriptor fd(open_retrying(path, O_RDONLY));
  if (fd.get() < 0) {
    const int error = errno;
    if (error == ENOENT) fail("{}: no such file", path.string());
    if (error == EACCES) fail("{}: not readable: permission denied", path.string());
    fail("{}: cannot be opened: {}", path.string(), std::strerror(error));
  }
  if (::fstat(fd.get(), &info) != 0) fail("{}: cannot be opened: {}", path.string(), std::strerror(errno));
  if (S_ISDIR(info.st_mode)) fail("{}: is a folder, a file is needed", path.string());
  return fd.release();
}

/// Writes all bytes or returns the error number.
int write_all(int fd, const char* data, size_t size) {
  while (size > 0) {
    const ssize_t written = ::write(fd, data, size);
    if (written < 0 && errno == EINTR) continue;
    if (written < 0) return errno;
    if (written == 0) return ENOSPC;
    data += written;
    size -= static_cast<size_t>(written);
  }
  return 0;
}

int sync_retrying(int fd) {
  int result;
  do result = ::fsync(fd);
  while (result != 0 && errno == EINTR);
  // EINVAL: not a file that can be synced (a pipe, /dev/stdout), which is no loss.
  return result == 0 || errno == EINVAL || errno == EROFS ? 0 : errno;
}

/// A name beside `path` that no other process or thread uses.
fs::path temporary_beside(const fs::path& path) {
  static std::atomic<uint64_t> counter{0};
  return path.string() + fmt::format(".tmp-{}-{}", ::getpid(), counter.fetch_add(1));
}

}  // namespace

MappedFile::MappedFile(const fs::path& path) : path_(path) {
  struct stat info {};
  Descriptor fd(open_for_reading(path, info));
  if (!S_ISREG(info.st_mode)) fail("{}: is not a regular file and cannot be memory-mapped; copy it to a file first", path.string());
  size_ = static_cast<size_t>(info.st_size);
  if (size_ == 0) return;
  void* mapped = ::mmap(nullptr, size_, PROT_READ, MAP_PRIVATE, fd.get(), 0);
  if (mapped == MAP_FAILED) {
    size_ = 0;
    fail("{}: cannot be memory-mapped: {}", path.string(), std::strerror(errno));
  }
  data_ = static_cast<const std::byte*>(mapped);
}

MappedFile::MappedFile(MappedFile&& other) noexcept
    : data_(std::exchange(other.data_, nullptr)), size_(std::exchange(other.size_, 0)), path_(std::move(other.path_)) {}

MappedFile& MappedFile::operator=(MappedFile&& other) noexcept {
  std::swap(data_, other.data_);
  std::swap(size_, other.size_);
  std::swap(path_, other.path_);
  return *this;
}

void MappedFile::release() const {
  if (size_ > 0) madvise(const_cast<std::byte*>(data_), size_, MADV_DONTNEED);
}

MappedFile::~MappedFile() {
  if (data_) ::munmap(const_cast<std::byte*>(data_), size_);
}

std::string read_text(const fs::path& path, size_t limit) {
  struct stat info {};
  Descriptor fd(open_for_reading(path, info));
  std::string text;
  if (S_ISREG(info.st_mode) && info.st_size > 0 && static_cast<size_t>(info.st_size) <= limit) text.reserve(static_cast<size_t>(info.st_size) + 1);
  char block[1 << 16];
  for (;;) {
    const ssize_t got = ::read(fd.get(), block, sizeof block);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) fail("{}: cannot be read: {}", path.string(), std::strerror(errno));
    if (got == 0) return text;
    text.append(block, static_cast<size_t>(got));
    if (text.size() > limit) fail("{}: larger than {} bytes, the most that is read here", path.string(), limit);
  }
}

void write_atomic(const fs::path& path, std::string_view bytes) {
  const fs::path temporary = temporary_beside(path);
  const int fd = open_retrying(temporary, O_WRONLY | O_CREAT | O_EXCL);
  if (fd < 0) fail_write(path, "creating a file beside it", errno);
  const char* action = "writing";
  int error = write_all(fd, bytes.data(), bytes.size());
  if (error == 0) {
    action = "syncing";
    error = sync_retrying(fd);
  }
  if (::close(fd) != 0 && error == 0) {
    action = "closing";
    error = errno;
  }
  if (error == 0 && ::rename(temporary.c_str(), path.c_str()) != 0) {
    action = "renaming into place";
    error = errno;
  }
  if (error != 0) {
    ::unlink(temporary.c_str());
    fail_write(path, action, error);
  }
  sync_folder(path.parent_path());
}

FileWriter::FileWriter(const fs::path& path, bool append) : path_(path) {
  fd_ = open_retrying(path, O_WRONLY | O_CREAT | (append ? O_APPEND : O_TRUNC));
  if (fd_ < 0) fail_write(path, "opening for writing", errno);
  buffer_.reserve(writer_buffer);
}

FileWriter::~FileWriter() {
  if (fd_ < 0) return;
  // Reached without close() only while an exception unwinds: what can be kept is kept, and that exception is the one to report.
  write_all(fd_, buffer_.data(), buffer_.size());
  ::close(fd_);
}

void FileWriter::write(const void* data, size_t size) {
  check(fd_ >= 0, "FileWriter: write after close of {}", path_.string());
  if (buffer_.size() + size > writer_buffer) flush();
  if (size >= writer_buffer) {
    if (const int error = write_all(fd_, static_cast<const char*>(data), size)) fail_write(path_, "writing", error);
  } else {
    buffer_.append(static_cast<const char*>(data), size);
  }
}

void FileWriter::flush() {
  check(fd_ >= 0, "FileWriter: flush after close of {}", path_.string());
  const int error = write_all(fd_, buffer_.data(), buffer_.size());
  buffer_.clear();
  if (error) fail_write(path_, "writing", error);
}

void FileWriter::close() {
  flush();
  int error = sync_retrying(fd_);
  if (::close(std::exchange(fd_, -1)) != 0 && error == 0) error = errno;
  if (error) fail_write(path_, "syncing", error);
}

void rename_new(const fs::path& from, const fs::path& to) {
  if (::renameat2(AT_FDCWD, from.c_str(), AT_FDCWD, to.c_str(), RENAME_NOREPLACE) == 0) return;
  int error = errno;
  if (error == EINVAL || error == ENOSYS) {  // a file system without this form of rename
    struct stat info {};
    error = ::lstat(to.c_str(), &info) == 0 ? EEXIST : ::rename(from.c_str(), to.c_str()) == 0 ? 0 : errno;
  }
  if (error == EEXIST) fail("{}: something stands there already and is not written over", to.string());
  if (error != 0) fail_write(to, "renaming into place", error);
}

void sync_folder(const fs::path& folder) {
  const fs::path name = folder.empty() ? fs::path(".") : folder;
  Descriptor fd(open_retrying(name, O_RDONLY | O_DIRECTORY));
  if (fd.get() < 0) fail_write(name, "opening the folder", errno);
  if (const int error = sync_retrying(fd.get())) fail_write(name, "syncing the folder", error);
}

uint64_t free_bytes(const fs::path& path) {
  std::error_code ignored;
  fs::path place = fs::absolute(path, ignored).lexically_normal();
  struct statvfs info {};
  while (::statvfs(place.c_str(), &info) != 0) {
    if (errno == EINTR) continue;
    if (!place.has_relative_path() || place == place.parent_path()) fail("{}: cannot ask for free space: {}", path.string(), std::strerror(errno));
    place = place.parent_path();
  }
  return static_cast<uint64_t>(info.f_bavail) * info.f_frsize;
}

}  // namespace hone
