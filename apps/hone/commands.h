#pragma once
// One function per command, each in a file of its own. A command returns its exit code, or throws what main turns into one.
#include "hone/config/parse.h"

namespace hone::app {

using config::Arguments;

int run_sft(const Arguments& arguments);
int run_dpo(const Arguments& arguments);
int run_kto(const Arguments& arguments);
int run_orpo(const Arguments& arguments);
int run_simpo(const Arguments& arguments);
int run_grpo(const Arguments& arguments);
int run_rloo(const Arguments& arguments);
int run_ppo(const Arguments& arguments);
int run_rlhf(const Arguments& arguments);
int run_reward(const Arguments& arguments);
int run_inspect(const Arguments& arguments);
int run_tokenize(const Arguments& arguments);
int run_score(const Arguments& arguments);
int run_sample(const Arguments& arguments);
int run_chat(const Arguments& arguments);
int run_eval(const Arguments& arguments);
int run_grade(const Arguments& arguments);
int run_merge(const Arguments& arguments);
int run_convert(const Arguments& arguments);
int run_convert_adapter(const Arguments& arguments);  // hone convert --adapter
int run_doctor(const Arguments& arguments);

}  // namespace hone::app
