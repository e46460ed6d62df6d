#pragma once
// nlohmann's two JSON types, compiled once (json.cpp) instead of in each of a hundred and fifty sources. Stands in the precompiled headers; a source
// names <nlohmann/json.hpp> as ever.
#include <nlohmann/json.hpp>

extern template class nlohmann::basic_json<>;
extern template class nlohmann::basic_json<nlohmann::ordered_map>;
