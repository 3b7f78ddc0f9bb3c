/* The host's end of a guest's channels, in a process outside every lab host and outside the guest's disks:
 *   collector DIRECTORY
 * QEMU connects (and reconnects) to judge.sock, control.sock and console.sock there. It writes
 *   acks.bin     what came through the judge's port, as it came
 *   acks.idx     per piece: u64 host's CLOCK_MONOTONIC in ns, u64 CLOCK_REALTIME in ns, u64 offset, u32 length, u32 connection
 *   console.log  the guest's console
 * and passes control frames between clients of command.sock and the guest: requests one whole frame at a time,
 * answers to every client. During a migration two QEMUs are connected at once; each gets requests, only the one whose
 * guest runs answers. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#define PEERS 64
#define FRAME_MAGIC 0x31434642u
#define FRAME_HEAD 16
#define FRAME_MOST (4u << 20)

static uint64_t clock_ns(clockid_t which)
{
    struct timespec t;
    clock_gettime(which, &t);
    return (uint64_t)t.tv_sec * 1000000000ull + (uint64_t)t.tv_nsec;
}

static int listen_at(const char *name)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    strncpy(address.sun_path, name, sizeof address.sun_path - 1);
    unlink(name);
    if (fd < 0 || bind(fd, (struct sockaddr *)&address, sizeof address) < 0 || listen(fd, 64) < 0) {
        perror(name);
        exit(1);
    }
    chmod(name, 0666); /* QEMU connects, as whatever user it runs */
    return fd;
}

static int append_to(const char *name)
{
    int fd = open(name, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
    if (fd < 0) {
        perror(name);
        exit(1);
    }
    return fd;
}

static void put(int fd, const void *data, size_t length)
{
    for (const char *p = data; length;) {
        ssize_t n = write(fd, p, length);
        if (n <= 0 && errno != EINTR)
            return;
        if (n > 0) {
            p += n;
            length -= (size_t)n;
        }
    }
}

struct piece {
    uint64_t monotonic_ns, realtime_ns, offset;
    uint32_t length, connection;
};

static void *collect_acks(void *unused)
{
    static char buffer[1 << 18];
    struct pollfd watch[PEERS] = {{.fd = listen_at("judge.sock"), .events = POLLIN}};
    uint32_t connection[PEERS] = {0}, connections = 0;
    int data = append_to("acks.bin"), index = append_to("acks.idx"), n = 1;
    uint64_t offset = (uint64_t)lseek(data, 0, SEEK_END);
    (void)unused;
    for (;;) {
        if (poll(watch, (nfds_t)n, -1) < 0)
            continue;
        uint64_t monotonic = clock_ns(CLOCK_MONOTONIC), realtime = clock_ns(CLOCK_REALTIME);
        if (watch[0].revents & POLLIN && n < PEERS) {
            int fd = accept4(watch[0].fd, NULL, NULL, SOCK_CLOEXEC);
            if (fd >= 0) {
                connection[n] = ++connections;
                watch[n++] = (struct pollfd){.fd = fd, .events = POLLIN};
            }
        }
        for (int i = n - 1; i > 0; i--) {
            if (!watch[i].revents)
                continue;
            ssize_t got = read(watch[i].fd, buffer, sizeof buffer);
            if (got > 0) {
                struct piece piece = {monotonic, realtime, offset, (uint32_t)got, connection[i]};
                put(data, buffer, (size_t)got); /* the data first: an index entry never points beyond it */
                put(index, &piece, sizeof piece);
                offset += (uint64_t)got;
            } else if (got == 0 || (errno != EINTR && errno != EAGAIN)) {
                close(watch[i].fd);
                watch[i] = watch[--n];
                connection[i] = connection[n];
            }
        }
    }
    return NULL;
}

enum role { LISTEN_GUEST, LISTEN_CLIENT, LISTEN_CONSOLE, GUEST, CLIENT, CONSOLE };
struct peer {
    enum role role;
    char *data; /* the beginning of a frame */
    size_t length;
};
static struct pollfd watch[PEERS];
static struct peer peers[PEERS];
static int peer_count;

static void add(int fd, enum role role)
{
    if (fd < 0 || peer_count == PEERS) {
        if (fd >= 0)
            close(fd);
        return;
    }
    struct timeval limit = {.tv_sec = 5};
    setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit);
    watch[peer_count] = (struct pollfd){.fd = fd, .events = POLLIN};
    peers[peer_count++] = (struct peer){.role = role};
}

static void forget(int i)
{
    close(watch[i].fd);
    free(peers[i].data);
    peer_count--;
    watch[i] = watch[peer_count];
    peers[i] = peers[peer_count];
}

static void pass_on(enum role to, const char *data, size_t length)
{
    for (int i = 0; i < peer_count; i++)
        if (peers[i].role == to && send(watch[i].fd, data, length, MSG_NOSIGNAL) < 0)
            shutdown(watch[i].fd, SHUT_RDWR); /* its end shows at the next poll */
}

/* Pass on every whole frame that a peer has sent so far. */
static void frames(struct peer *from)
{
    for (;;) {
        uint32_t magic, length;
        size_t skip = 0;
        while (from->length - skip >= 4 && (memcpy(&magic, from->data + skip, 4), magic != FRAME_MAGIC))
            skip++;
        if (skip) {
            memmove(from->data, from->data + skip, from->length - skip);
            from->length -= skip;
        }
        if (from->length < FRAME_HEAD)
            return;
        memcpy(&length, from->data + 12, 4);
        if (length > FRAME_MOST) {
            from->data[0] = 0; /* not a frame after all */
            continue;
        }
        if (from->length < FRAME_HEAD + length)
            return;
        pass_on(from->role == GUEST ? CLIENT : GUEST, from->data, FRAME_HEAD + length);
        from->length -= FRAME_HEAD + length;
        memmove(from->data, from->data + FRAME_HEAD + length, from->length);
    }
}

static void broker(void)
{
    static char buffer[1 << 16];
    int console = append_to("console.log");
    add(listen_at("control.sock"), LISTEN_GUEST);
    add(listen_at("command.sock"), LISTEN_CLIENT);
    add(listen_at("console.sock"), LISTEN_CONSOLE);
    close(append_to("ready"));
    for (;;) {
        if (poll(watch, (nfds_t)peer_count, -1) < 0)
            continue;
        for (int i = peer_count - 1; i >= 0; i--) {
            if (!watch[i].revents)
                continue;
            if (peers[i].role <= LISTEN_CONSOLE) {
                add(accept4(watch[i].fd, NULL, NULL, SOCK_CLOEXEC), peers[i].role + GUEST);
                continue;
            }
            ssize_t got = read(watch[i].fd, buffer, sizeof buffer);
            if (got <= 0) {
                if (got == 0 || (errno != EINTR && errno != EAGAIN))
                    forget(i);
            } else if (peers[i].role == CONSOLE) {
                put(console, buffer, (size_t)got);
            } else {
                peers[i].data = realloc(peers[i].data, peers[i].length + (size_t)got);
                memcpy(peers[i].data + peers[i].length, buffer, (size_t)got);
                peers[i].length += (size_t)got;
                frames(&peers[i]);
            }
        }
    }
}

int main(int argc, char **argv)
{
    pthread_t thread;
    if (argc != 2 || chdir(argv[1]) < 0)
        return 2;
    signal(SIGPIPE, SIG_IGN);
    pthread_create(&thread, NULL, collect_acks, NULL);
    broker();
}
