/* A wall clock that can be made to jump: preloaded, it adds the seconds in the file CHAOS_CLOCK (a double) to it.

   Who waits until a time of that clock is woken when it comes, as a kernel does whose clock was set: in pieces of half a
   second, after each of which the clock is looked at. Ray's processes wait by it, on condition variables and futexes. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static double offset(void) {
    static const double *jump;
    static int tried;
    if (!tried) {
        const char *path = getenv("CHAOS_CLOCK");
        int file = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
        void *page = file < 0 ? MAP_FAILED : mmap(0, sizeof(double), PROT_READ, MAP_SHARED, file, 0);
        if (page != MAP_FAILED) jump = page;
        if (file >= 0) close(file);
        tried = 1;
    }
    return jump ? *jump : 0.0;
}

static int kernels_clock(clockid_t clock, struct timespec *now) {
    static int (*real)(clockid_t, struct timespec *);
    if (!real) real = (int (*)(clockid_t, struct timespec *))dlsym(RTLD_NEXT, "clock_gettime");
    return real(clock, now);
}

int clock_gettime(clockid_t clock, struct timespec *now) {
    int failed = kernels_clock(clock, now);
    if (!failed && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE)) now->tv_sec += (time_t)offset();
    return failed;
}

int gettimeofday(struct timeval *now, void *zone) {
    struct timespec precise;
    (void)zone;
    if (clock_gettime(CLOCK_REALTIME, &precise)) return -1;
    now->tv_sec = precise.tv_sec;
    now->tv_usec = precise.tv_nsec / 1000;
    return 0;
}

time_t time(time_t *out) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (out) *out = now.tv_sec;
    return now.tv_sec;
}

static const double PIECE = 0.5;
static const time_t A_DATE = 1000000000; /* seconds: less is the time since the machine was started */

/* Seconds from now until `until`; and in `real` when a piece of it is over, by the clock of the kernel. */
static double piece(const struct timespec *until, struct timespec *real) {
    time_t jump = (time_t)offset();
    kernels_clock(CLOCK_REALTIME, real);
    double left = difftime(until->tv_sec, real->tv_sec + jump) + (until->tv_nsec - real->tv_nsec) / 1e9;
    double wait = left < 0 ? 0 : left < PIECE ? left : PIECE;
    real->tv_nsec += (long)(wait * 1e9);
    real->tv_sec += real->tv_nsec / 1000000000;
    real->tv_nsec %= 1000000000;
    return left;
}

int pthread_cond_timedwait(pthread_cond_t *condition, pthread_mutex_t *mutex, const struct timespec *until) {
    static int (*real)(pthread_cond_t *, pthread_mutex_t *, const struct timespec *);
    if (!real) real = dlvsym(RTLD_NEXT, "pthread_cond_timedwait", "GLIBC_2.3.2"); /* an older one works otherwise */
    if (!real) real = dlsym(RTLD_NEXT, "pthread_cond_timedwait");
    if (until->tv_sec < A_DATE) return real(condition, mutex, until);
    struct timespec next;
    double left = piece(until, &next);
    int failed = real(condition, mutex, &next);
    return failed == ETIMEDOUT && left > PIECE ? 0 : failed; /* for no reason, as is allowed: whoever waits looks again */
}

long syscall(long number, ...) {
    static long (*real)(long, ...);
    if (!real) real = (long (*)(long, ...))dlsym(RTLD_NEXT, "syscall");
    long given[6];
    va_list all;
    va_start(all, number);
    for (int each = 0; each < 6; each++) given[each] = va_arg(all, long);
    va_end(all);
    const struct timespec *until = (const struct timespec *)given[3];
    if (number != SYS_futex || !(given[1] & FUTEX_CLOCK_REALTIME) || !until)
        return real(number, given[0], given[1], given[2], given[3], given[4], given[5]);
    struct timespec next;
    for (;;) {
        double left = piece(until, &next);
        long failed = real(number, given[0], given[1], given[2], &next, given[4], given[5]);
        if (failed != -1 || errno != ETIMEDOUT || left <= PIECE) return failed;
    }
}
