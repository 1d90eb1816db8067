/* A preloaded library that makes system calls fail, or kills the process at one of them.
 *
 * The rules stand in a file that the test and the process map shared (CEREMEMORY_TEST_SHIM names it), so that a
 * running process can be made to fail and be healed without being told. Its layout is that of `shim.py`; what
 * is modelled is said there, too. A call whose path and offset match an armed rule is counted; the rule acts
 * from its `first` match on, `times` times.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/statvfs.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

#define RULES 8

enum { WRITE = 1, SYNC = 2, RENAME = 4, TRUNCATE = 8, OPEN = 16, STATFS = 32 };
enum { FAIL = 0, KILL = 1, TEAR = 2 };

struct rule {
    volatile int32_t armed;
    int32_t calls, action, error;
    int64_t first, times, below;
    volatile int64_t matched, acted;
    char path[200];
};

static struct rule *rules;

__attribute__((constructor)) static void map_rules(void) {
    const char *path = getenv("CEREMEMORY_TEST_SHIM");
    int fd = path ? open(path, O_RDWR | O_CLOEXEC) : -1;
    if (fd < 0)
        return;
    void *mapped = mmap(NULL, RULES * sizeof(struct rule), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    close(fd);
    if (mapped != MAP_FAILED)
        rules = mapped;
}

/* The rule that acts now on a call of this kind to `path` at `offset` (-1: the call has none), or NULL. */
static struct rule *due(int call, const char *path, int64_t offset) {
    for (int i = 0; i < RULES; i++) {
        struct rule *rule = &rules[i];
        if (!rule->armed || !(rule->calls & call) || !strstr(path, rule->path))
            continue;
        if (rule->below && (offset < 0 || offset >= rule->below))
            continue;
        int64_t match = __sync_add_and_fetch(&rule->matched, 1);
        if (match < rule->first || match >= rule->first + rule->times)
            continue;
        __sync_add_and_fetch(&rule->acted, 1);
        if (rule->action == KILL)
            kill(getpid(), SIGKILL);
        return rule;
    }
    return NULL;
}

static int any_armed(int call) {
    if (rules)
        for (int i = 0; i < RULES; i++)
            if (rules[i].armed && (rules[i].calls & call))
                return 1;
    return 0;
}

static struct rule *due_fd(int call, int fd, int64_t offset) {
    char link[64], path[PATH_MAX];
    if (!any_armed(call))
        return NULL;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length < 0)
        return NULL;
    path[length] = 0;
    return due(call, path, offset);
}

static int fails(struct rule *rule) {
    if (rule)
        errno = rule->error;
    return rule != NULL;
}

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

ssize_t write(int fd, const void *data, size_t size) {
    struct rule *rule = due_fd(WRITE, fd, -1);
    if (rule && rule->action == TEAR)
        size = size / 2 ? size / 2 : 1; /* a short write; the caller comes again for the rest */
    else if (fails(rule))
        return -1;
    return REAL(write)(fd, data, size);
}

ssize_t writev(int fd, const struct iovec *parts, int count) {
    return fails(due_fd(WRITE, fd, -1)) ? -1 : REAL(writev)(fd, parts, count);
}

#define POSITIONED(name, kind, data_type, size_type)                                \
    ssize_t name(int fd, data_type data, size_type size, kind offset) {             \
        return fails(due_fd(WRITE, fd, offset)) ? -1 : REAL(name)(fd, data, size, offset); \
    }
POSITIONED(pwrite, off_t, const void *, size_t)
POSITIONED(pwrite64, off64_t, const void *, size_t)
POSITIONED(pwritev, off_t, const struct iovec *, int)
POSITIONED(pwritev64, off64_t, const struct iovec *, int)

#define ON_FD(name, call) \
    int name(int fd) { return fails(due_fd(call, fd, -1)) ? -1 : REAL(name)(fd); }
ON_FD(fsync, SYNC)
ON_FD(fdatasync, SYNC)

#define TRUNCATING(name, kind)                                                   \
    int name(int fd, kind size) {                                                \
        return fails(due_fd(TRUNCATE, fd, -1)) ? -1 : REAL(name)(fd, size);      \
    }
TRUNCATING(ftruncate, off_t)
TRUNCATING(ftruncate64, off64_t)

static int rename_fails(const char *to) {
    return any_armed(RENAME) && fails(due(RENAME, to, -1));
}

int rename(const char *from, const char *to) {
    return rename_fails(to) ? -1 : REAL(rename)(from, to);
}

int renameat(int from_dir, const char *from, int to_dir, const char *to) {
    return rename_fails(to) ? -1 : REAL(renameat)(from_dir, from, to_dir, to);
}

int renameat2(int from_dir, const char *from, int to_dir, const char *to, unsigned int flags) {
    return rename_fails(to) ? -1 : REAL(renameat2)(from_dir, from, to_dir, to, flags);
}

#define ON_FILE_SYSTEM(name)                                                          \
    int name(const char *path, struct name *found) {                                  \
        int fail = any_armed(STATFS) && fails(due(STATFS, path, -1));                 \
        return fail ? -1 : REAL(name)(path, found);                                   \
    }
ON_FILE_SYSTEM(statvfs)
ON_FILE_SYSTEM(statvfs64)

static int open_fails(const char *path) {
    return any_armed(OPEN) && fails(due(OPEN, path, -1));
}

#define OPENING(name)                                                    \
    int name(const char *path, int flags, ...) {                         \
        __builtin_va_list more;                                          \
        __builtin_va_start(more, flags);                                 \
        mode_t mode = __builtin_va_arg(more, mode_t);                    \
        __builtin_va_end(more);                                          \
        return open_fails(path) ? -1 : REAL(name)(path, flags, mode);    \
    }
OPENING(open)
OPENING(open64)

#define OPENING_AT(name)                                                     \
    int name(int dir, const char *path, int flags, ...) {                    \
        __builtin_va_list more;                                              \
        __builtin_va_start(more, flags);                                     \
        mode_t mode = __builtin_va_arg(more, mode_t);                        \
        __builtin_va_end(more);                                              \
        return open_fails(path) ? -1 : REAL(name)(dir, path, flags, mode);   \
    }
OPENING_AT(openat)
OPENING_AT(openat64)
