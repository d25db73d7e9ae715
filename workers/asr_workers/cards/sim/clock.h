/* clock.h - the clock of a simulated card. */
#ifndef CLOCK_H
#define CLOCK_H

#include <stdint.h>

/* Monotonic time in nanoseconds: the clock of the card's condition variables. */
uint64_t now_ns(void);

#endif
