/* pool.h - a few threads that share the pieces of one task at a time. */
#ifndef POOL_H
#define POOL_H

#include <stdint.h>

typedef struct pool pool;
typedef void (*pool_task)(void *context, uint32_t from, uint32_t to);

/* A pool of `threads` threads, including the caller's; NULL without memory. */
pool *pool_new(uint32_t threads);
void pool_free(pool *p);
/* Call task(context, from, to) for parts of 0 .. count - 1; all are complete on return. One caller at a time. */
void pool_run(pool *p, pool_task task, void *context, uint32_t count);

#endif
