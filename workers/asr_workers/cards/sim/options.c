/* options.c - parses the options "key=value,..." of a simulated card. */
#include "options.h"

#include "asr_card.h"
#include "failure.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int32_t number(const char *key, const char *value, uint64_t least, uint64_t most, uint64_t *parsed)
{
    char *end;
    *parsed = strtoull(value, &end, 10);
    if (*value < '0' || *value > '9' || *end != '\0' || *parsed < least || *parsed > most)
        return fail(ASR_CARD_E_ARGUMENT, "%s=%s is not a whole number from %llu to %llu", key, value,
                    (unsigned long long)least, (unsigned long long)most);
    return ASR_CARD_OK;
}

static int32_t count(const char *key, const char *value, uint32_t most, uint32_t *parsed)
{
    uint64_t wide;
    int32_t code = number(key, value, 1, most, &wide);
    *parsed = (uint32_t)wide;
    return code;
}

/* Parse a value that is one of two words; *is_second is set to whether it is the second. */
static int32_t either(const char *key, const char *value, const char *first, const char *second, int *is_second)
{
    *is_second = strcmp(value, second) == 0;
    if (!*is_second && strcmp(value, first) != 0)
        return fail(ASR_CARD_E_ARGUMENT, "%s is %s or %s, not %s", key, first, second, value);
    return ASR_CARD_OK;
}

static int32_t fault(char *value, options *parsed)
{
    static const char *const names[] = {"none", "hang", "reset", "count", "drop", "ecc", "heat", "link"};
    char *at = strchr(value, '@');
    if (at == NULL)
        return fail(ASR_CARD_E_ARGUMENT, "a fault is NAME@STEP, not %s", value);
    *at = '\0';
    for (size_t i = 1; i < sizeof(names) / sizeof(names[0]); i++)
        if (strcmp(value, names[i]) == 0) {
            parsed->fault = (fault_kind)i;
            return number("fault's step", at + 1, 1, UINT64_MAX - 1, &parsed->fault_step);
        }
    return fail(ASR_CARD_E_ARGUMENT, "%s is no fault: hang, reset, count, drop, ecc, heat and link are", value);
}

static int32_t milliseconds(const char *value, double *parsed)
{
    char *end;
    *parsed = strtod(value, &end);
    if (*value == '\0' || *end != '\0' || !(*parsed >= 0.0 && *parsed <= 60000.0))
        return fail(ASR_CARD_E_ARGUMENT, "latency_ms=%s is not a number from 0 to 60000", value);
    return ASR_CARD_OK;
}

static int32_t option(const char *key, char *value, options *parsed)
{
    if (strcmp(key, "mode") == 0)
        return either(key, value, "compute", "timing", &parsed->is_timing);
    if (strcmp(key, "arch") == 0) {
        parsed->has_arch = 1;
        return either(key, value, "base", "large", &parsed->is_large);
    }
    if (strcmp(key, "top_k") == 0)
        return either(key, value, "0", "1", &parsed->has_top_k);
    if (strcmp(key, "shared") == 0)
        return either(key, value, "0", "1", &parsed->is_shared);
    if (strcmp(key, "cards") == 0)
        return count(key, value, CARDS_MAX, &parsed->cards);
    if (strcmp(key, "threads") == 0)
        return count(key, value, 256, &parsed->threads);
    if (strcmp(key, "capacity") == 0)
        return count(key, value, 100000, &parsed->capacity);
    if (strcmp(key, "seed") == 0)
        return number(key, value, 0, UINT64_MAX - 1, &parsed->seed);
    if (strcmp(key, "latency_ms") == 0)
        return milliseconds(value, &parsed->latency_ms);
    if (strcmp(key, "fault") == 0)
        return fault(value, parsed);
    if (strcmp(key, "isa") == 0 && strlen(value) < sizeof(parsed->isa)) {
        strcpy(parsed->isa, value);
        return ASR_CARD_OK;
    }
    return fail(ASR_CARD_E_ARGUMENT, "the simulator has no option %s=%s", key, value);
}

int32_t options_parse(const char *text, options *parsed)
{
    *parsed = (options){.cards = 8, .threads = 1, .latency_ms = 8.0, .seed = 1};
    if (text == NULL || *text == '\0')
        return ASR_CARD_OK;
    char *copy = strdup(text), *rest = copy, *pair;
    if (copy == NULL)
        return fail(ASR_CARD_E_MEMORY, "no memory for the options");
    int32_t code = ASR_CARD_OK;
    while (code == ASR_CARD_OK && (pair = strsep(&rest, ",")) != NULL) {
        char *value = strchr(pair, '=');
        if (value == NULL) {
            code = fail(ASR_CARD_E_ARGUMENT, "an option is key=value, not %s", pair);
            break;
        }
        *value++ = '\0';
        code = option(pair, value, parsed);
    }
    free(copy);
    return code;
}
