/* Preloaded into one process: moves its wall clock and its clock since boot by what a file says.
 *
 * The file that CC_CLOCK_FILE names holds two numbers of 64 bits, nanoseconds to be added to CLOCK_REALTIME and to
 * CLOCK_BOOTTIME. CLOCK_MONOTONIC stays, as it does while a machine is suspended.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static volatile int64_t *moved;

__attribute__((constructor)) static void begin(void) {
    const char *path = getenv("CC_CLOCK_FILE");
    int fd = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    if (fd < 0) return;
    void *mapped = mmap(NULL, 16, PROT_READ, MAP_SHARED, fd, 0);
    if (mapped != MAP_FAILED) moved = mapped;
    close(fd);
}

int clock_gettime(clockid_t id, struct timespec *at) {
    int said = syscall(SYS_clock_gettime, id, at);
    if (said || !moved) return said;
    int64_t by = id == CLOCK_REALTIME || id == CLOCK_REALTIME_COARSE ? moved[0] : id == CLOCK_BOOTTIME ? moved[1] : 0;
    if (by) {
        int64_t all = at->tv_sec * 1000000000LL + at->tv_nsec + by;
        at->tv_sec = all / 1000000000LL;
        at->tv_nsec = all % 1000000000LL;
    }
    return 0;
}

int gettimeofday(struct timeval *restrict at, void *restrict zone) {
    (void)zone;
    struct timespec now;
    int said = clock_gettime(CLOCK_REALTIME, &now);
    at->tv_sec = now.tv_sec;
    at->tv_usec = now.tv_nsec / 1000;
    return said;
}

time_t time(time_t *at) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (at) *at = now.tv_sec;
    return now.tv_sec;
}
