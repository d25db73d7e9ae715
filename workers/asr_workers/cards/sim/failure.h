/* failure.h - the error sentence of a thread's last failed call. */
#ifndef FAILURE_H
#define FAILURE_H

#include <stddef.h>
#include <stdint.h>

/* Store the sentence for this thread and return the code. */
int32_t fail(int32_t code, const char *format, ...) __attribute__((format(printf, 2, 3)));
void failure_sentence(char *sentence, size_t size);

#endif
