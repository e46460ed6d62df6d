// The journal gives back the bits it was given, whatever a kill left of its last line, and never another run's.
#include "hone/train/journal.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <fstream>
#include <limits>

#include "support/run_job.h"

namespace hone::train {
namespace {

rollout::Completion some_completion(int seed) {
  rollout::Completion c;
  for (int i = 0; i < 3 + seed; ++i) {
    c.ids.push_back(i * 7 + seed);
    c.logprobs.push_back(-std::sqrt(static_cast<float>(i + seed + 2)));
    c.tempered_logprobs.push_back(c.logprobs.back() * (seed % 2 ? 1.0f : 1.25f));
    c.sampler_logprobs.push_back(seed % 3 ? c.tempered_logprobs.back() : -0.0f);
  }
  c.logprobs[0] = std::numeric_limits<float>::denorm_min();
  c.finish = seed % 2 ? rollout::Finish::stop : rollout::Finish::length;
  return c;
}

bool same_bits(const std::vector<float>& a, const std::vector<float>& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

void expect_same(const rollout::Completion* found, const rollout::Completion& wanted) {
  ASSERT_NE(found, nullptr);
  EXPECT_EQ(found->ids, wanted.ids);
  EXPECT_TRUE(same_bits(found->logprobs, wanted.logprobs));
  EXPECT_TRUE(same_bits(found->tempered_logprobs, wanted.tempered_logprobs));
  EXPECT_TRUE(same_bits(found->sampler_logprobs, wanted.sampler_logprobs));
  EXPECT_EQ(found->finish, wanted.finish);
}

TEST(Journal, GivesBackBits) {
  test::TemporaryRun run;
  {
    Journal journal(run.path, 3, "key");
    for (int i = 0; i < 6; ++i) journal.add(40 + i, i % 2, some_completion(i));
    journal.add(0, 41, 1, {rewards::Verdict::right, 0.1, "it\nsays \"so\""});
    journal.add(1, 41, 1, {rewards::Verdict::timed_out, std::nullopt, ""});
    journal.flush();
  }
  Journal again(run.path, 3, "key");
  EXPECT_EQ(again.found(), 6);
  for (int i = 0; i < 6; ++i) expect_same(again.completion(40 + i, i % 2), some_completion(i));
  EXPECT_EQ(again.completion(40, 1), nullptr);
  ASSERT_NE(again.judgement(0, 41, 1), nullptr);
  EXPECT_EQ(again.judgement(0, 41, 1)->reward, 0.1);
  EXPECT_EQ(again.judgement(0, 41, 1)->detail, "it\nsays \"so\"");
  EXPECT_EQ(again.judgement(1, 41, 1)->verdict, rewards::Verdict::timed_out);
  EXPECT_FALSE(again.judgement(1, 41, 1)->reward.has_value());
  EXPECT_EQ(again.judgement(1, 41, 0), nullptr);
}

TEST(Journal, IgnoresATornEndWhereverItIs) {
  test::TemporaryRun run;
  {
    Journal journal(run.path, 0, "key");
    for (int i = 0; i < 3; ++i) journal.add(i, 0, some_completion(i));
  }
  const auto path = run.path / "rollouts" / "rollout-0.jsonl";
  const std::string whole = read_text(path);
  const size_t last = whole.rfind('\n', whole.size() - 2) + 1;
  for (size_t cut = last; cut < whole.size(); cut += 7) {
    write_atomic(path, whole.substr(0, cut));
    Journal journal(run.path, 0, "key");
    EXPECT_EQ(journal.found(), 2) << cut;
    journal.add(2, 0, some_completion(2));
    journal.flush();
    EXPECT_EQ(read_text(path), whole) << cut;
  }
}

TEST(Journal, TakesNoOtherRunsLines) {
  test::TemporaryRun run;
  { Journal(run.path, 0, "one").add(0, 0, some_completion(1)); }
  EXPECT_EQ(Journal(run.path, 0, "two").found(), 0);
  EXPECT_EQ(Journal(run.path, 0, "one").found(), 0);  // it was begun anew
}

TEST(Journal, FromTheLinesOfACheckpoint) {
  test::TemporaryRun run, other;
  Journal journal(run.path, 5, "key");
  for (int i = 0; i < 3; ++i) journal.add(i, 0, some_completion(i));
  Journal copy(other.path, 5, "key", journal.lines());
  EXPECT_EQ(copy.found(), 3);
  for (int i = 0; i < 3; ++i) expect_same(copy.completion(i, 0), some_completion(i));
  Journal::remove_before(other.path, 6);
  EXPECT_EQ(Journal(other.path, 5, "key").found(), 0);
}

}  // namespace
}  // namespace hone::train
