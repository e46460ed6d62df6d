#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>

#include "base/temp_folder.h"
#include "hone/base/error.h"
#include "hone/base/files.h"
#include "hone/data/token_cache.h"

namespace hone::data {
namespace {

using test::TempFolder;

const std::string key = token_cache_key({"data", "tokenizer"});

/// Row i of the test data: lengths 0, 1, 2, ... so that every padding occurs.
struct Arrays {
  std::vector<int32_t> ids;
  std::vector<float> weights;
  std::vector<uint8_t> roles;
  explicit Arrays(int i) {
    for (int k = 0; k < i; ++k) {
      ids.push_back(i * 100 + k);
      weights.push_back(k % 2 ? 1.0f : 0.25f);
      roles.push_back(static_cast<uint8_t>(k % 3));
    }
  }
  TokenRow row(int i) const { return {ids, weights, roles, i / 2, 1000 + i}; }
};

constexpr int rows = 9;

TokenCache write_cache(const std::filesystem::path& folder) {
  TokenCacheWriter writer(folder, key);
  for (int i = 0; i < rows; ++i) writer.add(Arrays(i).row(i));
  return writer.finish("a note");
}

void expect_contents(const TokenCache& cache) {
  ASSERT_EQ(cache.size(), rows);
  for (int i = 0; i < rows; ++i) {
    const Arrays expected(i);
    const TokenRow row = cache.row(i);
    EXPECT_TRUE(std::equal(row.ids.begin(), row.ids.end(), expected.ids.begin(), expected.ids.end()));
    EXPECT_TRUE(std::equal(row.weights.begin(), row.weights.end(), expected.weights.begin(), expected.weights.end()));
    EXPECT_TRUE(std::equal(row.roles.begin(), row.roles.end(), expected.roles.begin(), expected.roles.end()));
    EXPECT_EQ(row.prompt_length, i / 2);
    EXPECT_EQ(row.source, 1000 + i);
  }
  EXPECT_EQ(cache.total_tokens(), 36);
  EXPECT_EQ(cache.max_id(), 807);
  EXPECT_EQ(cache.note(), "a note");
}

std::filesystem::path only_file(const std::filesystem::path& folder) {
  std::vector<std::filesystem::path> files;
  for (const auto& entry : std::filesystem::directory_iterator(folder)) files.push_back(entry.path());
  EXPECT_EQ(files.size(), 1u);
  return files.empty() ? "" : files.front();
}

TEST(TokenCache, ComesBackAsWritten) {
  const TempFolder folder;
  std::string reason;
  EXPECT_FALSE(open_token_cache(folder / "cache", key, &reason));
  EXPECT_EQ(reason, "not there");
  expect_contents(write_cache(folder / "cache"));
  const auto cache = open_token_cache(folder / "cache", key, &reason);
  ASSERT_TRUE(cache) << reason;
  expect_contents(*cache);
  only_file(folder / "cache");
  EXPECT_THROW(cache->row(rows), ProgrammerError);
  EXPECT_THROW(cache->row(-1), ProgrammerError);
}

TEST(TokenCache, EmptyIsACacheToo) {
  const TempFolder folder;
  TokenCacheWriter writer(folder.path, key);
  const TokenCache cache = writer.finish();
  EXPECT_EQ(cache.size(), 0);
  EXPECT_EQ(cache.max_id(), -1);
}

TEST(TokenCache, KeysDiffer) {
  EXPECT_NE(token_cache_key({"ab", "c"}), token_cache_key({"a", "bc"}));
  const TempFolder folder;
  write_cache(folder.path);
  EXPECT_FALSE(open_token_cache(folder.path, token_cache_key({"other"})));
  // A file renamed to another key is of no use either.
  const std::string other = token_cache_key({"other"});
  std::filesystem::rename(only_file(folder.path), folder / (other + ".tokens"));
  std::string reason;
  EXPECT_FALSE(open_token_cache(folder.path, other, &reason));
  EXPECT_EQ(reason, "of another key");
}

TEST(TokenCache, EveryFlippedByteAndEveryTruncationIsNoticed) {
  const TempFolder folder;
  write_cache(folder.path);
  const auto path = only_file(folder.path);
  const std::string good = read_text(path);
  for (size_t i = 0; i < good.size(); ++i) {
    std::string bad = good;
    bad[i] = static_cast<char>(bad[i] ^ 0x10);
    folder.file(path.filename(), bad);
    ASSERT_FALSE(open_token_cache(folder.path, key)) << "byte " << i << " of " << good.size();
  }
  for (size_t size = 0; size < good.size(); ++size) {
    folder.file(path.filename(), good.substr(0, size));
    ASSERT_FALSE(open_token_cache(folder.path, key)) << size;
  }
  folder.file(path.filename(), good + "x");
  EXPECT_FALSE(open_token_cache(folder.path, key));
  folder.file(path.filename(), good);
  EXPECT_TRUE(open_token_cache(folder.path, key));
}

/// A file whose checksum is right and whose index is not: offsets are checked one by one.
TEST(TokenCache, AForgedIndexIsNotFollowed) {
  const TempFolder folder;
  write_cache(folder.path);
  const auto path = only_file(folder.path);
  const std::string good = read_text(path);
  constexpr size_t footer_size = 112, entry_size = sizeof(RowEntry);
  const size_t body = good.size() - footer_size, entries = body - 6 - rows * entry_size;
  const auto forge = [&](auto change) {
    std::string bad = good;
    RowEntry entry;
    std::memcpy(&entry, bad.data() + entries + (rows - 1) * entry_size, entry_size);
    change(entry);
    std::memcpy(bad.data() + entries + (rows - 1) * entry_size, &entry, entry_size);
    bad.replace(body + 32, 32, hash_hex(bad.data(), body));
    folder.file(path.filename(), bad);
    std::string reason;
    EXPECT_FALSE(open_token_cache(folder.path, key, &reason));
    return reason;
  };
  const std::string outside = "damaged: a row outside the file";
  EXPECT_EQ(forge([](RowEntry& e) { e.count = 9; }), outside);
  EXPECT_EQ(forge([](RowEntry& e) { e.count = 0xFFFFFFFF; }), outside);
  EXPECT_EQ(forge([](RowEntry& e) { e.offset = ~uint64_t{0} - 3; }), outside);
  EXPECT_EQ(forge([](RowEntry& e) { e.offset = 0; }), outside);
  EXPECT_EQ(forge([](RowEntry& e) { e.offset -= 1; }), outside);
  EXPECT_EQ(forge([](RowEntry& e) { e.prompt_length = -1; }), outside);
  EXPECT_EQ(forge([](RowEntry& e) { e.prompt_length = 9; }), outside);
}

TEST(TokenCache, AWriterThatGivesUpLeavesNothing) {
  const TempFolder folder;
  {
    TokenCacheWriter writer(folder.path, key);
    writer.add(Arrays(3).row(3));
  }
  EXPECT_TRUE(std::filesystem::is_empty(folder.path));
}

TEST(TokenCache, RowsThatContradictThemselvesAreRefused) {
  const TempFolder folder;
  TokenCacheWriter writer(folder.path, key);
  const Arrays three(3), two(2);
  EXPECT_THROW(writer.add({three.ids, two.weights, three.roles, 0, 0}), ProgrammerError);
  EXPECT_THROW(writer.add({three.ids, three.weights, three.roles, 4, 0}), ProgrammerError);
  EXPECT_THROW(TokenCacheWriter(folder.path, "../evil"), ProgrammerError);
}

TEST(TokenCache, OldTemporaryFilesAreRemovedAndFreshOnesKept) {
  const TempFolder folder;
  const auto old = folder.file(key + ".tokens.tmp-1-0", "x"), fresh = folder.file(key + ".tokens.tmp-2-0", "x"),
             other = folder.file("notes.txt", "x");
  std::filesystem::last_write_time(old, std::filesystem::file_time_type::clock::now() - std::chrono::hours(48));
  std::filesystem::last_write_time(other, std::filesystem::file_time_type::clock::now() - std::chrono::hours(48));
  write_cache(folder.path);
  EXPECT_FALSE(std::filesystem::exists(old));
  EXPECT_TRUE(std::filesystem::exists(fresh));
  EXPECT_TRUE(std::filesystem::exists(other));
}

TEST(TokenCache, ProcessesWritingTheSameKeyDoNotDisturbEachOther) {
  const TempFolder folder;
  std::vector<pid_t> children;
  for (int i = 0; i < 4; ++i) {
    const pid_t child = fork();
    if (child == 0) {
      for (int round = 0; round < 5; ++round) {
        write_cache(folder.path);
        if (!open_token_cache(folder.path, key)) _exit(1);
      }
      _exit(0);
    }
    children.push_back(child);
  }
  for (const pid_t child : children) {
    int status = 1;
    waitpid(child, &status, 0);
    EXPECT_EQ(status, 0);
  }
  only_file(folder.path);
  const auto cache = open_token_cache(folder.path, key);
  ASSERT_TRUE(cache);
  expect_contents(*cache);
}

/// The oldest by last use goes first; one that is open stays, and so does what is no cache.
TEST(TokenCacheFolder, IsKeptUnderALimit) {
  const TempFolder folder;
  const auto age = [&](const std::string& k, int hours) {
    std::filesystem::last_write_time(folder.path / (k + ".tokens"), std::filesystem::file_time_type::clock::now() - std::chrono::hours(hours));
  };
  std::vector<std::string> keys;
  for (const char* name : {"a", "b", "c", "d"}) {
    keys.push_back(token_cache_key({name}));
    TokenCacheWriter writer(folder.path, keys.back());
    writer.add(Arrays(5).row(5));
    writer.finish("");
  }
  folder.file("notes.txt", std::string(10000, 'x'));
  for (int i = 0; i < 4; ++i) age(keys[static_cast<size_t>(i)], 10 - i);
  const auto size = std::filesystem::file_size(folder.path / (keys[0] + ".tokens"));
  const auto there = [&](size_t i) { return std::filesystem::exists(folder.path / (keys[i] + ".tokens")); };
  trim_token_caches(folder.path, 4 * size);
  EXPECT_TRUE(there(0) && there(1) && there(2) && there(3));
  EXPECT_TRUE(open_token_cache(folder.path, keys[0]).has_value());  // opening is a use
  auto open = open_token_cache(folder.path, keys[1]);
  age(keys[1], 100);
  trim_token_caches(folder.path, 2 * size);
  EXPECT_TRUE(there(0) && there(1) && !there(2) && !there(3));
  trim_token_caches(folder.path, 0);
  EXPECT_TRUE(!there(0) && there(1));
  EXPECT_EQ(open->row(0).ids.size(), 5u);
  open.reset();
  trim_token_caches(folder.path, 0);
  EXPECT_FALSE(there(1));
  EXPECT_TRUE(std::filesystem::exists(folder.path / "notes.txt"));
  EXPECT_NO_THROW(trim_token_caches(folder.path / "none", 0));
}

}  // namespace
}  // namespace hone::data
