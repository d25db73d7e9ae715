/* failure.c - the error sentence of a thread's last failed call. */
#include "failure.h"

#include <stdarg.h>
#include <stdio.h>

static _Thread_local char last[512];

int32_t fail(int32_t code, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(last, sizeof(last), format, arguments);
    va_end(arguments);
    return code;
}

void failure_sentence(char *sentence, size_t size)
{
    if (sentence != NULL && size > 0)
        snprintf(sentence, size, "%s", last);
}
