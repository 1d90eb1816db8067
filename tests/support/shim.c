/* A preloaded library that makes system calls fail, kills the process at one of them, or records them.
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

enum { WRITE = 1, SYNC = 2, RENAME = 4, TRUNCATE = 8, OPEN = 16, STATFS = 32, UNLINK = 64 };
enum { FAIL = 0, KILL = 1, TEAR = 2, KILL_WITHIN = 3, KILL_AFTER = 4, RECORD = 5 };

struct rule {
    volatile int32_t armed;
    int32_t calls, action, error;
    int64_t first, times, below;
    volatile int64_t matched, acted;
    char path[200];
};

/* What is recorded of a call, in front of the bytes that it wrote; `rule` is the place of the one that it matched. */
struct record {
    int64_t rule, call, offset, size;
};

static struct rule *rules;
static int record_fd = -1;

__attribute__((constructor)) static void map_rules(void) {
    const char *record = getenv("CEREMEMORY_TEST_SHIM_RECORD");
    record_fd = record ? open(record, O_WRONLY | O_APPEND | O_CLOEXEC) : -1;
    const char *path = getenv("CEREMEMORY_TEST_SHIM");
    int fd = path ? open(path, O_RDWR | O_CLOEXEC) : -1;
    if (fd < 0)
        return;
    void *mapped = mmap(NULL, RULES * sizeof(struct rule), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    close(fd);
    if (mapped != MAP_FAILED)
        rules = mapped;
}

static void die(void) {
    kill(getpid(), SIGKILL);
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
            die();
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
    if (!rule || rule->action != FAIL)
        return 0;
    errno = rule->error;
    return 1;
}

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

/* `result`, if the rule lets the process see it. */
static ssize_t done(struct rule *rule, ssize_t result) {
    if (rule && (rule->action == KILL_WITHIN || rule->action == KILL_AFTER))
        die();
    return result;
}

/* How much of `size` a write is to put into the file: of a torn one half, a short write. */
static size_t allowed(struct rule *rule, size_t size) {
    if (!rule || (rule->action != TEAR && rule->action != KILL_WITHIN))
        return size;
    return size / 2 ? size / 2 : 1;
}

/* In one write: threads may come at once. */
static void record(struct rule *rule, int64_t call, int64_t offset, const void *data, size_t size) {
    if (!rule || rule->action != RECORD)
        return;
    struct record header = {rule - rules, call, offset, size};
    struct iovec parts[] = {{&header, sizeof header}, {(void *)data, size}};
    if (REAL(writev)(record_fd, parts, 2) != (ssize_t)(sizeof header + size))
        abort();
}

static void record_parts(struct rule *rule, int64_t offset, const struct iovec *parts, int count) {
    for (int i = 0; i < count; i++) {
        record(rule, WRITE, offset, parts[i].iov_base, parts[i].iov_len);
        offset += parts[i].iov_len;
    }
}

ssize_t write(int fd, const void *data, size_t size) {
    struct rule *rule = due_fd(WRITE, fd, -1);
    if (fails(rule))
        return -1;
    record(rule, WRITE, lseek(fd, 0, SEEK_CUR), data, size);
    return done(rule, REAL(write)(fd, data, allowed(rule, size)));
}

ssize_t writev(int fd, const struct iovec *parts, int count) {
    struct rule *rule = due_fd(WRITE, fd, -1);
    if (fails(rule))
        return -1;
    record_parts(rule, lseek(fd, 0, SEEK_CUR), parts, count);
    return done(rule, REAL(writev)(fd, parts, allowed(rule, count)));
}

#define POSITIONED(name, kind)                                                 \
    ssize_t name(int fd, const void *data, size_t size, kind offset) {         \
        struct rule *rule = due_fd(WRITE, fd, offset);                         \
        if (fails(rule))                                                       \
            return -1;                                                         \
        record(rule, WRITE, offset, data, size);                               \
        return done(rule, REAL(name)(fd, data, allowed(rule, size), offset));  \
    }
POSITIONED(pwrite, off_t)
POSITIONED(pwrite64, off64_t)

#define POSITIONED_PARTS(name, kind)                                           \
    ssize_t name(int fd, const struct iovec *parts, int count, kind offset) {  \
        struct rule *rule = due_fd(WRITE, fd, offset);                         \
        if (fails(rule))                                                       \
            return -1;                                                         \
        record_parts(rule, offset, parts, count);                              \
        return done(rule, REAL(name)(fd, parts, allowed(rule, count), offset)); \
    }
POSITIONED_PARTS(pwritev, off_t)
POSITIONED_PARTS(pwritev64, off64_t)

#define ON_FD(name)                                                 \
    int name(int fd) {                                              \
        struct rule *rule = due_fd(SYNC, fd, -1);                   \
        if (fails(rule))                                            \
            return -1;                                              \
        record(rule, SYNC, -1, "", 0);                              \
        return done(rule, REAL(name)(fd));                          \
    }
ON_FD(fsync)
ON_FD(fdatasync)

#define TRUNCATING(name, kind)                                      \
    int name(int fd, kind size) {                                   \
        struct rule *rule = due_fd(TRUNCATE, fd, -1);               \
        if (fails(rule))                                            \
            return -1;                                              \
        record(rule, TRUNCATE, size, "", 0);                        \
        return done(rule, REAL(name)(fd, size));                    \
    }
TRUNCATING(ftruncate, off_t)
TRUNCATING(ftruncate64, off64_t)

static struct rule *due_path(int call, const char *path) {
    return any_armed(call) ? due(call, path, -1) : NULL;
}

int rename(const char *from, const char *to) {
    struct rule *rule = due_path(RENAME, to);
    return fails(rule) ? -1 : done(rule, REAL(rename)(from, to));
}

int renameat(int from_dir, const char *from, int to_dir, const char *to) {
    struct rule *rule = due_path(RENAME, to);
    return fails(rule) ? -1 : done(rule, REAL(renameat)(from_dir, from, to_dir, to));
}

int renameat2(int from_dir, const char *from, int to_dir, const char *to, unsigned int flags) {
    struct rule *rule = due_path(RENAME, to);
    return fails(rule) ? -1 : done(rule, REAL(renameat2)(from_dir, from, to_dir, to, flags));
}

#define REMOVING(name)                                              \
    int name(const char *path) {                                    \
        struct rule *rule = due_path(UNLINK, path);                 \
        return fails(rule) ? -1 : done(rule, REAL(name)(path));     \
    }
REMOVING(unlink)
REMOVING(rmdir)

/* Where `name` is, in the folder that `dir` is open on; written into `path`. */
static const char *path_in(int dir, const char *name, char path[PATH_MAX + NAME_MAX + 2]) {
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", dir);
    ssize_t length = name[0] == '/' ? -1 : readlink(link, path, PATH_MAX);
    if (length < 0)
        return name;
    snprintf(path + length, NAME_MAX + 2, "/%s", name);
    return path;
}

int unlinkat(int dir, const char *name, int flags) {
    char path[PATH_MAX + NAME_MAX + 2];
    struct rule *rule = any_armed(UNLINK) ? due(UNLINK, path_in(dir, name, path), -1) : NULL;
    return fails(rule) ? -1 : done(rule, REAL(unlinkat)(dir, name, flags));
}

#define ON_FILE_SYSTEM(name)                                                          \
    int name(const char *path, struct name *found) {                                  \
        return fails(due_path(STATFS, path)) ? -1 : REAL(name)(path, found);          \
    }
ON_FILE_SYSTEM(statvfs)
ON_FILE_SYSTEM(statvfs64)

static int open_fails(const char *path) {
    return fails(due_path(OPEN, path));
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
