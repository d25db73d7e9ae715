/* clock.h - the time of a simulated card. */
#ifndef CLOCK_H
#define CLOCK_H

#include <stdint.h>

/* Monotonic: the clock of the card's condition variables. */
uint64_t now_ns(void);

#endif
