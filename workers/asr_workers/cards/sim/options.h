/* options.h - the options "key=value,..." of a simulated card. */
#ifndef OPTIONS_H
#define OPTIONS_H

#include <stdint.h>

#define CARDS_MAX 64

typedef enum fault_kind {
    FAULT_NONE,
    FAULT_HANG,
    FAULT_RESET,
    FAULT_COUNT,
    FAULT_DROP,
    FAULT_ECC,
    FAULT_HEAT,
    FAULT_LINK
} fault_kind;

typedef struct options {
    int is_timing;
    int is_large;     /* arch=large, in timing mode */
    int has_arch;
    int is_shared;    /* other processes may open the card too */
    int has_top_k;
    uint32_t cards;
    uint32_t threads;
    uint32_t capacity; /* 0: the default of the mode */
    double latency_ms; /* median, in timing mode */
    uint64_t seed;
    char isa[16];
    fault_kind fault;
    uint64_t fault_step; /* the first submit is 1 */
} options;

int32_t options_parse(const char *text, options *parsed);

#endif
