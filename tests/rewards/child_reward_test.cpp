// The rewards `program` and `python`: what children answer, and all the ways in which they do not.
#include <cmath>
#include <filesystem>
#include <fstream>

#include "code_support.h"
#include "hone/base/process.h"
#include "hone/rewards/child_process.h"
#include "judge_support.h"

namespace hone::rewards {
namespace {

using nlohmann::json;

/// "right 1", "crashed -: the program ended with status 3" for each completion.
std::vector<std::string> judged(Reward& reward, const std::vector<json>& rows, const std::vector<std::string>& completions) {
  std::vector<std::string> out;
  for (const Judgement& one : judge_all(reward, rows, completions)) {
    out.push_back(fmt::format("{} {}{}{}", verdict_name(one.verdict), one.reward ? fmt::format("{}", *one.reward) : "-",
                              one.detail.empty() ? "" : ": ", one.detail));
  }
  return out;
}

std::unique_ptr<Reward> make(const std::string& spec, double seconds = 20) {
  RewardSettings settings;
  settings.program_timeout = seconds;
  return make_reward(spec, settings);
}

/// A file in a folder of its own, gone at the end.
class ChildReward : public testing::Test {
 protected:
  ScratchFolder folder_;
  std::string file(const std::string& name, const std::string& text) {
    const std::string path = folder_.path() + "/" + name;
    std::ofstream(path) << text;
    return path;
  }
  /// A program in Python of which `body` gets `request` and calls answer(object) or prints what it likes.
  std::string program(const std::string& body) {
    return "program:exec python3 " +
           file("p.py",
                "import sys, json, os, time\ndef answer(o): print(json.dumps(o), flush=True)\nfor line in sys.stdin:\n request = json.loads(line)\n" +
                    body);
  }
};

const std::vector<json> kRows = {{{"answer", "a"}}, {{"answer", "b"}}, {{"answer", "c"}}, {{"answer", "d"}}};
const std::vector<std::string> kTexts = {"a", "x", "c", "y"};
using testing::AllOf;
using testing::Each;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::StartsWith;

TEST_F(ChildReward, ProgramJudges) {
  const auto reward = make(program(" answer({'id': request['id'], 'reward': 1.0 if request['completion'] == request['row']['answer'] else 0})\n"));
  EXPECT_THAT(judged(*reward, kRows, kTexts), ElementsAre("right 1", "wrong 0", "right 1", "wrong 0"));
  EXPECT_THAT(judged(*reward, kRows, {"a", "b", "c", "d"}), Each("right 1"));
}

TEST_F(ChildReward, ProgramGivesVerdictAndDetailInAnyOrder) {
  const auto reward = make("program:exec python3 " + file("p.py", R"(
import sys, json
lines = [json.loads(sys.stdin.readline()) for _ in range(4)]
for r in reversed(lines):
    print(json.dumps({'id': r['id'], 'reward': -0.5 if r['completion'] != 'y' else None, 'verdict': 'unparsed', 'detail': 'saw ' + r['completion']}), flush=True)
sys.stdin.read()
)"));
  EXPECT_THAT(judged(*reward, kRows, kTexts),
              ElementsAre("unparsed -0.5: saw a", "unparsed -0.5: saw x", "unparsed -0.5: saw c", "unparsed -: saw y"));
}

TEST_F(ChildReward, ProgramThatDiesIsStartedAgain) {
  // It dies on one completion: only that one is unscored.
  const auto reward = make(program(
      " if request['completion'] == 'x':\n  print('no x, please', file=sys.stderr)\n  sys.exit(3)\n answer({'id': request['id'], 'reward': 1})\n"));
  EXPECT_THAT(judged(*reward, kRows, kTexts),
              ElementsAre("right 1", "crashed -: the program ended with status 3: no x, please", "right 1", "right 1"));
  // It dies after each answer: nothing is lost.
  const auto brief = make(program(" answer({'id': request['id'], 'reward': 1})\n sys.exit(0)\n"));
  EXPECT_THAT(judged(*brief, kRows, kTexts), Each("right 1"));
}

TEST_F(ChildReward, ProgramThatAlwaysDiesIsGivenUp) {
  const auto reward = make("program:exit 5");
  const std::vector<json> rows(10, json{{"answer", "a"}});
  EXPECT_THAT(judged(*reward, rows, std::vector<std::string>(10, "a")), Each(AllOf(StartsWith("crashed -: "), HasSubstr("ended with status 5"))));
  const auto absent = make("program:/no/such/program");
  EXPECT_THAT(judged(*absent, kRows, kTexts), Each(AllOf(StartsWith("crashed -: "), HasSubstr("status 127"))));
  const auto killed = make("program:kill -9 $$");
  EXPECT_THAT(judged(*killed, kRows, kTexts), Each(AllOf(StartsWith("crashed -: "), HasSubstr("killed by signal 9"))));
}

TEST_F(ChildReward, ProgramThatSleepsTimesOut) {
  const auto reward = make(program(" if request['completion'] == 'x': time.sleep(1000)\n answer({'id': request['id'], 'reward': 1})\n"), 2);
  const double start = monotonic_seconds();
  EXPECT_THAT(judged(*reward, kRows, kTexts), ElementsAre("right 1", "timed-out -: the program gave no answer for 2 s", "right 1", "right 1"));
  EXPECT_LT(monotonic_seconds() - start, 120);
}

// Answers to what nobody asked are no sign of life.
TEST_F(ChildReward, ProgramThatAnswersSomethingElseForeverTimesOut) {
  const auto reward = make(program(" while True:\n  answer({'id': -1, 'reward': 0})\n  answer({'id': -9223372036854775808, 'reward': 0})\n"
                                   "  answer({'id': 18446744073709551615, 'reward': 0})\n  time.sleep(0.01)\n"),
                           1);
  const double start = monotonic_seconds();
  EXPECT_THAT(judged(*reward, {kRows[0]}, {"a"}), Each("timed-out -: the program gave no answer for 1 s"));
  EXPECT_LT(monotonic_seconds() - start, 30);
}

TEST_F(ChildReward, ProgramThatTalksNonsense) {
  EXPECT_THAT(judged(*make(program(" print('debug: here', flush=True)\n")), kRows, kTexts),
              Each("crashed -: the program's answer is no JSON: debug: here"));
  EXPECT_THAT(judged(*make(program(" print('{\"id\": %d, \"reward\": NaN}' % request['id'], flush=True)\n")), kRows, kTexts),
              Each(HasSubstr("crashed -: the program's answer is no JSON")));
  EXPECT_THAT(judged(*make(program(" print('{\"id\": %d, \"reward\": 1e999}' % request['id'], flush=True)\n")), kRows, kTexts),
              Each(StartsWith("crashed -: ")));
  EXPECT_THAT(judged(*make(program(" answer({'id': request['id']})\n")), kRows, kTexts), Each("crashed -: the program's answer has no \"reward\""));
  EXPECT_THAT(judged(*make(program(" answer({'id': request['id'], 'reward': 'high'})\n")), kRows, kTexts),
              Each(HasSubstr("is string; wanted a number")));
  EXPECT_THAT(judged(*make(program(" answer({'id': request['id'], 'reward': 1, 'verdict': 'good'})\n")), kRows, kTexts),
              Each(HasSubstr("which is none")));
  EXPECT_THAT(judged(*make(program(" answer({'reward': 1})\n")), kRows, kTexts), Each(HasSubstr("has no \"id\"")));
  EXPECT_THAT(judged(*make(program(" answer([1])\n")), kRows, kTexts), Each(HasSubstr("no JSON object")));
  EXPECT_THAT(judged(*make(program(" sys.stdout.buffer.write(b'\\xff\\x00\\n'); sys.stdout.flush()\n")), kRows, kTexts),
              Each(StartsWith("crashed -: ")));
  // Answers to questions that nobody asked are passed over.
  EXPECT_THAT(
      judged(*make(program(" answer({'id': 10**9, 'reward': 0})\n answer({'id': -1, 'reward': 0})\n answer({'id': request['id'], 'reward': 1})\n")),
             kRows, kTexts),
      Each("right 1"));
}

TEST_F(ChildReward, ProgramThatFloods) {
  // Standard error without an end, and answers larger than a pipe holds while the requests are larger, too.
  const auto reward = make(program(" sys.stderr.write('x' * 300000)\n answer({'id': request['id'], 'reward': 1, 'detail': 'y' * 300000})\n"));
  const std::vector<std::string> big(4, std::string(300000, 'z'));
  EXPECT_THAT(judged(*reward, kRows, big), Each(StartsWith("right 1: yyy")));
  const auto endless = make("program:exec tr '\\0' x < /dev/zero", 20);
  EXPECT_THAT(judged(*endless, {kRows[0]}, {"a"}), Each(StartsWith("crashed -: the program wrote a line without an end")));
}

TEST_F(ChildReward, ProgramsChildrenDieWithIt) {
  const std::string mark = folder_.path() + "/alive";
  {
    const auto reward = make("program:(while sleep 0.05; do echo >> " + mark + "; done) & cat > /dev/null", 1);
    EXPECT_THAT(judged(*reward, {kRows[0]}, {"a"}), Each(StartsWith("timed-out -: ")));
  }
  ASSERT_TRUE(std::filesystem::exists(mark));
  const auto size = std::filesystem::file_size(mark);
  usleep(300000);
  EXPECT_EQ(std::filesystem::file_size(mark), size);
}

TEST_F(ChildReward, ExampleProgram) {
  const auto reward = make("program:" HONE_EXAMPLE_PROGRAM " 2");
  const std::vector<json> rows = {json::object(), {{"must_include", "tea"}}, json::object()};
  EXPECT_THAT(judged(*reward, rows, {"two words", "tea", "a b c d e f"}), ElementsAre("right 1: 2 words", "wrong 1: 1 words", "wrong 0: 6 words"));
}

TEST_F(ChildReward, PythonFunctionGetsTheBatch) {
  const std::string path = file("rewards.py", R"(
print('loading')
def check(prompts, completions, completion_ids, answer, level, trainer_state, **kwargs):
    print('judging', len(prompts))
    assert prompts == ['p', 'q', 'r'] and level == [1, None, 3] and kwargs.get('prompt') is None and 'completion' not in kwargs
    assert completion_ids == [[], [], []] and trainer_state.global_step == (7 if 'x' not in completions else 0)
    return [1.0 if a == c else None if c == '' else -0.25 for a, c in zip(answer, completions)]
)");
  const auto reward = make("python:" + path + ":check");
  const std::vector<json> rows = {
      {{"prompt", "p"}, {"answer", "a"}, {"level", 1}}, {{"prompt", "q"}, {"answer", "b"}}, {{"prompt", "r"}, {"answer", "c"}, {"level", 3}}};
  EXPECT_THAT(judged(*reward, rows, {"a", "", "x"}), ElementsAre("right 1", "unparsed -: the function returned None", "wrong -0.25"));
  reward->at_step(7);
  EXPECT_THAT(judged(*reward, rows, {"a", "b", "c"}), Each("right 1"));
}

TEST_F(ChildReward, PythonConversationsAndAsync) {
  const std::string path = file("chat.py", R"(
import asyncio
async def check(completions, **kwargs):
    await asyncio.sleep(0.01)
    assert kwargs['prompts'][0][0]['role'] == 'user'
    return [float(c[0]['content'] == 'hi' and c[0]['role'] == 'assistant') for c in completions]
def strict(completions): return [True for c in completions]
)");
  const std::vector<json> rows = {{{"prompt", {{{"role", "user"}, {"content", "hello"}}}}}};
  EXPECT_THAT(judged(*make("python:" + path + ":check"), rows, {"hi"}), ElementsAre("right 1"));
  EXPECT_THAT(judged(*make("python:" + path + ":strict"), rows, {"hi"}), ElementsAre("right 1"));
}

TEST_F(ChildReward, PythonFaults) {
  const std::string path = file("faulty.py", R"(
import os, sys, time
def raises(completions, **kw): raise KeyError('gold')
def nan(completions, **kw): return [float('nan'), float('inf'), 'x', 1][:len(completions)]
def short(completions, **kw): return [1]
def number(completions, **kw): return 1
def leaves(completions, **kw): os._exit(4)
def exits(completions, **kw): sys.exit('no more')
def sleeps(completions, **kw): time.sleep(1000)
def sometimes(completions, **kw):
    if completions[0] == 'a': os._exit(1)
    return [1] * len(completions)
def prints(completions, **kw):
    os.write(1, b'{"id": 0, "rewards": [9, 9, 9, 9]}\n'); print('{}'); sys.stdin.read()
    return [1] * len(completions)
)");
  const auto spec = [&](const std::string& name) { return "python:" + path + ":" + name; };
  EXPECT_THAT(judged(*make(spec("raises")), kRows, kTexts), Each("crashed -: KeyError: 'gold'"));
  EXPECT_THAT(judged(*make(spec("nan")), kRows, kTexts), ElementsAre("crashed -: a reward is nan", "crashed -: a reward is inf",
                                                                     "crashed -: a reward is str, wanted a number or None", "right 1"));
  EXPECT_THAT(judged(*make(spec("short")), kRows, kTexts), Each(HasSubstr("returned 1 rewards for 4 completions")));
  EXPECT_THAT(judged(*make(spec("number")), kRows, kTexts), Each(HasSubstr("returned int, wanted a list")));
  EXPECT_THAT(judged(*make(spec("leaves")), kRows, kTexts), Each(HasSubstr("crashed -: Python ended with status 4")));
  EXPECT_THAT(judged(*make(spec("exits")), kRows, kTexts), Each(AllOf(StartsWith("crashed -: "), HasSubstr("no more"))));
  EXPECT_THAT(judged(*make(spec("sleeps"), 1), kRows, kTexts), Each("timed-out -: the function was not done after 1 s"));
  EXPECT_THAT(judged(*make(spec("prints")), kRows, kTexts), Each("right 1"));
  const auto sometimes = make(spec("sometimes"));
  EXPECT_THAT(judged(*sometimes, kRows, kTexts), Each(StartsWith("crashed -: ")));
  EXPECT_THAT(judged(*sometimes, kRows, {"b", "b", "b", "b"}), Each("right 1"));
}

TEST_F(ChildReward, BadSpecs) {
  const std::string path = file("ok.py", "import nothing_of_that_name\n"), other = file("other.py", "def one(completions): pass\n");
  EXPECT_THAT(refusal("python:" + path + ":f"), HasSubstr("No module named 'nothing_of_that_name'"));
  EXPECT_THAT(refusal("python:" + other + ":two"), HasSubstr("has no function two; it has one"));
  EXPECT_THAT(refusal("python:/no/such/file.py:f"), HasSubstr("there is no file /no/such/file.py"));
  EXPECT_THAT(refusal("python:" + other), HasSubstr("write python:FILE:FUNCTION"));
}

TEST_F(ChildReward, ExampleFunctions) {
  const std::string path = HONE_SOURCE_DIR "/examples/reward/rewards.py";
  EXPECT_THAT(judged(*make("python:" + path + ":brevity"), {json::object(), json::object()}, {"", std::string(500, 'x')}),
              ElementsAre("right 1", "wrong 0"));
  EXPECT_THAT(judged(*make("python:" + path + ":holds_answer"), {{{"answer", "42"}}, json::object()}, {"so 42", "x"}),
              ElementsAre("right 1", "unparsed -: the function returned None"));
}

}  // namespace
}  // namespace hone::rewards
