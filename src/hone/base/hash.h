#pragma once
// Content hashes (XXH3, 128 bits): cache keys and checksums, not cryptography.
#include <cstddef>
#include <string>
#include <string_view>

namespace hone {

/// 32 hexadecimal digits of the 128-bit XXH3 of the bytes.
std::string hash_hex(const void* data, size_t size);
inline std::string hash_hex(std::string_view text) { return hash_hex(text.data(), text.size()); }

/// Incremental form; `hex` may be called at any time.
class Hasher {
 public:
  Hasher();
  Hasher(const Hasher&) = delete;
  Hasher& operator=(const Hasher&) = delete;
  ~Hasher();
  void add(const void* data, size_t size);
  /// Adds the length and then the bytes, so that ("ab","c") and ("a","bc") differ.
  void add(std::string_view text);
  std::string hex() const;

 private:
  void* state_;
};

}  // namespace hone
