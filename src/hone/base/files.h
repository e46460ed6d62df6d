#pragma once
// Files that cannot be lost or torn: mapped reading, and writing beside + sync + rename.
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>

namespace hone {

/// A read-only memory-mapped file. Throws UserError (exit 2) naming the path when it cannot be opened.
class MappedFile {
 public:
  MappedFile() = default;
  explicit MappedFile(const std::filesystem::path& path);
  MappedFile(MappedFile&& other) noexcept;
  MappedFile& operator=(MappedFile&& other) noexcept;
  ~MappedFile();
  std::span<const std::byte> bytes() const { return {data_, size_}; }
  std::string_view text() const { return {reinterpret_cast<const char*>(data_), size_}; }
  const std::filesystem::path& path() const { return path_; }
  /// Gives the pages that were read back to the system (they count as this process's memory); they are read again when touched.
  void release() const;

 private:
  const std::byte* data_ = nullptr;
  size_t size_ = 0;
  std::filesystem::path path_;
};

/// The whole file as a string; UserError (exit 2) when it cannot be read or is larger than `limit` bytes.
std::string read_text(const std::filesystem::path& path, size_t limit = size_t{1} << 31);

/// Replaces `path` atomically: written to a temporary file beside it, synced, renamed, folder synced.
/// Throws UserError (exit 4) when the disk is full; the old file is then untouched and the temporary file is gone.
void write_atomic(const std::filesystem::path& path, std::string_view bytes);

/// Sequential writer of a new file with every error checked (short writes, ENOSPC -> UserError exit 4); `close` syncs.
class FileWriter {
 public:
  explicit FileWriter(const std::filesystem::path& path, bool append = false);
  FileWriter(const FileWriter&) = delete;
  FileWriter& operator=(const FileWriter&) = delete;
  ~FileWriter();
  void write(const void* data, size_t size);
  void write(std::string_view text) { write(text.data(), text.size()); }
  /// Hands what was written to the operating system (no sync).
  void flush();
  /// Flushes, syncs to disk and closes.
  void close();

 private:
  std::filesystem::path path_;
  int fd_ = -1;
  std::string buffer_;
};

/// Renames a file or folder to a name that nothing has; UserError (exit 2) when something has it: nothing is ever replaced.
void rename_new(const std::filesystem::path& from, const std::filesystem::path& to);

/// Syncs a folder, so that renames in it survive a power cut.
void sync_folder(const std::filesystem::path& folder);

/// Bytes that an unprivileged user can still write on the file system that holds `path` (or its nearest existing parent).
uint64_t free_bytes(const std::filesystem::path& path);

}  // namespace hone
