/* Preloaded into a process: writes down what it does to the files below one directory, and makes calls fail on demand.
 *
 * A record is: type (1 byte), inode (8), a number (8), length of data (4), data; little-endian as the machine is.
 * W write (number: offset) · T truncate (number: size) · F fsync · f failed fsync · C created (data: path)
 * R renamed, L linked (data: old NUL new) · U unlinked · K directory made · D directory synced (data: path) · M mark
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/uio.h>
#include <unistd.h>

enum { OP_WRITE = 1, OP_SYNC = 2, OP_TRUNCATE = 4, OP_NAME = 8, OP_OPEN = 16 };
enum { ONCE = 0, FROM_THEN_ON = 1, SHORT_ONCE = 2, SHORT_THEN_FAIL = 3 };

static char watched[PATH_MAX];
static size_t watched_length;
static int log_fd = -1;
static long seen, fail_at;
static int fail_mask, fail_errno, fail_mode;
static int64_t quota = -1;

#define REAL(name, type, ...) \
    static type (*real)(__VA_ARGS__); \
    if (!real) real = (type(*)(__VA_ARGS__))dlsym(RTLD_NEXT, #name)

static ssize_t raw_write(int fd, const void *data, size_t length) {
    REAL(write, ssize_t, int, const void *, size_t);
    return real(fd, data, length);
}

static void record(char type, uint64_t inode, uint64_t number, const void *data, uint32_t length) {
    if (log_fd < 0) return;
    char *buffer = malloc(21 + (size_t)length);
    buffer[0] = type;
    memcpy(buffer + 1, &inode, 8);
    memcpy(buffer + 9, &number, 8);
    memcpy(buffer + 17, &length, 4);
    if (length) memcpy(buffer + 21, data, length);
    size_t left = 21 + (size_t)length, at = 0;
    while (left) {
        ssize_t n = raw_write(log_fd, buffer + at, left);
        if (n <= 0) abort();
        at += n;
        left -= n;
    }
    free(buffer);
}

static int below(const char *path) {
    return watched_length && !strncmp(path, watched, watched_length) && (path[watched_length] == '/' || !path[watched_length]);
}

/* The path of a watched descriptor, or NULL. */
static const char *path_of(int fd, char *buffer) {
    if (!watched_length || fd < 0 || fd == log_fd) return NULL;
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t n = readlink(link, buffer, PATH_MAX - 1);
    if (n <= 0) return NULL;
    buffer[n] = 0;
    return below(buffer) ? buffer : NULL;
}

static int absolute(int dir, const char *path, char *buffer) {
    char base[PATH_MAX];
    if (!watched_length) return 0;
    if (path[0] == '/') {
        snprintf(buffer, PATH_MAX, "%s", path);
    } else {
        if (dir == AT_FDCWD) {
            if (!getcwd(base, sizeof base)) return 0;
        } else if (!path_of(dir, base)) {
            return 0;
        }
        if (snprintf(buffer, PATH_MAX, "%s/%s", base, path) >= PATH_MAX) return 0;
    }
    return below(buffer);
}

static uint64_t inode_of(int fd) {
    struct stat about;
    return fstat(fd, &about) ? 0 : about.st_ino;
}

static uint64_t inode_at(const char *path) {
    struct stat about;
    return lstat(path, &about) ? 0 : about.st_ino;
}

/* 0: let it happen; 1: fail with errno set; 2: write only half. */
static int verdict(int op) {
    if (!(fail_mask & op)) return 0;
    seen++;
    if (!fail_at || seen < fail_at) return 0;
    if (fail_mode == SHORT_ONCE) return seen == fail_at ? 2 : 0;
    if (fail_mode == SHORT_THEN_FAIL && seen == fail_at) return 2;
    if (fail_mode == ONCE && seen != fail_at) return 0;
    if (fail_mode == SHORT_THEN_FAIL && seen != fail_at + 1) return 0;
    errno = fail_errno;
    return 1;
}

static int no_room(int fd, off_t offset, size_t length) {
    if (quota < 0) return 0;
    struct stat about;
    if (fstat(fd, &about)) return 0;
    int64_t growth = (int64_t)offset + (int64_t)length - about.st_size;
    if (growth <= 0) return 0;
    if (growth > quota) {
        errno = ENOSPC;
        return 1;
    }
    quota -= growth;
    return 0;
}

/* For the tests, by ctypes. */
void shim_watch(const char *directory, const char *log) {
    if (log_fd >= 0) close(log_fd);
    log_fd = -1;
    watched_length = 0;
    if (!directory) return;
    if (!realpath(directory, watched)) abort();
    if (log && *log) log_fd = open(log, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    watched_length = strlen(watched);
}
void shim_fail(int mask, long nth, int error, int mode) {
    seen = 0, fail_mask = mask, fail_at = nth, fail_errno = error, fail_mode = mode;
}
long shim_seen(void) { return seen; }
void shim_quota(long long bytes) { quota = bytes; }
long long shim_room(void) { return quota; }
void shim_mark(const void *data, unsigned length) { record('M', 0, 0, data, length); }

static ssize_t do_write(int fd, const void *data, size_t length, off_t offset, int positioned) {
    REAL(pwrite, ssize_t, int, const void *, size_t, off_t);
    char buffer[PATH_MAX];
    if (!path_of(fd, buffer)) return positioned ? real(fd, data, length, offset) : raw_write(fd, data, length);
    if (!positioned) offset = (fcntl(fd, F_GETFL) & O_APPEND) ? lseek(fd, 0, SEEK_END) : lseek(fd, 0, SEEK_CUR);
    int said = verdict(OP_WRITE);
    if (said == 1 || no_room(fd, offset, length)) return -1;
    if (said == 2 && length > 1) length /= 2;
    ssize_t n = positioned ? real(fd, data, length, offset) : raw_write(fd, data, length);
    if (n > 0) record('W', inode_of(fd), offset, data, n);
    return n;
}
ssize_t write(int fd, const void *data, size_t length) { return do_write(fd, data, length, 0, 0); }
ssize_t pwrite(int fd, const void *data, size_t length, off_t offset) { return do_write(fd, data, length, offset, 1); }
ssize_t pwrite64(int fd, const void *data, size_t length, off64_t offset) { return do_write(fd, data, length, offset, 1); }

static int do_truncate(int fd, off_t size) {
    REAL(ftruncate, int, int, off_t);
    char buffer[PATH_MAX];
    if (!path_of(fd, buffer)) return real(fd, size);
    if (verdict(OP_TRUNCATE)) return -1;
    struct stat about;
    if (quota >= 0 && !fstat(fd, &about) && about.st_size > size) quota += about.st_size - size;
    int done = real(fd, size);
    if (!done) record('T', inode_of(fd), size, NULL, 0);
    return done;
}
int ftruncate(int fd, off_t size) { return do_truncate(fd, size); }
int ftruncate64(int fd, off64_t size) { return do_truncate(fd, size); }

static int do_sync(int fd, int data_only) {
    REAL(fsync, int, int);
    (void)data_only;
    char buffer[PATH_MAX];
    const char *path = path_of(fd, buffer);
    if (!path) return real(fd);
    struct stat about;
    int is_directory = !fstat(fd, &about) && S_ISDIR(about.st_mode);
    if (verdict(OP_SYNC) == 1) {
        if (!is_directory) record('f', about.st_ino, 0, NULL, 0);
        return -1;
    }
    /* The images are rebuilt from the record, so the real disk need not be waited for. */
    if (is_directory) record('D', about.st_ino, 0, path, strlen(path));
    else record('F', about.st_ino, 0, NULL, 0);
    return log_fd >= 0 ? 0 : real(fd);
}
int fsync(int fd) { return do_sync(fd, 0); }
int fdatasync(int fd) { return do_sync(fd, 1); }

static int do_open(int dir, const char *path, int flags, mode_t mode) {
    REAL(openat, int, int, const char *, int, ...);
    char whole[PATH_MAX];
    if (!absolute(dir, path, whole)) return real(dir, path, flags, mode);
    if (verdict(OP_OPEN) == 1) return -1;
    int is_new = (flags & O_CREAT) && access(whole, F_OK);
    struct stat before;
    int shrinks = (flags & O_TRUNC) && !is_new && !stat(whole, &before) && before.st_size;
    int fd = real(dir, path, flags, mode);
    if (fd >= 0 && is_new) record('C', inode_of(fd), 0, whole, strlen(whole));
    if (fd >= 0 && shrinks) {
        if (quota >= 0) quota += before.st_size;
        record('T', inode_of(fd), 0, NULL, 0);
    }
    return fd;
}
#define MODE(flags) \
    mode_t mode = 0; \
    if ((flags) & (O_CREAT | O_TMPFILE)) { \
        va_list more; \
        va_start(more, flags); \
        mode = va_arg(more, mode_t); \
        va_end(more); \
    }
int open(const char *path, int flags, ...) { MODE(flags) return do_open(AT_FDCWD, path, flags, mode); }
int open64(const char *path, int flags, ...) { MODE(flags) return do_open(AT_FDCWD, path, flags | O_LARGEFILE, mode); }
int openat(int dir, const char *path, int flags, ...) { MODE(flags) return do_open(dir, path, flags, mode); }
int openat64(int dir, const char *path, int flags, ...) { MODE(flags) return do_open(dir, path, flags | O_LARGEFILE, mode); }

static int do_two(char type, int old_dir, const char *old, int new_dir, const char *new, int flags) {
    char from[PATH_MAX], to[PATH_MAX], both[2 * PATH_MAX];
    int ours = absolute(old_dir, old, from) & absolute(new_dir, new, to);
    if (ours && verdict(OP_NAME) == 1) return -1;
    int done;
    if (type == 'R') {
        REAL(renameat, int, int, const char *, int, const char *);
        done = real(old_dir, old, new_dir, new);
    } else {
        REAL(linkat, int, int, const char *, int, const char *, int);
        done = real(old_dir, old, new_dir, new, flags);
    }
    if (!done && ours) {
        int n = snprintf(both, sizeof both, "%s", from) + 1;
        n += snprintf(both + n, sizeof both - n, "%s", to);
        record(type, inode_at(to), 0, both, n);
    }
    return done;
}
int rename(const char *old, const char *new) { return do_two('R', AT_FDCWD, old, AT_FDCWD, new, 0); }
int renameat(int a, const char *old, int b, const char *new) { return do_two('R', a, old, b, new, 0); }
int link(const char *old, const char *new) { return do_two('L', AT_FDCWD, old, AT_FDCWD, new, 0); }
int linkat(int a, const char *old, int b, const char *new, int flags) { return do_two('L', a, old, b, new, flags); }

static int do_unlink(int dir, const char *path, int flags) {
    REAL(unlinkat, int, int, const char *, int);
    char whole[PATH_MAX];
    if (!absolute(dir, path, whole)) return real(dir, path, flags);
    if (verdict(OP_NAME) == 1) return -1;
    struct stat about;
    if (quota >= 0 && !lstat(whole, &about) && about.st_nlink == 1) quota += about.st_size;
    int done = real(dir, path, flags);
    if (!done) record('U', 0, 0, whole, strlen(whole));
    return done;
}
int unlink(const char *path) { return do_unlink(AT_FDCWD, path, 0); }
int unlinkat(int dir, const char *path, int flags) { return do_unlink(dir, path, flags); }

static int do_mkdir(int dir, const char *path, mode_t mode) {
    REAL(mkdirat, int, int, const char *, mode_t);
    char whole[PATH_MAX];
    int ours = absolute(dir, path, whole), done = real(dir, path, mode);
    if (!done && ours) record('K', inode_at(whole), 0, whole, strlen(whole));
    return done;
}
int mkdir(const char *path, mode_t mode) { return do_mkdir(AT_FDCWD, path, mode); }
int mkdirat(int dir, const char *path, mode_t mode) { return do_mkdir(dir, path, mode); }

static int do_statvfs(const char *path, struct statvfs *about) {
    REAL(statvfs, int, const char *, struct statvfs *);
    int done = real(path, about);
    char whole[PATH_MAX];
    if (!done && quota >= 0 && absolute(AT_FDCWD, path, whole)) about->f_bavail = quota / about->f_frsize;
    return done;
}
int statvfs(const char *path, struct statvfs *about) { return do_statvfs(path, about); }
int statvfs64(const char *path, struct statvfs64 *about) { return do_statvfs(path, (struct statvfs *)about); }
