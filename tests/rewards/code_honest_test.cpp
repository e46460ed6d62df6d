// Completions that are right in unusual ways: what looks for attacks must leave them alone. And what a row and a completion look like.
#include "code_support.h"
#include "hone/rewards/code_program.h"
#include "judge_support.h"

namespace hone::rewards {
namespace {

struct Honest {
  const char* name;
  const char* completion;
  const char* tests;
};

class CodeHonest : public testing::TestWithParam<Honest> {};

TEST_P(CodeHonest, IsRight) {
  NEEDS_ISOLATION();
  const Judgement judged = judgement("code", {{"tests", GetParam().tests}}, GetParam().completion);
  EXPECT_EQ(verdict_name(judged.verdict), std::string("right")) << judged.detail;
  EXPECT_EQ(judged.reward, 1.0);
}

const Honest kHonest[] = {
    {"plain", "def add(a, b): return a + b", "assert add(1, 2) == 3"},
    {"future", "\"\"\"About.\"\"\"\nfrom __future__ import annotations\ndef f(x: Unknown) -> int: return x", "assert f(1) == 1"},
    {"fenced", "Sure!\n```python\ndef f(): return 'a'\n```\nand better\n```py\ndef f(): return 'b'\n```\n", "assert f() == 'b'"},
    {"cut_fence", "```python\ndef f(): return 1\n", "assert f() == 1"},
    {"windows_lines", "def f():\r\n    return 1\r\n", "assert f() == 1"},
    {"unicode", "def größe(x):\n    return x + '\\u00e9ü漢'", "assert größe('a') == 'aéü漢'"},
    {"quotes", "def f(): return '\\'' + \"\\\"\" + '\\\\n'", "assert f() == '\\'\"\\\\n'"},
    {"prints", "def f():\n    print('hello')\n    return 1\nprint(f())", "assert f() == 1"},
    {"main_guard", "def f(): return 2\nif __name__ == '__main__':\n    print(f())", "assert f() == 2"},
    {"dataclass", "from dataclasses import dataclass\n@dataclass\nclass P:\n    x: int\n    y: int\ndef f(): return [P(1, 2)]",
     "assert f() == [P(1, 2)]\nassert P(1, 2) != P(2, 1)"},
    {"named_tuple", "from collections import namedtuple\nP = namedtuple('P', 'x y')\ndef f(): return P(1, 2)", "assert f() == (1, 2)"},
    {"class_under_test",
     "class V:\n    def __init__(self, x): self.x = x\n    def __eq__(self, o): return self.x == getattr(o, 'x', o)\n    def __lt__(self, o): return "
     "self.x < o.x\n"
     "    def __bool__(self): return self.x != 0",
     "assert V(1) == V(1)\nassert V(1) == 1\nassert sorted([V(2), V(1)])[0] == V(1)\nassert V(3)\nassert not V(0)"},
    {"heap_of_objects",
     "import heapq\nclass N:\n    def __init__(s, v): s.v = v\n    def __lt__(s, o): return s.v < o.v\n"
     "def f(xs):\n    h = [N(x) for x in xs]\n    heapq.heapify(h)\n    return [heapq.heappop(h).v for _ in xs]",
     "assert f([3, 1, 2]) == [1, 2, 3]"},
    {"result_is_none_or_object", "class N:\n    def __eq__(s, o): return isinstance(o, N)\ndef f(x): return N() if x else None",
     "assert f(1) != None\nassert f(0) is None"},
    {"counter_and_fraction",
     "from collections import Counter, OrderedDict, defaultdict\nfrom fractions import Fraction\nfrom decimal import Decimal\n"
     "def f(): return Counter('aab'), Fraction(1, 2), Decimal('0.5'), OrderedDict(a=1), defaultdict(int, a=1)",
     "assert f() == ({'a': 2, 'b': 1}, 0.5, 0.5, {'a': 1}, {'a': 1})"},
    {"named_like_a_builtin", "def sum(a, b):\n    return a + b", "assert sum(1, 2) == 3\nassert sum(2, 2) == 4"},
    {"helper_named_like_a_builtin", "def max(xs):\n    return sorted(xs)[-1]\ndef top(xs): return max(xs)", "assert top([1, 3, 2]) == max(1, 2, 3)"},
    {"own_print", "def print(*a): pass\ndef f():\n    print(1)\n    return 1", "assert f() == 1"},
    {"recursion", "import sys\nsys.setrecursionlimit(20000)\ndef f(n): return 0 if n == 0 else 1 + f(n - 1)", "assert f(5000) == 5000"},
    {"cache", "from functools import lru_cache\n@lru_cache(None)\ndef fib(n): return n if n < 2 else fib(n - 1) + fib(n - 2)",
     "assert fib(80) == 23416728348467685"},
    {"threads",
     "from concurrent.futures import ThreadPoolExecutor\ndef f(xs):\n    with ThreadPoolExecutor(4) as pool: return list(pool.map(lambda x: x * x, "
     "xs))",
     "assert f([1, 2, 3]) == [1, 4, 9]"},
    {"asyncio", "import asyncio\nasync def g(x):\n    await asyncio.sleep(0.01)\n    return x\ndef f(x): return asyncio.run(g(x))",
     "assert f(3) == 3"},
    {"processes", "import multiprocessing as m\ndef g(x): return x * x\ndef f(xs):\n    with m.Pool(2) as pool: return pool.map(g, xs)",
     "assert f([1, 2]) == [1, 4]"},
    {"subprocess",
     "import subprocess, sys\ndef f(): return subprocess.run([sys.executable, '-c', 'print(7)'], capture_output=True, text=True).stdout",
     "assert f() == '7\\n'"},
    {"files",
     "import tempfile, os\ndef f():\n    with open('x.txt', 'w') as t: t.write('a')\n    return open('x.txt').read() + "
     "str(os.path.exists(tempfile.mkdtemp()))",
     "assert f() == 'aTrue'"},
    {"captured_output",
     "import io, contextlib\ndef f():\n    b = io.StringIO()\n    with contextlib.redirect_stdout(b): print('x')\n    return b.getvalue()",
     "assert f() == 'x\\n'"},
    {"logging", "import logging\nlogging.basicConfig()\ndef f():\n    logging.warning('careful')\n    return 1", "assert f() == 1"},
    {"enum_and_abc",
     "import enum, abc, typing\nclass C(enum.Enum):\n    A = 1\nclass B(abc.ABC):\n    @abc.abstractmethod\n    def f(self): ...\nT = "
     "typing.TypeVar('T')\ndef f(): return C.A.value",
     "assert f() == 1\nassert C.A == C.A\nassert C(1) is C.A"},
    {"raises", "def f(x):\n    if x < 0: raise ValueError('negative')\n    return x",
     "try:\n    f(-1)\n    assert False, 'no error'\nexcept ValueError as e:\n    assert 'neg' in str(e)"},
    {"warnings_and_traceback",
     "import warnings, traceback\ndef f():\n    warnings.warn('x')\n    try: 1 / 0\n    except Exception: return 'Zero' in traceback.format_exc()",
     "assert f()"},
    {"generators", "def f(n):\n    for i in range(n): yield i", "assert list(f(3)) == [0, 1, 2]\nassert next(f(1)) == 0"},
    {"chained", "def f(x): return x", "assert 0 < f(1) < 2\nassert f(2) in (1, 2) and f(2) not in {3}\nassert abs(f(0.1) + 0.2 - 0.3) < 1e-9"},
    {"no_newline_comment", "def f(): return 1  # done", "assert f() == 1  # tests"},
    {"random", "import random\nrandom.seed(1)\ndef f(): return random.random() < 1", "assert f()"},
    {"math_names", "import math\nfrom math import *\ndef f(x): return sqrt(x)", "assert f(4) == 2\nassert math.isclose(f(2) ** 2, 2)"},
    {"unittest", "def f(): return 1",
     "import unittest\nclass T(unittest.TestCase):\n    def test(self): self.assertEqual(f(), 1)\nassert "
     "unittest.main(exit=False).result.wasSuccessful()"},
    {"doctest", "def f(x):\n    '''\n    >>> f(1)\n    2\n    '''\n    return x + 1", "import doctest\nassert doctest.testmod().failed == 0"},
    {"many_tests", "def f(x): return x", "assert all(f(i) == i for i in range(100000))\nassert f(list(range(100000))) == list(range(100000))"},
    {"match", "def f(x):\n    match x:\n        case [a, b]: return a\n        case _: return 0", "assert f([1, 2]) == 1"},
    {"reads_itself", "import inspect\ndef f(): return 1\ntext = inspect.getsource(f)", "assert text == 'def f(): return 1\\n'"},
    {"big_program", nullptr, "assert f() == 1"},
};

std::string honest_name(const testing::TestParamInfo<Honest>& info) { return info.param.name; }

std::vector<Honest> honest() {
  static const std::string big = "x = [" + [] {
    std::string text;
    for (int i = 0; i < 60000; ++i) text += std::to_string(i) + ", ";
    return text;
  }() + "]\ndef f(): return x[1]";
  std::vector<Honest> all(std::begin(kHonest), std::end(kHonest));
  all.back().completion = big.c_str();
  return all;
}
INSTANTIATE_TEST_SUITE_P(Programs, CodeHonest, testing::ValuesIn(honest()), honest_name);

TEST(CodeText, LastFencedBlock) {
  EXPECT_EQ(completion_code("x = 1"), "x = 1");
  EXPECT_EQ(completion_code("a\n```\nb\n```\nc"), "b\n");
  EXPECT_EQ(completion_code("```py\nb\n```\n~~~~\nc\n```\nd\n~~~~\n"), "c\n```\nd\n");
  EXPECT_EQ(completion_code("```py\nb\n"), "b\n");
  EXPECT_EQ(completion_code("  ```py\nb\n  ```"), "b\n");
  EXPECT_EQ(completion_code("use ```x``` here\ny"), "use ```x``` here\ny");
  EXPECT_EQ(completion_code("```x```\ny"), "```x```\ny");
  EXPECT_EQ(completion_code("````\n```\nb\n```\n````"), "```\nb\n```\n");
  EXPECT_EQ(completion_code(""), "");
}

TEST(CodeRows, FaultsAreNamed) {
  NEEDS_ISOLATION();
  EXPECT_EQ(row_fault("code", {{"tests", "assert 1"}}), "");
  EXPECT_EQ(row_fault("code", {{"tests", {"assert 1", "assert 2"}}}), "");
  EXPECT_THAT(row_fault("code", {{"prompt", "x"}}), testing::HasSubstr("no \"tests\""));
  EXPECT_THAT(row_fault("code", {{"tests", 3}}), testing::HasSubstr("number"));
  EXPECT_THAT(row_fault("code", {{"tests", " \n"}}), testing::HasSubstr("empty"));
  EXPECT_THAT(row_fault("code", {{"tests", {1, 2}}}), testing::HasSubstr("array"));
  EXPECT_THAT(row_fault("code", {{"test", "x"}, {"entry_point", "a b"}}), testing::HasSubstr("no name"));
  EXPECT_THAT(row_fault("code", {{"test_list", nlohmann::json::array()}}), testing::HasSubstr("test_list"));
  EXPECT_EQ(verdict("code", {{"prompt", "x"}}, "x = 1"), "gold-unparsed -");
}

}  // namespace
}  // namespace hone::rewards
