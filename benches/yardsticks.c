/* What the memory can do: reading an array, and copying one, on the given number of threads. The other times are judged
   against these, so they are as fast as can be. Built and called by prepared.py, from one thread. */

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stddef.h>
#include <string.h>
#ifdef __SSE__
#include <xmmintrin.h>
#endif

/* Threads take chunk after chunk and the caller waits for chunks rather than for threads: where another program has
   the processor of one of them, a yardstick that waited for it would flatter everybody measured against it. */

typedef float (*work)(float *to, const float *from, size_t count);

enum { CHUNK = 1 << 16, SPINS = 10000 };

static struct {
    work run;
    float *to;
    const float *from;
    size_t count;
} job;
static atomic_size_t next_chunk;
static atomic_ulong jobs;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t wake = PTHREAD_COND_INITIALIZER;
/* Guarded by the lock. */
static int started, working, is_open;
static float total;

static float chunks(void) {
    float sum = 0;
    for (size_t begin; (begin = atomic_fetch_add(&next_chunk, CHUNK)) < job.count;) {
        size_t left = job.count - begin;
        sum += job.run(job.to + begin, job.from + begin, left < CHUNK ? left : CHUNK);
    }
    return sum;
}

static void *worker(void *unused) {
    for (unsigned long seen = 0;;) {
        /* Waking up takes longer than a short wait. */
        for (int i = 0; i < SPINS && atomic_load(&jobs) == seen; i++) {
#ifdef __SSE__
            _mm_pause();
#endif
        }
        pthread_mutex_lock(&lock);
        while (atomic_load(&jobs) == seen) pthread_cond_wait(&wake, &lock);
        seen = atomic_load(&jobs);
        int enters = is_open;
        working += enters;
        pthread_mutex_unlock(&lock);
        if (!enters) continue;
        float sum = chunks();
        pthread_mutex_lock(&lock);
        total += sum;
        working--;
        pthread_mutex_unlock(&lock);
    }
    return unused;
}

static float on_threads(work run, float *to, const float *from, size_t count, int threads) {
    pthread_mutex_lock(&lock);
    job.run = run, job.to = to, job.from = from, job.count = count;
    atomic_store(&next_chunk, 0);
    total = 0, is_open = 1;
    atomic_fetch_add(&jobs, 1);
    for (pthread_t thread; started < threads - 1; started++) {
        if (pthread_create(&thread, NULL, worker, NULL)) break;
        pthread_detach(thread);
    }
    pthread_cond_broadcast(&wake);
    pthread_mutex_unlock(&lock);
    float sum = chunks();
    pthread_mutex_lock(&lock);
    is_open = 0;
    while (working) {
        pthread_mutex_unlock(&lock);
        sched_yield();
        pthread_mutex_lock(&lock);
    }
    sum += total;
    pthread_mutex_unlock(&lock);
    return sum;
}

typedef float lanes __attribute__((vector_size(64), aligned(4)));

/* Eight sums at once, since one would wait for its additions rather than for memory. */
static float add_up(float *unused, const float *from, size_t count) {
    (void)unused;
    lanes sums[8] = {{0}};
    size_t i = 0;
    for (; i + 128 <= count; i += 128)
        for (int k = 0; k < 8; k++) sums[k] += *(const lanes *)(from + i + 16 * k);
    float sum = 0;
    for (int k = 0; k < 8; k++)
        for (int j = 0; j < 16; j++) sum += sums[k][j];
    for (; i < count; i++) sum += from[i];
    return sum;
}

static float copy(float *to, const float *from, size_t count) {
    memcpy(to, from, count * sizeof *to);
    return 0;
}

/* Stores that go past the cache: nothing is read from where they go. */
static float stream(float *to, const float *from, size_t count) {
#ifdef __SSE__
    size_t i = 0;
    for (; i < count && (size_t)(to + i) % 64; i++) to[i] = from[i];
    for (; i + 16 <= count; i += 16)
        for (int k = 0; k < 16; k += 4) _mm_stream_ps(to + i + k, _mm_loadu_ps(from + i + k));
    for (; i < count; i++) to[i] = from[i];
    _mm_sfence();
    return 0;
#else
    return copy(to, from, count);
#endif
}

float yardstick_read(float *data, size_t count, int threads) {
    return on_threads(add_up, data, data, count, threads);
}

void yardstick_copy(float *to, const float *from, size_t count, int threads) {
    on_threads(copy, to, from, count, threads);
}

void yardstick_stream(float *to, const float *from, size_t count, int threads) {
    on_threads(stream, to, from, count, threads);
}
