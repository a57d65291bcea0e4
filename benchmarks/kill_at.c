/* Kills its process at one change of a file: see kills.py, which preloads it.

   A change has a kind and a path, as in "rename work/search/result.json". Random parts
   of names, and digests, become '#'. Of the writes to a file only the first one after
   it was opened counts, but every write to a .log or .jsonl, which are appended to.
   Nothing counts before `watch` is called. */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#define MOST 8192
#define FILES 65536

enum { BEFORE, AFTER, HALF };

static char root[MOST], target[MOST];
static int number, moment, seen, list = -1;
static char was_written[FILES];

/* Changes below `folder` count from now on. The change number `n` of those that are
   called `event` kills; an empty `event` kills never. Changes are listed in the file
   descriptor `fd`, if it is not -1. */
void watch(const char *folder, const char *event, int n, int when, int fd) {
    snprintf(target, MOST, "%s", event);
    number = n, moment = when, list = fd, seen = 0;
    snprintf(root, MOST, "%s/", folder);
}

static void die(void) {
    syscall(SYS_kill, getpid(), SIGKILL);
    for (;;) pause();
}

/* How many characters at `at`, inside of a path, are random or a digest: a long hex
   number, or a temporary name of Python or of TFDS. */
static size_t random_part(const char *at) {
    const char *hex = "0123456789abcdef", *any = "0123456789abcdefghijklmnopqrstuvwxyz_";
    if (strchr(hex, at[-1])) return 0; /* inside of a word */
    size_t size = strspn(at, hex);
    if (size >= 8) return size;
    if (at[-1] != '.') return 0;
    if (!strncmp(at - 11, "incomplete.", 11)) return strcspn(at, "_");
    if (at[-2] == '/' && strspn(at, any) == 8 && (!at[8] || at[8] == '/')) return 8;
    return 0;
}

/* Whether the process has to die at this change; dies here if it is before it. */
static int now(const char *kind, const char *path) {
    size_t length = strlen(root);
    if (!length || strncmp(path, root, length)) return 0;
    char event[MOST], line[2 * MOST];
    size_t out = snprintf(event, MOST, "%s ", kind);
    for (const char *at = path + length; *at && out < MOST - 1;) {
        size_t random = random_part(at);
        if (random) event[out++] = '#', at += random;
        else event[out++] = *at++;
    }
    event[out] = 0;
    if (list >= 0) {
        int size = snprintf(line, 2 * MOST, "%s\t%s\n", event, path + length);
        syscall(SYS_write, list, line, size);
    }
    if (strcmp(event, target)) return 0;
    if (__sync_add_and_fetch(&seen, 1) != number) return 0;
    if (moment == BEFORE) die();
    return 1;
}

static void path_of(int fd, char *path) {
    char name[64];
    snprintf(name, 64, "/proc/self/fd/%d", fd);
    ssize_t size = readlink(fd == AT_FDCWD ? "/proc/self/cwd" : name, path, MOST - 1);
    path[size < 0 ? 0 : size] = 0;
}

static void join(int folder, const char *name, char *path) {
    path[0] = 0;
    if (!name || !root[0]) return;
    if (name[0] != '/') {
        path_of(folder, path);
        strncat(path, "/", MOST - 1 - strlen(path));
    }
    strncat(path, name, MOST - 1 - strlen(path));
}

static int now_at(const char *kind, int folder, const char *name) {
    char path[MOST];
    join(folder, name, path);
    return now(kind, path);
}

static int now_file(const char *kind, int fd) {
    char path[MOST];
    if (!root[0]) return 0;
    path_of(fd, path);
    return now(kind, path);
}

static int there(int folder, const char *name) {
    return !faccessat(folder, name, F_OK, AT_SYMLINK_NOFOLLOW);
}

/* Whether to die at a write; the caller writes a half, or all of it, before. */
static int now_write(int fd) {
    char path[MOST];
    if (!root[0] || fd < 0 || fd >= FILES) return 0;
    path_of(fd, path);
    const char *end = strrchr(path, '.');
    int appended = end && (!strcmp(end, ".log") || !strcmp(end, ".jsonl"));
    if (was_written[fd] && !appended) return 0;
    was_written[fd] = 1;
    return now("write", path);
}

#define REAL(name) \
    static __typeof__(&name) real; \
    if (!real) real = dlsym(RTLD_NEXT, #name);
#define DONE(found) { if (dead) die(); return found; }

/* Opening: with O_CREAT, O_TRUNC, or to write. */

static const char *opening(int folder, const char *name, int flags) {
    if (flags & O_TRUNC) return "truncate";
    if (flags & O_CREAT && (flags & O_EXCL || !there(folder, name))) return "create";
    return NULL; /* it changes nothing, a write does */
}

static int opened(int fd) {
    if (fd >= 0 && fd < FILES) was_written[fd] = 0;
    return fd;
}

#define OPEN(name, folder, type_folder, pass_folder) \
    int name(type_folder const char *file, int flags, ...) { \
        REAL(name) \
        va_list rest; \
        va_start(rest, flags); \
        int mode = flags & (O_CREAT | __O_TMPFILE) ? va_arg(rest, int) : 0; \
        va_end(rest); \
        const char *kind = root[0] ? opening(folder, file, flags) : NULL; \
        int dead = kind && now_at(kind, folder, file); \
        int found = opened(real(pass_folder file, flags, mode)); \
        DONE(found) \
    }
#define COMMA ,
OPEN(open, AT_FDCWD, , )
OPEN(open64, AT_FDCWD, , )
OPEN(openat, folder, int folder COMMA, folder COMMA)
OPEN(openat64, folder, int folder COMMA, folder COMMA)

int creat(const char *file, mode_t mode) {
    return open(file, O_CREAT | O_WRONLY | O_TRUNC, mode);
}
int creat64(const char *file, mode_t mode) {
    return open(file, O_CREAT | O_WRONLY | O_TRUNC, mode);
}

#define FOPEN(name) \
    FILE *name(const char *file, const char *mode) { \
        REAL(name) \
        int dead = mode[0] == 'w' ? now_at("truncate", AT_FDCWD, file) \
            : mode[0] == 'a' && root[0] && !there(AT_FDCWD, file) \
            ? now_at("create", AT_FDCWD, file) : 0; \
        FILE *found = real(file, mode); \
        if (found) opened(fileno(found)); \
        DONE(found) \
    }
FOPEN(fopen)
FOPEN(fopen64)

/* Writing. */

ssize_t write(int fd, const void *bytes, size_t size) {
    REAL(write)
    int dead = now_write(fd);
    ssize_t found = real(fd, bytes, dead && moment == HALF ? size / 2 : size);
    DONE(found)
}

#define PWRITE(name) \
    ssize_t name(int fd, const void *bytes, size_t size, off_t at) { \
        REAL(name) \
        int dead = now_write(fd); \
        ssize_t found = real(fd, bytes, dead && moment == HALF ? size / 2 : size, at); \
        DONE(found) \
    }
PWRITE(pwrite)
PWRITE(pwrite64)

/* A half of several pieces: a half of the first. */
#define WRITEV(name, types, values) \
    ssize_t name(int fd, const struct iovec *pieces, int count types) { \
        REAL(name) \
        int dead = now_write(fd); \
        struct iovec half = count ? pieces[0] : (struct iovec){0}; \
        half.iov_len /= 2; \
        ssize_t found = dead && moment == HALF ? real(fd, &half, 1 values) \
            : real(fd, pieces, count values); \
        DONE(found) \
    }
WRITEV(writev, , )
WRITEV(pwritev, COMMA off_t at, COMMA at)
WRITEV(pwritev64, COMMA off_t at, COMMA at)

#define COPY(name, types, values) \
    ssize_t name(int to, int from, off_t *at, size_t size) { \
        REAL(name) \
        int dead = now_write(to); \
        ssize_t found = real(to, from, at, dead && moment == HALF ? size / 2 : size); \
        DONE(found) \
    }
COPY(sendfile, , )
COPY(sendfile64, , )

ssize_t copy_file_range(
    int from, off_t *at, int to, off_t *to_at, size_t size, unsigned flags
) {
    REAL(copy_file_range)
    int dead = now_write(to);
    size_t part = dead && moment == HALF ? size / 2 : size;
    ssize_t found = real(from, at, to, to_at, part, flags);
    DONE(found)
}

/* Everything else. */

#define CALL(name, types, values, condition) \
    int name types { \
        REAL(name) \
        int dead = condition; \
        int found = real values; \
        DONE(found) \
    }
#define HERE AT_FDCWD

#define TRUNCATE(name, fname) \
    CALL(name, (const char *file, off_t size), (file, size), \
        now_at("truncate", HERE, file)) \
    CALL(fname, (int fd, off_t size), (fd, size), now_file("truncate", fd))
TRUNCATE(truncate, ftruncate)
TRUNCATE(truncate64, ftruncate64)
CALL(fsync, (int fd), (fd), now_file("fsync", fd))
CALL(fdatasync, (int fd), (fd), now_file("fsync", fd))

CALL(rename, (const char *from, const char *to), (from, to),
    now_at("rename", HERE, to))
CALL(renameat, (int at, const char *from, int in, const char *to), (at, from, in, to),
    now_at("rename", in, to))
CALL(renameat2, (int at, const char *from, int in, const char *to, unsigned flags),
    (at, from, in, to, flags), now_at("rename", in, to))
CALL(link, (const char *from, const char *to), (from, to), now_at("link", HERE, to))
CALL(linkat, (int at, const char *from, int in, const char *to, int flags),
    (at, from, in, to, flags), now_at("link", in, to))
CALL(symlink, (const char *from, const char *to), (from, to),
    now_at("symlink", HERE, to))
CALL(symlinkat, (const char *from, int in, const char *to), (from, in, to),
    now_at("symlink", in, to))

#define GONE(kind, in, file) (root[0] && there(in, file) && now_at(kind, in, file))
CALL(unlink, (const char *file), (file), GONE("unlink", HERE, file))
CALL(remove, (const char *file), (file), GONE("unlink", HERE, file))
CALL(rmdir, (const char *file), (file), GONE("rmdir", HERE, file))
CALL(unlinkat, (int in, const char *file, int flags), (in, file, flags),
    GONE(flags & AT_REMOVEDIR ? "rmdir" : "unlink", in, file))

#define MADE(in, file) (root[0] && !there(in, file) && now_at("mkdir", in, file))
CALL(mkdir, (const char *file, mode_t mode), (file, mode), MADE(HERE, file))
CALL(mkdirat, (int in, const char *file, mode_t mode), (in, file, mode),
    MADE(in, file))
