// Marks the few exported functions of the library. All other symbols are hidden.
#pragma once

#define BIREAL_EXPORT extern "C" __attribute__((visibility("default")))
