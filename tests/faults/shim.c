/* Faults below a process: its disk fails, its power is lost, its clock jumps. Preloaded with LD_PRELOAD.
 *
 * FAULTS_CONTROL names a file of one `struct control`, which the test maps too and writes to while the process runs.
 * FAULTS_UNDER names the directory whose files are meant; all others are left alone.
 * FAULTS_RECORD, if set, names a file that receives every change that this process, but not its children, makes to those
 * files, in the order in which they happened: so the files can be rebuilt as a disk would hold them that lost its power
 * at any moment (see power.py).
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

enum { SYNC = 1, FULL = 2, SHORT = 4, TORN = 8, UNREADABLE = 16, LYING = 32 };
enum { WROTE = 1, SYNCED = 2, TRUNCATED = 3, CREATED = 4, RENAMED = 5, UNLINKED = 6, SYNCED_DIRECTORY = 7, NOT_SYNCED = 8 };

struct control {
    _Atomic int64_t clock_offset_ns; /* what the wall clock is wrong by */
    _Atomic uint64_t kinds;          /* which calls fail, and how: SYNC, FULL, ... */
    _Atomic uint64_t calls;          /* calls of those kinds so far */
    _Atomic uint64_t first, last;    /* the calls that fail, counted from 1 */
    _Atomic uint64_t failed;         /* how many have failed */
    _Atomic uint64_t recorded;       /* bytes in the record */
};

static struct control *control;
static char under[PATH_MAX];
static size_t under_length;
static int record_fd = -1;
static pthread_mutex_t recording = PTHREAD_MUTEX_INITIALIZER;

#define REAL(name)                                   \
    static __typeof__(name) *real;                   \
    if (!real) real = (__typeof__(name) *)dlsym(RTLD_NEXT, #name)

static ssize_t plain_write(int fd, const void *data, size_t size) { return syscall(SYS_write, fd, data, size); }

__attribute__((constructor)) static void begin(void) {
    const char *path = getenv("FAULTS_CONTROL");
    if (!path) return;
    int fd = syscall(SYS_openat, AT_FDCWD, path, O_RDWR | O_CLOEXEC, 0);
    if (fd < 0) return;
    void *mapped = mmap(NULL, sizeof(struct control), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    syscall(SYS_close, fd);
    if (mapped == MAP_FAILED) return;
    const char *directory = getenv("FAULTS_UNDER");
    if (directory) under_length = (size_t)snprintf(under, sizeof under, "%s/", directory);
    const char *record = getenv("FAULTS_RECORD");
    if (record) record_fd = syscall(SYS_openat, AT_FDCWD, record, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0644);
    /* One process records: in which order those of several happened, their records would not tell. */
    unsetenv("FAULTS_RECORD");
    control = mapped;
}

/* --- which files ------------------------------------------------------------------------------------------------ */

static int is_meant(const char *path) {
    if (!under_length || strncmp(path, under, under_length - 1)) return 0;
    return !path[under_length - 1] || path[under_length - 1] == '/';
}

static int named(int fd, char *path) {
    char link[64];
    if (!control || !under_length) return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, PATH_MAX - 1);
    if (length < 0) return 0;
    path[length] = 0;
    return is_meant(path);
}

/* --- failing ---------------------------------------------------------------------------------------------------- */

static int fails(uint64_t kind) {
    if (!(atomic_load(&control->kinds) & kind)) return 0;
    uint64_t call = atomic_fetch_add(&control->calls, 1) + 1;
    if (call < atomic_load(&control->first) || call > atomic_load(&control->last)) return 0;
    atomic_fetch_add(&control->failed, 1);
    return 1;
}

static int refuse(int why) {
    errno = why;
    return -1;
}

/* --- recording -------------------------------------------------------------------------------------------------- */

static void note(uint32_t what, const char *path, uint64_t offset, const void *data, uint64_t size) {
    struct { uint32_t what, path_length; uint64_t offset, size; } head = {what, strlen(path), offset, size};
    plain_write(record_fd, &head, sizeof head);
    plain_write(record_fd, path, head.path_length);
    if (size && data) plain_write(record_fd, data, size);
    atomic_fetch_add(&control->recorded, sizeof head + head.path_length + size);
}

#define RECORDED(call, happened, ...)                         \
    do {                                                      \
        if (record_fd < 0) return call;                       \
        pthread_mutex_lock(&recording);                       \
        __typeof__(call) result = call;                       \
        int why = errno;                                      \
        if (happened) note(__VA_ARGS__);                      \
        pthread_mutex_unlock(&recording);                     \
        errno = why;                                          \
        return result;                                        \
    } while (0)

/* --- writing ---------------------------------------------------------------------------------------------------- */

static ssize_t put(int fd, const char *path, const void *data, size_t size, off_t offset) {
    RECORDED(syscall(SYS_pwrite64, fd, data, size, offset), result > 0, WROTE, path, offset, data, result);
}

static ssize_t put_here(int fd, const char *path, const void *data, size_t size) {
    off_t offset = lseek(fd, 0, SEEK_CUR);
    RECORDED(plain_write(fd, data, size), result > 0, WROTE, path, offset, data, result);
}

/* How much of a write is to be done; the rest fails or is left out. */
static size_t allowed(size_t size, int *why) {
    *why = 0;
    if (fails(FULL)) { *why = ENOSPC; return 0; }
    if (size > 1 && fails(SHORT)) return size / 2;
    if (size > 1 && fails(TORN)) { *why = EIO; return size / 2; }
    return size;
}

static ssize_t put_at(int fd, const void *data, size_t size, off_t offset) {
    char path[PATH_MAX];
    if (!named(fd, path)) return syscall(SYS_pwrite64, fd, data, size, offset);
    int why;
    size_t some = allowed(size, &why);
    ssize_t done = some ? put(fd, path, data, some, offset) : 0;
    return why ? refuse(why) : done;
}

ssize_t pwrite(int fd, const void *data, size_t size, off_t offset) { return put_at(fd, data, size, offset); }
ssize_t pwrite64(int fd, const void *data, size_t size, off_t offset) { return put_at(fd, data, size, offset); }

ssize_t write(int fd, const void *data, size_t size) {
    char path[PATH_MAX];
    if (!named(fd, path)) return plain_write(fd, data, size);
    int why;
    size_t some = allowed(size, &why);
    ssize_t done = some ? put_here(fd, path, data, some) : 0;
    return why ? refuse(why) : done;
}

static int cut(int fd, off_t length) {
    char path[PATH_MAX];
    if (!named(fd, path)) return syscall(SYS_ftruncate, fd, length);
    RECORDED((int)syscall(SYS_ftruncate, fd, length), result == 0, TRUNCATED, path, length, NULL, 0);
}

int ftruncate(int fd, off_t length) { return cut(fd, length); }
int ftruncate64(int fd, off_t length) { return cut(fd, length); }

/* --- reading ---------------------------------------------------------------------------------------------------- */

static ssize_t get_at(int fd, void *data, size_t size, off_t offset) {
    char path[PATH_MAX];
    if (control && (atomic_load(&control->kinds) & UNREADABLE) && named(fd, path) && fails(UNREADABLE)) return refuse(EIO);
    return syscall(SYS_pread64, fd, data, size, offset);
}

ssize_t pread(int fd, void *data, size_t size, off_t offset) { return get_at(fd, data, size, offset); }
ssize_t pread64(int fd, void *data, size_t size, off_t offset) { return get_at(fd, data, size, offset); }

/* --- making durable --------------------------------------------------------------------------------------------- */

/* Whoever has a file open is told once that a sync of it failed, whoever called that: so does Linux since 4.13. */
enum { FILES = 256, DESCRIPTORS = 65536 };
static struct { dev_t device; ino_t inode; unsigned errors; } troubled[FILES];
static unsigned told[DESCRIPTORS];
static pthread_mutex_t telling = PTHREAD_MUTEX_INITIALIZER;

static unsigned *errors_of(int fd) {
    struct stat status;
    if (fd >= DESCRIPTORS || fstat(fd, &status)) return NULL;
    for (int i = 0; i < FILES; i++) {
        if (!troubled[i].inode) {
            troubled[i].device = status.st_dev;
            troubled[i].inode = status.st_ino;
        }
        if (troubled[i].device == status.st_dev && troubled[i].inode == status.st_ino) return &troubled[i].errors;
    }
    return NULL;
}

static int sync_fails(int fd) {
    int failed = fails(SYNC);
    pthread_mutex_lock(&telling);
    unsigned *errors = errors_of(fd);
    if (errors) {
        *errors += failed;
        failed = told[fd] != *errors;
        told[fd] = *errors;
    }
    pthread_mutex_unlock(&telling);
    return failed;
}

static void opened(int fd) {
    pthread_mutex_lock(&telling);
    unsigned *errors = errors_of(fd);
    if (errors) told[fd] = *errors;
    pthread_mutex_unlock(&telling);
}

static int make_durable(int fd, long call) {
    char path[PATH_MAX];
    struct stat status;
    if (!named(fd, path)) return syscall(call, fd);
    if (sync_fails(fd)) {
        if (record_fd < 0) return refuse(EIO);
        errno = EIO;
        RECORDED(-1, result != 0, NOT_SYNCED, path, 0, NULL, 0);
    }
    if (fails(LYING)) return 0;
    if (record_fd < 0) return syscall(call, fd);
    uint32_t what = fstat(fd, &status) == 0 && S_ISDIR(status.st_mode) ? SYNCED_DIRECTORY : SYNCED;
    /* The record stands for the disk: a real sync would only take time. */
    RECORDED(0, result == 0, what, path, 0, NULL, 0);
}

int fsync(int fd) { return make_durable(fd, SYS_fsync); }
int fdatasync(int fd) { return make_durable(fd, SYS_fdatasync); }

/* --- names ------------------------------------------------------------------------------------------------------ */

static int open_meant(int directory, const char *path, int flags, mode_t mode, int is_new) {
    if (flags & O_TRUNC && !is_new)
        RECORDED((int)syscall(SYS_openat, directory, path, flags, mode), result >= 0, TRUNCATED, path, 0, NULL, 0);
    RECORDED((int)syscall(SYS_openat, directory, path, flags, mode), result >= 0 && is_new, CREATED, path, 0, NULL, 0);
}

static int open_at(int directory, const char *path, int flags, mode_t mode) {
    if (!control || !is_meant(path)) return syscall(SYS_openat, directory, path, flags, mode);
    int is_new = (flags & O_CREAT) && access(path, F_OK) != 0;
    if (is_new && fails(FULL)) return refuse(ENOSPC);
    int fd = open_meant(directory, path, flags, mode, is_new);
    if (fd >= 0) opened(fd);
    return fd;
}

#define MODE                            \
    mode_t mode = 0;                    \
    if (flags & (O_CREAT | O_TMPFILE)) { \
        va_list more;                   \
        va_start(more, flags);          \
        mode = va_arg(more, mode_t);    \
        va_end(more);                   \
    }

int open(const char *path, int flags, ...) { MODE return open_at(AT_FDCWD, path, flags, mode); }
int open64(const char *path, int flags, ...) { MODE return open_at(AT_FDCWD, path, flags | O_LARGEFILE, mode); }
int openat(int directory, const char *path, int flags, ...) { MODE return open_at(directory, path, flags, mode); }
int openat64(int directory, const char *path, int flags, ...) { MODE return open_at(directory, path, flags | O_LARGEFILE, mode); }

int rename(const char *from, const char *to) {
    REAL(rename);
    if (!control || !is_meant(from)) return real(from, to);
    if (fails(FULL)) return refuse(ENOSPC);
    RECORDED(real(from, to), result == 0, RENAMED, from, 0, to, strlen(to));
}

int unlink(const char *path) {
    REAL(unlink);
    if (!control || !is_meant(path)) return real(path);
    RECORDED(real(path), result == 0, UNLINKED, path, 0, NULL, 0);
}

/* --- the clock -------------------------------------------------------------------------------------------------- */

static int64_t wrong_by(void) { return control ? atomic_load(&control->clock_offset_ns) : 0; }

static void shift(struct timespec *time, int64_t by) {
    int64_t all = (int64_t)time->tv_sec * 1000000000 + time->tv_nsec + by;
    time->tv_sec = all / 1000000000;
    time->tv_nsec = all % 1000000000;
}

int clock_gettime(clockid_t clock, struct timespec *time) {
    REAL(clock_gettime);
    int result = real(clock, time);
    if (result == 0 && clock == CLOCK_REALTIME) shift(time, wrong_by());
    return result;
}

int gettimeofday(struct timeval *time, void *zone) {
    struct timespec now;
    (void)zone;
    clock_gettime(CLOCK_REALTIME, &now);
    time->tv_sec = now.tv_sec;
    time->tv_usec = now.tv_nsec / 1000;
    return 0;
}

time_t time(time_t *result) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (result) *result = now.tv_sec;
    return now.tv_sec;
}
