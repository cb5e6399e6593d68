// How the library's few exported functions are declared; everything else in it is hidden.
#pragma once

#define BIREAL_EXPORT extern "C" __attribute__((visibility("default")))
