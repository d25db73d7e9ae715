/* pool.c - a few threads that share the pieces of one task at a time. */
#include "pool.h"

#include <pthread.h>
#include <stdlib.h>

typedef struct helper {
    pool *owner;
    uint32_t number; /* 1 ..; 0 is the caller of pool_run */
    pthread_t thread;
} helper;

struct pool {
    pthread_mutex_t mutex;
    pthread_cond_t started, done;
    uint32_t threads;
    uint32_t running;    /* helpers that still work on this round */
    uint64_t round;
    int is_stopping;
    pool_task task;
    void *context;
    uint32_t count;
    helper helpers[];
};

static void part(const pool *p, uint32_t number)
{
    uint32_t from = (uint32_t)((uint64_t)p->count * number / p->threads);
    uint32_t to = (uint32_t)((uint64_t)p->count * (number + 1) / p->threads);
    if (from < to)
        p->task(p->context, from, to);
}

static void *help(void *argument)
{
    helper *self = argument;
    pool *p = self->owner;
    uint64_t seen = 0;
    pthread_mutex_lock(&p->mutex);
    for (;;) {
        while (p->round == seen && !p->is_stopping)
            pthread_cond_wait(&p->started, &p->mutex);
        if (p->is_stopping)
            break;
        seen = p->round;
        pthread_mutex_unlock(&p->mutex);
        part(p, self->number);
        pthread_mutex_lock(&p->mutex);
        if (--p->running == 0)
            pthread_cond_signal(&p->done);
    }
    pthread_mutex_unlock(&p->mutex);
    return NULL;
}

pool *pool_new(uint32_t threads)
{
    pool *p = calloc(1, sizeof(*p) + threads * sizeof(helper));
    if (p == NULL)
        return NULL;
    pthread_mutex_init(&p->mutex, NULL);
    pthread_cond_init(&p->started, NULL);
    pthread_cond_init(&p->done, NULL);
    p->threads = 1;
    for (uint32_t i = 1; i < threads; i++) {
        p->helpers[i] = (helper){.owner = p, .number = i};
        /* Fewer threads than requested only make it slower. */
        if (pthread_create(&p->helpers[i].thread, NULL, help, &p->helpers[i]) != 0)
            break;
        p->threads++;
    }
    return p;
}

void pool_free(pool *p)
{
    if (p == NULL)
        return;
    pthread_mutex_lock(&p->mutex);
    p->is_stopping = 1;
    pthread_cond_broadcast(&p->started);
    pthread_mutex_unlock(&p->mutex);
    for (uint32_t i = 1; i < p->threads; i++)
        pthread_join(p->helpers[i].thread, NULL);
    pthread_mutex_destroy(&p->mutex);
    pthread_cond_destroy(&p->started);
    pthread_cond_destroy(&p->done);
    free(p);
}

void pool_run(pool *p, pool_task task, void *context, uint32_t count)
{
    if (p->threads == 1 || count == 1) {
        task(context, 0, count);
        return;
    }
    pthread_mutex_lock(&p->mutex);
    p->task = task;
    p->context = context;
    p->count = count;
    p->running = p->threads - 1;
    p->round++;
    pthread_cond_broadcast(&p->started);
    pthread_mutex_unlock(&p->mutex);
    part(p, 0);
    pthread_mutex_lock(&p->mutex);
    while (p->running > 0)
        pthread_cond_wait(&p->done, &p->mutex);
    pthread_mutex_unlock(&p->mutex);
}
