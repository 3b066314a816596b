/* SPDX-License-Identifier: Apache-2.0 */
/* A list taken apart, changed and put together again: so that most mutants get past the checks of the layout. */
#ifndef MAMPLUS_FUZZ_LIST_MODEL_H
#define MAMPLUS_FUZZ_LIST_MODEL_H

#include <stddef.h>
#include <stdint.h>

/* Take `data` apart, change something (by `seed`), write it to `out`. Returns its size; 0: it is no list, or has no room. */
size_t mutated_list(const uint8_t *data, size_t size, uint8_t *out, size_t room, unsigned int seed);

#endif
