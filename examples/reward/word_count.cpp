// An external reward for `--reward "program:./word_count 20"`: 1 for a completion of exactly so many words, less the further it is away, and a
// bonus where a word of the row's column "must_include" is used. Built with: g++ -std=c++17 -O2 -o word_count examples/reward/word_count.cpp
//
// One JSON line comes for each completion, one goes back (docs/sandbox.md): {"id": 7, "completion": "...", "truncated": false, "row": {...}}
// -> {"id": 7, "reward": 0.8, "verdict": "wrong", "detail": "24 words"}
#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <iostream>
#include <nlohmann/json.hpp>
#include <sstream>
#include <string>

namespace {

int words_of(const std::string& text) {
  std::istringstream in(text);
  int count = 0;
  for (std::string word; in >> word;) ++count;
  return count;
}

nlohmann::json judge(const nlohmann::json& request, int wanted) {
  const std::string completion = request.at("completion");
  const int words = words_of(completion);
  double reward = std::max(0.0, 1.0 - std::abs(words - wanted) / static_cast<double>(wanted));
  const std::string needed = request.at("row").value("must_include", std::string());
  if (!needed.empty() && completion.find(needed) != std::string::npos) reward += 0.5;
  return {
      {"id", request.at("id")}, {"reward", reward}, {"verdict", words == wanted ? "right" : "wrong"}, {"detail", std::to_string(words) + " words"}};
}

}  // namespace

int main(int argc, char** argv) {
  const int wanted = argc > 1 ? std::atoi(argv[1]) : 20;
  if (wanted < 1) {
    std::cerr << "word_count: give the number of words that is wanted\n";
    return 2;
  }
  for (std::string line; std::getline(std::cin, line);) std::cout << judge(nlohmann::json::parse(line), wanted) << std::endl;
  return 0;
}
