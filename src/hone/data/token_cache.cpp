#include "hone/data/token_cache.h"

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstring>
#include <limits>
#include <tuple>

#include "hone/base/error.h"

namespace hone::data {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view magic = "hone tokens  v1\n";
static_assert(magic.size() == 16);
constexpr size_t hash_size = 32;

struct Footer {
  char key[hash_size];
  char body_hash[hash_size];  // of everything before the footer
  uint64_t rows = 0, entries_offset = 0, note_offset = 0, note_size = 0;
  char magic[16];
};
static_assert(sizeof(Footer) == 112 && sizeof(RowEntry) == 24, "the layout on disk");

uint64_t padded(uint64_t bytes) { return (bytes + 3) & ~uint64_t{3}; }

uint64_t row_bytes(uint64_t count) { return count * (sizeof(int32_t) + sizeof(float)) + padded(count); }

fs::path cache_path(const fs::path& folder, const std::string& key) { return folder / (key + ".tokens"); }

void check_key(const std::string& key) {
  const bool hex = std::all_of(key.begin(), key.end(), [](char c) { return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f'); });
  check(key.size() == hash_size && hex, "token cache: the key {} is not of token_cache_key", key);
}

std::string_view field(const char (&bytes)[hash_size]) { return {bytes, hash_size}; }

/// Empty when the footer describes a file of these bytes; else what is wrong.
std::string_view footer_fault(const Footer& footer, std::string_view file, const std::string& key) {
  const uint64_t body = file.size() - sizeof(Footer);
  if (file.substr(0, magic.size()) != magic || std::string_view(footer.magic, sizeof footer.magic) != magic) return "torn or of another version";
  if (field(footer.key) != key) return "of another key";
  if (footer.entries_offset > body || footer.entries_offset % alignof(RowEntry) != 0) return "damaged: index offset";
  if (footer.rows > (body - footer.entries_offset) / sizeof(RowEntry)) return "damaged: number of rows";
  if (footer.note_offset != footer.entries_offset + footer.rows * sizeof(RowEntry)) return "damaged: note offset";
  if (footer.note_size != body - footer.note_offset) return "damaged: note size";
  if (field(footer.body_hash) != hash_hex(file.data(), body)) return "damaged: checksum";
  return {};
}

/// A row must lie whole between the magic and the index.
bool entry_fits(const RowEntry& entry, uint64_t entries_offset) {
  return entry.offset >= magic.size() && entry.offset % 4 == 0 && entry.offset <= entries_offset &&
         row_bytes(entry.count) <= entries_offset - entry.offset && entry.prompt_length >= 0 &&
         static_cast<uint32_t>(entry.prompt_length) <= entry.count;
}

/// Holds the file open with a lock while it lives; null where that is not to be had.
std::shared_ptr<const void> lock_file(const fs::path& path, int how) {
  const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) return nullptr;
  if (::flock(fd, how | LOCK_NB) != 0) {
    ::close(fd);
    return nullptr;
  }
  return {new int(fd), [](const int* held) {
            ::close(*held);
            delete held;
          }};
}

/// Temporary files of processes that were killed; a day is longer than any tokenising.
void remove_stale(const fs::path& folder) {
  std::error_code error;
  for (fs::directory_iterator entry(folder, error), end; !error && entry != end; entry.increment(error)) {
    if (entry->path().filename().string().find(".tokens.tmp-") == std::string::npos) continue;
    std::error_code ignored;
    const auto written = fs::last_write_time(entry->path(), ignored);
    if (!ignored && fs::file_time_type::clock::now() - written > std::chrono::hours(24)) fs::remove(entry->path(), ignored);
  }
}

}  // namespace

std::string token_cache_key(std::initializer_list<std::string_view> parts) {
  Hasher hasher;
  hasher.add(magic);
  for (const std::string_view part : parts) hasher.add(part);
  return hasher.hex();
}

TokenRow TokenCache::row(int64_t index) const {
  check(index >= 0 && index < size(), "token cache: row {} of {}", index, size());
  const RowEntry& entry = entries_[static_cast<size_t>(index)];
  const std::byte* at = file_.bytes().data() + entry.offset;
  const size_t n = entry.count;
  return {{reinterpret_cast<const int32_t*>(at), n},
          {reinterpret_cast<const float*>(at + n * sizeof(int32_t)), n},
          {reinterpret_cast<const uint8_t*>(at + n * (sizeof(int32_t) + sizeof(float))), n},
          entry.prompt_length,
          entry.source};
}

std::optional<TokenCache> open_token_cache(const fs::path& folder, const std::string& key, std::string* why_not) {
  check_key(key);
  const auto refuse = [&](std::string_view reason) {
    if (why_not) *why_not = reason;
    return std::nullopt;
  };
  TokenCache cache;
  std::error_code error;
  if (!fs::exists(cache_path(folder, key), error)) return refuse("not there");
  cache.lock_ = lock_file(cache_path(folder, key), LOCK_SH);
  fs::last_write_time(cache_path(folder, key), fs::file_time_type::clock::now(), error);  // the day of its last use, for trim_token_caches
  try {
    cache.file_ = MappedFile(cache_path(folder, key));
  } catch (const UserError& unreadable) {
    return refuse(unreadable.what());
  }
  const std::string_view file = cache.file_.text();
  if (file.size() < magic.size() + sizeof(Footer)) return refuse("torn: too short");
  Footer footer;
  std::memcpy(&footer, file.data() + file.size() - sizeof footer, sizeof footer);
  if (const auto fault = footer_fault(footer, file, key); !fault.empty()) return refuse(fault);
  cache.entries_ = {reinterpret_cast<const RowEntry*>(file.data() + footer.entries_offset), footer.rows};
  cache.note_ = file.substr(footer.note_offset, footer.note_size);
  for (int64_t i = 0; i < cache.size(); ++i) {
    if (!entry_fits(cache.entries_[static_cast<size_t>(i)], footer.entries_offset)) return refuse("damaged: a row outside the file");
    const TokenRow row = cache.row(i);
    for (const int32_t id : row.ids) {
      if (id < 0) return refuse("damaged: a negative token id");
      cache.max_id_ = std::max(cache.max_id_, id);
    }
    cache.total_tokens_ += static_cast<int64_t>(row.ids.size());
  }
  return cache;
}

void trim_token_caches(const fs::path& folder, uint64_t limit) {
  struct Entry {
    fs::file_time_type used;
    uint64_t bytes;
    fs::path path;
  };
  std::vector<Entry> entries;
  uint64_t total = 0;
  std::error_code error;
  for (fs::directory_iterator at(folder, error), end; !error && at != end; at.increment(error)) {
    std::error_code bad;
    if (at->path().extension() != ".tokens" || !at->is_regular_file(bad) || bad) continue;
    const Entry entry{fs::last_write_time(at->path(), bad), bad ? 0 : at->file_size(bad), at->path()};
    if (bad) continue;
    total += entry.bytes;
    entries.push_back(entry);
  }
  std::sort(entries.begin(), entries.end(), [](const Entry& a, const Entry& b) { return std::tie(a.used, a.path) < std::tie(b.used, b.path); });
  for (const Entry& entry : entries) {
    if (total <= limit) return;
    std::error_code bad;
    const auto lock = lock_file(entry.path, LOCK_EX);
    if (lock && fs::remove(entry.path, bad)) total -= entry.bytes;
  }
}

TokenCacheWriter::TokenCacheWriter(const fs::path& folder, const std::string& key) : folder_(folder), key_(key) {
  check_key(key);
  std::error_code error;
  fs::create_directories(folder, error);
  if (error) fail("{}: cannot make the folder of the token cache: {}", folder.string(), error.message());
  remove_stale(folder);
  static std::atomic<uint64_t> counter{0};
  temporary_ = folder / fmt::format("{}.tokens.tmp-{}-{}", key, ::getpid(), counter.fetch_add(1));
  file_ = std::make_unique<FileWriter>(temporary_);
  write(magic.data(), magic.size());
}

TokenCacheWriter::~TokenCacheWriter() {
  file_.reset();
  std::error_code ignored;
  if (!temporary_.empty()) fs::remove(temporary_, ignored);
}

void TokenCacheWriter::write(const void* data, size_t size) {
  file_->write(data, size);
  hasher_.add(data, size);
  offset_ += size;
}

void TokenCacheWriter::add(const TokenRow& row) {
  const size_t n = row.ids.size();
  check(file_ && row.weights.size() == n && row.roles.size() == n && n <= std::numeric_limits<uint32_t>::max() && row.prompt_length >= 0 &&
            static_cast<size_t>(row.prompt_length) <= n,
        "token cache: row of {} ids, {} weights, {} roles, prompt length {}", n, row.weights.size(), row.roles.size(), row.prompt_length);
  for (const int32_t id : row.ids) check(id >= 0, "token cache: id {}", id);
  entries_.push_back({offset_, row.source, static_cast<uint32_t>(n), row.prompt_length});
  write(row.ids.data(), n * sizeof(int32_t));
  write(row.weights.data(), n * sizeof(float));
  write(row.roles.data(), n);
  write("\0\0\0", padded(n) - n);
}

TokenCache TokenCacheWriter::finish(std::string_view note) {
  check(file_ != nullptr, "token cache: finish called twice");
  write("\0\0\0\0\0\0\0", (alignof(RowEntry) - offset_ % alignof(RowEntry)) % alignof(RowEntry));
  Footer footer{};
  footer.rows = entries_.size();
  footer.entries_offset = offset_;
  write(entries_.data(), entries_.size() * sizeof(RowEntry));
  footer.note_offset = offset_;
  footer.note_size = note.size();
  write(note.data(), note.size());
  std::memcpy(footer.key, key_.data(), hash_size);
  std::memcpy(footer.body_hash, hasher_.hex().data(), hash_size);
  std::memcpy(footer.magic, magic.data(), magic.size());
  file_->write(&footer, sizeof footer);
  file_->close();
  file_.reset();
  std::error_code error;
  fs::rename(temporary_, cache_path(folder_, key_), error);
  if (error) fail("{}: cannot be moved into place: {}", temporary_.string(), error.message());
  temporary_.clear();
  sync_folder(folder_);
  std::string reason;
  auto cache = open_token_cache(folder_, key_, &reason);
  if (!cache) fail("{}: the token cache that was just written does not read back: {}", cache_path(folder_, key_).string(), reason);
  return std::move(*cache);
}

}  // namespace hone::data
